//! The demo, which is what a stranger sees first.

use std::{fs, path::Path, time::Duration};

use super::{bench::Bench, golden::assert_shape};

#[test]
fn the_demo_proves_itself_and_leaves_nothing_running() {
    let bench = Bench::new();
    let answer = bench.json(&["demo", "--dir", "stage"]);
    assert_eq!(answer["proven"], true);
    assert_eq!(answer["orders_restored"], answer["orders_expected"]);
    assert_eq!(answer["integrity"], "ok");
    let mut shape = answer;
    shape["steps"].as_array_mut().unwrap().truncate(1);
    assert_shape("demo", &shape);
    assert!(bench.path("stage/demo-1/restored.db").exists());
    assert_eq!(processes_in(&bench.path("stage")), [""; 0]);
}

#[test]
fn a_second_demo_takes_a_new_folder_and_even_a_killed_one_leaves_nothing_running() {
    let bench = Bench::new();
    fs::create_dir_all(bench.path("stage/demo-1")).unwrap();
    let mut demo = bench.command(&["demo", "--dir", "stage"]).spawn().unwrap();
    bench.wait_until("a customer buying", || {
        fs::metadata(bench.path("stage/demo-2/ledger-1.txt")).is_ok_and(|file| file.len() > 0)
    });
    assert!(!processes_in(&bench.path("stage")).is_empty());
    demo.kill().unwrap();
    demo.wait().unwrap();
    bench.wait_until("the end of its processes", || {
        std::thread::sleep(Duration::from_millis(100));
        processes_in(&bench.path("stage")).is_empty()
    });
    assert_eq!(fs::read_dir(bench.path("stage/demo-1")).unwrap().count(), 0);
}

/// The command lines of processes whose working folder is at or below `folder`.
fn processes_in(folder: &Path) -> Vec<String> {
    let folder = folder.canonicalize().unwrap();
    let entries = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    entries
        .filter(|process| {
            fs::read_link(process.join("cwd")).is_ok_and(|at| at.starts_with(&folder))
        })
        .filter_map(|process| fs::read_to_string(process.join("cmdline")).ok())
        .filter(|line| !line.is_empty())
        .collect()
}
