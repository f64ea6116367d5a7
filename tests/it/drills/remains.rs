//! What a drill leaves behind: nothing, however it ended.

use std::{fs, path::Path, thread::sleep, time::Duration};

use crate::{
    postgres::Story,
    site::{Site, setting},
};

/// How often a drill is killed; `STILLPOINT_KILLS` says otherwise.
pub(crate) fn kills() -> u32 {
    u32::try_from(setting("STILLPOINT_KILLS", 15)).unwrap()
}

pub(crate) fn sandboxes(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|e| e.file_name().to_string_lossy().starts_with("stillpoint-sandbox-")).count()
}

/// Processes that work below a folder.
fn processes(folder: &Path) -> usize {
    let numbers = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let places = numbers.filter_map(|process| fs::read_link(process.join("cwd")).ok());
    places.filter(|place| place.starts_with(folder)).count()
}

/// Asserts that nothing is left of any sandbox of a site.
pub(crate) fn assert_none(site: &Site) {
    let scratch = site.path("scratch");
    let notes = site.path("state/stillpoint/sandboxes");
    let found = (sandboxes(&scratch), sandboxes(&notes), processes(&scratch));
    assert_eq!(found, (0, 0, 0), "directories, notes, processes");
}

/// Kills a drill at moments that are spread over all of it, and lets the next command clean up,
/// which was not told where. Returns how often something was left until then.
fn kill_everywhere(
    site: &Site,
    words: &[&str],
    takes: Duration,
    command: &dyn Fn() -> String,
) -> u32 {
    let mut struck = 0;
    for number in 0..kills() {
        let running = site.spawn(words, "killed");
        sleep(takes * number / kills());
        running.kill();
        struck += u32::from(sandboxes(&site.path("scratch")) > 0);
        command();
        assert_none(site);
    }
    struck
}

#[expect(clippy::disallowed_methods, reason = "the test measures real time")]
pub(crate) fn measure(work: impl FnOnce()) -> Duration {
    let start = std::time::Instant::now();
    work();
    start.elapsed()
}

#[test]
fn a_killed_drill_of_sqlite_leaves_nothing_after_the_next_command() {
    let site = Site::new();
    drop(site.create("app.db", 12_000));
    fs::create_dir(site.path("scratch")).unwrap();
    site.ok(&["backup", "sqlite:app.db"]);
    let words = ["drill", "run", "app.db", "--scratch", "scratch"];
    let takes = measure(|| drop(site.ok(&words)));
    let struck = kill_everywhere(&site, &words, takes, &|| site.ok(&["drill", "list"]).err);
    assert!(struck > kills() / 4, "{struck} of {} kills struck a sandbox", kills());
    // It was killed before it kept anything, or after.
    site.ok(&["report", "verify"]);
    site.ok(&words);
    assert_none(&site);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_drill_of_postgresql_leaves_nothing_after_the_next_command() {
    let Some(mut story) = Story::begin(15, "local").await else { return };
    story.write(3).await;
    story.back_up();
    let site = &story.site;
    fs::create_dir(site.path("scratch")).unwrap();
    let words = ["drill", "run", "shop", "--scratch", "scratch"];
    let takes = measure(|| drop(story.ok(&words)));
    let struck = kill_everywhere(site, &words, takes, &|| site.ok(&["drill", "list"]).err);
    assert!(struck > kills() / 4, "{struck} of {} kills struck a sandbox", kills());
    story.ok(&words);
    assert_none(site);
    // Drills never asked the server for anything.
    assert_eq!(story.ask("SELECT count(*)::text FROM pg_replication_slots").await, "0");
}
