//! A copy of a real server: WAL travels, and is replayed where nothing else is left.

use std::{env, fs, os::unix::fs::PermissionsExt as _};

use serde_json::Value;
use stillpoint_testcontainers::Postgres;

use super::yard::{DR, PLACES};
use crate::{
    partial::shop::programs,
    postgres::{Story, connect, exact},
    serving::ward::{HEAD, Ward},
    tap::Tap,
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

/// What is beyond the second copy: a third one, and a folder for tapes.
const BEYOND: &str = "[repository.third]\nurl = \"third\"\n\
    [repository.onprem]\nkind = \"handoff\"\npath = \"outbox\"\n";

/// Each is made of the one before it.
const CHAIN: &str = "[[policy.default.copy]]\nname = \"third\"\nto = \"third\"\nfrom = \"dr\"\n\
    [[policy.default.copy]]\nname = \"tape\"\nto = \"onprem\"\nfrom = \"third\"\n\
    class = [\"full\"]\n";

/// Rows 69 and 70: the network of production is cut, and the first repository gone. Of the second
/// copy the third is made, and of that what goes to tape; it is drilled, and a table of it goes to
/// a server of its site. Nobody so much as asks for production, which sends no byte.
#[tokio::test(flavor = "multi_thread")]
async fn row_69_70_cut_off_from_production_the_chain_a_drill_and_an_export_go_on() {
    let Some(mut story) = Story::begin(17, "sql").await else { return };
    let Some(site) = Postgres::required(17) else { return };
    story.write(3).await;
    let tap = Tap::before(story.server.port());
    let ward = Ward::new(&format!(
        "{HEAD}{PLACES}{BEYOND}[policy.default]\nlogs = \"never\"\nrpo = \"2d\"\n{DR}{CHAIN}\
         [database.shop]\nendpoint = \"postgres://postgres@127.0.0.1:{}/postgres?method=sql\"\n",
        tap.port
    ));
    fs::set_permissions(ward.path("."), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(ward.path("outbox")).unwrap();
    ward.ok(&["init", "--no-encryption", "--repo", "repo"]);
    let path = programs(&story);
    let json = |words: &[&str]| -> Value {
        let words = [words, &["-o", "json"]].concat();
        let output = ward.command(&words).env("PATH", &path).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}\n{said}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    json(&["backup", "shop"]);
    json(&["copy", "run", "--copy", "dr"]);
    assert!(!ward.path("third").exists());

    tap.cut();
    fs::rename(ward.path("repo"), ward.path("gone")).unwrap();
    let before = (tap.asked(), tap.sent());
    for copy in ["third", "tape"] {
        let ran = json(&["copy", "run", "--copy", copy])["copies"][0].clone();
        assert_eq!(ran["backups"].as_array().unwrap().len(), 1, "{ran:#}");
    }
    let points = fs::read_dir(ward.path("outbox/shop")).unwrap().map(|point| point.unwrap().path());
    let points: Vec<_> = points.filter(|point| point.join(".ready").exists()).collect();
    assert!(points.len() == 1 && points[0].join("data.tar").exists(), "{points:?}");

    let check = ["--check", "SELECT count(*) FROM entry", "--expect", "3"];
    let drill = ["drill", "run", "shop", "--from", "third", "--no-mount"];
    let drill = json(&[&drill[..], &check[..]].concat());
    assert_eq!(drill["passed"], true, "{drill:#}");
    assert!(drill["notes"].to_string().contains("restored from third ("), "{drill:#}");

    let into = format!("postgres://postgres@127.0.0.1:{}/postgres", site.port());
    let words = ["restore", "shop", "--from", "third", "--table", "public.entry", "--into", &into];
    json(&[&words[..], &["--as", "entry_then"]].concat());
    let hash = |table: &str| {
        format!("SELECT md5(string_agg(t::text, ',' ORDER BY t::text)) FROM {table} AS t")
    };
    let exported = connect(&site).await.query_one(&hash("entry_then"), &[]).await.unwrap();
    assert_eq!(exported.get::<_, String>(0), story.ask(&hash("entry")).await);
    assert_eq!((tap.asked(), tap.sent()), before, "production was asked");
}
