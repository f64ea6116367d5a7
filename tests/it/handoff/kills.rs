//! Handing over that is killed, and what the next run makes of it.

use std::{fs, path::PathBuf};

use super::consumer::{OUTBOX, TAPE, backup, make_outbox, points, walk};
use crate::copies::yard::{copy, grow, prove, rows_in, yard};

/// Row 51: whenever it is killed, nothing is said to be ready that is not, and the next run heals.
#[test]
fn row_51_killed_amid_a_file_nothing_is_ready_and_the_next_run_heals() {
    let places = format!("{OUTBOX}limits = {{ upload = \"1MiB/s\" }}\n");
    let (ward, application) = yard(&places, "", TAPE);
    let outbox = make_outbox(&ward);
    grow(&application, 8_000);
    let made = prove(&ward, &["--full"]);
    let half = || {
        let all = walk(&outbox);
        let mut files = all.into_iter().filter(|path| path.ends_with("database.sqlite"));
        files.find(|path| fs::metadata(path).is_ok_and(|file| file.len() > 0))
    };
    let mut running = ward.command(&["copy", "run"]).spawn().unwrap();
    ward.wait_until("half of a file", || half().is_some());
    running.kill().unwrap();
    running.wait().unwrap();
    let left: PathBuf = half().unwrap();
    let size = fs::metadata(&left).unwrap().len();
    assert!(size < 8_000_000, "{size}");
    assert!(walk(&outbox).iter().all(|path| !path.ends_with(".ready")), "{:?}", walk(&outbox));
    assert!(points(&outbox).is_empty(), "it has no name yet");

    let text = fs::read_to_string(ward.path("stillpoint.toml")).unwrap();
    ward.configure(&text.replace("1MiB/s", "500MiB/s"));
    assert_eq!(copy(&ward)["backups"], serde_json::json!([made]));
    assert!(!left.exists(), "what was left is removed");
    let ready = points(&outbox);
    assert_eq!((ready.len(), backup(&ready[0])), (1, made));
    assert_eq!(rows_in(&ready[0].join("database.sqlite"), "big"), 8_000);
}

/// Row 51: killed between the name of a folder and its last file, every byte is read once more;
/// what is not as it was written is handed over again.
#[test]
fn row_51_killed_before_the_last_file_it_is_completed_or_done_again() {
    let (ward, application) = yard(OUTBOX, "", TAPE);
    let outbox = make_outbox(&ward);
    grow(&application, 100);
    let made = prove(&ward, &["--full"]);
    copy(&ward);
    let point = points(&outbox)[0].clone();
    let file = point.join("database.sqlite");
    let unready = |soon: bool| {
        if soon {
            fs::rename(point.join(".ready"), point.join(".ready.soon")).unwrap();
        } else {
            fs::remove_file(point.join(".ready")).unwrap();
        }
    };
    for soon in [true, false] {
        unready(soon);
        assert_eq!(copy(&ward)["backups"], serde_json::json!([]), "it was complete");
        assert!(point.join(".ready").exists() && !point.join(".ready.soon").exists());
    }
    unready(true);
    crate::copies::yard::damage(&file);
    assert_eq!(copy(&ward)["backups"], serde_json::json!([made]));
    assert!(point.join(".ready").exists());
    assert_eq!(rows_in(&file, "big"), 100);
}
