//! Mounts amid trouble: names that change while they are listed, writes where no file can be.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::fs::FileExt as _,
};

use crate::mounts::{Mounted, READ_WRITE, can_mount, site};

#[test]
fn names_stay_true_while_a_directory_is_listed_and_changed() {
    if !can_mount() {
        return;
    }
    let site = site(10);
    let mounted = Mounted::begin(&site, &READ_WRITE, "m");
    let folder = mounted.point.join("folder");
    fs::create_dir(&folder).unwrap();
    let name = |number: usize| format!("{number:05}-with-a-name-that-fills-an-answer-soon");
    let mut names: BTreeSet<String> = (0..4000).map(name).collect();
    for name in &names {
        File::create(folder.join(name)).unwrap();
    }
    let mut listed = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        // Whoever looks at what is listed gets names with all that is known of them.
        let entry = entry.unwrap();
        drop(fs::symlink_metadata(entry.path()));
        if listed == 0 {
            for number in 0..1900 {
                let (old, new) = (name(number * 2 + 100), format!("new-{number}"));
                fs::rename(folder.join(&old), folder.join(&new)).unwrap();
                names.remove(&old);
                names.insert(new);
            }
        }
        listed += 1;
    }
    assert!(listed > 2000, "{listed}");
    for name in (0..4000).map(name) {
        let is_there = fs::symlink_metadata(folder.join(&name)).is_ok();
        assert_eq!(is_there, names.contains(&name), "{name}");
    }
    let again = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string());
    assert_eq!(again.map(Result::unwrap).collect::<BTreeSet<_>>(), names);
    assert_eq!(mounted.end(), 0);
}

#[test]
fn a_write_where_no_file_can_be_is_refused_and_the_mount_goes_on() {
    if !can_mount() {
        return;
    }
    let site = site(10);
    let mounted = Mounted::begin(&site, &READ_WRITE, "m");
    for name in ["app.db", "new"] {
        let path = mounted.point.join(name);
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).open(path).unwrap();
        file.write_all_at(b"here", 0).unwrap();
        let length = file.metadata().unwrap().len();
        for offset in [1 << 62, i64::MAX as u64, 1 << 63] {
            match file.write_at(b"x", offset) {
                // EFBIG or EINVAL, of the kernel or of the file system below.
                Err(error) => assert!(matches!(error.raw_os_error(), Some(27 | 22)), "{error}"),
                Ok(_) => file.set_len(length).unwrap(),
            }
        }
        assert_eq!(file.metadata().unwrap().len(), length);
        let mut read = [0; 4];
        file.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(&read, b"here");
    }
    assert_eq!(mounted.end(), 0);
}
