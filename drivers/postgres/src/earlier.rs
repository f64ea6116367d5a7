//! The earlier backup that a new one builds on, as far as it matters here.

use std::collections::{BTreeMap, HashMap};

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use stillpoint_contract::{Evidence, PartRecord, Result, Shape, Source};

use crate::{
    copy::names::{Fork, relation},
    facts::Facts,
    layout::Layout,
    wire::lsn_text,
};

/// How much of a manifest is sent at once.
const PIECE_BYTES: usize = 64 << 10;

/// What the earlier backup has.
#[derive(Debug)]
pub(crate) struct Earlier {
    pub(crate) timeline: u32,
    /// Where its WAL begins: what changed since then may differ from its parts.
    pub(crate) start: u64,
    pub(crate) stop: u64,
    /// Lengths of relations' files, in pages.
    pub(crate) pages: HashMap<String, u32>,
    pub(crate) corrupt: BTreeMap<String, Vec<u32>>,
}

impl Earlier {
    /// Reads what a base has; the inner error says why it does not help.
    pub(crate) async fn read(
        evidence: &Evidence,
        parts: &dyn Source,
        facts: &Facts,
    ) -> Result<Result<Self, &'static str>> {
        let Some(replay) = &evidence.replay else { return Ok(Err("the base has no start")) };
        let lineage = replay.start().lineage.as_str();
        let Some((system, timeline)) = lineage.split_once('/') else {
            return Ok(Err("the base is of another cluster"));
        };
        let (Ok(timeline), true) = (timeline.parse(), system == facts.system_identifier) else {
            return Ok(Err("the base is of another cluster"));
        };
        let (Ok(start), Ok(stop)) =
            (u64::try_from(replay.start().offset), u64::try_from(replay.end().offset))
        else {
            return Ok(Err("the base has no start"));
        };
        let layout = Layout::read(parts).await?;
        if layout.page_bytes != facts.page_bytes()
            || layout.server_version_num / 10_000 != facts.version.major()
        {
            return Ok(Err("the base is of another version"));
        }
        if layout.data_checksums != facts.is_on("data_checksums") {
            return Ok(Err("checksums were switched on or off, which changes every page"));
        }
        if layout.corrupt_pages_count > layout.corrupt_pages.len() as u64 {
            return Ok(Err("the base has too many corrupt pages"));
        }
        let mut corrupt: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for page in layout.corrupt_pages {
            corrupt.entry(page.part).or_default().push(page.page);
        }
        let mut pages = HashMap::new();
        for page in 0.. {
            let records = parts.parts(page).await?;
            if records.is_empty() {
                break;
            }
            pages.extend(records.iter().filter_map(|record| length(record, facts)));
        }
        Ok(Ok(Self { timeline, start, stop, pages, corrupt }))
    }

    /// A manifest that says to the server which files exist and since when blocks count as
    /// changed. The server looks at nothing else in it, and sends files as a whole that are not
    /// there: visibility maps, of which WAL does not say all changes.
    pub(crate) fn manifest(&self, system_identifier: &str) -> impl Iterator<Item = Bytes> {
        let head = format!(
            "{{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\
             \"System-Identifier\": {system_identifier},\n\"Files\": [\n"
        );
        let mut separator = "";
        let known = |path: &&String| relation(path).is_some_and(|r| r.fork != Fork::Visibility);
        let files = self.pages.keys().filter(known).map(move |path| {
            let line = format!(
                "{separator}{{ \"Path\": {}, \"Size\": 0, \
                 \"Last-Modified\": \"2000-01-01 00:00:00 GMT\" }}",
                serde_json::Value::from(path.as_str())
            );
            separator = ",\n";
            line
        });
        let tail = format!(
            "\n],\n\"WAL-Ranges\": [\n{{ \"Timeline\": {}, \"Start-LSN\": \"{}\", \
             \"End-LSN\": \"{}\" }}\n],\n",
            self.timeline,
            lsn_text(self.start),
            lsn_text(self.stop),
        );
        let mut lines = std::iter::once(head).chain(files).chain(std::iter::once(tail));
        let mut hash = Some(Context::new(&SHA256));
        std::iter::from_fn(move || {
            let mut piece = Vec::new();
            while piece.len() < PIECE_BYTES {
                let Some(line) = lines.next() else { break };
                piece.extend_from_slice(line.as_bytes());
            }
            if !piece.is_empty() {
                hash.as_mut()?.update(&piece);
                return Some(piece.into());
            }
            let sum = hash.take()?.finish();
            let digits = hex(sum.as_ref());
            Some(format!("\"Manifest-Checksum\": \"{digits}\"}}\n").into())
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// The name and the length in pages of a relation's file.
fn length(record: &PartRecord, facts: &Facts) -> Option<(String, u32)> {
    let page_bytes = facts.page_bytes();
    if record.spec.shape != (Shape::Paged { page_bytes }) {
        return None;
    }
    let path = record.spec.name.as_str();
    relation(path)?;
    let pages = u32::try_from(record.length_bytes / u64::from(page_bytes)).ok()?;
    Some((path.to_owned(), pages))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_json_whose_last_line_is_the_hash_of_what_precedes_it() {
        let pages = HashMap::from([("base/5/1".to_owned(), 3), ("base/5/2".to_owned(), 0)]);
        let corrupt = BTreeMap::new();
        let earlier = Earlier { timeline: 3, start: 0x200_0028, stop: 0x200_0138, pages, corrupt };
        let pieces: Vec<Bytes> = earlier.manifest("7388120011467391044").collect();
        let text = String::from_utf8(pieces.concat()).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["Files"].as_array().unwrap().len(), 2);
        assert_eq!(json["WAL-Ranges"][0]["End-LSN"], "0/2000138");
        let (before, _) = text.split_at(text.find("\"Manifest-Checksum\"").unwrap());
        let sum = aws_lc_rs::digest::digest(&SHA256, before.as_bytes());
        let digits = hex(sum.as_ref());
        assert_eq!(json["Manifest-Checksum"], digits);
    }
}
