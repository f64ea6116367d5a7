//! Labels choose what a verb is about.

use serde_json::Value;

use super::shops::{database, shops};
use crate::{cli::golden::assert_shape, serving::ward::Ward};

/// Runs what may fail; returns its exit status and its answers.
fn ran(ward: &Ward, words: &[&str]) -> (i32, Vec<Value>) {
    let output = ward.command(&[words, &["-o", "json"]].concat()).output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    let answers = lines.lines().map(|line| serde_json::from_str(line).unwrap());
    (output.status.code().unwrap_or(-1), answers.collect())
}

/// One field of everything in a list.
fn each<'a>(answer: &'a Value, list: &str, field: &str) -> Vec<&'a str> {
    answer[list].as_array().unwrap().iter().map(|one| one[field].as_str().unwrap()).collect()
}

/// Row 42: a team's databases are backed up, each to where it is configured to go and proven; what
/// those that serve would leave alone is left alone and told, and one that fails stops no other.
#[test]
fn row_42_a_team_is_backed_up_at_once() {
    let more = [("shop/gone", "gone.db"), ("shop/idle", "idle.db"), ("shop/old", "old.db")];
    let more = more.map(|(name, file)| database(name, file, "shop")).concat();
    let ward = shops(&more);
    ward.ok(&["db", "pause", "shop/idle"]);
    ward.ok(&["db", "retire", "shop/old"]);

    let (status, answers) = ran(&ward, &["backup", "-l", "team=shop"]);
    let answer = &answers[0];
    assert_eq!(status, 6, "the worst of them: {answer}");
    let names = ["shop/gone", "shop/idle", "shop/old", "shop/orders", "shop/stock"];
    assert_eq!(each(answer, "databases", "database"), names);
    let outcomes = ["failed", "skipped", "skipped", "succeeded", "succeeded"];
    assert_eq!(each(answer, "databases", "outcome"), outcomes, "{answer}");
    assert!(answer["databases"][1]["why"].as_str().unwrap().contains("paused"), "{answer}");
    assert!(answer["databases"][2]["why"].as_str().unwrap().contains("retired"), "{answer}");
    let made = answer["databases"].as_array().unwrap().iter().filter(|row| !row["made"].is_null());
    let made: Vec<_> = made.map(|row| row["made"]["backup"]["id"].as_str().unwrap()).collect();
    assert_eq!(made.len(), 2, "{answer}");

    // The repository has these, under their names, and knows that they are intact.
    let listed = ward.json(&["list", "--repo", "repo"]);
    assert_eq!(each(&listed, "backups", "id"), made);
    assert_eq!(each(&listed, "databases", "name"), ["shop/orders", "shop/stock"]);
    let explained = ward.json(&["explain", "retention", "shop/orders"]);
    assert_eq!(explained["backups"][0]["proof"], "verified", "{explained}");

    // Another team goes elsewhere; and what is as it should be ends with 0.
    let (status, answers) = ran(&ward, &["backup", "-l", "team!=shop, team"]);
    assert_eq!((status, answers[0]["databases"][0]["repository"].as_str()), (0, Some("vault")));
    assert_shape("backups", &answers[0]);
    let told = ward.ok(&["backup", "-l", "team=bank", "--full"]);
    assert!(told.contains("1 succeeded") && told.contains("bank/ledger"), "{told}");
}

/// Row 42: a configured name is as good as a URL, and takes the database where it belongs.
#[test]
fn row_42_a_configured_database_is_backed_up_by_its_name() {
    let ward = shops("");
    let made = ward.json(&["backup", "bank/ledger"]);
    assert_eq!(made["schema"], "stillpoint.backup/1");
    assert_eq!(made["backup"]["database"], "bank/ledger");
    assert_eq!(each(&ward.json(&["list", "--repo", "vault"]), "databases", "name").len(), 1);
    ward.ok(&["backup", "sqlite:ledger.db", "--name", "by-url", "--repo", "repo"]);

    let refused = |words: &[&str], status: i32, said: &[&str]| {
        let (ended, told) = ward.run(words);
        assert_eq!(ended, status, "{told}");
        for said in said {
            assert!(told.contains(said), "{said}\n{told}");
        }
    };
    refused(&["backup", "bank/legder"], 6, &["bank/ledger, shop/orders", "sqlite:app.db"]);
    refused(&["backup", "bank/ledger", "--repo", "repo"], 2, &["--repo"]);
    refused(&["backup", "bank/ledger", "--name", "x"], 2, &["--name"]);
    refused(&["backup", "bank/ledger", "-l", "team=bank"], 2, &["cannot be used with"]);
    refused(&["backup"], 2, &["required"]);
    ward.ok(&["db", "retire", "bank/ledger"]);
    refused(&["backup", "bank/ledger"], 5, &["retired", "stillpoint db resume bank/ledger"]);
}

/// Row 42: what shows, explains, holds and records chooses as everything else does.
#[test]
fn row_42_what_is_shown_explained_and_held_is_chosen_by_labels() {
    let ward = shops("");
    ward.ok(&["backup", "-l", "team"]);
    let shop = ["shop/orders", "shop/stock"];
    let answers = |words: &[&str]| {
        let (status, answers) = ran(&ward, &[words, &["-l", "team=shop"]].concat());
        assert_eq!(status, 0, "{words:?} {answers:?}");
        answers
    };
    let own = |words: &[&str], field: &str| -> Vec<String> {
        answers(words).iter().map(|one| one[field].as_str().unwrap().to_owned()).collect()
    };
    // One answer each.
    for words in [
        &["timeline"][..],
        &["explain", "retention"],
        &["explain", "schedule"],
        &["explain", "alert"],
        &["config", "explain"],
    ] {
        assert_eq!(own(words, "database"), shop, "{words:?}");
    }
    // One for all of them.
    let one = |words: &[&str]| answers(words).remove(0);
    assert_eq!(each(&one(&["logs", "status"]), "databases", "name"), shop);
    assert_eq!(each(&one(&["report", "retention"]), "databases", "database"), shop);
    assert_eq!(one(&["endpoint", "list"])["endpoints"], Value::Array(Vec::new()));

    // Drills, and their evidence, of these and of no others.
    ward.ok(&["drill", "run", "--no-mount", "-l", "team"]);
    assert_eq!(each(&one(&["drill", "list"]), "drills", "database"), shop);
    let evidence = one(&["report", "verify"]);
    assert_eq!((&evidence["drills"], &evidence["intact"]), (&2.into(), &true.into()));

    // What is said of several is said of each where it is kept.
    let held = answers(&["hold", "add", "--case", "LEG-1", "--from", "2026-01-01"]);
    assert_eq!(held.iter().map(|one| &one["hold"]["database"]).collect::<Vec<_>>(), shop);
    assert_eq!(each(&one(&["hold", "list"]), "holds", "database"), shop);
    let event = ["event", "record", "end", "--subject", "database", "--on", "2026-02-28"];
    assert_eq!(answers(&event).len(), 2);
    assert_eq!(each(&one(&["event", "list"]), "events", "database"), shop);
    let bank = ward.json(&["event", "list", "-l", "team=bank"]);
    assert_eq!(bank["events"], Value::Array(Vec::new()));
    let adopted = answers(&["db", "adopt", "--new-incarnation"]);
    assert_eq!(adopted.iter().map(|one| &one["database"]).collect::<Vec<_>>(), shop);

    // A backup is one database's, and a name and labels are no choice.
    for words in [
        &["hold", "add", "-l", "team=shop", "--case", "C", "--backup", "01"][..],
        &["timeline", "shop/orders", "-l", "team=shop"],
        &["explain", "retention", "shop/orders", "-l", "team=shop"],
        &["config", "explain", "--policy", "-l", "team=shop"],
        &["timeline"],
        &["explain", "schedule"],
    ] {
        assert_eq!(ward.run(words).0, 2, "{words:?}");
    }
    for verb in ["timeline", "explain alert", "logs status", "drill list", "hold list"] {
        let words: Vec<&str> = verb.split(' ').chain(["-l", "team=nobody"]).collect();
        let (status, told) = ward.run(&words);
        assert_eq!(status, 6, "{verb}: {told}");
        assert!(told.contains("team=bank, team=shop"), "{verb}: {told}");
    }
}

/// Row 42: every verb that is about databases of the configuration chooses alike.
#[test]
fn row_42_every_verb_chooses_by_labels() {
    // One has a copy and no backup yet.
    let copied = "[repository.dr]\nurl = \"dr\"\n[policy.copied]\nextends = \"default\"\n\
        [[policy.copied.copy]]\nname = \"dr\"\nto = \"dr\"\n";
    let audit = database("bank/audit", "ledger.db", "audit");
    let ward = shops(&format!("{copied}{audit}policy = \"copied\"\n"));
    ward.ok(&["backup", "-l", "team, team!=audit"]);
    let shop = ["shop/orders", "shop/stock"];
    let l = ["-l", "team=shop"];
    let answers = |words: &[&str]| {
        let (status, answers) = ran(&ward, &[words, &l].concat());
        assert_eq!(status, 0, "{words:?} {answers:?}");
        answers
    };
    let one = |words: &[&str]| answers(words).remove(0);

    assert_eq!(each(&one(&["status"]), "databases", "name"), shop);
    assert_eq!(each(&one(&["list"]), "databases", "name"), shop);
    assert_eq!(each(&one(&["check", "--max-age", "1h"]), "databases", "name"), shop);
    assert_eq!(one(&["verify"])["backups"], 2);
    let mut due = one(&["schedule", "next"])["due"].as_array().unwrap().clone();
    due.retain(|due| due["database"] == "bank/ledger");
    assert_eq!(due, [] as [Value; 0]);
    let drills = answers(&["drill", "run", "--no-mount"]);
    assert_eq!(drills.iter().map(|d| d["database"].as_str().unwrap()).collect::<Vec<_>>(), shop);
    assert_eq!(each(&one(&["expire", "--dry-run"]), "databases", "database").len(), 2);
    let paused = answers(&["db", "pause", "--until", "2099-01-01"]);
    assert_eq!(paused.iter().map(|d| d["database"].as_str().unwrap()).collect::<Vec<_>>(), shop);
    assert_eq!(ward.status("shop/stock")["paused"], true);
    assert_eq!(ward.status("bank/ledger")["paused"], false);
    let resumed = answers(&["db", "resume"]);
    assert_eq!(resumed.len(), 2);
    assert_eq!(each(&one(&["copy", "list"]), "copies", "copy").len(), 0);
    let copies = ward.json(&["copy", "list", "-l", "team=audit"]);
    assert_eq!(each(&copies, "copies", "database"), ["bank/audit"]);
    assert_eq!(one(&["jobs", "list"])["jobs"], Value::Array(Vec::new()));

    // Where several repositories are meant, each is asked.
    let all = ward.json(&["list", "-l", "team, team!=audit"]);
    assert_eq!(each(&all, "databases", "name"), ["bank/ledger", "shop/orders", "shop/stock"]);
    assert!(all["place"].as_str().unwrap().contains("vault"), "{all}");
    assert_eq!(ward.json(&["verify", "-l", "team"])["backups"], 3);
    let (status, checked) = ran(&ward, &["check", "-l", "team"]);
    let recent = checked[0]["databases"].as_array().unwrap().iter().map(|one| &one["recent"]);
    assert_eq!(status, 7, "one was never backed up: {checked:?}");
    assert_eq!(recent.filter(|recent| **recent == true).count(), 3, "{checked:?}");

    // Where none fits, that is no success, and the labels that there are are named.
    for verb in ["backup", "status", "list", "check", "verify", "expire", "copy run"] {
        let words: Vec<&str> = verb.split(' ').chain(["-l", "team=nobody"]).collect();
        let (status, told) = ward.run(&words);
        assert_eq!(status, 6, "{verb}: {told}");
        assert!(told.contains("team=audit, team=bank, team=shop"), "{verb}: {told}");
    }
    let (status, told) = ward.run(&["status", "-l", "team="]);
    assert_eq!(status, 6, "{told}");
    let (status, told) = ward.run(&["backup", "-l", "=shop"]);
    assert!(status == 2 && told.contains("team=shop, env!=test"), "{told}");
}
