//! Certificates and their authority, exchanged while the program works.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed, and says what it tried")]

use std::{
    fs,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread::{scope, sleep},
    time::Duration,
};

use stillpoint_testcontainers::{Authority, POSTGRES_USER, Postgres, PostgresOptions};
use tokio::runtime::Runtime;

use crate::{postgres::connect, site::Site};

/// How often it is looked whether backups were made, which take less than a second.
const TRIES_MAX: usize = 600;

/// How many backups are made with each state of the certificates, by each of those who make them.
const BACKUPS: usize = 2;

/// Gives a certificate to a server, which reads it.
fn give(runtime: &Runtime, authority: &Authority, server: &Postgres) {
    authority.give(server, "good").unwrap();
    runtime.block_on(async {
        let client = connect(server).await;
        for statement in ["ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()"] {
            client.batch_execute(statement).await.unwrap();
        }
    });
}

/// Row 28: an authority is replaced as it is done without a pause (both are trusted, the server
/// changes, the old one is not trusted any more) while backups are made one after the other.
#[test]
fn row_28_an_authority_is_replaced_under_load_and_no_backup_fails() {
    let options = PostgresOptions::default();
    let Some(server) = Postgres::required_with(17, &options) else { return };
    let runtime = Runtime::new().unwrap();
    let (old, new) = (Authority::new().unwrap(), Authority::new().unwrap());
    for authority in [&old, &new] {
        authority.issue("good", 2).unwrap();
    }
    let site = Site::of_clusters();
    let trusted = site.path("trusted.crt");
    // Whoever reads the file finds one of its states, never a part of it.
    let trust = |authorities: &[&Authority]| {
        let all = authorities.iter().map(|one| fs::read_to_string(one.path("ca.crt")).unwrap());
        fs::write(site.path("trusted.new"), all.collect::<String>()).unwrap();
        fs::rename(site.path("trusted.new"), &trusted).unwrap();
    };
    trust(&[&old]);
    give(&runtime, &old, &server);
    let url = format!(
        "postgres://{POSTGRES_USER}@127.0.0.1:{}/postgres?sslmode=verify-full&sslrootcert={}",
        server.port(),
        trusted.display()
    );
    let by = ["base_backup", "sql"].map(|method| format!("{url}&method={method}"));
    // The server has read its certificate once it shows it.
    let is_shown = |_: &usize| site.run(&["backup", &by[0]]).status == 0;
    assert!((0..TRIES_MAX).find(is_shown).is_some(), "the server shows no certificate");

    let (is_over, made) = (AtomicBool::new(false), [AtomicUsize::new(0), AtomicUsize::new(0)]);
    scope(|scope| {
        for (url, made) in by.iter().zip(&made) {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    site.ok(&["backup", url]);
                    made.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let more_are_made = || {
            let before = made.each_ref().map(|made| made.load(Ordering::Relaxed));
            let are_there = |_: &usize| {
                sleep(Duration::from_millis(100));
                made.iter()
                    .zip(before)
                    .all(|(made, before)| made.load(Ordering::Relaxed) >= before + BACKUPS)
            };
            assert!((0..TRIES_MAX).find(are_there).is_some(), "no more backups: {made:?}");
        };
        more_are_made();
        trust(&[&old, &new]);
        more_are_made();
        give(&runtime, &new, &server);
        more_are_made();
        trust(&[&new]);
        more_are_made();
        is_over.store(true, Ordering::Relaxed);
    });
    // The old one is worth nothing now.
    trust(&[&old]);
    site.fails(&["backup", &by[0]], 5, &["sslrootcert"]);
    site.ok(&["verify"]);
}
