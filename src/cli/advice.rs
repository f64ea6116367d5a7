//! Commands that we suggest: written as they would be typed, and with the options that say which
//! repository is meant, so that they can be copied as they are.

use std::ffi::OsString;

use stillpoint_contract::quoted;

use super::args::Global;
use crate::coordinator::SAME_COMMAND_AT;

/// What names a repository and its key on the command line that was typed, ready to be typed
/// again; empty where the environment says it.
pub(crate) fn repeated_options(global: &Global) -> String {
    let path = |path: &Option<std::path::PathBuf>| path.as_ref().map(|p| p.display().to_string());
    let options = [
        ("--repo", global.repo.clone()),
        ("--passphrase-file", path(&global.passphrase_file)),
        ("--key-file", path(&global.key_file)),
        ("--recovery-key-file", path(&global.recovery_key_file)),
    ];
    let typed = options.into_iter().filter_map(|(option, value)| Some((option, value?)));
    let words: Vec<String> =
        typed.map(|(option, value)| format!("{option} {}", quoted(&value))).collect();
    words.join(" ")
}

/// The words as they would be typed into a shell.
pub(crate) fn command_line(words: &[&str]) -> String {
    let words = words.iter().map(|word| quoted(word));
    std::iter::once("stillpoint".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

/// Puts `options` into the commands of an advice that need a repository and do not name one.
pub(crate) fn with_options(advice: &str, options: &str) -> String {
    const PROGRAM: &str = "stillpoint ";
    const COMMANDS: [&str; 10] = [
        "backup", "list", "show", "timeline", "logs", "restore", "verify", "check", "repo",
        "forget",
    ];
    if options.is_empty() || advice.contains("--repo") {
        return advice.to_owned();
    }
    let mut pieces = advice.split(PROGRAM);
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let word: String = piece.chars().take_while(char::is_ascii_lowercase).collect();
        text.push_str(PROGRAM);
        if COMMANDS.contains(&word.as_str()) {
            text.push_str(options);
            text.push(' ');
        }
        text.push_str(piece);
    }
    text
}

/// The command that was typed, for another point; `None` where that is not what is advised.
pub(crate) fn typed_again(advice: &str, typed: &[OsString]) -> Option<String> {
    // Options that choose a point, and whether a value follows.
    const CHOICES: [(&str, bool); 4] =
        [("--at", true), ("--backup", true), ("--before-drop", true), ("--random", false)];
    let at = advice.strip_prefix(SAME_COMMAND_AT)?;
    let typed: Option<Vec<&str>> = typed.iter().map(|word| word.to_str()).collect();
    let (mut words, mut typed) = (Vec::new(), typed?.into_iter().skip(1));
    while let Some(word) = typed.next() {
        match CHOICES.iter().find(|(option, _)| word.split('=').next() == Some(*option)) {
            Some((option, true)) if word == *option => drop(typed.next()),
            Some(_) => {}
            None => words.push(word),
        }
    }
    (!words.is_empty()).then(|| format!("{} --at {at}", command_line(&words)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_typed_is_typed_again() {
        let global = Global {
            repo: Some("/my backups".to_owned()),
            key_file: Some("/etc/k".into()),
            ..Global::default()
        };
        let options = repeated_options(&global);
        assert_eq!(options, "--repo \"/my backups\" --key-file /etc/k");
        let advice = |text| with_options(text, "--repo r");
        assert_eq!(advice("stillpoint list a.db"), "stillpoint --repo r list a.db");
        assert_eq!(
            advice("run `stillpoint verify`, then stillpoint repo gc"),
            "run `stillpoint --repo r verify`, then stillpoint --repo r repo gc"
        );
        for whole in
            ["stillpoint --help", "another stillpoint wrote it", "stillpoint init --repo x"]
        {
            assert_eq!(advice(whole), whole);
        }
        assert_eq!(with_options("stillpoint list", ""), "stillpoint list");
    }

    #[test]
    fn a_command_is_typed_again_for_another_point() {
        let again = |words: &[&str]| {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            typed_again(&format!("{SAME_COMMAND_AT}2026-11-21T13:20:05Z"), &words)
        };
        let at = "--at 2026-11-21T13:20:05Z";
        let expected = format!("stillpoint restore \"my app\" --to x.db {at}");
        let typed = ["/bin/sp", "restore", "my app", "--at", "2001-01-01 00:00", "--to", "x.db"];
        assert_eq!(again(&typed), Some(expected));
        for point in ["--at=latest", "--backup=01J", "--random"] {
            let expected = Some(format!("stillpoint drill run app.db {at}"));
            assert_eq!(again(&["sp", "drill", "run", point, "app.db"]), expected);
        }
        assert_eq!(again(&[]), None);
        assert_eq!(typed_again("stillpoint list", &["sp".into(), "list".into()]), None);
    }

    #[test]
    fn commands_are_shown_as_they_are_typed() {
        assert_eq!(
            command_line(&["restore", "shop.db", "--at", "2026-11-21 13:20:05"]),
            "stillpoint restore shop.db --at \"2026-11-21 13:20:05\""
        );
    }
}
