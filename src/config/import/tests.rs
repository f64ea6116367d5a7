//! Hostile input is refused or understood, and whatever is written can be read.

use chrono::DateTime;
use proptest::prelude::*;

use super::{
    super::load::{Source, load},
    *,
};

const PEERS: [Peer; 3] = [Peer::PgBackRest, Peer::Barman, Peer::WalG];

const SAMPLES: [&str; 5] = [
    include_str!("../../../tests/fixtures/import/pgbackrest.conf"),
    include_str!("../../../tests/fixtures/import/barman.conf"),
    include_str!("../../../tests/fixtures/import/barman.d/orders.conf"),
    include_str!("../../../tests/fixtures/import/walg.json"),
    include_str!("../../../tests/fixtures/import/walg.env"),
];

fn source(text: &str) -> Vec<Source> {
    vec![Source { path: "sample".to_owned(), text: text.to_owned() }]
}

/// Whatever is written is a configuration.
fn check(text: &str) {
    for peer in PEERS {
        let Ok(imported) = import(peer, &source(text)) else { continue };
        let path = "stillpoint.toml".to_owned();
        let loaded = load(vec![Source { path, text: imported.text.clone() }], DateTime::UNIX_EPOCH);
        let problems: Vec<_> = loaded.problems.iter().filter(|one| !one.is_warning).collect();
        assert!(problems.is_empty(), "{peer:?}: {problems:#?}\n{text}\n{}", imported.text);
    }
}

/// Row 43.
#[test]
fn row_43_every_byte_of_a_sample_may_be_another() {
    for sample in SAMPLES {
        for place in 0..sample.len() {
            let mut bytes = sample.as_bytes().to_vec();
            bytes[place] = b"\0\n\"'[]=:{}%\x7f\xff"[place % 13];
            check(&String::from_utf8_lossy(&bytes));
            if place % 16 == 0 {
                check(&String::from_utf8_lossy(&sample.as_bytes()[..place]));
            }
        }
    }
}

/// Row 43.
#[test]
fn row_43_what_is_hostile_is_an_error_or_harmless() {
    for text in [
        "",
        "[",
        "[]",
        "[a\u{7f}]",
        "key = value",
        "[s]\nkey",
        "{\"PGHOST\": [[[[\"x\"]]]]}",
        "{\"WALG_S3_PREFIX\": \"s3://\"}",
        "[s]\npg1-host=a\"]\\nb\npg1-port=99999\npg1-user='x'",
        "[s\"]\npg1-path=/x\n[global]\nrepo1-retention-full=4294967296\nrepo1-type=sftp",
        "[s]\nconninfo = host='un closed",
        "[s]\nconninfo = host=::1 user='a b' password=x port=1,2\nminimum_redundancy = -1",
        "[s]\nconninfo = host=a\nretention_policy = RECOVERY WINDOW OF 4000000000 MONTHS",
        "[x]\npg256-host=a\npg257-host=b",
    ] {
        check(text);
    }
    let long = "[s]\nkey = ".to_owned() + &"x".repeat(IMPORT_BYTES_MAX as usize);
    for peer in PEERS {
        assert!(import(peer, &source(&long)).is_err());
    }
    let deep = "[".repeat(100_000) + "]";
    assert!(import(Peer::WalG, &source(&format!("{{\"a\": {deep}}}"))).is_err());
}

/// A section, or a key and a value, of characters that mean something somewhere.
const LINE: &str = "(\\[[a-z:\" ]{0,9}\\]|[a-zA-Z0-9_-]{1,24} ?[=:] ?.{0,20})";

proptest! {
    #[test]
    fn row_43_no_lines_are_too_strange(lines in proptest::collection::vec(LINE, 0..12)) {
        check(&lines.join("\n"));
    }
}
