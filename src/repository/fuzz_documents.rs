//! Fuzz entries for what is written as text or tables: descriptor, log entries, manifests and what
//! they list, captured log.
//!
//! What a hash seals is fuzzed twice: as it is, and sealed anew, so that damage gets past the hash.

use super::{
    descriptor::Descriptor,
    entry::{Entry, hash_of},
    manifest::{
        Manifest, decode_leaf, decode_pack_list, decode_page, encode_leaf, encode_pack_list,
        encode_page,
    },
    notary::KeyNotary,
    segment::StoredHead,
    store::Key,
    stream::Beat,
};
use crate::pipeline::{
    compress::Scratch,
    id::{ChunkSize, RepositoryId},
    keys::Domain,
};

fn first_line(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == b'\n').next().unwrap_or_default()
}

/// The descriptor of a repository.
pub fn fuzz_descriptor(bytes: &[u8]) {
    let line = String::from_utf8_lossy(first_line(bytes)).into_owned();
    let sealed = format!("{line}\n{}\n", hash_of(line.as_bytes()));
    for bytes in [bytes, sealed.as_bytes()] {
        let Ok(descriptor) = Descriptor::decode(bytes) else { continue };
        let again = descriptor.encode().and_then(|bytes| Descriptor::decode(&bytes));
        assert_eq!(again.ok(), Some(descriptor), "a descriptor changed when it was written");
    }
}

/// An entry of the repository log, in a repository without keys.
pub fn fuzz_log_entry(bytes: &[u8]) {
    let (line, notary) = (first_line(bytes), KeyNotary::new(None, None));
    let mut sealed = line.to_vec();
    sealed.extend(format!("\n{{\"blake3\":\"{}\"}}\n", hash_of(line)).into_bytes());
    for bytes in [bytes, &sealed] {
        let Ok(entry) = Entry::decode(bytes, 1, &notary) else { continue };
        let again = entry.encode(&notary).and_then(|bytes| Entry::decode(&bytes, 1, &notary));
        assert_eq!(again.ok(), Some(entry), "an entry changed when it was written");
    }
}

/// A manifest, a page of the part table, and a leaf.
pub fn fuzz_manifest(bytes: &[u8]) {
    if let Ok(manifest) = Manifest::decode(bytes) {
        let _ = manifest.evidence();
        let again = manifest.encode().and_then(|bytes| Manifest::decode(&bytes));
        assert_eq!(again.ok(), Some(manifest), "a manifest changed when it was written");
    }
    let chunk_bytes = ChunkSize::DEFAULT.into();
    if let Ok(parts) = decode_page(bytes, chunk_bytes) {
        let again = encode_page(&parts).and_then(|bytes| decode_page(&bytes, chunk_bytes));
        assert_eq!(again.ok(), Some(parts), "a page changed when it was written");
    }
    if let Ok(ids) = decode_leaf(bytes) {
        assert_eq!(encode_leaf(&ids), bytes, "a leaf changed when it was written");
    }
}

/// The list of the packs that a backup needs.
pub fn fuzz_pack_list(bytes: &[u8]) {
    if let Ok(packs) = decode_pack_list(bytes) {
        let again = decode_pack_list(&encode_pack_list(&packs));
        assert_eq!(again.ok(), Some(packs), "a pack list changed when it was written");
    }
}

/// A segment of captured log in an unencrypted repository, its head alone, and a sign of life.
pub fn fuzz_log_segment(bytes: &[u8]) {
    let domain = Domain::plain(RepositoryId::new([0; 16]));
    let (key, mut scratch) = (key(), Scratch::new());
    if let Ok(head) = StoredHead::open(bytes, &key, &domain, &mut scratch) {
        let _ = head.open_body(bytes, &key, &domain, &mut scratch);
    }
    if let Ok(head) = StoredHead::decode(bytes, &key) {
        let again = head.encode().and_then(|bytes| StoredHead::decode(&bytes, &key));
        assert_eq!(again.ok(), Some(head), "a head changed when it was written");
    }
    let _ = serde_json::from_slice::<Beat>(bytes);
}

fn key() -> Key {
    Key::new("streams/db/00000000000000000000000000/000000000001.seg").expect("it is short")
}

/// What this version writes, as seeds for fuzzers: target, name and bytes.
#[cfg(test)]
pub(super) fn seeds() -> Vec<(&'static str, &'static str, bytes::Bytes)> {
    use std::sync::Arc;

    use serde_json::json;
    use stillpoint_contract::Entropy as _;

    use super::envelope::{self, ObjectKind};
    use crate::{
        pipeline::{cpu::CpuPool, testing::Seeded},
        world::{SystemClock, World},
    };

    let (time, id, hash) = ("2026-11-22T10:00:00Z", "01M800000000000000000000DB", "ab".repeat(32));
    let position = "a1b2-1:12";
    let descriptor = Descriptor {
        format: 1,
        repository: "00112233445566778899aabbccddeeff".to_owned(),
        created_at: time.parse().unwrap(),
        program: "stillpoint 0.1.0".to_owned(),
        encryption: super::descriptor::Encryption::None,
        chunk_bytes: ChunkSize::DEFAULT.into(),
        signing_key: None,
        writers: super::descriptor::Writers::Many,
        replica: None,
    };
    let commit = json!({
        "backup": id, "database": "app.db", "engine": "sqlite", "incarnation": "a1b2",
        "location": "/srv/app.db", "started_at": time, "finished_at": time, "consistent_time": time,
        "consistent_at": position, "incremental": false, "size_bytes": 40960,
        "stored_bytes": 9000, "manifest": "snap/2026/11/app.db/x.manifest",
        "manifest_hash": hash, "packs": "snap/2026/11/app.db/x.packs", "packs_hash": hash,
    });
    let objects = ["snap/2026/11/app.db/x.packs"];
    let doom = json!({ "packs": [], "moved": {}, "indexes": [], "objects": objects });
    let entry = |action: serde_json::Value| {
        let entry: Entry = serde_json::from_value(json!({
            "format": 1, "repository": descriptor.repository, "seq": 1, "previous": "0".repeat(64),
            "at": time, "nonce": "00ff", "action": action,
        }))
        .unwrap();
        entry.encode(&KeyNotary::new(None, None)).unwrap()
    };
    let manifest: Manifest = serde_json::from_value(json!({
        "format": 1, "program": "stillpoint 0.1.0", "backup": id, "database": "app.db",
        "engine": "sqlite", "version": "3.50", "settings": {"page_size": "4096"},
        "identity": {"id": "a1b2", "location": "/srv/app.db"}, "started_at": time,
        "finished_at": time, "consistent_time": time, "consistent_at": position, "cursor": "00ff",
        "replay": {"start": position, "end": "a1b2-1:40"}, "incremental": true, "method": "pages",
        "parent": id, "ordinal": 3, "chunk_bytes": 262_144, "part_pages": ["cd".repeat(32)],
        "parts": 1, "size_bytes": 40960, "written_bytes": 4096, "new_bytes": 4096,
    }))
    .unwrap();
    let page = json!({
        "name": "main", "shape": {"paged": {"page_bytes": 4096}}, "attributes": {"mode": "600"},
        "length_bytes": 300_000, "content": {"chunks": ["cd".repeat(32), "ef".repeat(32)]},
    });
    let page = serde_json::from_value(page).unwrap();
    let packs = json!([["cd".repeat(32) + ".pack", 9000]]);
    let packs: Vec<(super::pack::PackName, u64)> = serde_json::from_value(packs).unwrap();
    let body = b"frames";
    let head = json!({
        "format": 1, "stream": "00000000000000000000000000", "seq": 1, "previous": "0".repeat(64),
        "captured_at": time, "incarnation": "a1b2", "continues": ["00000000000000000000000000", 7],
        "body_hash": blake3::hash(body).to_hex().as_str(),
        "range": {"start": position, "end": "a1b2-1:40"}, "succeeds": "a1b2-0:9",
        "commits": [["20", 1_790_000_000_000_000_i64], ["40", 1_790_000_000_000_001_i64]],
        "not_before": 1_790_000_000_000_000_i64, "cursor": "00ff", "index": "AAEC",
    });
    let head = StoredHead::decode(head.to_string().as_bytes(), &key()).unwrap();
    let world = World {
        clock: Arc::new(SystemClock::new()),
        entropy: Arc::new(Seeded::new(5)),
        cpu: CpuPool::inline(),
    };
    let domain = Domain::plain(RepositoryId::new([0; 16]));
    let scratch = &mut Scratch::new();
    // The first version sealed the head before the body, so the body has the second salt.
    let entropy = Seeded::new(5);
    entropy.fill(&mut [0; 16]);
    let (kind, name) = (ObjectKind::LogSegment, format!("{}#body", key()));
    let body = envelope::seal(&domain, kind, &name, body, scratch, &entropy).unwrap();
    let sealed = head.seal(&body, &key(), &domain, &world, scratch).unwrap();
    let opened = StoredHead::open(&sealed, &key(), &domain, scratch).unwrap();
    assert_eq!(&*opened.open_body(&sealed, &key(), &domain, scratch).unwrap(), b"frames");
    let beat: Beat = serde_json::from_value(json!({
        "stream": "00000000000000000000000000", "at": time, "alive_at": time, "process": "b/n/1/2",
        "position": position, "is_last": false,
    }))
    .unwrap();
    let mut seeds = vec![
        ("descriptor", "plain", descriptor.encode().unwrap()),
        ("log_entry", "init", entry(json!({"init": {"descriptor": hash}}))),
        ("log_entry", "commit", entry(json!({ "commit": commit }))),
        ("log_entry", "doom", entry(json!({ "doom": doom }))),
        ("log_entry", "key-added", entry(json!({"key_added": {"slot": "00ff", "hash": hash}}))),
        ("manifest", "manifest", manifest.encode().unwrap().into()),
        ("manifest", "page", encode_page(&[page]).unwrap().into()),
        ("manifest", "leaf", encode_leaf(&manifest.part_pages).into()),
        ("pack_list", "one", encode_pack_list(&packs.into_iter().collect()).into()),
        ("log_segment", "segment", sealed),
        ("log_segment", "head", head.encode().unwrap().into()),
        ("log_segment", "beat", serde_json::to_vec(&beat).unwrap().into()),
    ];
    seeds.extend(custody().into_iter().map(|(name, action)| ("log_entry", name, entry(action))));
    seeds
}

/// What is proven, held, recorded, and no longer wanted.
#[cfg(test)]
fn custody() -> [(&'static str, serde_json::Value); 8] {
    use serde_json::json;

    let (time, id) = ("2026-11-22T10:00:00Z", "01M800000000000000000000DB");
    let verified = json!({"backup": id, "at": time, "problem": "part a: its hash differs"});
    let mut held = json!({
        "hold": id, "database": "app.db", "case": "LEG-1", "of": { "backup": id },
        "by": "ann on desk",
    });
    let held_one = held.clone();
    held["of"] = json!({"range": {"from": time, "to": null}});
    let event = json!({
        "event": id, "database": "app.db", "name": "relationship_end", "subject": "4711",
        "on": "2028-02-29", "by": "ann on desk",
    });
    let trim = json!({"database": "app.db", "before": time, "reason": "expired by policy x"});
    let ended = json!({"id": id, "reason": "settled", "by": "ann on desk"});
    [
        ("forget", json!({"forget": {"backups": [id], "reason": "old"}})),
        ("verified", json!({ "verified": verified })),
        ("held", json!({ "held": held_one })),
        ("held-range", json!({ "held": held })),
        ("released", json!({ "released": ended })),
        ("trim", json!({ "trim": trim })),
        ("event", json!({ "event": event })),
        ("withdrawn", json!({ "withdrawn": ended })),
    ]
}
