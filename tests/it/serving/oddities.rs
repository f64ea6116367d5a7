//! Backups that are not like those before them: somebody is told, once, and what was there before
//! stays.

use rusqlite::Connection;

use super::ward::{HEAD, Ward};

/// Keeps one backup, and no log; the alerts of both classes come to one file.
const POLICY: &str = "[policy.default]\nlogs = \"never\"\nrpo = \"40d\"\npitr_window = \"1s\"\n\
    floor = 1\nkeep = { last = 1 }\nfull = \"0 3 1 1 *\"\n\
    [database.app]\nendpoint = \"sqlite:app.db\"\n\
    [[alert]]\nname = \"file\"\nwhen = [\"suspicious-change\", \"unusual-size\"]\n\
    to = [{ exec = [\"sh\", \"-c\", \"cat >> told; echo >> told\"] }]\n";

/// Rows of text that compresses well.
const ROWS: u32 = 2_000;

/// A database of 4 MiB with five backups, each after a little work.
fn usual() -> (Ward, Connection) {
    let ward = Ward::new(&format!("{HEAD}{POLICY}"));
    ward.ok(&["init", "--repo", "repo", "--no-encryption"]);
    let app = ward.create("app.db");
    app.execute_batch("CREATE TABLE letter (body BLOB)").unwrap();
    fill(&app, ROWS);
    for _ in 0..6 {
        back_up(&ward);
        app.execute_batch("INSERT INTO t DEFAULT VALUES").unwrap();
    }
    (ward, app)
}

fn fill(app: &Connection, rows: u32) {
    let text = "all work and no play makes jack a dull boy. ".repeat(46);
    let insert = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?1)
        INSERT INTO letter SELECT ?2 || n FROM n";
    app.execute(insert, rusqlite::params![rows, text]).unwrap();
}

fn back_up(ward: &Ward) -> String {
    let words = ["backup", "sqlite:app.db", "--name", "app", "--repo", "repo"];
    let made = ward.json(&words);
    ward.ok(&["verify", "--repo", "repo"]);
    made["backup"]["id"].as_str().unwrap().to_owned()
}

/// Serves until somebody was told, and a while longer; returns what was told.
fn told(ward: &Ward) -> Vec<serde_json::Value> {
    let serving = ward.serve();
    let read = || std::fs::read_to_string(ward.path("told")).unwrap_or_default();
    ward.wait_until("word of it", || !read().is_empty());
    std::thread::sleep(std::time::Duration::from_secs(5));
    serving.stop();
    read().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn row_80_a_table_that_was_encrypted_where_it_lies_is_told_and_what_was_before_stays() {
    let (ward, app) = usual();
    let good = back_up(&ward);
    app.execute_batch("UPDATE letter SET body = randomblob(length(body))").unwrap();
    let bad = [back_up(&ward), back_up(&ward)];
    let told = told(&ward);
    let alerts: Vec<_> = told.iter().flat_map(|one| one["alerts"].as_array().unwrap()).collect();
    assert_eq!(alerts.len(), 1, "{told:?}");
    assert_eq!(alerts[0]["class"], "suspicious-change");
    assert_eq!(told[0]["urgency"], "ticket");
    let why = |backup: &str| {
        let explained = ward.json(&["explain", "retention", backup, "--repo", "repo"]);
        let why = explained["backups"][0]["why"].as_array().unwrap().clone();
        why.into_iter().map(|why| why["reason"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert!(why(&good).contains(&"before-change".to_owned()), "{:?}", why(&good));
    ward.ok(&["apply", "--accept-expire"]);
    ward.ok(&["expire", "--repo", "repo"]);
    let list = ward.json(&["list", "--repo", "repo"]);
    let listed = list["backups"].as_array().unwrap().iter();
    let listed: Vec<_> = listed.map(|one| one["id"].as_str().unwrap()).collect();
    assert!(listed.contains(&good.as_str()) && listed.contains(&bad[1].as_str()), "{listed:?}");
    assert!(!listed.contains(&bad[0].as_str()), "nothing keeps it: {listed:?}");
    // It can be restored, and is what was there.
    ward.ok(&["restore", "app", "--backup", &good, "--to", "back.db", "--repo", "repo"]);
    let back = Connection::open(ward.path("back.db")).unwrap();
    let same = "SELECT count(*) FROM letter WHERE body LIKE 'all work and no play%'";
    assert_eq!(back.query_row(same, [], |row| row.get::<_, u32>(0)).unwrap(), ROWS);
}

#[test]
fn row_57_threefold_growth_is_one_ticket() {
    let (ward, app) = usual();
    fill(&app, 3 * ROWS);
    back_up(&ward);
    back_up(&ward);
    let told = told(&ward);
    let alerts: Vec<_> = told.iter().flat_map(|one| one["alerts"].as_array().unwrap()).collect();
    assert_eq!(alerts.len(), 1, "{told:?}");
    assert_eq!(
        (&alerts[0]["class"], &told[0]["urgency"]),
        (&"unusual-size".into(), &"ticket".into())
    );
}
