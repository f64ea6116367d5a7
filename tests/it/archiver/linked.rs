//! Rows that refer to others by columns that compare otherwise than their bytes do: those go
//! together that the foreign key means, into the archive and out of it.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, and says what it tried")]

use stillpoint::{
    archiver::{
        Erasing, Holding, Returning, Shelf, Wanted, erase, expire, hold, put_back, record, release,
        revoke,
    },
    policy::{ArchivedChild, EventRule, Period, PeriodUnit},
    repository::store::Key,
};
use stillpoint_contract::{Conflict, ErrorKind, code};

use super::{
    keys::{bytes, replace},
    shop::{InPostgres, Shop, Sqlite, Yard},
};

fn statements(sql: &str) -> Vec<String> {
    sql.split(';').map(str::to_owned).collect()
}

/// A shop whose orders are `heads`, with `lines` that refer to them by `code`.
async fn yard_in<S: Shop>(shop: S, sql: &str) -> Yard<S> {
    shop.change(&statements(sql)).await;
    let mut yard = Yard::new(shop, false);
    yard.rule.root = yard.shop.table("heads");
    let lines = ArchivedChild { table: yard.shop.table("lines"), columns: Vec::new() };
    yard.rule.children = vec![lines];
    yard
}

/// Such tables, with columns of these types. The index compares as the reference does.
fn tables(head: &str, line: &str) -> String {
    let collation = head.find(" COLLATE ").map_or("", |at| &head[at..]);
    format!(
        "CREATE TABLE heads (code {head} PRIMARY KEY NOT NULL, token TEXT, state TEXT, mail TEXT);
         CREATE TABLE lines (id INTEGER PRIMARY KEY, code {line} REFERENCES heads (code),
             token TEXT);
         CREATE INDEX lines_code ON lines (code{collation});"
    )
}

async fn yard(head: &str, line: &str, rows: &str) -> Yard<Sqlite> {
    yard_in(Sqlite::new().await, &format!("{}{rows}", tables(head, line))).await
}

/// SQLite itself would not delete '01', since it takes 1 for a child of it then; whoever asked for
/// numbers would take the child of '1' along, which is open.
#[tokio::test(flavor = "multi_thread")]
async fn i8_a_child_of_an_open_row_is_not_archived_with_a_closed_one() {
    for line in ["INTEGER", "NUMERIC", "REAL"] {
        let rows = "INSERT INTO heads VALUES ('1', 'h1', 'open', ''), ('01', 'h01', 'closed', '');
            INSERT INTO lines VALUES (1, '1', 'l1')";
        // A real number becomes '1.0'.
        let rows =
            if line == "REAL" { rows.replace("('1', 'h1'", "('1.0', 'h1'") } else { rows.into() };
        let yard = yard("TEXT", line, &rows).await;
        let error = yard.run().await.unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::Refused, code::ROWS_REFUSED),
            "{line}"
        );
        let told = format!("{:?} {:?}", error.facts(), error.advice());
        assert!(told.contains("lines.code") && told.contains("heads.code"), "{line}: {told}");
        assert!(told.contains("make lines anew"), "{line}: {told}");
        assert_eq!(yard.live("lines").await, ["l1"], "{line}");
        assert_eq!(yard.live("heads").await, ["h01", "h1"], "{line}");
        assert_eq!(yard.store.list("").await.unwrap(), [], "{line}");
    }
}

/// What has no type refers as the other column compares: also numbers to text.
#[tokio::test(flavor = "multi_thread")]
async fn i8_children_of_other_types_are_those_that_the_foreign_key_means() {
    for (head, line, rows, wanted) in [
        (
            "TEXT",
            "",
            "INSERT INTO heads VALUES ('1', 'h1', 'closed', ''), ('01', 'h01', 'open', '');
             INSERT INTO lines VALUES (1, 1, 'number'), (2, '1', 'text'), (3, '01', 'stays')",
            ["number", "text"],
        ),
        (
            "INTEGER",
            "TEXT",
            "INSERT INTO heads VALUES (1, 'h1', 'closed', ''), (2, 'h2', 'open', '');
             INSERT INTO lines VALUES (1, ' 1', 'spaced'), (2, '01', 'zeros'), (3, '2.0', 'stays')",
            ["spaced", "zeros"],
        ),
        (
            "TEXT COLLATE NOCASE",
            "TEXT",
            "INSERT INTO heads VALUES ('Bob', 'h1', 'closed', ''), ('Eve', 'h2', 'open', '');
             INSERT INTO lines VALUES (1, 'bob', 'lower'), (2, 'BOB', 'upper'),
                (3, 'eve', 'stays')",
            ["lower", "upper"],
        ),
    ] {
        let yard = yard(head, line, rows).await;
        let report = yard.run().await.unwrap_or_else(|e| panic!("{head}, {line}: {e:?}"));
        assert_eq!((report.pruned_rows, report.left_rows), (3, 0), "{head}, {line}: {report:?}");
        assert_eq!(yard.archived("lines").await, wanted, "{head}, {line}");
        assert_eq!(yard.live("lines").await, ["stays"], "{head}, {line}");
    }
}

const WHO: (&str, &str) = ("Art. 17", "dba");

/// Two heads, of Bob and of Eve, with three lines each that refer to them in every way that they
/// can; and of each head, what its column and those of its lines are declared for.
const FAMILIES: [(&str, &str, &str); 3] = [
    (
        "TEXT COLLATE NOCASE",
        "TEXT",
        "INSERT INTO heads VALUES ('Bob', 'hb', 'closed', 'bob@x'),
            ('Eve', 'he', 'closed', 'eve@x');
         INSERT INTO lines VALUES (1, 'bob', 'b1'), (2, 'Bob', 'b2'), (3, 'BOB', 'b3'),
            (4, 'eve', 'e1'), (5, 'Eve', 'e2'), (6, 'eVe', 'e3')",
    ),
    (
        "TEXT COLLATE RTRIM",
        "TEXT",
        "INSERT INTO heads VALUES ('Bob ', 'hb', 'closed', 'bob@x'),
            ('Eve', 'he', 'closed', 'eve@x');
         INSERT INTO lines VALUES (1, 'Bob', 'b1'), (2, 'Bob ', 'b2'), (3, 'Bob   ', 'b3'),
            (4, 'Eve', 'e1'), (5, 'Eve ', 'e2'), (6, 'Eve  ', 'e3')",
    ),
    (
        "INTEGER",
        "TEXT",
        "INSERT INTO heads VALUES (1, 'hb', 'closed', 'bob@x'), (2, 'he', 'closed', 'eve@x');
         INSERT INTO lines VALUES (1, '01', 'b1'), (2, ' 1', 'b2'), (3, '1.0', 'b3'),
            (4, '2', 'e1'), (5, '+2', 'e2'), (6, '2e0', 'e3')",
    ),
];

/// Archives such a family.
async fn archived<S: Shop>(yard: &Yard<S>) {
    let report = yard.run().await.unwrap();
    assert_eq!((report.pruned_rows, report.left_rows), (8, 0), "{report:?}");
}

/// The same, by a plan that does not say how the foreign key compares; that of a later run does.
async fn archived_before<S: Shop>(yard: &Yard<S>) {
    archived(yard).await;
    let other = "INSERT INTO heads VALUES ('9', 'hz', 'closed', 'zed@x')".to_owned();
    yard.shop.change(&[other]).await;
    assert_eq!(yard.run().await.unwrap().pruned_rows, 1);
    yard.forget_likeness().await;
}

async fn is_only_eve<S: Shop>(yard: &Yard<S>, at: &str) {
    assert_eq!(yard.archived("heads").await, ["he"], "{at}");
    assert_eq!(yard.archived("lines").await, ["e1", "e2", "e3"], "{at}");
}

/// Whoever is erased goes with all that the foreign key says is theirs.
#[tokio::test(flavor = "multi_thread")]
async fn i16_what_hangs_on_who_is_erased_goes_however_it_is_written() {
    for (head, line, rows) in FAMILIES {
        let yard = yard(head, line, rows).await;
        archived(&yard).await;
        erase_bob(&yard, head).await;
    }
}

async fn erase_bob<S: Shop>(yard: &Yard<S>, at: &str) {
    let places = [yard.place.clone()];
    let bob = (None, "mail", "bob@x");
    let erased = Box::pin(erase(&places, &yard.world, bob, WHO, Erasing::IfFound)).await.unwrap();
    assert_eq!((erased.rows, erased.batches), (4, 1), "{at}: {erased:?}");
    is_only_eve(yard, at).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i16_what_hangs_on_whose_time_is_over_goes_however_it_is_written() {
    for (head, line, rows) in FAMILIES {
        let mut yard = yard(head, line, rows).await;
        yard.rule.retention = Some(EventRule {
            after: Period { count: 7, unit: PeriodUnit::Years },
            event: "closed_at".to_owned(),
            subject: "mail".to_owned(),
        });
        archived(&yard).await;
        let about = ("closed_at", "mail", "bob@x");
        let on = "2001-02-03".parse().unwrap();
        record(&yard.place, &yard.world, about, on, WHO).await.unwrap();
        let (places, now) = ([yard.place.clone()], yard.world.clock.now());
        let expiry = expire(&places, &yard.world, &yard.rule, now, false);
        let expiry = Box::pin(expiry).await.unwrap();
        let rows: Vec<u64> = expiry.batches.iter().map(|one| one.rows).collect();
        assert_eq!(rows, [4], "{head}: {expiry:?}");
        is_only_eve(&yard, head).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i16_what_hangs_on_who_is_held_stays_however_it_is_written() {
    for (head, line, rows) in FAMILIES {
        let yard = yard(head, line, rows).await;
        archived(&yard).await;
        let bob = Holding::Subject(None, "mail", "bob@x");
        hold(&yard.place, &yard.world, bob, "LEG-1", "dba").await.unwrap();
        // A line of Bob's is taken for somebody's own, who is erased.
        let places = [yard.place.clone()];
        for token in ["b1", "b2", "b3"] {
            let subject = (Some("lines"), "token", token);
            let erased = erase(&places, &yard.world, subject, WHO, Erasing::IfFound);
            let erased = Box::pin(erased).await.unwrap();
            assert!(erased.held > 0, "{head}, {token}: {erased:?}");
        }
        assert_eq!(yard.archived("lines").await.len(), 6, "{head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hangs_on_a_row_comes_back_with_it_however_it_is_written() {
    for (head, line, rows) in FAMILIES {
        let yard = yard(head, line, rows).await;
        archived(&yard).await;
        let driver = yard.shop.driver().await;
        let terms = Wanted::terms_of("mail = 'eve@x'").unwrap();
        let wanted = Wanted { terms, ..Wanted::default() };
        let returning = Returning { wanted, conflict: Conflict::Fail, staging: None };
        Box::pin(put_back(&yard.place, &yard.world, &*driver, &returning)).await.unwrap();
        assert_eq!(yard.live("heads").await, ["he"], "{head}");
        assert_eq!(yard.live("lines").await, ["e1", "e2", "e3"], "{head}");
    }
}

/// Older versions did not write down how a foreign key compares: the newest plan says it for all
/// runs, whoever asks.
#[tokio::test(flavor = "multi_thread")]
async fn i16_what_hangs_on_a_row_is_known_of_runs_that_older_versions_planned() {
    for (head, line, rows) in FAMILIES {
        let yard = yard(head, line, rows).await;
        archived_before(&yard).await;
        let erase_of = async |subject, erasing| {
            let places = [yard.place.clone()];
            Box::pin(erase(&places, &yard.world, subject, WHO, erasing)).await.unwrap()
        };
        let bob = Holding::Subject(None, "mail", "bob@x");
        let held = hold(&yard.place, &yard.world, bob, "LEG-1", "dba").await.unwrap();
        for token in ["b1", "b2", "b3"] {
            let erased = erase_of((Some("lines"), "token", token), Erasing::Dry).await;
            let rows = (erased.rows, erased.held_rows);
            assert_eq!((rows, erased.held), ((0, 1), 1), "{head}, {token}: {erased:?}");
        }
        release(&yard.place, &yard.world, &held.id, "over", "dba").await.unwrap();

        let driver = yard.shop.driver().await;
        let terms = Wanted::terms_of("mail = 'eve@x'").unwrap();
        let wanted = Wanted { terms, ..Wanted::default() };
        let returning = Returning { wanted, conflict: Conflict::Fail, staging: None };
        Box::pin(put_back(&yard.place, &yard.world, &*driver, &returning)).await.unwrap();
        assert_eq!(yard.live("lines").await, ["e1", "e2", "e3"], "{head}");

        let erased = erase_of((None, "mail", "bob@x"), Erasing::IfFound).await;
        assert_eq!((erased.rows, erased.batches), (4, 1), "{head}: {erased:?}");
        assert_eq!(yard.archived("heads").await, ["he", "hz"], "{head}");
        assert_eq!(yard.archived("lines").await, ["e1", "e2", "e3"], "{head}");
    }
}

/// Older versions wrote the columns that a reference names down as it does, and SQLite minds no
/// capital letters. No other column is taken for one of them.
#[tokio::test(flavor = "multi_thread")]
async fn i16_what_hangs_on_a_row_by_two_columns_goes_whichever_letters_name_them() {
    let sql = "CREATE TABLE heads (area TEXT NOT NULL, code TEXT NOT NULL COLLATE NOCASE,
            token TEXT, state TEXT, mail TEXT, PRIMARY KEY (area, code));
        CREATE TABLE lines (id INTEGER PRIMARY KEY, a TEXT, c TEXT, token TEXT,
            FOREIGN KEY (a, c) REFERENCES heads (AREA, Code));
        CREATE INDEX lines_heads ON lines (a, c COLLATE NOCASE);
        INSERT INTO heads VALUES ('n', 'Bob', 'hb', 'closed', 'bob@x'),
            ('s', 'Bob', 'he', 'closed', 'eve@x');
        INSERT INTO lines VALUES (1, 'n', 'bob', 'b1'), (2, 'n', 'BOB', 'b2'),
            (3, 's', 'bob', 'e1'), (4, 's', 'Bob', 'e2')";
    let yard = yard_in(Sqlite::new().await, sql).await;
    assert_eq!(yard.run().await.unwrap().pruned_rows, 6);
    let run = Shelf::load(&yard.place).await.unwrap().runs[0].plan.run.clone();
    let key = Key::new(format!("archive/orders/_stillpoint/{run}/plan.json")).unwrap();
    let mut plan: serde_json::Value =
        serde_json::from_slice(&bytes(&*yard.store, &key).await).unwrap();
    let columns = &mut plan["members"][1]["link"]["parent_columns"];
    assert_eq!(*columns, serde_json::json!(["area", "code"]));
    *columns = serde_json::json!(["AREA", "code"]);
    replace(&*yard.store, &key, serde_json::to_vec_pretty(&plan).unwrap()).await;

    let places = [yard.place.clone()];
    let bob = (None, "mail", "bob@x");
    let erased = Box::pin(erase(&places, &yard.world, bob, WHO, Erasing::IfFound)).await.unwrap();
    assert_eq!((erased.rows, erased.batches), (3, 1), "{erased:?}");
    assert_eq!(yard.archived("heads").await, ["he"]);
    assert_eq!(yard.archived("lines").await, ["e1", "e2"]);
}

/// Spaces at the end say nothing to a column of fixed length, and much to one that refers to it.
#[tokio::test(flavor = "multi_thread")]
async fn i16_what_hangs_on_who_is_erased_from_postgres_goes_however_it_is_written() {
    let Some(shop) = InPostgres::new(18).await else { return };
    for (head, line, bob, eve) in [
        ("char(6)", "text", ["'Bob'", "'Bob  '", "'Bob      '"], ["'Eve'", "'Eve '", "'Eve  '"]),
        ("text", "char(6)", ["'Bob'", "'Bob '", "'Bob'"], ["'Eve'", "'Eve '", "'Eve'"]),
        ("numeric", "int", ["7", "7", "7"], ["8", "8", "8"]),
        ("numeric(9,2)", "numeric(9,1)", ["7", "7.0", "7"], ["8", "8.0", "8"]),
        // Domains, which are compared as what they are made of.
        ("whole", "bigint", ["7", "7", "7"], ["8", "8", "8"]),
        ("text", "word", ["'Bob'", "'Bob'", "'Bob'"], ["'Eve'", "'Eve'", "'Eve'"]),
        ("numeric", "amount", ["7", "7.0", "7.00"], ["8", "8.0", "8.000"]),
        ("amount", "int", ["7.0", "7", "7"], ["8.00", "8", "8"]),
        ("fixed", "text", ["'Bob'", "'Bob  '", "'Bob      '"], ["'Eve'", "'Eve '", "'Eve  '"]),
    ] {
        let drop = "DROP TABLE IF EXISTS lines; DROP TABLE IF EXISTS heads;
            DROP SCHEMA IF EXISTS stillpoint CASCADE;
            DROP DOMAIN IF EXISTS whole, word, amount, fixed; CREATE DOMAIN whole AS int;
            CREATE DOMAIN word AS text; CREATE DOMAIN amount AS numeric;
            CREATE DOMAIN fixed AS char(6);";
        let sql = format!(
            "{drop}{}
             INSERT INTO heads VALUES ({}, 'hb', 'closed', 'bob@x'), ({}, 'he', 'closed', 'eve@x');
             INSERT INTO lines VALUES (1, {}, 'b1'), (2, {}, 'b2'), (3, {}, 'b3'),
                (4, {}, 'e1'), (5, {}, 'e2'), (6, {}, 'e3')",
            tables(head, line),
            bob[0],
            eve[0],
            bob[0],
            bob[1],
            bob[2],
            eve[0],
            eve[1],
            eve[2]
        );
        let yard = yard_in(&shop, &sql).await;
        archived(&yard).await;
        erase_bob(&yard, head).await;
    }
    let drop = "DROP TABLE lines; DROP TABLE heads; DROP DOMAIN whole, word, amount, fixed";
    shop.change(&statements(drop)).await;
}

/// What only the server compares, with two forms of one value, and another one.
const UNTOLD: [(&str, &str, [&str; 3]); 3] = [
    ("float8", "SELECT", ["'0'", "'-0'", "'1'"]),
    (
        "text COLLATE folded",
        "CREATE COLLATION IF NOT EXISTS folded (provider = icu,
            locale = 'und-u-ks-level2', deterministic = false)",
        ["'Bob'", "'BOB'", "'Eve'"],
    ),
    ("citext", "CREATE EXTENSION IF NOT EXISTS citext", ["'Bob'", "'BOB'", "'Eve'"]),
];

/// Heads of Bob, which is closed, and of Eve, with lines that refer to them by such a column; none
/// where the server has no such type.
async fn untold<'a>(
    shop: &'a InPostgres,
    (kind, needs, [bob, also_bob, eve]): (&str, &str, [&str; 3]),
) -> Option<Yard<&'a InPostgres>> {
    shop.client().await.batch_execute(needs).await.ok()?;
    // Another key, since such values are none.
    let sql = format!(
        "DROP TABLE IF EXISTS lines; DROP TABLE IF EXISTS heads;
         DROP SCHEMA IF EXISTS stillpoint CASCADE;
         CREATE TABLE heads (id int PRIMARY KEY, code {kind} UNIQUE NOT NULL, token text,
             state text, mail text);
         CREATE TABLE lines (id int PRIMARY KEY, token text, code {kind} REFERENCES heads (code));
         CREATE INDEX lines_code ON lines (code);
         INSERT INTO heads VALUES (1, {bob}, 'hb', 'closed', 'bob@x'),
             (2, {eve}, 'he', 'open', 'eve@x');
         INSERT INTO lines VALUES (1, 'b1', {bob}), (2, 'b2', {also_bob}), (3, 'e1', {eve})"
    );
    Some(yard_in(shop, &sql).await)
}

/// Archives what hangs on Bob's head.
async fn archived_untold(yard: &Yard<&InPostgres>, at: &str) {
    let report = yard.run().await.unwrap();
    assert_eq!((report.pruned_rows, report.left_rows), (3, 0), "{at}: {report:?}");
    assert_eq!(yard.archived("lines").await, ["b1", "b2"], "{at}");
    assert_eq!(
        (yard.live("heads").await, yard.live("lines").await),
        (texts(&["he"]), texts(&["e1"]))
    );
}

fn texts(some: &[&str]) -> Vec<String> {
    some.iter().copied().map(str::to_owned).collect()
}

fn is_refused(error: &stillpoint_contract::Error, words: &str) -> bool {
    let told = format!("{:?} {:?} {:?}", error.facts(), error.reason(), error.advice());
    (error.kind(), error.code()) == (ErrorKind::Refused, code::ROWS_REFUSED) && told.contains(words)
}

/// Where only the server compares, it says what goes along; out of files, nothing goes by what is
/// written there.
#[tokio::test(flavor = "multi_thread")]
async fn i16_what_files_do_not_tell_is_archived_and_not_taken_out() {
    let Some(shop) = InPostgres::new(17).await else { return };
    for kind in UNTOLD {
        let at = kind.0;
        let Some(yard) = untold(&shop, kind).await else { continue };
        archived_untold(&yard, at).await;
        let places = [yard.place.clone()];
        for erasing in [Erasing::Dry, Erasing::IfFound, Erasing::Always] {
            let bob = (None, "mail", "bob@x");
            let refused = Box::pin(erase(&places, &yard.world, bob, WHO, erasing)).await;
            assert!(is_refused(&refused.unwrap_err(), "public.lines"), "{at} {erasing:?}");
        }
        assert_eq!(yard.archived("heads").await, ["hb"], "{at}");
        // A line is somebody's by a column of its own, and nothing hangs on it.
        let line = (Some("lines"), "token", "b2");
        let erased = Box::pin(erase(&places, &yard.world, line, WHO, Erasing::IfFound)).await;
        assert_eq!(erased.unwrap().rows, 1, "{at}");
        assert_eq!(yard.archived("lines").await, ["b1"], "{at}");
        // It stands, and nobody minds.
        yard.shop.change(&["UPDATE heads SET state = 'closed'".to_owned()]).await;
        assert_eq!(yard.run().await.unwrap().pruned_rows, 2, "{at}");
    }
    shop.change(&statements("DROP TABLE lines; DROP TABLE heads")).await;
}

/// Of runs that older versions planned, the newest plan says what files do not tell.
#[tokio::test(flavor = "multi_thread")]
async fn i16_what_files_do_not_tell_is_known_of_runs_that_older_versions_planned() {
    let Some(shop) = InPostgres::new(17).await else { return };
    for kind in UNTOLD {
        let at = kind.0;
        let Some(yard) = untold(&shop, kind).await else { continue };
        archived_untold(&yard, at).await;
        yard.shop.change(&["UPDATE heads SET state = 'closed'".to_owned()]).await;
        assert_eq!(yard.run().await.unwrap().pruned_rows, 2, "{at}");
        yard.forget_likeness().await;
        let (places, bob) = ([yard.place.clone()], (None, "mail", "bob@x"));
        let refused = Box::pin(erase(&places, &yard.world, bob, WHO, Erasing::IfFound)).await;
        assert!(is_refused(&refused.unwrap_err(), "public.lines"), "{at}");
        let bob = Holding::Subject(None, "mail", "bob@x");
        hold(&yard.place, &yard.world, bob, "LEG-1", "dba").await.unwrap();
        let line = (Some("lines"), "token", "b2");
        let erased = Box::pin(erase(&places, &yard.world, line, WHO, Erasing::IfFound)).await;
        let erased = erased.unwrap();
        assert_eq!((erased.rows, erased.held), (0, 1), "{at}: {erased:?}");
        assert_eq!(yard.archived("lines").await, ["b1", "b2", "e1"], "{at}");
    }
    shop.change(&statements("DROP TABLE lines; DROP TABLE heads")).await;
}

/// Columns that are given a type that files compare are told of from then on, and not before.
#[tokio::test(flavor = "multi_thread")]
async fn i16_what_files_tell_since_a_change_is_taken_out_and_what_was_before_is_not() {
    let Some(shop) = InPostgres::new(17).await else { return };
    for kind in UNTOLD {
        let at = kind.0;
        let Some(yard) = untold(&shop, kind).await else { continue };
        archived_untold(&yard, at).await;
        let change = "ALTER TABLE lines DROP CONSTRAINT lines_code_fkey;
            ALTER TABLE heads ALTER COLUMN code TYPE text COLLATE \"C\";
            ALTER TABLE lines ALTER COLUMN code TYPE text COLLATE \"C\";
            ALTER TABLE lines ADD FOREIGN KEY (code) REFERENCES heads (code);
            UPDATE heads SET state = 'closed'";
        yard.shop.change(&statements(change)).await;
        assert_eq!(yard.run().await.unwrap().pruned_rows, 2, "{at}");
        let (places, bob) = ([yard.place.clone()], (None, "mail", "bob@x"));
        let refused = Box::pin(erase(&places, &yard.world, bob, WHO, Erasing::IfFound)).await;
        assert!(is_refused(&refused.unwrap_err(), "public.lines"), "{at}");
        let eve = (None, "mail", "eve@x");
        let erased = Box::pin(erase(&places, &yard.world, eve, WHO, Erasing::IfFound)).await;
        assert_eq!(erased.unwrap().rows, 2, "{at}");
        assert_eq!(yard.archived("heads").await, ["hb"], "{at}");
        assert_eq!(yard.archived("lines").await, ["b1", "b2"], "{at}");
    }
    shop.change(&statements("DROP TABLE lines; DROP TABLE heads")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_files_do_not_tell_comes_back_by_itself_or_with_all_the_rest() {
    let Some(shop) = InPostgres::new(17).await else { return };
    for kind in UNTOLD {
        let at = kind.0;
        for is_all in [false, true] {
            let Some(yard) = untold(&shop, kind).await else { continue };
            archived_untold(&yard, at).await;
            let driver = yard.shop.driver().await;
            let back = async |table: Option<&str>, condition: &str| {
                let terms = Wanted::terms_of(condition).unwrap();
                let table = table.map(str::to_owned);
                let wanted = Wanted { table, terms, ..Wanted::default() };
                let returning = Returning { wanted, conflict: Conflict::Fail, staging: None };
                Box::pin(put_back(&yard.place, &yard.world, &*driver, &returning)).await
            };
            let refused = back(None, "mail = 'bob@x'").await.unwrap_err();
            assert!(is_refused(&refused, "--table TABLE"), "{at}: {refused:?}");
            assert_eq!(yard.live("heads").await, ["he"], "{at}");
            assert!(back(None, "mail = 'nobody@x'").await.unwrap().is_empty(), "{at}");
            if is_all {
                back(None, "").await.unwrap();
            } else {
                back(Some("heads"), "mail = 'bob@x'").await.unwrap();
                assert_eq!(yard.live("lines").await, ["e1"], "{at}");
                back(Some("lines"), "id < 3").await.unwrap();
            }
            assert_eq!(yard.live("heads").await, ["hb", "he"], "{at}");
            assert_eq!(yard.live("lines").await, ["b1", "b2", "e1"], "{at}");
        }
    }
    shop.change(&statements("DROP TABLE lines; DROP TABLE heads")).await;
}

/// Whoever is held keeps all rows that may hang on theirs.
#[tokio::test(flavor = "multi_thread")]
async fn i16_what_files_do_not_tell_is_held_with_whoever_it_may_hang_on() {
    let Some(shop) = InPostgres::new(17).await else { return };
    for kind in UNTOLD {
        let at = kind.0;
        let Some(yard) = untold(&shop, kind).await else { continue };
        archived_untold(&yard, at).await;
        let places = [yard.place.clone()];
        for (held, token, expected) in [("nobody@x", "b2", (1, 0)), ("bob@x", "b1", (0, 1))] {
            let held = Holding::Subject(None, "mail", held);
            hold(&yard.place, &yard.world, held, "LEG-1", "dba").await.unwrap();
            let line = (Some("lines"), "token", token);
            let erased = Box::pin(erase(&places, &yard.world, line, WHO, Erasing::IfFound)).await;
            let erased = erased.unwrap();
            assert_eq!((erased.rows, erased.held), expected, "{at}: {erased:?}");
        }
        assert_eq!(yard.archived("lines").await, ["b1"], "{at}");
    }
    shop.change(&statements("DROP TABLE lines; DROP TABLE heads")).await;
}

/// Where rows would have to be found in files later, nothing is begun.
#[tokio::test(flavor = "multi_thread")]
async fn i16_what_no_file_tells_is_not_archived_for_a_time_after_an_event() {
    let Some(shop) = InPostgres::new(17).await else { return };
    for kind in UNTOLD {
        let at = kind.0;
        let Some(mut yard) = untold(&shop, kind).await else { continue };
        yard.rule.retention = Some(EventRule {
            after: Period { count: 7, unit: PeriodUnit::Years },
            event: "closed_at".to_owned(),
            subject: "mail".to_owned(),
        });
        let refused = yard.run().await.unwrap_err();
        assert!(is_refused(&refused, "public.lines.code"), "{at}: {refused:?}");
        assert!(is_refused(&refused, "after an event"), "{at}: {refused:?}");
        let has_way = format!("{:?}", refused.advice()).contains("COLLATE");
        assert_eq!(has_way, at.contains("COLLATE"), "{at}: {refused:?}");
        assert_eq!(yard.live("lines").await, ["b1", "b2", "e1"], "{at}");
        assert_eq!(yard.store.list("").await.unwrap(), [], "{at}");
    }
    shop.change(&statements("DROP TABLE lines; DROP TABLE heads")).await;
}

/// An erasure holds for rows to come, which files would have to tell.
#[tokio::test(flavor = "multi_thread")]
async fn i16_what_no_file_tells_is_not_archived_while_an_erasure_stands() {
    let Some(shop) = InPostgres::new(17).await else { return };
    let yard = untold(&shop, ("int", "SELECT", ["0", "0", "1"])).await.unwrap();
    archived_untold(&yard, "int").await;
    let (places, bob) = ([yard.place.clone()], (None, "mail", "bob@x"));
    let erased = Box::pin(erase(&places, &yard.world, bob, WHO, Erasing::IfFound)).await.unwrap();
    assert_eq!(erased.rows, 3, "{erased:?}");
    let change = "ALTER TABLE heads ALTER COLUMN code TYPE float8;
        ALTER TABLE lines ALTER COLUMN code TYPE float8; UPDATE heads SET state = 'closed'";
    shop.change(&statements(change)).await;
    let refused = yard.run().await.unwrap_err();
    assert!(is_refused(&refused, "archive erasure revoke orders"), "{refused:?}");
    assert_eq!(yard.live("lines").await, ["e1"]);
    let id = erased.id.unwrap();
    revoke(&yard.place, &yard.world, &id, ("Ended", "dba")).await.unwrap();
    assert_eq!(yard.run().await.unwrap().pruned_rows, 2);
    shop.change(&statements("DROP TABLE lines; DROP TABLE heads")).await;
}
