//! A copy of a real server: WAL travels, and is replayed where nothing else is left.

use std::{env, fs};

use stillpoint_testcontainers::Postgres;

use crate::{
    postgres::{Story, exact},
    serving::ward::{HEAD, Ward},
};

/// Rows 69 and 72: the server and the first repository are gone; the copy proves itself, and
/// reaches an instant between two commits.
#[tokio::test(flavor = "multi_thread")]
async fn row_69_72_a_server_is_brought_back_from_its_copy() {
    let Some(mut story) = Story::begin(17, "local").await else { return };
    story.write(2).await;
    let made = story.back_up();
    let capture = story.capture().await;
    story.write(3).await;
    story.end(capture).await;
    story.ok(&["verify", made["backup"]["id"].as_str().unwrap()]);

    let key = story.site.path("key");
    let config = HEAD.replace(
        "repository.primary.url = \"repo\"\n",
        &format!(
            "[repository.primary]\nurl = \"{}\"\nencryption = {{ key = {{ exec = [\"cat\", \"{}\"] \
             }} }}\n[repository.dr]\nurl = \"dr\"\n[policy.default]\nfloor = 1\n\
             [policy.default.drill]\nevery = \"7d\"\nfrom = \"dr\"\n\
             [[policy.default.copy]]\nname = \"dr\"\nto = \"dr\"\n\
             [database.shop]\nendpoint = \"{}\"\n",
            story.site.path("repo").display(),
            key.display(),
            story.url,
        ),
    );
    let ward = Ward::new(&config);
    let ran = ward.json(&["copy", "run"])["copies"][0].clone();
    assert_eq!(ran["backups"].as_array().unwrap().len(), 1, "{ran}");
    assert!(ran["segments"].as_u64().unwrap() > 0, "{ran}");
    assert_eq!((&ran["lacking_backups"], &ran["lacking_segments"]), (&0.into(), &0.into()));

    story.server.stop().unwrap();
    fs::remove_dir_all(story.site.path("repo")).unwrap();
    let mut places = vec![Postgres::programs(17).unwrap()];
    places.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    let path = env::join_paths(places).unwrap();
    // After the fourth row, before the fifth.
    let at = exact(story.instants[3]);
    let check = ["--check", "SELECT count(*) FROM entry", "--expect", "4"];
    let words = [&["drill", "run", "shop", "--no-mount", "--at", &at][..], &check].concat();
    let output = ward.command(&words).env("PATH", &path).output().unwrap();
    let told = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{told}");
    assert!(told.contains("restored from dr"), "{told}");
}
