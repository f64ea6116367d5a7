//! A database of a PostgreSQL cluster, brought back beside the one that lives.

use std::fs;

use serde_json::Value;

use super::shop::{begin, command, dump, fails, ok, versions};
use crate::{drills::remains::assert_none, postgres::connect};

#[tokio::test(flavor = "multi_thread")]
async fn a_database_comes_back_as_it_was_under_a_name_that_is_free() {
    for major in versions() {
        let Some(story) = begin(major).await else { return };
        let client = connect(&story.server).await;
        client
            .batch_execute(
                "CREATE UNLOGGED TABLE fleeting (n int);
                 CREATE EXTENSION pg_trgm; SELECT lo_from_bytea(4711, '\\x00ff');
                 ALTER DATABASE postgres SET work_mem = '5MB';
                 GRANT CONNECT ON DATABASE postgres TO app;
                 CREATE FUNCTION sum_of(a int) RETURNS int LANGUAGE sql AS 'SELECT a; SELECT a + 1';
                 CREATE RULE r AS ON INSERT TO plain WHERE new.a > 99 DO
                     (SELECT 1; UPDATE plain SET b = ';');
                 CREATE MATERIALIZED VIEW m AS SELECT count(*) FROM orders;
                 COMMENT ON DATABASE postgres IS 'the shop'",
            )
            .await
            .unwrap();
        story.back_up();
        let before = dump(&story, "postgres", &["--create"]);
        client.batch_execute("DROP TABLE orders CASCADE").await.unwrap();
        let now = dump(&story, "postgres", &["--create"]);
        let answer = tokio::task::block_in_place(|| {
            ok(&story, &["--database", "postgres", "--as", "shop 2"])
        });
        assert_eq!(answer["created_database"], "shop 2", "{answer:#}");
        let told = "public.fleeting: no backup has rows of unlogged tables";
        assert!(answer["notes"].to_string().contains(told), "{answer:#}");
        let made = dump(&story, "shop 2", &["--create"]);
        let named = made.replace("\"shop 2\"", "postgres").replace("shop 2", "postgres");
        assert_eq!(named, before);
        assert_eq!(dump(&story, "postgres", &["--create"]), now);
        let names = "SELECT string_agg(datname, ',' ORDER BY datname) FROM pg_database";
        assert_eq!(story.ask(names).await, "postgres,shop 2,template0,template1");
        assert_none(&story.site);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_comes_back_like_any_other_database() {
    let Some(story) = begin(15).await else { return };
    let answer = tokio::task::block_in_place(|| {
        ok(&story, &["--database", "template1", "--as", "model", "--no-mount"])
    });
    assert_eq!(answer["created_database"], "model", "{answer:#}");
    assert_none(&story.site);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plan_of_a_database_changes_nothing() {
    let Some(story) = begin(15).await else { return };
    let before = dump(&story, "postgres", &["--create"]);
    for more in [&[][..], &["--no-mount"]] {
        let words = [&["--database", "postgres", "--plan"], more].concat();
        let plan = ok(&story, &words);
        assert_eq!(plan["schema"], "stillpoint.restore.partial-plan/1");
        assert!(plan["into"].as_str().unwrap().ends_with("/postgres"), "{plan:#}");
        assert!(plan["size_bytes"].as_u64() > Some(0), "{plan:#}");
        assert!(plan["suffix"].as_str().unwrap().starts_with("_restored_2"), "{plan:#}");
        assert!(!plan["tables"].as_array().unwrap().is_empty(), "{plan:#}");
        assert!(more.is_empty() || plan["presented"]["mounted"] == false, "{plan:#}");
        assert_eq!(fs::read_dir(story.site.path("scratch")).unwrap().count(), 0);
    }
    let names = "SELECT string_agg(datname, ',' ORDER BY datname) FROM pg_database";
    assert_eq!(story.ask(names).await, "postgres,template0,template1");
    assert_eq!(dump(&story, "postgres", &["--create"]), before);

    // A server that is away is no reason to tell nothing.
    let away = ["restore", "shop", "--database", "postgres", "--plan", "--output", "json"];
    let into = ["--into", "postgres://postgres@127.0.0.1:1/postgres"];
    let output = command(&story, &[&away[..], &into].concat()).output().unwrap();
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(plan["warnings"].to_string().contains("does not answer"), "{plan:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_would_be_taken_for_an_unfinished_one_is_refused() {
    let Some(story) = begin(15).await else { return };
    let words = ["--database", "postgres", "--as", "stillpoint_partial_0123456789ab"];
    fails(&story, &words, 2, &["stillpoint_partial_0123456789ab", "taken for incomplete"]);
    assert_none(&story.site);
}
