//! Every automatic decision can be asked about.

use super::ward::{HEAD, Ward};

/// Row 29: why something runs or waits, and why somebody is woken.
#[test]
fn row_29_schedules_and_alerts_are_explained() {
    let policy = "[policy.default]\nlogs = \"never\"\nrpo = \"1s\"\n\
        full = { at = \"0 3 * * SUN\", spread = \"2h\" }\nincremental = \"0 3 * * MON\"\n\
        blackout_hard = []\n";
    let rest = "[database.app]\nendpoint = \"sqlite:app.db\"\n\
        [[alert]]\nname = \"night\"\nwhen = [\"rpo-breached\"]\nto = [{ exec = [\"true\"] }]\n";
    let ward = Ward::new(&format!("{HEAD}{policy}{rest}"));
    drop(ward.create("app.db"));
    let serving = ward.serve();
    ward.wait_for_backups("app", 1);
    ward.wait_until("an alert", || {
        let alert = ward.json(&["explain", "alert", "app"]);
        alert["alerts"].as_array().unwrap().iter().any(|one| one["told"] == true)
    });
    let alert = ward.json(&["explain", "alert", "app"]);
    let breach = &alert["alerts"].as_array().unwrap()[0];
    assert_eq!((&breach["class"], &breach["urgency"]), (&"rpo-breached".into(), &"page".into()));
    assert_eq!(breach["routes"], serde_json::json!(["night"]));
    assert!(ward.ok(&["explain", "alert", "app"]).contains("told    yes, by night"));
    assert!(ward.ok(&["status"]).ends_with("\ntry: stillpoint explain alert app\n"));

    let schedule = ward.json(&["explain", "schedule", "app"]);
    let full = schedule["kinds"].as_array().unwrap().iter().find(|one| one["kind"] == "full");
    let full = full.unwrap();
    assert_eq!((&full["step"], &full["why"]), (&"wait".into(), &"due".into()), "{full}");
    let offset = full["offset_seconds"].as_u64().unwrap();
    assert!((1..7_200).contains(&offset), "{full}");
    let next = ward.json(&["schedule", "next", "app"]);
    let next = next["due"].as_array().unwrap().iter().find(|one| one["kind"] == "full").unwrap();
    assert_eq!(full["next_due"], next["at"], "both say the same");
    let first = schedule["past"].as_array().unwrap().last().unwrap();
    assert_eq!((&first["why"], &first["became"]), (&"first".into(), &"succeeded".into()));
    ward.ok(&["db", "pause", "app", "--reason", "a move"]);
    let paused = ward.ok(&["explain", "schedule", "app"]);
    assert!(paused.contains("(pause)"), "{paused}");
    let (status, told) = ward.run(&["explain", "schedule", "nobody"]);
    assert_eq!(status, 6, "{told}");
    assert_eq!(serving.stop(), 143);
}
