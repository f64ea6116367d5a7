//! Damage stays where it is, and is repaired from the other side.

use std::fs;

use super::yard::{
    DR, PLACES, alone, back_up, copy, damage, grow, listed, packs, prove, rows_in, yard,
};
use crate::serving::ward::rows;

/// Row 82: what is damaged in the original is not copied, and is told; the copy stays good, also
/// when the original gives everything up.
#[test]
fn row_82_corruption_and_deletion_do_not_travel() {
    let (ward, application) = yard(PLACES, "", DR);
    grow(&application, 200);
    let good = prove(&ward, &[]);
    copy(&ward);
    let before = packs(&ward, "repo");
    grow(&application, 200);
    let bad = prove(&ward, &[]);
    let fresh: Vec<_> =
        packs(&ward, "repo").into_iter().filter(|pack| !before.contains(pack)).collect();
    let victim = fresh.iter().find(|pack| pack.extension().unwrap() == "pack").unwrap();
    damage(victim);
    let (status, told) = ward.run(&["copy", "run"]);
    assert_eq!(status, 9, "{told}");
    let name = victim.file_name().unwrap().to_str().unwrap();
    assert!(told.contains("not copied") && told.contains(name), "{told}");
    assert_eq!(listed(&ward, "dr"), std::slice::from_ref(&good));
    ward.ok(&["verify", "--repo", "dr"]);
    assert!(!packs(&ward, "dr").iter().any(|pack| pack.ends_with(name)), "it did not travel");
    // It is known where it is damaged, and asked for again in vain.
    let (status, told) = ward.run(&["copy", "run"]);
    assert_eq!(status, 9, "{told}");
    assert!(told.contains("damaged where it is copied from"), "{told}");

    ward.ok(&["forget", &good, &bad, "--force", "--repo", "repo"]);
    ward.ok(&["repo", "gc", "--grace", "0s", "--orphan-age", "0s", "--repo", "repo"]);
    copy(&ward);
    assert_eq!(listed(&ward, "dr"), [good]);
    let to = ward.path("back.db");
    ward.ok(&["restore", "app", "--to", to.to_str().unwrap()]);
    assert_eq!(rows_in(&to, "big"), 200);
}

/// Damaged and missing objects of the original are brought back from the copy while it is restored,
/// and stay repaired; nothing that was there is overwritten.
#[test]
fn row_82_a_restore_repairs_the_original_from_the_copy() {
    let (ward, application) = yard(PLACES, "", DR);
    grow(&application, 200);
    let backup = prove(&ward, &[]);
    copy(&ward);
    let own = packs(&ward, "repo");
    let data = own.iter().find(|pack| pack.extension().unwrap() == "pack").unwrap();
    let meta = own.iter().find(|pack| pack.extension().unwrap() == "mpack").unwrap();
    damage(data);
    let damaged = fs::read(data).unwrap();
    fs::remove_file(meta).unwrap();
    let (status, told) = ward.run(&["verify", "--repo", "repo", "--keyless"]);
    assert_eq!(status, 9, "{told}");
    let to = ward.path("back.db");
    let told = ward.ok(&["restore", "app", "--to", to.to_str().unwrap()]);
    assert!(told.contains("brought back from dr"), "{told}");
    assert_eq!(rows_in(&to, "t"), rows(&application));
    // The original is whole again, by itself.
    fs::rename(ward.path("dr"), ward.path("away")).unwrap();
    ward.ok(&["verify", &backup, "--repo", "repo"]);
    let to = ward.path("again.db");
    ward.ok(&["restore", "app", "--repo", "repo", "--to", to.to_str().unwrap()]);
    assert_eq!(fs::read(data).unwrap(), damaged, "what is damaged goes with the next collection");
    ward.ok(&["repo", "gc", "--grace", "0s", "--repo", "repo"]);
    assert!(!data.exists());
    ward.ok(&["verify", "--repo", "repo"]);
}

/// `verify` repairs as well, and a copy that is damaged is mended by the next run.
#[test]
fn row_82_verify_repairs_the_original_and_copying_the_copy() {
    let (ward, application) = yard(PLACES, "", DR);
    grow(&application, 100);
    let backup = prove(&ward, &[]);
    copy(&ward);
    let manifest = find(&ward.path("repo").join("snap"), "manifest");
    damage(&manifest);
    let told = ward.ok(&["verify", &backup]);
    assert!(told.contains("repaired: snap/"), "{told}");
    ward.ok(&["verify", &backup, "--repo", "repo"]);

    for pack in packs(&ward, "dr") {
        damage(&pack);
    }
    // Without a configuration nothing repairs it; what was found is in its log.
    let (status, told) = alone(&ward, &["verify", &backup, "--repo", "dr"]);
    assert_eq!(status, 9, "{told}");
    let ran = copy(&ward);
    assert!(!ran["mended"].as_array().unwrap().is_empty(), "{ran}");
    let (status, told) = alone(&ward, &["verify", &backup, "--repo", "dr"]);
    assert_eq!(status, 0, "{told}");
    ward.ok(&["verify", &backup, "--repo", "dr"]);
    ward.ok(&["restore", "app", "--from", "dr", "--to", ward.path("x").to_str().unwrap()]);
    // And the other way: what is known to be damaged in the original is repaired by a copy.
    for pack in packs(&ward, "repo") {
        damage(&pack);
    }
    let (status, told) = alone(&ward, &["verify", &backup, "--repo", "repo"]);
    assert_eq!(status, 9, "{told}");
    let ran = copy(&ward);
    assert!(!ran["repaired"].as_array().unwrap().is_empty(), "{ran}");
    let (status, told) = alone(&ward, &["verify", &backup, "--repo", "repo"]);
    assert_eq!(status, 0, "{told}");
    let unproven = back_up(&ward, &[]);
    assert_eq!(copy(&ward)["held_back"][0]["backup"], unproven);
}

/// A damaged list at the copy is mended there, and nothing is said against the original.
#[test]
fn row_82_damage_in_the_copy_is_no_damage_of_the_original() {
    let (ward, application) = yard(PLACES, "", DR);
    grow(&application, 100);
    let first = prove(&ward, &[]);
    copy(&ward);
    damage(&find(&ward.path("dr").join("snap"), "packs"));
    grow(&application, 100);
    let second = prove(&ward, &[]);
    copy(&ward);
    assert_eq!(listed(&ward, "dr"), [first, second]);
    let list = ward.json(&["list", "app", "--repo", "repo"]);
    let proofs = list["backups"].as_array().unwrap().iter().map(|backup| &backup["proof"]);
    assert!(proofs.into_iter().all(|proof| proof != "suspect"), "{list:#}");
    let (status, told) = ward.run(&["verify", "--repo", "dr"]);
    assert_eq!(status, 0, "{told}");
}

/// The file of a kind below a folder.
fn find(folder: &std::path::Path, kind: &str) -> std::path::PathBuf {
    let mut found = None;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found = found.or(Some(find(&path, kind)));
        } else if path.extension().is_some_and(|own| own == kind) {
            found = found.or(Some(path));
        }
    }
    found.unwrap()
}
