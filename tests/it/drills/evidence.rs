//! The evidence of a drill: its form, and that no byte of it changes unnoticed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use stillpoint::world::World;

use super::remains::assert_none;
use crate::{cli::golden::assert_shape, site::Site};

const QUESTION: [&str; 4] = ["--check", "SELECT count(*) FROM t", "--expect", "10"];

fn site() -> Site {
    let site = Site::new();
    drop(site.create("app.db", 10));
    fs::create_dir(site.path("scratch")).unwrap();
    site.ok(&["backup", "sqlite:app.db"]);
    site
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[test]
fn a_drill_proves_a_backup_and_keeps_what_it_proved() {
    let site = site();
    let words = ["drill", "run", "app.db", "--scratch", "scratch", "--evidence", "out"];
    let drill = site.json(&[&words[..], &QUESTION].concat());
    assert_eq!(drill["passed"], true, "{drill}");
    assert_eq!(drill["rows"]["verdict"], "passed", "{drill}");
    assert_eq!(drill["assertions"][0]["answered"], "10", "{drill}");
    assert_shape("drill", &drill);
    assert_none(&site);

    let id = drill["drill"].as_str().unwrap();
    let shown = site.json(&["drill", "show", &id[..20]]);
    assert_eq!(shown, drill);
    let list = site.json(&["drill", "list"]);
    assert_shape("drill-list", &list);
    assert_eq!(list["drills"][0]["id"], id);
    let verified = site.json(&["report", "verify"]);
    assert_shape("report-verify", &verified);

    let record = fs::read(site.path("out").join(format!("{id}.json"))).unwrap();
    let record: Value = serde_json::from_slice(&record).unwrap();
    assert_eq!(record["asked"], "latest");
    let page = fs::read_to_string(site.path("out").join(format!("{id}.html"))).unwrap();
    assert!(page.contains("<svg") && page.contains("Passed"), "{page}");
    assert!(page.contains("first query") && page.contains("mounted, and fetched"), "{page}");
    for foreign in ["http:", "https:", "src=", "url(", "@import", "<script", "<link"] {
        assert!(!page.contains(foreign), "the page is not self-contained: {foreign}");
    }
    // Evidence that lies there is never replaced.
    let again = ["drill", "show", id, "--evidence", "out"];
    site.fails(&again, 3, &["exists"]);
}

#[test]
fn what_a_page_shows_cannot_become_part_of_it() {
    let site = site();
    let evil = "SELECT '<script>alert(1)</script>'";
    let words = ["drill", "run", "app.db", "--scratch", "scratch", "--evidence", "out"];
    let more = ["--check", evil, "--expect", "\"><img src=x>"];
    assert_eq!(site.run(&[&words[..], &more].concat()).status, 12);
    let page = fs::read_to_string(&files(&site.path("out"))[0]).unwrap();
    assert!(!page.contains("<script") && !page.contains("<img"), "{page}");
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "{page}");
}

#[tokio::test]
async fn no_byte_of_the_evidence_changes_unnoticed() {
    let site = site();
    for _ in 0..2 {
        site.ok(&["drill", "run", "app.db", "--scratch", "scratch"]);
    }
    let world = World::real(1);
    let repository = site.open(&world).await;
    let evidence = files(&site.path("repo/drills"));
    assert_eq!(evidence.len(), 4, "{evidence:?}");
    let report = repository.verify_drills(None).await.unwrap();
    assert!((report.objects, report.problems.is_empty()) == (4, true), "{report:?}");
    for path in &evidence {
        let bytes = fs::read(path).unwrap();
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            fs::write(path, &changed).unwrap();
            let report = repository.verify_drills(None).await.unwrap();
            assert_eq!(report.problems.len(), 1, "byte {place} of {}", path.display());
        }
        fs::write(path, &bytes[1..]).unwrap();
        site.fails(&["report", "verify"], 9, &[]);
        site.fails(&["verify", "--keyless"], 9, &[]);
        fs::remove_file(path).unwrap();
        let told = site.run(&["report", "verify"]);
        assert!(told.status == 9 && told.out.contains("damaged"), "{}{}", told.out, told.err);
        fs::write(path, &bytes).unwrap();
    }
    site.ok(&["report", "verify"]);
    // The drill that is named in the last entry cannot be made to never have been.
    let entries = files(&site.path("repo/log"));
    fs::remove_file(entries.last().unwrap()).unwrap();
    let told = site.run(&["report", "verify"]);
    assert!(told.status != 0 && told.err.contains("SP0206"), "{}{}", told.out, told.err);
}

/// Row 1: a report on a month is as good as the evidence of a drill.
#[tokio::test]
async fn row_1_no_byte_of_a_report_changes_unnoticed() {
    let site = site();
    let config = "version = 1\ntimezone = \"UTC\"\n[repository.primary]\nurl = \"repo\"\n\
         encryption = { key = { file = \"key\" } }\n\
         [database.\"app.db\"]\nendpoint = \"sqlite:app.db\"\n";
    fs::write(site.path("stillpoint.toml"), config).unwrap();
    site.ok(&["report", "monthly", "-c", "stillpoint.toml"]);
    let world = World::real(1);
    let repository = site.open(&world).await;
    let evidence = files(&site.path("repo/reports"));
    assert_eq!(evidence.len(), 2, "{evidence:?}");
    for path in &evidence {
        let bytes = fs::read(path).unwrap();
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            fs::write(path, &changed).unwrap();
            let report = repository.verify_reports().await.unwrap();
            assert_eq!(report.problems.len(), 1, "byte {place} of {}", path.display());
        }
        site.fails(&["report", "verify"], 9, &[]);
        site.fails(&["verify", "--keyless"], 9, &[]);
        fs::remove_file(path).unwrap();
        site.fails(&["report", "verify"], 9, &[]);
        fs::write(path, &bytes).unwrap();
    }
    assert_eq!(site.json(&["report", "verify"])["reports"], 1);
    site.ok(&["repo", "gc", "--grace", "0s", "--orphan-age", "0s"]);
    site.ok(&["report", "verify"]);
}

#[test]
fn garbage_collection_leaves_evidence_alone_even_of_backups_that_are_gone() {
    let site = site();
    site.ok(&["drill", "run", "app.db", "--scratch", "scratch"]);
    let list = site.json(&["list"]);
    let backup = list["backups"][0]["id"].as_str().unwrap();
    site.ok(&["forget", "--force", backup]);
    site.ok(&["repo", "gc", "--grace", "0s", "--orphan-age", "0s"]);
    site.ok(&["repo", "gc", "--grace", "0s", "--orphan-age", "0s"]);
    assert!(files(&site.path("repo/packs")).is_empty());
    site.ok(&["report", "verify"]);
    assert_eq!(files(&site.path("repo/drills")).len(), 2);
}
