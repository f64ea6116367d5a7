//! A cluster as one tar, unpacked and started by its own programs.

use std::{env, fs, process::Command};

use stillpoint_testcontainers::Postgres;

use super::consumer::{OUTBOX, TAPE, make_outbox, manifest, points, take};
use crate::{
    postgres::Story,
    serving::ward::{HEAD, Ward},
};

/// Rows 19 and 51: a script takes the tar; with tar and the server's own programs alone, a server
/// comes up on it that has every row.
#[tokio::test(flavor = "multi_thread")]
async fn row_19_51_a_cluster_comes_up_from_tar_and_its_own_programs() {
    let Some(mut story) = Story::begin(17, "local").await else { return };
    story.write(3).await;
    let made = story.back_up();
    story.ok(&["verify", made["backup"]["id"].as_str().unwrap()]);
    let key = story.site.path("key");
    let config = HEAD.replace(
        "repository.primary.url = \"repo\"\n",
        &format!(
            "[repository.primary]\nurl = \"{}\"\nencryption = {{ key = {{ exec = [\"cat\", \"{}\"] \
             }} }}\n{OUTBOX}[policy.default]\nfloor = 1\n{TAPE}\
             [database.shop]\nendpoint = \"{}\"\n",
            story.site.path("repo").display(),
            key.display(),
            story.url,
        ),
    );
    let ward = Ward::new(&config);
    let outbox = make_outbox(&ward);
    let mut places = vec![Postgres::programs(17).unwrap()];
    places.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    let path = env::join_paths(places).unwrap();
    let output = ward.command(&["copy", "run"]).env("PATH", &path).output().unwrap();
    let told = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{told}");
    assert_eq!(points(&outbox).len(), 1, "{told}");
    let said = manifest(&points(&outbox)[0]);
    assert_eq!(
        (&said["engine"], &said["files"][0]["name"]),
        (&"postgres".into(), &"data.tar".into())
    );
    let tape = ward.path("tape");
    take(&outbox, &tape);

    story.server.stop().unwrap();
    fs::remove_dir_all(story.site.path("repo")).unwrap();
    fs::remove_dir_all(&outbox).unwrap();
    let data = story.site.path("data");
    fs::create_dir(&data).unwrap();
    let tar = points(&tape)[0].join("data.tar");
    let mut unpack = Command::new("tar");
    assert!(unpack.arg("-xpf").arg(&tar).arg("-C").arg(&data).status().unwrap().success());
    assert_eq!(story.start(&data).await, [1, 2, 3]);
}
