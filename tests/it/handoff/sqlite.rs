//! A database as one file, from a backup to a script that takes it.

use std::{fs, os::unix::fs::MetadataExt as _};

use super::consumer::{OUTBOX, TAPE, backup, make_outbox, manifest, points, take, walk};
use crate::{
    cli::golden::assert_shape,
    copies::yard::{copy, grow, prove, rows_in, yard},
    serving::ward::rows,
};

/// Rows 19 and 51: a script of ten lines takes what is ready, checks it, and acknowledges it; then
/// everything of ours is gone, and the engine alone opens its copy.
#[test]
fn row_19_51_a_script_takes_a_database_and_the_engine_alone_opens_it() {
    let keep = "keep = { for = \"14d\", until_ack = true }\n";
    let (ward, application) = yard(OUTBOX, "", &format!("{TAPE}{keep}"));
    let outbox = make_outbox(&ward);
    grow(&application, 2_000);
    application.execute("INSERT INTO t DEFAULT VALUES", []).unwrap();
    let made = prove(&ward, &["--full"]);
    let ran = copy(&ward);
    assert_eq!(ran["backups"], serde_json::json!([made]), "{ran}");

    let ready = points(&outbox);
    assert_eq!(ready.len(), 1, "{ready:?}");
    let names = walk(&ready[0]);
    let names: Vec<_> = names.iter().map(|path| path.file_name().unwrap()).collect();
    assert_eq!(names, [".ready", "SHA256SUMS", "database.sqlite", "manifest.json"]);
    let said = manifest(&ready[0]);
    assert_shape("handoff-manifest", &said);
    assert_eq!((&said["database"], &said["backup"]), (&"app".into(), &made.into()));
    let bytes = fs::read(ready[0].join("database.sqlite")).unwrap();
    assert_eq!(said["files"][0]["bytes"], bytes.len());
    assert_eq!(said["files"][0]["blake3"], blake3::hash(&bytes).to_hex().as_str());
    // Row 18: no file has a second name.
    assert!(names.iter().all(|name| fs::metadata(ready[0].join(name)).unwrap().nlink() == 1));

    let listed = || ward.json(&["copy", "list"])["copies"][0].clone();
    assert_eq!((&listed()["backups"], &listed()["unacknowledged"]), (&1.into(), &1.into()));
    let tape = ward.path("tape");
    take(&outbox, &tape);
    assert_eq!(listed()["unacknowledged"], 0);
    assert_eq!(copy(&ward)["backups"], serde_json::json!([]), "it is there already");

    fs::remove_dir_all(&outbox).unwrap();
    fs::remove_dir_all(ward.path("repo")).unwrap();
    let taken = points(&tape);
    let file = taken[0].join("database.sqlite");
    assert_eq!(rows_in(&file, "t"), rows(&application));
    assert_eq!(rows_in(&file, "big"), 2_000);
}

/// Row 19: what is handed over can be made of a copy, and the copy alone.
#[test]
fn row_19_what_is_handed_over_is_made_of_the_second_copy() {
    let places = format!("[repository.dr]\nurl = \"dr\"\n{OUTBOX}");
    let copies = "[[policy.default.copy]]\nname = \"dr\"\nto = \"dr\"\n".to_owned();
    let (ward, application) = yard(&places, "", &format!("{copies}{TAPE}from = \"dr\"\n"));
    let outbox = make_outbox(&ward);
    let made = prove(&ward, &["--full"]);
    ward.ok(&["copy", "run", "--copy", "dr"]);
    fs::rename(ward.path("repo"), ward.path("gone")).unwrap();
    ward.ok(&["copy", "run", "--copy", "tape"]);
    let ready = points(&outbox);
    assert_eq!(backup(&ready[0]), made);
    assert_eq!(rows_in(&ready[0].join("database.sqlite"), "t"), rows(&application));
}

/// Row 68: nothing that nobody has read back is handed over, nor what is damaged.
#[test]
fn row_68_only_what_is_proven_is_handed_over() {
    let (ward, _application) = yard(OUTBOX, "", TAPE);
    let outbox = make_outbox(&ward);
    crate::copies::yard::back_up(&ward, &["--full"]);
    let ran = copy(&ward);
    assert_eq!(ran["held_back"][0]["why"], "unverified", "{ran}");
    assert!(points(&outbox).is_empty());
    ward.ok(&["verify", "--repo", "repo"]);
    for pack in crate::copies::yard::packs(&ward, "repo") {
        crate::copies::yard::damage(&pack);
    }
    let (status, told) = ward.run(&["copy", "run"]);
    assert_eq!(status, 9, "{told}");
    assert!(walk(&outbox).iter().all(|path| path.is_dir()), "{:?}", walk(&outbox));
}

/// Row 19: a drive that is not mounted is not written to.
#[test]
fn row_19_a_folder_that_is_not_there_is_not_made() {
    let (ward, _application) = yard(OUTBOX, "", TAPE);
    prove(&ward, &["--full"]);
    let (status, told) = ward.run(&["copy", "run"]);
    assert_eq!(status, 4, "{told}");
    assert!(told.contains("never created"), "{told}");
    assert!(!ward.path("outbox").exists());
    let listed = ward.json(&["copy", "list"]);
    assert!(listed["copies"][0]["problem"].is_string(), "{listed}");
}

/// Row 19: a job hands over what was proven, and people see how far that is.
#[test]
fn row_19_a_job_hands_over() {
    let (ward, application) = yard(OUTBOX, "", TAPE);
    let outbox = make_outbox(&ward);
    let serving = ward.serve();
    ward.wait_until("a point", || {
        points(&outbox).first().is_some_and(|point| point.join(".ready").exists())
    });
    let file = points(&outbox)[0].join("database.sqlite");
    assert_eq!(rows_in(&file, "t"), rows(&application));
    ward.wait_until("the end of the job", || {
        let jobs = ward.jobs("app");
        jobs.iter().any(|job| job["kind"] == "copy tape" && job["outcome"] == "succeeded")
    });
    let status = ward.status("app");
    assert_eq!(status["copies"][0]["name"], "tape", "{status}");
    assert_eq!(serving.stop(), 143);
}
