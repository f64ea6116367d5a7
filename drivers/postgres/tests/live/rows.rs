//! Rows that are moved: triggers and references that interfere, roles that may little, sessions
//! that are ended, and how fast it is.

use std::{collections::BTreeSet, time::Duration};

use stillpoint_conformance::memory::rows::{MemoryRows, delete, hang, set};
use stillpoint_contract::{
    Alike, Conflict, Cutoff, ErrorKind, Estimate, Finding, KeyRange, Lag, Link, LockTaken, Measure,
    Member, Referrer, Rows, UNTOLD_REFERENCE, Weight, code,
};
use stillpoint_testcontainers::PostgresOptions;

use crate::stage::Stage;

pub(crate) const MAJOR: u32 = 15;

pub(crate) async fn open(stage: &Stage) -> Box<dyn Rows> {
    stage.driver("").await.rows().await.unwrap()
}

pub(crate) async fn count(stage: &Stage, query: &str) -> i64 {
    stage.client().await.query_one(query, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_interferes_with_a_deletion_is_noticed() {
    let Some(stage) = Stage::open(MAJOR, &[]).await else { return };
    let function = |body: &str| {
        format!("CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$; ")
    };
    let trigger = |when: &str| {
        format!("CREATE TRIGGER x {when} DELETE ON t FOR EACH ROW EXECUTE FUNCTION f()")
    };
    let child =
        |how: &str| format!("CREATE TABLE c (t int REFERENCES t {how}); INSERT INTO c VALUES (2)");
    for (interferes, number, weight) in [
        (
            function("IF old.id = 2 THEN RETURN NULL; END IF; RETURN old;") + &trigger("BEFORE"),
            Some(code::ROWS_DIFFER),
            Weight::Advice,
        ),
        (
            function("INSERT INTO t VALUES (old.id, 'again'); RETURN NULL;") + &trigger("AFTER"),
            Some(code::ROWS_DIFFER),
            Weight::Advice,
        ),
        (
            function("RAISE EXCEPTION 'no'; RETURN NULL;") + &trigger("AFTER"),
            Some(code::ROWS_REFUSED),
            Weight::Advice,
        ),
        // What a reference refuses comes after the last row was sent, or with the commit.
        (child(""), Some(code::ROWS_REFUSED), Weight::Lacking),
        (child("DEFERRABLE INITIALLY DEFERRED"), Some(code::ROWS_REFUSED), Weight::Lacking),
        (child("ON DELETE CASCADE"), None, Weight::Lacking),
        ("CREATE RULE x AS ON DELETE TO t DO INSTEAD NOTHING".to_owned(), None, Weight::Lacking),
    ] {
        let make = "DROP TABLE IF EXISTS c; DROP TABLE IF EXISTS t; DROP FUNCTION IF EXISTS f;
            CREATE TABLE t (id int PRIMARY KEY, a text);
            INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')";
        let client = stage.client().await;
        client.batch_execute(make).await.unwrap();
        client.batch_execute(&interferes).await.unwrap();
        let mut rows = open(&stage).await;
        let set = set(rows.table("t").await.unwrap(), "id < 3");
        let findings = rows.examine(&set).await.unwrap();
        let told = findings.iter().any(|finding| finding.weight == weight);
        assert!(told, "{interferes}: {findings:?}");
        let Some(number) = number else { continue };
        let error = delete(rows.as_mut(), &set).await.expect_err(&interferes);
        assert_eq!((error.kind(), error.code()), (ErrorKind::Refused, number), "{error:?}");
        drop(rows);
        stage.settled().await;
        assert_eq!(count(&stage, "SELECT count(*) FROM t").await, 3, "{interferes}");
    }
}

/// What a role lacks is told with the statement that grants it, one after the other, until it can.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_nothing_is_told_what_it_needs() {
    let Some(stage) = Stage::open(MAJOR, &[]).await else { return };
    stage
        .run(
            "CREATE ROLE mover LOGIN; REVOKE TEMPORARY ON DATABASE postgres FROM public;
             CREATE TABLE t (id int PRIMARY KEY, a text);
             ALTER TABLE t ENABLE ROW LEVEL SECURITY;
             CREATE POLICY p ON t USING (id < 2);
             INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')",
        )
        .await;
    let mut granted = 0;
    loop {
        let driver = stage.driver("user=mover").await;
        let mut rows = driver.rows().await.unwrap();
        let set = set(rows.table("public.t").await.unwrap(), "id < 3");
        let findings = rows.examine(&set).await.unwrap();
        let lacking = findings.into_iter().find(|finding| finding.weight == Weight::Lacking);
        let Some(lacking) = lacking else { break };
        drop(rows);
        stage.run(&lacking.statement.expect(&lacking.found)).await;
        granted += 1;
        assert!(granted < 10, "no end");
    }
    assert!(granted >= 4, "{granted} statements");
    let driver = stage.driver("user=mover").await;
    let mut rows = driver.rows().await.unwrap();
    rows.open_ledger().await.unwrap();
    let table = rows.table("t").await.unwrap();
    let predicate = rows.bind(&table, "id < 3", None).await.unwrap();
    let set = set(table, &predicate);
    assert!(rows.examine(&set).await.unwrap().iter().all(|f| f.weight < Weight::Lacking));
    assert_eq!(delete(rows.as_mut(), &set).await.unwrap(), 2);
    rows.burden(&set).await.unwrap();
    rows.space(&set.root().table).await.unwrap();
}

/// A small table is read from end to end, whatever indexes it has: one that is there is not asked
/// for again.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_there_is_not_asked_for() {
    let Some(stage) = Stage::open(MAJOR, &[]).await else { return };
    stage
        .run(
            "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2);
             CREATE TABLE c (id int PRIMARY KEY, t int REFERENCES t); CREATE INDEX i ON c (t);
             INSERT INTO c VALUES (1, 1), (2, 1); ANALYZE t; ANALYZE c",
        )
        .await;
    let mut rows = open(&stage).await;
    let mut set = set(rows.table("public.t").await.unwrap(), "id < 2");
    hang(&mut set, rows.table("public.c").await.unwrap(), ["t", "id"]);
    for is_there in [true, false] {
        let outlook = rows.outlook(&set, 10, Estimate::default()).await.unwrap();
        let step = &outlook.steps[1];
        assert!(step.plan.iter().any(|line| line.contains("Seq Scan on c")), "{step:?}");
        assert_eq!(step.advice.is_none(), is_there, "{step:?}");
        stage.run("DROP INDEX IF EXISTS i").await;
    }
}

/// Rows that others refer to are locked before all of them are deleted: that needs a right of its
/// own, for the table that is referred to, and for no other one.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_deletes_a_set_may_lock_what_is_referred_to() {
    let Some(stage) = Stage::open(MAJOR, &[]).await else { return };
    stage
        .run(
            "CREATE ROLE mover LOGIN; GRANT CREATE ON DATABASE postgres TO mover;
             CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2);
             CREATE TABLE c (id int PRIMARY KEY, t int REFERENCES t); CREATE INDEX ON c (t);
             INSERT INTO c VALUES (1, 1), (2, 1); GRANT SELECT, DELETE ON t, c TO mover",
        )
        .await;
    let driver = stage.driver("user=mover").await;
    let mut rows = driver.rows().await.unwrap();
    let mut set = set(rows.table("public.t").await.unwrap(), "id < 2");
    hang(&mut set, rows.table("public.c").await.unwrap(), ["t", "id"]);
    let findings = rows.examine(&set).await.unwrap();
    let lacking: Vec<_> = findings.iter().filter(|one| one.weight == Weight::Lacking).collect();
    assert_eq!(lacking.len(), 1, "{findings:?}");
    let grant = lacking[0].statement.clone().unwrap();
    assert_eq!(grant, "GRANT SELECT, UPDATE, DELETE ON public.t TO mover");
    // Whoever goes on without is told how to find out what is lacking.
    let mut pruning = rows.prune().await.unwrap();
    let error = pruning.hold(&set, &KeyRange::default()).await.unwrap_err();
    drop(pruning);
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    assert!(error.advice().iter().all(|next| !next.contains("grants")), "{error:?}");
    assert!(error.advice().iter().any(|next| next.contains("archive plan")), "{error:?}");

    stage.run(&grant).await;
    let findings = rows.examine(&set).await.unwrap();
    assert!(findings.iter().all(|one| one.weight < Weight::Lacking), "{findings:?}");
    rows.open_ledger().await.unwrap();
    let mut pruning = rows.prune().await.unwrap();
    pruning.hold(&set, &KeyRange::default()).await.unwrap();
    pruning.roll_back().await.unwrap();
    assert_eq!(delete(rows.as_mut(), &set).await.unwrap(), 3);
}

/// The strongest lock that a session has of each table that is locked against changes, as the
/// documentation calls it.
const LOCKED: &str = "
    SELECT format('%I.%I', n.nspname, c.relname), CASE
        WHEN bool_or(l.mode = 'AccessExclusiveLock') THEN 'ACCESS EXCLUSIVE'
        WHEN bool_or(l.mode = 'ShareRowExclusiveLock') THEN 'SHARE ROW EXCLUSIVE'
        ELSE 'SHARE UPDATE EXCLUSIVE' END
    FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE l.pid = pg_backend_pid() AND c.relkind IN ('r', 'p') AND n.nspname = 'public'
        AND l.mode IN ('AccessExclusiveLock', 'ShareRowExclusiveLock', 'ShareUpdateExclusiveLock')
    GROUP BY 1";

/// What is said to be locked while a statement is carried out.
fn said(locks: &[LockTaken], statement: &str) -> BTreeSet<(String, String)> {
    let of = locks.iter().filter(|lock| lock.during.contains(statement));
    of.map(|lock| (lock.on.clone(), lock.mode.clone())).collect()
}

/// What is said to be locked for a partition that leaves is what the server locks.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_locked_while_a_partition_leaves_is_told() {
    for major in [13, 18] {
        let Some(stage) = Stage::open(major, &[]).await else { continue };
        stage
            .run(
                "CREATE TABLE customers (id int PRIMARY KEY);
                 CREATE TABLE whole (id int PRIMARY KEY, customer int REFERENCES customers)
                     PARTITION BY RANGE (id);
                 CREATE TABLE leaf PARTITION OF whole FOR VALUES FROM (0) TO (10);
                 CREATE TABLE other PARTITION OF whole FOR VALUES FROM (10) TO (20)",
            )
            .await;
        let mut rows = open(&stage).await;
        let whole = rows.partitions("public.whole").await.unwrap().unwrap();
        let leaf = whole.partitions.into_iter().find(|one| one.name == "public.leaf").unwrap();
        let pair = |(on, mode): (&str, &str)| (on.to_owned(), mode.to_owned());
        let beside = [
            ("public.customers", "SHARE ROW EXCLUSIVE"),
            ("public.leaf", "ACCESS EXCLUSIVE"),
            ("public.whole", "SHARE UPDATE EXCLUSIVE"),
        ];
        let locks = rows.leaving(&leaf).await.unwrap();
        let is_beside = said(&locks, "CONCURRENTLY") == BTreeSet::from(beside.map(pair));
        assert_eq!(is_beside, major > 13, "{locks:?}");

        // Beside a default partition, it leaves alone.
        stage.run("CREATE TABLE rest PARTITION OF whole DEFAULT").await;
        let locks = rows.leaving(&leaf).await.unwrap();
        let mut client = stage.client().await;
        let transaction = client.transaction().await.unwrap();
        let detach = "ALTER TABLE whole DETACH PARTITION leaf";
        transaction.batch_execute(detach).await.unwrap();
        let held = transaction.query(LOCKED, &[]).await.unwrap();
        let held: BTreeSet<(String, String)> =
            held.iter().map(|row| (row.get(0), row.get(1))).collect();
        assert_eq!(said(&locks, "DETACH PARTITION)"), held, "{major}: {locks:?}");
        assert_eq!(held.len(), 4, "{major}: {held:?}");
        transaction.commit().await.unwrap();

        // Out of it, what is left to do is told; dropped, it is in no catalogue any more.
        let left = rows.leaving(&leaf).await.unwrap();
        assert!(!left.is_empty() && said(&left, "DETACH").is_empty(), "{major}: {left:?}");
        assert!(left.iter().all(|lock| locks.contains(lock)), "{major}: {left:?}");
        let transaction = client.transaction().await.unwrap();
        transaction.batch_execute("DROP TABLE leaf RESTRICT").await.unwrap();
        let held = transaction.query(LOCKED, &[]).await.unwrap();
        let mut held: BTreeSet<(String, String)> =
            held.iter().map(|row| (row.get(0), row.get(1))).collect();
        held.insert(pair(("public.leaf", "ACCESS EXCLUSIVE")));
        assert_eq!(said(&left, "DROP TABLE"), held, "{major}: {left:?}");
        assert_eq!(held.len(), 2, "{major}: {held:?}");
        transaction.commit().await.unwrap();
        assert_eq!(rows.leaving(&leaf).await.unwrap(), []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_of_others_are_not_waited_for_long_and_ended_sessions_are_noticed() {
    let Some(stage) = Stage::open(MAJOR, &[]).await else { return };
    stage.run("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2)").await;
    let other = stage.client().await;
    other.batch_execute("BEGIN; SELECT FROM t WHERE id = 2 FOR UPDATE").await.unwrap();
    let mut rows = open(&stage).await;
    let set = set(rows.table("t").await.unwrap(), "id > 0");
    let error = delete(rows.as_mut(), &set).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Busy, code::DATABASE_BUSY), "{error:?}");
    other.batch_execute("ROLLBACK").await.unwrap();

    let mut pruning = rows.prune().await.unwrap();
    pruning.delete(&set, 0, &KeyRange::default(), &mut MemoryRows::default()).await.unwrap();
    stage
        .run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE application_name = 'stillpoint'",
        )
        .await;
    let error = pruning.commit().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
    assert_eq!(count(&stage, "SELECT count(*) FROM t").await, 2);
    let error = rows.table("t").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
    let mut rows = open(&stage).await;
    assert_eq!(delete(rows.as_mut(), &set).await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_told_apart() {
    let Some(stage) = Stage::open(MAJOR, &[]).await else { return };
    stage
        .run(
            "CREATE SCHEMA other; CREATE TABLE t (id int PRIMARY KEY);
             CREATE TABLE other.t (id int PRIMARY KEY); CREATE TABLE \"O.dd \"\"T\" (id int UNIQUE);
             CREATE TABLE whole (id int, d date, PRIMARY KEY (id, d)) PARTITION BY RANGE (d);
             CREATE TABLE leaf PARTITION OF whole FOR VALUES FROM ('2019-01-01') TO ('2020-01-01');
             INSERT INTO whole VALUES (1, '2019-05-05'), (2, '2019-06-06');
             CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE heir () INHERITS (parent);
             INSERT INTO parent VALUES (1); INSERT INTO heir VALUES (1)",
        )
        .await;
    let mut rows = open(&stage).await;
    let error = rows.table("t").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    let (one, other) =
        (rows.table("public.t").await.unwrap(), rows.table("other.t").await.unwrap());
    assert_ne!(one.identity, other.identity);
    let odd = rows.table("\"O.dd \"\"T\"").await.unwrap();
    assert_eq!((odd.name.as_str(), odd.key.len()), ("public.\"O.dd \"\"T\"", 0));
    assert_eq!(rows.table(&odd.name).await.unwrap(), odd);
    rows.bind(&odd, "id > 0", None).await.unwrap();
    let error = rows.table("whole").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    let leaf = set(rows.table("leaf").await.unwrap(), "d < '2019-06-01'");
    assert_eq!(delete(rows.as_mut(), &leaf).await.unwrap(), 1);
    let parent = set(rows.table("parent").await.unwrap(), "id > 0");
    assert_eq!(delete(rows.as_mut(), &parent).await.unwrap(), 1, "rows of an heir go as well");
}

/// What hangs on what is known from values alone once they are in files.
#[tokio::test(flavor = "multi_thread")]
async fn references_that_no_file_tells_are_told() {
    const FOLDED: &str = "text COLLATE folded";
    const ZONED: &str = "timestamptz";
    let Some(stage) = Stage::open(MAJOR, &[]).await else { return };
    let collation = "CREATE COLLATION folded (provider = icu, locale = 'und-u-ks-level2',
        deterministic = false)";
    let has_icu = stage.client().await.batch_execute(collation).await.is_ok();
    stage
        .run(
            "CREATE DOMAIN code AS char(5); CREATE DOMAIN number AS int;
             CREATE DOMAIN amount AS numeric; CREATE DOMAIN address AS inet",
        )
        .await;
    let mut rows = open(&stage).await;
    // With what is told: nothing, or a statement, where one helps.
    for (parent, child, expected) in [
        ("int", "bigint", None),
        ("numeric(9,2)", "int", None),
        ("number", "int", None),
        ("bigint", "number", None),
        ("amount", "numeric(9,2)", None),
        ("text", "char(5)", None),
        ("char(5)", "varchar(9)", None),
        ("text COLLATE \"C\"", "text", None),
        ("float8", "int", Some(None)),
        ("jsonb", "jsonb", Some(None)),
        ("code", "char(5)", None),
        ("char(5)", "code", None),
        ("text", "code", Some(Some("public.c ALTER COLUMN \"k\" TYPE text"))),
        ("address", "address", Some(None)),
        ("date", "timestamp", Some(Some("public.c ALTER COLUMN \"k\" TYPE date"))),
        (
            ZONED,
            "timestamp",
            Some(Some("public.c ALTER COLUMN \"k\" TYPE timestamp with time zone")),
        ),
        (FOLDED, FOLDED, Some(Some("public.p ALTER COLUMN \"k\" TYPE text COLLATE \"C\""))),
    ] {
        if parent == FOLDED && !has_icu {
            continue;
        }
        stage
            .run(&format!(
                "DROP TABLE IF EXISTS c; DROP TABLE IF EXISTS p;
                 CREATE TABLE p (k {parent} UNIQUE NOT NULL, id int PRIMARY KEY);
                 CREATE TABLE c (id int PRIMARY KEY, k {child} REFERENCES p (k));
                 CREATE INDEX ON c (k)"
            ))
            .await;
        let mut set = set(rows.table("public.p").await.unwrap(), "id < 2");
        let referrers = rows.referrers(&set.root().table).await.unwrap();
        let Referrer { columns, parent_columns, likeness, .. } = referrers[0].clone();
        let is_padded = likeness.iter().any(|one| one.alike == Alike::Spaces);
        let is_fixed = ["char(5)", "code"].contains(&parent);
        assert_eq!(is_padded, is_fixed, "{parent}, {child}: {likeness:?}");
        let is_untold = likeness.iter().any(|one| one.is_untold);
        assert_eq!(is_untold, expected.is_some(), "{parent}, {child}: {likeness:?}");
        let link = Some(Link { parent: 0, columns, parent_columns, likeness });
        set.members.push(Member { table: rows.table("public.c").await.unwrap(), link });
        let findings = rows.examine(&set).await.unwrap();
        // What the server says otherwise to others is not moved.
        let expected_as = if parent == ZONED {
            ("reference", Weight::Lacking)
        } else {
            (UNTOLD_REFERENCE, Weight::Advice)
        };
        let is_it = |finding: &&Finding| finding.subject.starts_with("reference");
        let told = findings.iter().find(is_it);
        assert!(told.is_none_or(|told| (told.subject, told.weight) == expected_as), "{told:?}");
        let told = told.map(|told| told.statement.as_deref());
        let expected = expected.map(|said| said.map(|said| format!("ALTER TABLE {said}")));
        let expected = expected.as_ref().map(Option::as_deref);
        assert_eq!(told, expected, "{parent}, {child}: {findings:?}");
    }
}

/// In our sessions, operators of extensions are not found by their names.
#[tokio::test(flavor = "multi_thread")]
async fn types_of_extensions_are_compared_as_they_should_be() {
    let Some(stage) = Stage::open(MAJOR, &[]).await else { return };
    if stage.client().await.batch_execute("CREATE EXTENSION citext").await.is_err() {
        return;
    }
    stage
        .run(
            "CREATE TABLE t (id int PRIMARY KEY, a citext, at timestamp, n int);
             INSERT INTO t VALUES (1, 'Open', '2019-01-01', 1), (2, 'closed', '2019-01-01', 1);
             CREATE TABLE k (a citext PRIMARY KEY); INSERT INTO k VALUES ('a')",
        )
        .await;
    let mut rows = open(&stage).await;
    let table = rows.table("t").await.unwrap();
    let error = rows.bind(&table, "a <> 'open'", None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    rows.bind(&table, "a::text = 'closed' AND id > 0", None).await.unwrap();
    let at = "2020-06-01T00:00:00Z".parse().unwrap();
    let cutoff = Cutoff { at, local: None, form: None };
    let error = rows.bind(&table, "n < :cutoff", Some(&cutoff)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    let error = rows.bind(&table, "at < :cutoff", Some(&cutoff)).await.unwrap_err();
    let advice = format!("{:?}", error.advice());
    assert!(advice.contains("cutoff_timezone"), "{error:?}");
    let local = "2020-06-01T02:00:00".parse().ok();
    let bound = rows.bind(&table, "at < :cutoff", Some(&Cutoff { local, ..cutoff })).await.unwrap();
    assert_eq!(bound, "at < '2020-06-01 02:00:00.000000'::timestamp without time zone");
    let keyed = set(rows.table("k").await.unwrap(), "true");
    let findings = rows.examine(&keyed).await.unwrap();
    let key = findings.iter().find(|finding| finding.subject == "key").unwrap();
    assert_eq!(key.weight, Weight::Lacking, "{findings:?}");
}

/// Files tell texts apart by their bytes.
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_a_collation_folds_are_refused() {
    let Some(stage) = Stage::open(MAJOR, &[]).await else { return };
    let any_case = "CREATE COLLATION any_case
        (provider = icu, locale = 'und-u-ks-level2', deterministic = false)";
    if stage.client().await.batch_execute(any_case).await.is_err() {
        return;
    }
    stage
        .run(
            "CREATE TABLE t (a text COLLATE any_case PRIMARY KEY, b text COLLATE \"C\" NOT NULL);
             CREATE UNIQUE INDEX t_b ON t (b); INSERT INTO t VALUES ('a', 'b')",
        )
        .await;
    let mut rows = open(&stage).await;
    let keyed = set(rows.table("t").await.unwrap(), "true");
    let findings = rows.examine(&keyed).await.unwrap();
    let is_it = |one: &&Finding| one.weight == Weight::Lacking;
    let lacking: Vec<_> = findings.iter().filter(is_it).collect();
    assert!(lacking.len() == 1 && lacking[0].found.contains("by any_case"), "{findings:?}");
    let statement = lacking[0].statement.clone().unwrap();
    let other = set(rows.table_by("t", "t_b").await.unwrap(), "true");
    let findings = rows.examine(&other).await.unwrap();
    assert!(findings.iter().all(|one| one.weight < Weight::Lacking), "{findings:?}");
    // What is said to help does.
    drop(rows);
    stage.run(&statement).await;
    let mut rows = open(&stage).await;
    let keyed = set(rows.table("t").await.unwrap(), "true");
    let findings = rows.examine(&keyed).await.unwrap();
    assert!(findings.iter().all(|one| one.weight < Weight::Lacking), "{findings:?}");
}

/// A row is in a table or put back, whatever its table has become.
#[tokio::test(flavor = "multi_thread")]
async fn rows_go_back_into_a_table_that_has_changed() {
    let Some(stage) = Stage::open(MAJOR, &[]).await else { return };
    stage
        .run(
            "CREATE TABLE p (id int PRIMARY KEY);
             CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a varchar(10), p int
                REFERENCES p);
             INSERT INTO p VALUES (1); INSERT INTO t (a, p) VALUES ('x', 1), ('y', NULL)",
        )
        .await;
    let mut rows = open(&stage).await;
    let set = set(rows.table("t").await.unwrap(), "true");
    let all = MemoryRows::read(rows.as_mut(), &set).await.unwrap();
    stage
        .run(
            "DELETE FROM t; DELETE FROM p; ALTER TABLE t ALTER id TYPE bigint;
             ALTER TABLE t ALTER a TYPE text; ALTER TABLE t ADD more int NOT NULL DEFAULT 7",
        )
        .await;
    // A trigger that names a table as applications do.
    stage
        .run(
            "CREATE TABLE log (id bigint);
             CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN INSERT INTO log VALUES (new.id); RETURN new; END $$;
             CREATE TRIGGER z BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION g()",
        )
        .await;
    let table = &set.root().table;
    let mut back = rows.put_back().await.unwrap();
    back.begin(table, &Conflict::Fail, None).await.unwrap();
    back.rows(all.0[0].clone()).await.unwrap();
    let error = back.end().await.unwrap_err();
    drop(back);
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::Refused, code::ROWS_CONFLICT),
        "{error:?}"
    );
    stage.run("INSERT INTO p VALUES (1)").await;
    let mut back = rows.put_back().await.unwrap();
    back.begin(table, &Conflict::Fail, None).await.unwrap();
    back.rows(all.0[0].clone()).await.unwrap();
    assert_eq!(back.end().await.unwrap().inserted, 2);
    back.commit().await.unwrap();
    assert_eq!(count(&stage, "SELECT sum(id + more)::int8 FROM t").await, 17);
    assert_eq!(count(&stage, "SELECT count(*) FROM log").await, 2);
}

/// A replica that dropped off is not taken for none: its slot, or its name, is still there. A slot
/// that nobody has used yet, and that of our own log capture, are no replica's.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_are_gone_are_missed() {
    let Some(stage) = Stage::open(MAJOR, &[]).await else { return };
    stage.run("CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut rows = open(&stage).await;
    let set = set(rows.table("t").await.unwrap(), "id > 0");
    for (name, is_reserved, lag) in [
        ("stillpoint", true, Lag::NoReplica),
        ("unused", false, Lag::NoReplica),
        ("replica", true, Lag::Unknown),
    ] {
        let make = format!("SELECT pg_create_physical_replication_slot('{name}', {is_reserved})");
        stage.run(&make).await;
        assert_eq!(rows.burden(&set).await.unwrap().lag, lag, "{name}");
    }
    stage.run("SELECT pg_drop_replication_slot('replica')").await;
    assert_eq!(rows.burden(&set).await.unwrap().lag, Lag::NoReplica);
    // Nobody is to wait for it in this test.
    stage
        .run(
            "ALTER SYSTEM SET synchronous_commit = 'local';
             ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (away, \"Other\")';
             SELECT pg_reload_conf()",
        )
        .await;
    for _ in 0..200 {
        let client = stage.client().await;
        let row = client.query_one("SHOW synchronous_standby_names", &[]).await.unwrap();
        if !row.get::<_, String>(0).is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut rows = open(&stage).await;
    assert_eq!(rows.burden(&set).await.unwrap().lag, Lag::Unknown);
}

/// What a role may not see looks like nothing, and is not taken for that.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_role_does_not_see_of_a_server_is_unknown() {
    let Some(stage) = Stage::open(MAJOR, &[]).await else { return };
    stage
        .run(
            "CREATE ROLE mover LOGIN; CREATE TABLE t (id int PRIMARY KEY);
             GRANT SELECT ON t TO mover",
        )
        .await;
    let busy = stage.client().await;
    let work = tokio::spawn(async move { busy.batch_execute("SELECT pg_sleep(600)").await });
    let at_work = "SELECT count(*) FROM pg_stat_activity
        WHERE state = 'active' AND query = 'SELECT pg_sleep(600)'";
    for _ in 0..200 {
        if count(&stage, at_work).await == 1 {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let driver = stage.driver("user=mover").await;
    let mut rows = driver.rows().await.unwrap();
    let set = set(rows.table("public.t").await.unwrap(), "id > 0");
    let burden = rows.burden(&set).await.unwrap();
    assert!(burden.active.is_none() && burden.log_used.is_none(), "{burden:?}");
    assert!(burden.dead_rows == Some(0) && burden.log_bytes > Some(0), "{burden:?}");
    for (measure, is_hidden) in [
        (Measure::Sessions, true),
        (Measure::LogUsed, true),
        (Measure::DeadRows, false),
        (Measure::LogWritten, false),
    ] {
        let untold = rows.untold(measure).await.unwrap();
        let untold = untold.map(|one| (one.weight, one.statement.unwrap()));
        let advice = (Weight::Advice, "GRANT pg_monitor TO mover".to_owned());
        assert_eq!(untold, is_hidden.then_some(advice), "{measure:?}");
    }
    stage.run("GRANT pg_monitor TO mover").await;
    let burden = rows.burden(&set).await.unwrap();
    assert!(burden.active >= Some(1) && burden.log_used.is_some(), "{burden:?}");
    assert_eq!(rows.untold(Measure::Sessions).await.unwrap(), None);
    // Where nobody counts or tells, there is nothing to see.
    stage.run("ALTER ROLE mover SET track_counts = off").await;
    stage.run("ALTER ROLE postgres SET track_activities = off").await;
    let quiet = stage.client().await;
    let driver = stage.driver("user=mover").await;
    let mut rows = driver.rows().await.unwrap();
    let burden = rows.burden(&set).await.unwrap();
    assert!(burden.active.is_none() && burden.dead_rows.is_none(), "{burden:?}");
    let untold = rows.untold(Measure::DeadRows).await.unwrap().and_then(|one| one.statement);
    assert_eq!(untold.as_deref(), Some("ALTER ROLE mover RESET track_counts"));
    drop(quiet);
    work.abort();
}

/// Dead rows take space until their table is vacuumed; half of what is there is free then, also
/// of long values, which are in a table of their own. Nobody has analyzed anything.
#[tokio::test(flavor = "multi_thread")]
async fn space_can_be_used_again_once_a_table_was_vacuumed() {
    let Some(stage) = Stage::open(MAJOR, &[]).await else { return };
    let client = stage.client().await;
    // Others see at once what was counted.
    let run = async |sql: &str| {
        let sql = format!("{sql}; SELECT pg_stat_force_next_flush()");
        client.batch_execute(&sql).await.unwrap();
    };
    run("CREATE TABLE short (id int PRIMARY KEY, at timestamptz, n numeric(12,2), a text)
            WITH (autovacuum_enabled = off);
         INSERT INTO short SELECT i, '2019-01-01', i / 3.0, repeat('x', 200 + i % 40)
            FROM generate_series(1, 50000) AS i;
         CREATE TABLE long (id int PRIMARY KEY, a text)
            WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
         ALTER TABLE long ALTER a SET STORAGE EXTERNAL;
         INSERT INTO long SELECT i, repeat('x', 5000) FROM generate_series(1, 3000) AS i")
    .await;
    for name in ["short", "long"] {
        let mut rows = open(&stage).await;
        let table = rows.table(&format!("public.{name}")).await.unwrap();
        let bytes = count(&stage, &format!("SELECT pg_table_size('{name}')")).await;
        let bytes = bytes.cast_unsigned();
        let full = rows.space(&table).await.unwrap();
        assert!(full.total_bytes > bytes && full.reusable_bytes < bytes / 10, "{name}: {full:?}");
        run(&format!("DELETE FROM {name} WHERE id % 2 = 0")).await;
        let dead = rows.space(&table).await.unwrap();
        assert!(dead.reusable_bytes < bytes / 10, "{name} before it is vacuumed: {dead:?}");
        rows.reclaim(&table, "vacuum").await.unwrap();
        let free = rows.space(&table).await.unwrap();
        let difference = free.reusable_bytes.abs_diff(bytes / 2);
        assert!(difference < bytes / 10, "{name}: {free:?} of {bytes}");
    }
}

/// Measures; the limit only tells that nothing is quadratic.
#[tokio::test(flavor = "multi_thread")]
async fn many_rows_move_quickly() {
    const ROWS: u64 = 300_000;
    let settings = ["fsync = off", "max_wal_size = '4GB'"].map(str::to_owned).to_vec();
    let options = PostgresOptions { settings, ..PostgresOptions::default() };
    let Some(stage) = Stage::open_with(MAJOR, &options).await else { return };
    stage
        .run(&format!(
            "CREATE TABLE t (id int8 PRIMARY KEY, c int, at timestamptz, n numeric(12,2), u uuid,
                a text, b text, y bytea);
             CREATE TABLE child (id int8 PRIMARY KEY, t int8 REFERENCES t);
             CREATE INDEX ON child (t);
             INSERT INTO t SELECT i, i % 7, '2019-01-01', i / 3.0, gen_random_uuid(), md5(i::text),
                repeat('x', 60), decode(md5(i::text), 'hex') FROM generate_series(1, {ROWS}) AS i;
             INSERT INTO child SELECT i, i * 10 FROM generate_series(1, {ROWS} / 10) AS i;
             VACUUM ANALYZE t; VACUUM ANALYZE child"
        ))
        .await;
    let mut rows = open(&stage).await;
    let table = rows.table("t").await.unwrap();
    let at = "2020-01-01T00:00:00Z".parse().unwrap();
    let cutoff = Cutoff { at, local: None, form: None };
    let predicate = rows.bind(&table, "at < :cutoff AND c >= 0", Some(&cutoff)).await.unwrap();
    let mut set = set(table, &predicate);
    hang(&mut set, rows.table("child").await.unwrap(), ["t", "id"]);
    let clock = stillpoint_conformance::memory::RealClock::new();
    let elapsed = || stillpoint_contract::Clock::elapsed(&clock);
    let began = elapsed();
    let mut kept = MemoryRows::default();
    let mut snapshot = rows.snapshot().await.unwrap();
    let count = snapshot.root(&set, &KeyRange::default(), ROWS * 2, &mut kept).await.unwrap();
    drop(snapshot);
    let read = elapsed().saturating_sub(began);
    assert_eq!(count, ROWS);
    assert!(kept.0.len() > 10 && kept.0.iter().all(|batch| batch.bytes().len() < 1 << 20));
    let began = elapsed();
    assert_eq!(delete(rows.as_mut(), &set).await.unwrap(), ROWS + ROWS / 10);
    let deleted = elapsed().saturating_sub(began);
    let began = elapsed();
    let table = &set.root().table;
    let mut back = rows.put_back().await.unwrap();
    back.begin(table, &Conflict::Skip, None).await.unwrap();
    for batch in kept.0 {
        back.rows(batch).await.unwrap();
    }
    assert_eq!(back.end().await.unwrap().inserted, ROWS);
    back.commit().await.unwrap();
    let put_back = elapsed().saturating_sub(began);
    println!("{ROWS} rows: read in {read:?}, deleted in {deleted:?}, put back in {put_back:?}");
    assert!(read + deleted + put_back < Duration::from_mins(2));
}
