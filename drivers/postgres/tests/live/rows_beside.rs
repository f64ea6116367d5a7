//! What must not happen to other rows while some are moved: triggers that delete them, and sessions
//! that check no reference.

use stillpoint_conformance::memory::rows::{MemoryRows, PATIENCE, delete, hang, set};
use stillpoint_contract::{ErrorKind, KeyRange, Link, Member, Named, Weight, code};

use crate::{
    rows::{MAJOR, count, open},
    stage::{Stage, connect},
};

/// Whatever a trigger does, no row of another table goes: its function is looked at by nobody, and
/// what was deleted is counted before the commit.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_other_tables_do_not_go_with_those_of_a_set() {
    for major in [13, 18] {
        let Some(stage) = Stage::open(major, &[]).await else { continue };
        for (body, when, is_refused) in [
            ("DELETE FROM other WHERE t = old.id", "AFTER DELETE ON t FOR EACH ROW", true),
            ("DELETE FROM parted WHERE t = 2", "AFTER DELETE ON c FOR EACH STATEMENT", true),
            ("TRUNCATE other", "AFTER DELETE ON t FOR EACH STATEMENT", true),
            ("TRUNCATE c", "AFTER DELETE ON t FOR EACH STATEMENT", true),
            ("DROP TABLE other", "AFTER DELETE ON t FOR EACH STATEMENT", true),
            ("DROP TABLE parted", "AFTER DELETE ON t FOR EACH STATEMENT", true),
            ("PERFORM lo_unlink(l) FROM objects", "AFTER DELETE ON t FOR EACH STATEMENT", true),
            ("DELETE FROM other WHERE t > 7", "AFTER DELETE ON t FOR EACH ROW", false),
            ("INSERT INTO log VALUES (old.id)", "AFTER DELETE ON t FOR EACH ROW", false),
            ("UPDATE sums SET n = n - 1", "AFTER DELETE ON t FOR EACH ROW", false),
            // What hangs on a row goes before it.
            ("DELETE FROM c WHERE t = old.id", "AFTER DELETE ON t FOR EACH ROW", false),
            ("LOCK TABLE sums", "AFTER DELETE ON t FOR EACH ROW", false),
            (
                "CREATE TEMPORARY TABLE IF NOT EXISTS own (n int); INSERT INTO own VALUES (1);
                 DELETE FROM own; TRUNCATE own",
                "AFTER DELETE ON t FOR EACH ROW",
                false,
            ),
            (
                "CREATE TEMPORARY TABLE brief (n int); DROP TABLE brief;
                 CREATE TABLE made (n int); DROP TABLE made",
                "AFTER DELETE ON t FOR EACH ROW",
                false,
            ),
        ] {
            stage
                .run(&format!(
                    "DROP TABLE IF EXISTS c, t, other, parted, log, sums, made, objects;
                     DROP FUNCTION IF EXISTS f;
                     CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2), (3);
                     CREATE TABLE c (id int PRIMARY KEY, t int REFERENCES t ON DELETE CASCADE);
                     CREATE INDEX ON c (t); INSERT INTO c VALUES (1, 1), (2, 2), (3, 3);
                     CREATE TABLE other (t int); INSERT INTO other VALUES (1), (2), (3);
                     CREATE TABLE parted (t int) PARTITION BY LIST (t);
                     CREATE TABLE part PARTITION OF parted FOR VALUES IN (1, 2, 3);
                     INSERT INTO parted VALUES (1), (2), (3);
                     CREATE TABLE log (id int); CREATE TABLE sums (n int);
                     INSERT INTO sums VALUES (3); CREATE TABLE objects (l oid);
                     INSERT INTO objects VALUES (lo_create(0));
                     CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS
                        $$ BEGIN {body}; RETURN NULL; END $$;
                     CREATE TRIGGER x {when} EXECUTE FUNCTION f()"
                ))
                .await;
            let mut rows = open(&stage).await;
            let mut set = set(rows.table("public.t").await.unwrap(), "id < 3");
            hang(&mut set, rows.table("public.c").await.unwrap(), ["t", "id"]);
            let findings = rows.examine(&set).await.unwrap();
            let told = findings.iter().find(|one| one.subject == "trigger").expect(body);
            assert!(told.weight == Weight::Advice && told.found.contains("outside"), "{told:?}");
            let done = delete(rows.as_mut(), &set).await;
            if is_refused {
                let error = done.expect_err(body);
                let found = (error.kind(), error.code());
                assert_eq!(found, (ErrorKind::Refused, code::ROWS_REFUSED), "{body}: {error:?}");
                let told = format!("{:?}", error.facts());
                assert!(told.contains("x of public."), "{body}: {error:?}");
            } else {
                assert_eq!(done.unwrap_or_else(|e| panic!("{body}: {e:?}")), 4, "{body}");
            }
            drop(rows);
            stage.settled().await;
            let left = if is_refused { 3 } else { 1 };
            assert_eq!(count(&stage, "SELECT count(*) FROM t").await, left, "{body}");
            assert_eq!(count(&stage, "SELECT count(*) FROM other").await, 3, "{body}");
            assert_eq!(count(&stage, "SELECT count(*) FROM parted").await, 3, "{body}");
            assert_eq!(count(&stage, "SELECT count(*) FROM c").await, left, "{body}");
            let objects = "SELECT count(*) FROM pg_largeobject_metadata JOIN objects ON l = oid";
            assert_eq!(count(&stage, objects).await, 1, "{body}");
        }
    }
}

/// The tables are looked at once, while they are locked: a trigger that somebody else is making is
/// waited for, and counts.
#[tokio::test(flavor = "multi_thread")]
async fn triggers_that_are_made_meanwhile_are_seen() {
    let Some(stage) = Stage::open(MAJOR, &[]).await else { return };
    for is_asked_first in [true, false] {
        stage
            .run(
                "DROP TABLE IF EXISTS t, other; DROP FUNCTION IF EXISTS f;
                 CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2), (3);
                 CREATE TABLE other (t int); INSERT INTO other VALUES (1), (2), (3);
                 CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS
                    $$ BEGIN DELETE FROM other WHERE t = old.id; RETURN NULL; END $$",
            )
            .await;
        let mut rows = open(&stage).await;
        let one = set(rows.table("public.t").await.unwrap(), "id < 3");
        let other = stage.client().await;
        let make = "BEGIN; CREATE TRIGGER x AFTER DELETE ON t FOR EACH ROW EXECUTE FUNCTION f()";
        other.batch_execute(make).await.unwrap();
        let deletes = async {
            let mut pruning = rows.prune().await?;
            if is_asked_first {
                pruning.fingerprints(&one).await?;
            }
            pruning.delete(&one, 0, &KeyRange::default(), &mut MemoryRows::default()).await?;
            pruning.commit().await
        };
        let commits = async {
            let waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted) FROM pg_sleep(.01)";
            for _ in 0..500 {
                if other.query_one(waits, &[]).await.unwrap().get(0) {
                    break;
                }
            }
            other.batch_execute("COMMIT").await.unwrap();
        };
        let (done, ()) = tokio::join!(deletes, commits);
        let error = done.expect_err("rows of another table go");
        let found = (error.kind(), error.code());
        assert_eq!(found, (ErrorKind::Refused, code::ROWS_REFUSED), "{error:?}");
        assert!(format!("{:?}", error.facts()).contains("x of public.t"), "{error:?}");
        drop(rows);
        stage.settled().await;
        assert_eq!(count(&stage, "SELECT count(*) FROM t").await, 3);
        assert_eq!(count(&stage, "SELECT count(*) FROM other").await, 3);
    }
}

/// A trigger of a table that goes first may delete a row of one that is yet to come, which is not
/// selected, and on which nothing hangs.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_set_that_nobody_selected_stay() {
    let Some(stage) = Stage::open(MAJOR, &[]).await else { return };
    stage
        .run(
            "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2), (3);
             CREATE TABLE c (id int PRIMARY KEY, t int REFERENCES t); CREATE INDEX ON c (t);
             INSERT INTO c VALUES (1, 1), (2, 2);
             CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN DELETE FROM t WHERE id = 3; RETURN NULL; END $$;
             CREATE TRIGGER x AFTER DELETE ON c FOR EACH ROW EXECUTE FUNCTION f()",
        )
        .await;
    let mut rows = open(&stage).await;
    let mut set = set(rows.table("public.t").await.unwrap(), "id < 3");
    let (columns, parent_columns) = (vec!["t".to_owned()], vec!["id".to_owned()]);
    let link = Some(Link { parent: 0, columns, parent_columns, likeness: Vec::new() });
    set.members.push(Member { table: rows.table("public.c").await.unwrap(), link });
    let error = delete(rows.as_mut(), &set).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Refused, code::ROWS_DIFFER), "{error:?}");
    assert!(error.facts().contains(&("table", "public.t")), "{error:?}");
    drop(rows);
    stage.settled().await;
    assert_eq!(count(&stage, "SELECT count(*) FROM t").await, 3);
    assert_eq!(count(&stage, "SELECT count(*) FROM c").await, 2);
    stage.run("ALTER TABLE c DISABLE TRIGGER x").await;
    let mut rows = open(&stage).await;
    assert_eq!(delete(rows.as_mut(), &set).await.unwrap(), 4);
}

/// The server counts deletions that were taken back as well. That is refused each time, and whoever
/// reads why learns that no row need be lost; of what is lost for sure, nothing else is said.
#[tokio::test(flavor = "multi_thread")]
async fn deletions_that_are_counted_and_taken_back_are_told() {
    for major in [13, 18] {
        let Some(stage) = Stage::open(major, &[]).await else { continue };
        for (body, may_be_none) in [
            (
                "BEGIN DELETE FROM other WHERE t = 1; RAISE EXCEPTION 'no';
                 EXCEPTION WHEN raise_exception THEN NULL; END",
                Some(true),
            ),
            // An index that finds its first row too late is as good as another session.
            ("INSERT INTO hot VALUES (1) ON CONFLICT DO NOTHING", Some(true)),
            ("DELETE FROM other WHERE t = 1", Some(true)),
            ("TRUNCATE other", Some(false)),
            ("DROP TABLE other", Some(false)),
            // What is inserted and taken back is no deletion.
            (
                "BEGIN INSERT INTO log VALUES (1);
                 EXCEPTION WHEN unique_violation THEN UPDATE log SET n = n + 1; END",
                None,
            ),
        ] {
            stage
                .run(&format!(
                    "DROP TABLE IF EXISTS t, other, log, hot; DROP FUNCTION IF EXISTS f, late;
                     DROP SEQUENCE IF EXISTS calls;
                     CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2), (3);
                     CREATE TABLE other (t int); INSERT INTO other VALUES (1), (2), (3);
                     CREATE TABLE log (id int PRIMARY KEY, n int DEFAULT 0);
                     INSERT INTO log VALUES (1);
                     CREATE SEQUENCE calls;
                     CREATE FUNCTION late(id int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
                        $$ BEGIN RETURN CASE nextval('public.calls') WHEN 2 THEN -id ELSE id END;
                        END $$;
                     CREATE TABLE hot (id int); INSERT INTO hot VALUES (1);
                     CREATE UNIQUE INDEX ON hot (late(id));
                     CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS
                        $$ BEGIN {body}; RETURN NULL; END $$;
                     CREATE TRIGGER x AFTER DELETE ON t FOR EACH STATEMENT EXECUTE FUNCTION f()"
                ))
                .await;
            let mut rows = open(&stage).await;
            let one = set(rows.table("public.t").await.unwrap(), "id < 3");
            let done = delete(rows.as_mut(), &one).await;
            drop(rows);
            stage.settled().await;
            let left = count(&stage, "SELECT count(*) FROM t").await;
            let Some(may_be_none) = may_be_none else {
                assert_eq!((done.unwrap(), left), (2, 1), "{major}: {body}");
                assert_eq!(count(&stage, "SELECT sum(n) FROM log").await, 1);
                continue;
            };
            let error = done.expect_err(body);
            let found = (error.kind(), error.code());
            assert_eq!(found, (ErrorKind::Refused, code::ROWS_REFUSED), "{body}: {error:?}");
            for word in ["EXCEPTION", "ON CONFLICT"] {
                let is_told = error.advice().iter().any(|next| next.contains(word));
                assert_eq!(is_told, may_be_none, "{major}: {body}: {error:?}");
            }
            assert_eq!(left, 3, "{major}: {body}");
            assert_eq!(count(&stage, "SELECT count(*) FROM other").await, 3, "{body}");
        }
    }
}

/// Rows that only derive from others may go, those of partitions, too, and none of another table
/// with them.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_only_derive_may_go() {
    for major in [13, 18] {
        let Some(stage) = Stage::open(major, &[]).await else { continue };
        for (body, lost) in [
            ("DELETE FROM other WHERE t = old.id", None),
            ("DELETE FROM parted WHERE t = old.id", None),
            ("TRUNCATE other; TRUNCATE parted", None),
            ("DELETE FROM other; DELETE FROM kept WHERE t = 1", Some("public.kept")),
            ("DELETE FROM words WHERE t = old.id", Some("public.kept")),
            ("TRUNCATE other, kept", Some("public.kept")),
            ("DROP TABLE other", Some("")),
        ] {
            stage
                .run(&format!(
                    "DROP TABLE IF EXISTS t, other, parted, kept, words; DROP VIEW IF EXISTS seen;
                     DROP FUNCTION IF EXISTS f;
                     CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2), (3);
                     CREATE TABLE other (t int); INSERT INTO other VALUES (1), (2), (3);
                     CREATE TABLE parted (t int) PARTITION BY LIST (t);
                     CREATE TABLE part PARTITION OF parted FOR VALUES IN (1, 2, 3);
                     INSERT INTO parted VALUES (1), (2), (3);
                     CREATE TABLE words (t int PRIMARY KEY); INSERT INTO words VALUES (1), (2);
                     CREATE TABLE kept (t int REFERENCES words ON DELETE CASCADE);
                     INSERT INTO kept VALUES (1), (2); CREATE VIEW seen AS SELECT 1 AS one;
                     CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS
                        $$ BEGIN {body}; RETURN NULL; END $$;
                     CREATE TRIGGER x AFTER DELETE ON t FOR EACH ROW EXECUTE FUNCTION f()"
                ))
                .await;
            let mut rows = open(&stage).await;
            let mut set = set(rows.table("public.t").await.unwrap(), "id < 3");
            for (name, own, whole) in [
                ("other", "public.other", "public.other"),
                ("public.parted", "public.parted", "public.parted"),
                ("words", "public.words", "public.words"),
                ("part", "public.part", "public.parted"),
            ] {
                let named = rows.named(name).await.unwrap();
                let expected = Named { name: own.to_owned(), whole: whole.to_owned() };
                assert_eq!(named, expected);
                set.derived.extend((own == whole).then_some(named.name));
            }
            assert_eq!(rows.named("seen").await.unwrap_err().kind(), ErrorKind::Unsupported);
            assert_eq!(rows.named("nowhere").await.unwrap_err().kind(), ErrorKind::Missing);
            let findings = rows.examine(&set).await.unwrap();
            assert!(findings.iter().all(|one| one.weight < Weight::Lacking), "{findings:?}");
            let told = findings.iter().find(|one| one.subject == "trigger").expect(body);
            let save = "outside the set, save public.other, public.parted, public.words,";
            assert!(told.found.contains(save), "{told:?}");
            let done = delete(rows.as_mut(), &set).await;
            if let Some(table) = lost {
                let error = done.expect_err(body);
                assert_eq!(error.code(), code::ROWS_REFUSED, "{body}: {error:?}");
                let word = format!("say so: derived = [\"{table}\"]");
                let is_said = error.advice().iter().any(|one| one.contains(&word));
                assert_eq!(is_said, !table.is_empty(), "{body}: {error:?}");
            } else {
                assert_eq!(done.unwrap_or_else(|e| panic!("{body}: {e:?}")), 2, "{body}");
            }
            drop(rows);
            stage.settled().await;
            let left = if lost.is_some() { 3 } else { 1 };
            assert_eq!(count(&stage, "SELECT count(*) FROM t").await, left, "{body}");
            assert_eq!(count(&stage, "SELECT count(*) FROM kept").await, 2, "{body}");
            if lost.is_some() {
                assert_eq!(count(&stage, "SELECT count(*) FROM other").await, 3, "{body}");
                assert_eq!(count(&stage, "SELECT count(*) FROM words").await, 2, "{body}");
            }
        }
    }
}

/// Where nothing is counted, triggers may do anything.
#[tokio::test(flavor = "multi_thread")]
async fn triggers_are_refused_where_nothing_is_counted() {
    let Some(stage) = Stage::open(MAJOR, &[]).await else { return };
    stage
        .run(
            "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2), (3);
             CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN RETURN NULL; END $$;
             CREATE TRIGGER x AFTER DELETE ON t FOR EACH ROW EXECUTE FUNCTION f();
             ALTER ROLE postgres SET track_counts = off",
        )
        .await;
    let mut rows = open(&stage).await;
    let whole = set(rows.table("public.t").await.unwrap(), "id < 3");
    let findings = rows.examine(&whole).await.unwrap();
    let lacking: Vec<_> = findings.iter().filter(|one| one.weight == Weight::Lacking).collect();
    assert_eq!(lacking.len(), 1, "{findings:?}");
    let reset = lacking[0].statement.clone().unwrap();
    assert_eq!(reset, "ALTER ROLE postgres RESET track_counts");
    let error = delete(rows.as_mut(), &whole).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Refused, code::ROWS_REFUSED), "{error:?}");
    drop(rows);
    stage.settled().await;
    // Without a trigger, nothing needs to be counted.
    for change in ["ALTER TABLE t DISABLE TRIGGER x", reset.as_str()] {
        stage.run(change).await;
        let mut rows = open(&stage).await;
        let one = set(rows.table("public.t").await.unwrap(), "id < 3");
        let findings = rows.examine(&one).await.unwrap();
        assert!(findings.iter().all(|one| one.subject != "track_counts"), "{findings:?}");
    }
}

/// A session of a replica would check no reference, and fire no trigger.
#[tokio::test(flavor = "multi_thread")]
async fn rows_are_moved_at_the_origin_only() {
    let Some(stage) = Stage::open(MAJOR, &[]).await else { return };
    stage
        .run(
            "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2);
             CREATE TABLE c (id int PRIMARY KEY, t int REFERENCES t); CREATE INDEX ON c (t);
             INSERT INTO c VALUES (1, 1)",
        )
        .await;
    for (of, role) in [
        ("ROLE postgres", "replica"),
        ("DATABASE postgres", "replica"),
        ("ROLE postgres IN DATABASE postgres", "local"),
        ("ROLE ALL", "replica"),
    ] {
        let set_it = format!("ALTER {of} SET session_replication_role = {role}");
        stage.run(&set_it).await;
        let mut rows = open(&stage).await;
        let one = set(rows.table("public.t").await.unwrap(), "id = 1");
        let findings = rows.examine(&one).await.unwrap();
        let told = findings.iter().find(|one| one.subject == "session_replication_role");
        let told = told.expect(of);
        assert!(told.weight == Weight::Lacking && told.found.contains(role), "{told:?}");
        let reset = format!("ALTER {of} RESET session_replication_role");
        assert_eq!(told.statement.as_deref(), Some(reset.as_str()));
        rows.lock("set", PATIENCE).await.unwrap();
        for refused in [rows.prune().await.err(), rows.put_back().await.err()] {
            let error = refused.expect(of);
            let found = (error.kind(), error.code());
            assert_eq!(found, (ErrorKind::Refused, code::UNSUITABLE_DATABASE), "{error:?}");
            assert_eq!(error.advice(), [reset.as_str()], "{error:?}");
        }
        drop(rows);
        stage.settled().await;
        stage.run(&reset).await;
        let mut rows = open(&stage).await;
        let findings = rows.examine(&one).await.unwrap();
        let told = findings.iter().any(|one| one.subject == "session_replication_role");
        assert!(!told, "{findings:?}");
        // The reference holds.
        assert_eq!(delete(rows.as_mut(), &one).await.unwrap_err().code(), code::ROWS_REFUSED);
        drop(rows);
        stage.settled().await;
    }
}

/// Bytes of which nobody knows what letters they are would end a run half-way.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_an_encoding_is_refused_before() {
    let Some(stage) = Stage::open(MAJOR, &[]).await else { return };
    let table = "CREATE TABLE t (id int PRIMARY KEY, v text)";
    let create = "CREATE DATABASE raw ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C'";
    stage.run(&format!("{table}; {create}")).await;
    let raw = connect(&format!("{} dbname=raw", stage.server.conninfo())).await;
    raw.batch_execute(&format!("{table}; INSERT INTO t VALUES (1, E'\\xe4')")).await.unwrap();
    for (database, is_refused) in [("raw", true), ("postgres", false)] {
        let driver = stage.driver(&format!("dbname={database}")).await;
        let mut rows = driver.rows().await.unwrap();
        let one = set(rows.table("public.t").await.unwrap(), "id = 1");
        let findings = rows.examine(&one).await.unwrap();
        let told = findings.iter().find(|one| one.subject == "server_encoding");
        assert_eq!(told.is_some(), is_refused, "{database}: {findings:?}");
        let Some(told) = told else { continue };
        let statement = told.statement.as_deref().unwrap();
        assert!(told.weight == Weight::Lacking && statement.contains("pg_dump"), "{told:?}");
    }
}
