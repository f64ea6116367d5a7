//! Copies of copies.

use std::fs;

use super::yard::{DR, PLACES, copy, grow, listed, prove, rows_in, yard};

const THIRD: &str = "[repository.third]\nurl = \"third\"\n";

/// Row 70: the third copy is fed by the second: neither the original nor production is read.
#[test]
fn row_70_the_third_copy_is_made_of_the_second_alone() {
    let copies =
        format!("{DR}[[policy.default.copy]]\nname = \"third\"\nto = \"third\"\nfrom = \"dr\"\n");
    let (ward, application) = yard(&format!("{PLACES}{THIRD}"), "", &copies);
    grow(&application, 200);
    prove(&ward, &[]);
    ward.ok(&["copy", "run", "--copy", "dr"]);
    assert!(!ward.path("third").exists());
    // Nothing of them can be read: they are not there.
    drop(application);
    for gone in ["repo", "app.db"] {
        fs::rename(ward.path(gone), ward.path(&format!("gone-{gone}"))).unwrap();
    }
    let ran = ward.json(&["copy", "run", "--copy", "third"])["copies"][0].clone();
    assert_eq!((&ran["from"], &ran["lacking_backups"]), (&"dr".into(), &0.into()), "{ran}");
    assert_eq!(listed(&ward, "third"), listed(&ward, "dr"));
    fs::remove_dir_all(ward.path("dr")).unwrap();
    let to = ward.path("back.db");
    ward.ok(&["restore", "app", "--from", "third", "--to", to.to_str().unwrap()]);
    assert_eq!(rows_in(&to, "big"), 200);
    ward.ok(&["verify", "--repo", "third"]);
}

#[test]
fn configurations_that_mix_copies_are_errors_with_places() {
    let (ward, _application) = yard(PLACES, "", DR);
    drop(copy(&ward));
    let text = fs::read_to_string(ward.path("stillpoint.toml")).unwrap();
    // Backups are written where copies go.
    let second = "[database.other]\nendpoint = \"sqlite:b.db\"\nrepository = \"dr\"\n";
    ward.configure(&format!("{text}{second}"));
    let (status, told) = ward.run(&["config", "check"]);
    assert_eq!(status, 3, "{told}");
    assert!(told.contains("a copy holds nothing else") && told.contains("toml:"), "{told}");
    // Copies of two originals.
    let second = "[database.other]\nendpoint = \"sqlite:b.db\"\nrepository = \"more\"\n\
                  [repository.more]\nurl = \"more\"\n";
    ward.configure(&format!("{text}{second}"));
    let (status, told) = ward.run(&["config", "check"]);
    assert_eq!(status, 3, "{told}");
    assert!(told.contains("it is made of one") && told.contains("toml:"), "{told}");
    // The same of what a rule finds.
    let rule = "[[rule]]\nselect = \"app\"\ndatabase = \"{app}\"\nendpoint = \"sqlite:{target}\"\n";
    for (place, problem) in [("dr", "a copy holds nothing else"), ("more", "it is made of one")] {
        let more = "[repository.more]\nurl = \"more\"\n";
        ward.configure(&format!("{text}{more}{rule}repository = \"{place}\"\n"));
        let (status, told) = ward.run(&["config", "check"]);
        assert_eq!(status, 3, "{told}");
        assert!(told.contains(problem) && told.contains("toml:"), "{told}");
    }
}
