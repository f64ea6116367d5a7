//! What follows when no endpoint is left.

use std::{fs, thread::sleep, time::Duration};

use serde_json::{Value, json};

use super::quay::{
    FILES, SQLITE, ended, file, notices, register, register_file, wait_for_state, ward,
};

/// Row 9b: the only endpoint is lost. Nobody is told of that; when the promise is broken, somebody
/// is, once, with the cause; and once more when it is kept again.
#[test]
fn row_9b_the_only_endpoint_is_lost_and_somebody_is_told_once_at_the_rpo() {
    let policy = "[policy.default]\nrpo = \"12s\"\nincremental = \"0 0 1 1 *\"\n";
    let ward = ward(&format!("{policy}{FILES}{SQLITE}"));
    drop(ward.create("blue.db"));
    let serving = ward.serve();
    let labels = json!({ "engine": "sqlite", "app": "shop" });
    let lease = json!({ "ttl": "2s" });
    let renew = || register(&ward, "blue", "blue.db", &labels, &lease);
    ward.wait_until("a capture", || {
        renew();
        ward.said().contains("capture.started")
    });
    wait_for_state(&ward, "blue", "gone(lost)");
    let failed = ended(&ward, "shop", "failed");
    assert_eq!((notices(&ward), failed), (Vec::<Value>::new(), 0));
    ward.wait_until("a page", || !notices(&ward).is_empty());
    sleep(Duration::from_secs(4));
    let told = notices(&ward);
    assert_eq!(told.len(), 1, "{told:#?}\n{}", ward.said());
    let page = &told[0];
    assert_eq!((&page["kind"], &page["urgency"]), (&"raised".into(), &"page".into()));
    assert_eq!(page["alerts"][0]["class"], "rpo-breached");
    let cause = page["cause"].as_str().unwrap();
    assert!(cause.contains("no endpoint since") && cause.contains("blue"), "{cause}");
    // What could not begin was not tried in vain.
    assert_eq!(ended(&ward, "shop", "failed"), failed);
    ward.wait_until("that it is over", || {
        renew();
        notices(&ward).len() > 1
    });
    let told = notices(&ward);
    assert_eq!((told.len(), &told[1]["kind"]), (2, &"resolved".into()), "{told:#?}");
    serving.stop();
}

/// A throw-away database ends with its last endpoint, and lives again with the next one.
#[test]
fn a_database_that_ends_with_its_endpoint_is_retired_and_taken_up_again() {
    let rule = format!("{SQLITE}on_absence = \"retire\"\n");
    let policy = "[policy.default]\nrpo = \"12s\"\nincremental = \"0 0 1 1 *\"\n";
    let ward = ward(&format!("{policy}{FILES}{rule}"));
    drop(ward.create("blue.db"));
    let serving = ward.serve();
    register_file(&ward, "blue", "blue.db", "lab");
    ward.wait_for_backups("lab", 1);
    fs::remove_file(file(&ward, "blue")).unwrap();
    ward.wait_until("its retirement", || ward.status("lab")["state"] == "retired");
    assert_eq!(ward.status("lab")["backups"], 1);
    assert_eq!(ward.run(&["status", "--fail"]).0, 0);
    register_file(&ward, "green", "blue.db", "lab");
    ward.wait_until("its return", || ward.status("lab")["state"] == "active");
    // One that a person retired stays so.
    ward.ok(&["db", "retire", "lab", "--reason", "enough"]);
    wait_for_state(&ward, "green", "active");
    sleep(Duration::from_secs(2));
    assert_eq!(ward.status("lab")["state"], "retired");
    assert_eq!(notices(&ward), Vec::<Value>::new());
    serving.stop();
}
