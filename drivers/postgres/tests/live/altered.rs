//! Rows that are put back into columns which have other types by now, or are computed.

use stillpoint_conformance::memory::rows::{MemoryRows, set};
use stillpoint_contract::{Conflict, ErrorKind, Rows, Table, code};

use crate::stage::Stage;

const MAJOR: u32 = 18;

/// A table, and all of its rows.
async fn read(rows: &mut dyn Rows) -> (Table, MemoryRows) {
    let set = set(rows.table("t").await.unwrap(), "true");
    let all = MemoryRows::read(rows, &set).await.unwrap();
    (set.root().table.clone(), all)
}

async fn ask(stage: &Stage, query: &str) -> String {
    stage.client().await.query_one(query, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_a_changed_column_would_alter_are_refused() {
    let Some(stage) = Stage::open(MAJOR, &[]).await else { return };
    // The type of then, a value that any table takes, one that it does not, and the type of now.
    for (was, fine, altered, is) in [
        ("numeric(12,4)", "1.2300", "1.2345", "numeric(12,2)"),
        ("numeric", "1.5", "1.234", "numeric(12,2)"),
        ("float8", "2", "2.5", "int"),
        ("float8", "0.5", "0.12345678901234568", "real"),
        ("numeric", "0.5", "0.12345678901234567890", "float8"),
        ("timestamp", "2024-01-01 00:00:00", "2024-01-01 10:00:00", "date"),
        ("timestamptz", "2024-01-01 00:00:00+00", "2024-01-01 10:00:00+00", "date"),
        ("text", "abc", "abc  ", "char(10)"),
        ("interval", "1 day", "1 day 00:00:00.25", "interval second(0)"),
        ("bigint", "5", "9007199254740993", "float8"),
        ("json", "{\"a\": 1}", "{\"a\":  1, \"a\": 2}", "jsonb"),
        ("int", "2", "5", "int GENERATED ALWAYS AS (id + 1) STORED"),
        ("int", "2", "5", "int GENERATED ALWAYS AS (id + 1)"),
        ("text", "2", "5", "text GENERATED ALWAYS AS ((id + 1)::text) STORED"),
    ] {
        let at = format!("{was} to {is}");
        for (value, is_fine) in [(fine, true), (altered, false)] {
            let make = format!(
                "DROP TABLE IF EXISTS t; DROP TABLE IF EXISTS beside;
                 CREATE TABLE t (id int PRIMARY KEY, v {was}); INSERT INTO t VALUES (1, '{value}')"
            );
            stage.run(&make).await;
            let mut rows = stage.driver("").await.rows().await.unwrap();
            let (table, all) = read(rows.as_mut()).await;
            let image = "SELECT v::text FROM t";
            let image = ask(&stage, image).await;
            stage.run(&format!("DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, v {is})")).await;
            for conflict in [Conflict::Overwrite, Conflict::Skip, Conflict::Fail] {
                let put = all.put_back(rows.as_mut(), &table, &conflict, None).await;
                if is_fine {
                    assert_eq!(put.unwrap(), 1, "{at}");
                    stage.run("DELETE FROM t").await;
                    continue;
                }
                let error = put.expect_err(&at);
                let found = (error.kind(), error.code());
                assert_eq!(found, (ErrorKind::Refused, code::ROWS_DIFFER), "{at}: {error:?}");
                let told = format!("{:?} {:?}", error.facts(), error.advice());
                for part in
                    ["(\"column\", \"v\")", "(id) = ('1')", "would become", "--into staging"]
                {
                    assert!(told.contains(part), "{at}: {told}");
                }
                let left = ask(&stage, "SELECT count(*)::text FROM t").await;
                assert_eq!(left, "0", "{at}");
            }
            let put = all.put_back(rows.as_mut(), &table, &Conflict::Fail, Some("beside")).await;
            assert_eq!(put.unwrap(), 1, "{at}");
            assert_eq!(ask(&stage, "SELECT v::text FROM beside").await, image, "{at}");
        }
    }
}

/// Whoever is refused since a column makes no value of an archived one, or is gone, is told of the
/// table that takes it.
#[tokio::test(flavor = "multi_thread")]
async fn values_that_a_changed_column_does_not_take_go_into_a_table_of_their_own() {
    let Some(stage) = Stage::open(MAJOR, &[]).await else { return };
    for (was, value, is) in [
        ("text", "'abc'", ", v int"),
        ("json", "'{}'", ", v int"),
        ("int[]", "'{1}'", ", v int"),
        ("int", "70000", ", v smallint"),
        ("text", "NULL", ", v text NOT NULL"),
        ("text", "'abc'", ""),
    ] {
        let at = format!("{was} to {is}");
        let make = format!(
            "DROP TABLE IF EXISTS t; DROP TABLE IF EXISTS beside;
             CREATE TABLE t (id int PRIMARY KEY, v {was}); INSERT INTO t VALUES (1, {value})"
        );
        stage.run(&make).await;
        let mut rows = stage.driver("").await.rows().await.unwrap();
        let (table, all) = read(rows.as_mut()).await;
        let image = ask(&stage, "SELECT quote_nullable(v::text) FROM t").await;
        stage.run(&format!("DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY{is})")).await;
        for conflict in [Conflict::Overwrite, Conflict::Skip, Conflict::Fail] {
            let put = all.put_back(rows.as_mut(), &table, &conflict, None).await;
            let error = put.expect_err(&at);
            let found = (error.kind(), error.code());
            assert_eq!(found, (ErrorKind::Unsupported, code::ROWS_REFUSED), "{at}: {error:?}");
            let told = format!("{:?}", error.advice());
            assert!(told.contains("--into staging"), "{at}: {told}");
            assert_eq!(ask(&stage, "SELECT count(*)::text FROM t").await, "0", "{at}");
        }
        let put = all.put_back(rows.as_mut(), &table, &Conflict::Fail, Some("beside")).await;
        assert_eq!(put.unwrap(), 1, "{at}");
        let beside = ask(&stage, "SELECT quote_nullable(v::text) FROM beside").await;
        assert_eq!(beside, image, "{at}");
    }
}

/// A row that stays is not compared, and one that has no cast back is.
#[tokio::test(flavor = "multi_thread")]
async fn only_values_that_were_put_are_compared() {
    let Some(stage) = Stage::open(MAJOR, &[]).await else { return };
    stage
        .run(
            "CREATE TYPE mood AS ENUM ('good', 'bad');
             CREATE TABLE t (id int PRIMARY KEY, v numeric(12,4), m mood);
             INSERT INTO t VALUES (1, 1.2345, 'bad'), (2, 2, 'good')",
        )
        .await;
    let mut rows = stage.driver("").await.rows().await.unwrap();
    let (table, all) = read(rows.as_mut()).await;
    stage
        .run(
            "DROP TABLE t; CREATE TABLE t (id bigint PRIMARY KEY, v numeric(12,2), m text);
             INSERT INTO t VALUES (1, 7, 'other')",
        )
        .await;
    assert_eq!(all.put_back(rows.as_mut(), &table, &Conflict::Skip, None).await.unwrap(), 1);
    let left = "SELECT string_agg(id || ' ' || v || ' ' || m, ', ' ORDER BY id) FROM t";
    assert_eq!(ask(&stage, left).await, "1 7.00 other, 2 2.00 good");
    let newer = Conflict::Newer("v".to_owned());
    assert_eq!(all.put_back(rows.as_mut(), &table, &newer, None).await.unwrap(), 0);
    let refused =
        all.put_back(rows.as_mut(), &table, &Conflict::Overwrite, None).await.unwrap_err();
    assert_eq!(refused.code(), code::ROWS_DIFFER, "{refused:?}");
    assert_eq!(ask(&stage, left).await, "1 7.00 other, 2 2.00 good");
}

/// Rows without a key are compared, too: by what a cast makes of them.
#[tokio::test(flavor = "multi_thread")]
async fn values_of_rows_without_a_key_are_compared() {
    let Some(stage) = Stage::open(MAJOR, &[]).await else { return };
    for (value, is, is_fine) in [
        ("1.2300", "numeric(12,2)", true),
        ("1.2345", "numeric(12,2)", false),
        ("1.2345", "text", true),
        ("2", "numeric GENERATED ALWAYS AS (id + 1) STORED", false),
    ] {
        stage
            .run(&format!(
                "DROP TABLE IF EXISTS t; DROP TABLE IF EXISTS beside;
                 CREATE TABLE t (id int PRIMARY KEY, v numeric(12,4));
                 INSERT INTO t VALUES (1, {value})"
            ))
            .await;
        let mut rows = stage.driver("").await.rows().await.unwrap();
        let (table, all) = read(rows.as_mut()).await;
        stage.run(&format!("DROP TABLE t; CREATE TABLE t (id int, v {is})")).await;
        let keyless = Table { key: Vec::new(), ..table.clone() };
        for conflict in [Conflict::Fail, Conflict::Skip, Conflict::Overwrite] {
            let refused = all.put_back(rows.as_mut(), &keyless, &conflict, None).await;
            assert_eq!(refused.unwrap_err().code(), code::ROWS_REFUSED, "{conflict:?}");
            let put = all.put_back(rows.as_mut(), &keyless, &conflict, Some("beside")).await;
            assert_eq!(put.unwrap(), 1, "{value} as {is}");
            assert_eq!(
                ask(&stage, "SELECT v::text FROM beside").await.parse(),
                value.parse::<f64>()
            );
            stage.run("DROP TABLE beside").await;
        }
        let put = all.put_back(rows.as_mut(), &keyless, &Conflict::Absent, None).await;
        let left = ask(&stage, "SELECT count(*)::text FROM t").await;
        if is_fine {
            assert_eq!((put.unwrap(), left.as_str()), (1, "1"), "{value} as {is}");
            continue;
        }
        let error = put.unwrap_err();
        let told = format!("{:?} {:?}", error.facts(), error.advice());
        assert!(told.contains("(\"column\", \"v\")") && told.contains("staging"), "{told}");
        assert_eq!(left, "0", "{value} as {is}");
    }
}

/// Whatever the table demands by now, a new one takes all that was archived.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_their_own_takes_all_rows() {
    let Some(stage) = Stage::open(MAJOR, &[]).await else { return };
    stage
        .run(
            "CREATE TABLE t (id int PRIMARY KEY, v text UNIQUE, w int);
             INSERT INTO t VALUES (1, 'bob@x', NULL), (2, NULL, 7)",
        )
        .await;
    let mut rows = stage.driver("").await.rows().await.unwrap();
    let (table, first) = read(rows.as_mut()).await;
    stage.run("DELETE FROM t; INSERT INTO t VALUES (3, 'bob@x', 1)").await;
    let (_, later) = read(rows.as_mut()).await;
    stage
        .run(
            "DELETE FROM t; ALTER TABLE t ALTER w SET NOT NULL; ALTER TABLE t ADD x int NOT NULL;
             ALTER TABLE t ADD CHECK (w < 5)",
        )
        .await;
    let mut all = MemoryRows::default();
    all.0.extend(first.0.iter().chain(&later.0).cloned());
    for conflict in [Conflict::Fail, Conflict::Skip] {
        let error = all.put_back(rows.as_mut(), &table, &conflict, None).await.unwrap_err();
        assert_eq!(error.code(), code::ROWS_REFUSED, "{error:?}");
        let advice = format!("{:?}", error.advice());
        assert!(advice.contains("into a table of their own"), "{error:?}");
    }
    let put = all.put_back(rows.as_mut(), &table, &Conflict::Fail, Some("beside")).await;
    assert_eq!(put.unwrap(), 3);
    let shown = "SELECT string_agg(concat_ws(' ', id, v, w), ', ' ORDER BY id) FROM beside";
    assert_eq!(ask(&stage, shown).await, "1 bob@x, 2 7, 3 bob@x 1");
    // It has the key, and nobody is sent in circles.
    let beside = rows.table("beside").await.unwrap();
    assert_eq!(beside.key, [0]);
    all.0.extend(later.0);
    let put = all.put_back(rows.as_mut(), &table, &Conflict::Fail, Some("twice")).await;
    let error = put.unwrap_err();
    assert_eq!(error.code(), code::ROWS_CONFLICT, "{error:?}");
    assert!(!format!("{:?}", error.advice()).contains("--staging"), "{error:?}");
}

/// A type that was made anew, under the name that it had.
#[tokio::test(flavor = "multi_thread")]
async fn values_of_a_type_that_means_something_else_now_are_refused() {
    let Some(stage) = Stage::open(MAJOR, &[]).await else { return };
    for (was, is, value) in [
        ("TYPE made AS (x numeric(12,4))", "TYPE made AS (x numeric(12,2))", "(1.2345)"),
        ("DOMAIN made AS numeric", "DOMAIN made AS numeric(12,2)", "1.2345"),
        ("DOMAIN made AS numeric[]", "DOMAIN made AS numeric(6,0)[]", "{1.5}"),
    ] {
        for (value, is_fine) in [(value, false), ("", true)] {
            let value = if is_fine { "NULL".to_owned() } else { format!("'{value}'") };
            stage
                .run(&format!(
                    "DROP TABLE IF EXISTS t; DROP TYPE IF EXISTS made; CREATE {was};
                     CREATE TABLE t (id int PRIMARY KEY, v made); INSERT INTO t VALUES (1, {value})"
                ))
                .await;
            let mut rows = stage.driver("").await.rows().await.unwrap();
            let (table, all) = read(rows.as_mut()).await;
            stage
                .run(&format!(
                    "DROP TABLE t; DROP TYPE made; CREATE {is};
                     CREATE TABLE t (id int PRIMARY KEY, v made)"
                ))
                .await;
            let put = all.put_back(rows.as_mut(), &table, &Conflict::Fail, None).await;
            if is_fine {
                assert_eq!(put.unwrap(), 1, "{is}");
                continue;
            }
            let error = put.expect_err(is);
            let found = (error.kind(), error.code());
            assert_eq!(found, (ErrorKind::Refused, code::ROWS_DIFFER), "{is}: {error:?}");
            assert_eq!(ask(&stage, "SELECT count(*)::text FROM t").await, "0", "{is}");
        }
    }
}
