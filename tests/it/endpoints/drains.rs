//! An endpoint is given up once everything on it can be restored, and not before.

use std::fs;

use super::quay::{
    CALM, FILES, SQLITE, endpoint, register_file, wait_for_endpoint, wait_for_state, ward,
};

/// Row 12: drained, everything that was committed can be restored; with the repository away, or
/// nobody serving, that is said in time.
#[test]
fn row_12_a_drain_ends_when_all_is_stored_or_says_that_it_is_not() {
    let ward = ward(&format!("{CALM}{FILES}{SQLITE}"));
    let application = ward.create("blue.db");
    let serving = ward.serve();
    register_file(&ward, "blue", "blue.db", "shop");
    ward.wait_for_backups("shop", 1);
    ward.wait_until("a capture", || ward.said().contains("capture.started"));
    application
        .execute_batch("INSERT INTO t DEFAULT VALUES; INSERT INTO t DEFAULT VALUES")
        .unwrap();
    let drain = ["endpoint", "drain", "blue", "--wait", "--timeout", "60s"];
    let drained = ward.json(&drain);
    crate::cli::golden::assert_shape("endpoint", &drained);
    assert_eq!((&drained["said"], &drained["database"]), (&"drained".into(), &"shop".into()));
    assert_eq!(ward.restored_rows("shop"), 3);
    assert_eq!(endpoint(&ward, "blue")["state"], "draining");

    // What is committed later is asked for by the next one; the repository is away.
    fs::rename(ward.path("repo"), ward.path("away")).unwrap();
    application.execute_batch("INSERT INTO t DEFAULT VALUES").unwrap();
    let (status, told) = ward.run(&["endpoint", "drain", "blue", "--wait", "--timeout", "4s"]);
    assert_eq!(status, 8, "{told}");
    assert!(told.contains("cannot all be restored yet"), "{told}");
    fs::rename(ward.path("away"), ward.path("repo")).unwrap();
    ward.json(&drain);
    serving.stop();
    assert_eq!(ward.restored_rows("shop"), 4);
    let (status, told) = ward.run(&["endpoint", "drain", "blue", "--wait", "--timeout", "2s"]);
    assert_eq!((status, told.contains("is `stillpoint serve` running?")), (8, true), "{told}");
    assert_eq!(ward.run(&["endpoint", "drain", "green"]).0, 6);
}

/// Row 12: where no log is captured, a backup is the last word; then a successor has the role.
#[test]
fn row_12_without_log_a_backup_is_made_before_the_role_goes_on() {
    let never = format!("{CALM}logs = \"never\"\n");
    let ward = ward(&format!("{never}{FILES}{SQLITE}"));
    let application = ward.create("blue.db");
    let serving = ward.serve();
    register_file(&ward, "blue", "blue.db", "shop");
    ward.wait_for_backups("shop", 1);
    application.execute_batch("INSERT INTO t DEFAULT VALUES").unwrap();
    ward.ok(&["endpoint", "drain", "blue"]);
    register_file(&ward, "green", "blue.db", "shop");
    ward.ok(&["endpoint", "drain", "blue", "--wait", "--timeout", "60s"]);
    let jobs = ward.jobs("shop");
    let asked = jobs.iter().find(|job| job["why"] == "drain").cloned().unwrap_or_default();
    assert_eq!(asked["outcome"], "succeeded", "{jobs:#?}");
    wait_for_endpoint(&ward, "shop", "green");
    wait_for_state(&ward, "blue", "draining");
    serving.stop();
    assert_eq!(ward.restored_rows("shop"), 2);
}
