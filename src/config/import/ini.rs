//! Sections, keys and values in lines, as pgBackRest and Barman write them.

use stillpoint_contract::Result;

use super::{super::load::Source, sheet::Setting, translate::bad};

/// The longest name of a section.
const NAME_BYTES_MAX: usize = 200;

/// Reads the settings of files. Where lines may go on, one that is indented belongs to the one
/// before it.
pub(super) fn read(sources: &[Source], may_go_on: bool) -> Result<Vec<Setting>> {
    let mut settings: Vec<Setting> = Vec::new();
    for (file, source) in sources.iter().enumerate() {
        let mut section: Option<String> = None;
        let mut is_open = false;
        for (number, line) in source.text.lines().enumerate() {
            let failed = |what: &str| {
                bad("understand the file")
                    .with("file", &source.path)
                    .with("line", number + 1)
                    .with("problem", what.to_owned())
            };
            let text = line.trim().trim_start_matches('\u{feff}');
            if text.is_empty() || text.starts_with(['#', ';']) {
                continue;
            }
            let is_indented = line.starts_with([' ', '\t']);
            if may_go_on && is_indented && is_open {
                if let Some(last) = settings.last_mut() {
                    last.value = format!("{} {text}", last.value);
                }
                continue;
            }
            if let Some(rest) = text.strip_prefix('[') {
                let name = rest.strip_suffix(']').ok_or_else(|| failed("a `[` has no end"))?.trim();
                let is_good = (1..=NAME_BYTES_MAX).contains(&name.len());
                if !is_good || name.contains(char::is_control) {
                    return Err(failed("this is no name of a section"));
                }
                section = Some(name.to_owned());
                is_open = false;
                continue;
            }
            let ends = if may_go_on { &['=', ':'][..] } else { &['='] };
            let (key, value) = text
                .split_once(ends)
                .ok_or_else(|| failed("neither a section nor `key = value`"))?;
            let Some(section) = &section else { return Err(failed("it is in no section")) };
            if key.trim().is_empty() || value.contains(|c: char| c.is_control() && c != '\t') {
                return Err(failed("it has no key, or a value with control characters"));
            }
            is_open = true;
            settings.push(Setting {
                file,
                line: number + 1,
                section: section.clone(),
                key: key.trim().to_owned(),
                value: value.trim().to_owned(),
            });
        }
    }
    Ok(settings)
}
