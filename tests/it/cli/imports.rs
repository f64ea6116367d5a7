//! Row 43: configurations of other tools, carried over by the real program.

use std::{fs, path::Path};

use super::golden::{assert_shape, assert_text};
use crate::site::Site;

/// A folder with the samples.
fn site() -> Site {
    let site = Site::empty();
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/import");
    fs::create_dir(site.path("barman.d")).unwrap();
    let names = ["pgbackrest.conf", "barman.conf", "walg.json", "walg.env"];
    for name in names.iter().chain(&["barman.d/orders.conf", "barman.d/stock.conf"]) {
        fs::copy(samples.join(name), site.path(name)).unwrap();
    }
    site
}

/// Row 43.
#[test]
fn row_43_what_other_tools_say_becomes_a_sound_configuration() {
    let site = site();
    for (peer, file, golden) in [
        ("pgbackrest", "pgbackrest.conf", "import-pgbackrest"),
        ("barman", "barman.conf", "import-barman"),
        ("wal-g", "walg.json", "import-walg-json"),
        ("wal-g", "walg.env", "import-walg-env"),
    ] {
        let to = format!("{golden}.toml");
        let words = ["config", "import", peer, file];
        let wrote = site.ok(&[&words[..], &["--to", &to]].concat());
        let text = fs::read_to_string(site.path(&to)).unwrap();
        assert_text(golden, &text);
        assert_text(&format!("{golden}-report"), &wrote.out);
        let printed = site.ok(&words);
        assert_eq!(printed.out.trim_end(), text.trim_end());
        let json = site.json(&words);
        let checked = site.ok(&["config", "check", "-c", &to]);
        assert!(checked.out.contains("0 errors"), "{}", checked.out);
        // No secret is repeated, in whatever form.
        for told in [&text, &wrote.out, &wrote.err, &printed.err, &json.to_string()] {
            assert!(!told.contains("s3cr3t"), "{told}");
        }
        // Every setting of the input is carried over, or named with its line.
        for left in json["left"].as_array().unwrap() {
            let path = site.path(left["file"].as_str().unwrap());
            let lines = fs::read_to_string(path).unwrap();
            let line = usize::try_from(left["line"].as_u64().unwrap()).unwrap();
            let line = lines.lines().nth(line - 1).unwrap();
            assert!(line.contains(left["key"].as_str().unwrap()), "{left} {line}");
            assert!(!left["why"].as_str().unwrap().is_empty());
        }
        site.fails(&[&words[..], &["--to", &to]].concat(), 5, &["exists"]);
        if peer == "pgbackrest" {
            assert_shape("config-import", &json);
        }
    }
}

/// Row 43.
#[test]
fn row_43_what_cannot_be_understood_names_its_line_and_no_secret() {
    let site = site();
    let words = ["config", "import", "pgbackrest", "bad.conf"];
    fs::write(site.path("bad.conf"), "[global]\nrepo1-path=/x\ns3cr3t\n").unwrap();
    let ran = site.fails(&words, 2, &["bad.conf", "line", "3"]);
    assert!(!ran.err.contains("s3cr3t"), "{}", ran.err);
    fs::write(site.path("bad.conf"), [0xff, 0xfe, 0]).unwrap();
    site.fails(&words, 3, &["bad.conf"]);
    site.fails(&["config", "import", "pgbackrest", "absent"], 3, &["absent"]);
    site.fails(&["config", "import", "pgbackrest", "/dev/zero"], 3, &["/dev/zero"]);
    fs::write(site.path("walg.json"), "{\"AWS_SECRET_ACCESS_KEY\": \"s3cr3t").unwrap();
    let ran = site.fails(&["config", "import", "wal-g", "walg.json"], 2, &["walg.json"]);
    assert!(!ran.err.contains("s3cr3t"), "{}", ran.err);
}
