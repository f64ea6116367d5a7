//! What a plan says of a restore before it is done: by past drills, and by the log.

use std::{fs, time::Duration};

use serde_json::Value;

use crate::site::{Site, add};

#[test]
fn a_plan_tells_what_is_read_how_long_it_takes_and_what_is_lost() {
    let site = Site::new();
    let app = site.create("app.db", 50);
    fs::create_dir(site.path("scratch")).unwrap();
    let backup = site.json(&["backup", "sqlite:app.db"]);
    let words = ["logs", "stream", "sqlite:app.db", "--flush", "1s", "--stop-at-eof"];
    let capture = site.spawn(&words, "capture");
    while !fs::read_to_string(site.path("capture.log")).unwrap().contains("Capturing") {
        std::thread::sleep(Duration::from_millis(20));
    }
    for _ in 0..5 {
        add(&app, 1);
    }
    let plan = |more: &[&str]| -> Value {
        site.json(&[&["restore", "app.db", "--to", "back.db", "--plan"], more].concat())
    };
    let id = backup["backup"]["id"].as_str().unwrap();
    for _ in 0..500 {
        if plan(&["--backup", id])["lost"]["transactions"] == 5 {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(capture.end(), 0);

    let earlier = plan(&["--backup", id]);
    assert_eq!(earlier["lost"]["transactions"], 5, "{earlier:#}");
    assert!(earlier["lost"]["newest"].is_string(), "{earlier:#}");
    assert_eq!((&earlier["estimate"], &earlier["log_bytes"]), (&Value::Null, &0.into()));
    assert!(earlier["source"].as_str().unwrap().contains("repo"), "{earlier:#}");
    assert!(earlier["free_bytes"].as_u64().unwrap() > 0, "{earlier:#}");
    let latest = plan(&[]);
    assert_eq!(
        (&latest["lost"]["newest"], &latest["lost"]["transactions"]),
        (&Value::Null, &0.into())
    );
    assert!(latest["log_bytes"].as_u64().unwrap() > 0, "{latest:#}");

    let position = backup["backup"]["position"].as_str().unwrap();
    site.ok(&["drill", "run", "app.db", "--at", position, "--scratch", "scratch"]);
    assert_eq!(plan(&[])["estimate"]["lacks_replay"], true);
    site.ok(&["drill", "run", "app.db", "--scratch", "scratch"]);
    let known = plan(&[]);
    let estimate = &known["estimate"];
    assert_eq!((&estimate["lacks_replay"], &estimate["drills"]), (&false.into(), &2.into()));
    assert!(known["estimate"]["most_ms"].as_u64().unwrap() < 60_000, "{known:#}");
    let told = site.ok(&["restore", "app.db", "--to", "back.db", "--plan", "--backup", id]).out;
    assert!(told.contains("5 commits; the newest state") && told.contains("by 2 drills"), "{told}");
    assert!(!site.path("back.db").exists());
}

/// Row 78: what a plan foretells by drills is what the restore takes, within twice of it.
#[test]
fn row_78_a_restore_takes_what_drills_foretold_within_twice() {
    let site = Site::new();
    drop(site.create("app.db", 60_000));
    fs::create_dir(site.path("scratch")).unwrap();
    site.ok(&["backup", "sqlite:app.db"]);
    for _ in 0..3 {
        site.ok(&["drill", "run", "app.db", "--no-mount", "--scratch", "scratch"]);
    }
    let plan = site.json(&["restore", "app.db", "--to", "back.db", "--plan"]);
    let of = |name: &str| plan["estimate"][name].as_u64().unwrap();
    let (least, most) = (of("least_ms"), of("most_ms"));
    assert_eq!((of("drills"), &plan["estimate"]["lacks_writing"]), (3, &false.into()), "{plan:#}");
    // Whatever else the machine did meanwhile, it did not do three times: the middle one counts.
    let mut took = [0, 1, 2].map(|number| {
        let to = format!("back-{number}.db");
        site.json(&["restore", "app.db", "--to", &to])["elapsed_ms"].as_u64().unwrap()
    });
    took.sort_unstable();
    assert!(
        least <= took[1] * 2 && took[1] <= most * 2,
        "foretold: {least} to {most} ms; it took {took:?} ms"
    );
}
