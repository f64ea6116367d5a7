//! Rows that refer to others: those hang on one that its foreign key means, whatever their columns
//! are declared for.

use rusqlite::Connection;
use stillpoint_conformance::memory::rows::{MemoryRows, set};
use stillpoint_contract::{
    Alike, ArchiveSet, Class, Estimate, Finding, KeyRange, Likeness, Link, Member, Referrer, Rows,
    Weight, values,
};

use crate::rows::{at, database, open};

const PARENTS: [&str; 8] = [
    "TEXT",
    "INTEGER",
    "INT",
    "BLOB",
    "REAL",
    "NUMERIC",
    "TEXT COLLATE NOCASE",
    "TEXT COLLATE RTRIM",
];

const CHILDREN: [&str; 6] = ["TEXT", "INTEGER", "", "REAL", "NUMERIC", "TEXT COLLATE NOCASE"];

/// Values that are one to some columns, and several to others.
const VALUES: [&str; 15] = [
    "'1'", "'01'", "1", "'1.0'", "1.0", "1.5", "'1.5'", "' 1'", "'Bob'", "'bob'", "'bob '",
    "'BOB'", "'x'", "x'31'", "2",
];

fn tables(parent: &str, child: &str) -> String {
    format!(
        "CREATE TABLE p (code {parent} PRIMARY KEY NOT NULL, n INTEGER);
         CREATE TABLE c (id INTEGER PRIMARY KEY, code {child} REFERENCES p (code));
         CREATE INDEX c_code ON c (code);"
    )
}

/// Whether SQLite lets a row with one value refer to a row with another one.
fn refers(db: &Connection, child: &str, parent: &str) -> bool {
    db.execute_batch("DELETE FROM c; DELETE FROM p").unwrap();
    db.execute(&format!("INSERT INTO p VALUES ({parent}, 0)"), []).unwrap();
    db.execute(&format!("INSERT INTO c VALUES (1, {child})"), []).is_ok()
}

/// Rows of `p` that a predicate selects, with those of `c`.
async fn family(rows: &mut dyn Rows, predicate: &str) -> ArchiveSet {
    let mut set = set(rows.table("p").await.unwrap(), predicate);
    let referrers = rows.referrers(&set.root().table).await.unwrap();
    let Referrer { columns, parent_columns, likeness, .. } = referrers[0].clone();
    let link = Some(Link { parent: 0, columns, parent_columns, likeness });
    set.members.push(Member { table: rows.table("c").await.unwrap(), link });
    set
}

/// The ids of the rows that hang on those that are selected.
async fn hanging(rows: &mut dyn Rows, set: &ArchiveSet) -> Vec<i64> {
    let (mut kept, mut ids) = (MemoryRows::default(), Vec::new());
    let mut snapshot = rows.snapshot().await.unwrap();
    snapshot.member(set, 1, &KeyRange::default(), &mut kept).await.unwrap();
    for row in kept.0.iter().flat_map(stillpoint_contract::RowBatch::rows) {
        let id = values(row).next().unwrap().unwrap().unwrap();
        ids.push(i64::from_be_bytes(*id[1..].first_chunk().unwrap()));
    }
    ids.sort_unstable();
    ids
}

fn told(findings: &[Finding]) -> Vec<Weight> {
    let of_reference = findings.iter().filter(|finding| finding.subject == "reference");
    of_reference.map(|finding| finding.weight).collect()
}

#[tokio::test]
async fn rows_hang_on_those_that_the_foreign_key_means() {
    for (parent, child) in PARENTS.iter().flat_map(|one| CHILDREN.map(|other| (*one, other))) {
        let pair = format!("{child} refers to {parent}");
        let truth = Connection::open_in_memory().unwrap();
        truth.execute_batch("PRAGMA foreign_keys = ON").unwrap();
        truth.execute_batch(&tables(parent, child)).unwrap();
        let (directory, db) = database(&tables(parent, child));
        db.execute_batch("PRAGMA foreign_keys = ON").unwrap();
        // Those of which there is another one already, and text where only numbers are, are none.
        let is_taken = |(n, value): &(usize, &str)| {
            db.execute(&format!("INSERT INTO p VALUES ({value}, {n})"), []).is_ok()
        };
        let parents: Vec<_> = VALUES.into_iter().enumerate().filter(is_taken).collect();
        let hangs = |(id, value): &(usize, &str)| {
            db.execute(&format!("INSERT INTO c VALUES ({id}, {value})"), []).is_ok()
        };
        let children: Vec<_> = VALUES.into_iter().enumerate().filter(hangs).collect();
        assert!(parents.len() > 1, "{pair}");
        let mut rows = open(&at(&directory)).await;
        for (n, value) in parents {
            let set = family(rows.as_mut(), &format!("n = {n}")).await;
            let wanted = children.iter().filter(|(_, child)| refers(&truth, child, value));
            let wanted: Vec<i64> = wanted.map(|(id, _)| i64::try_from(*id).unwrap()).collect();
            assert_eq!(hanging(rows.as_mut(), &set).await, wanted, "{pair}: {value}");
        }
    }
}

/// Where SQLite itself means other rows when one is deleted, none is; and where no index is of use,
/// that is told.
#[tokio::test]
async fn references_of_other_types_are_refused_or_told() {
    for (parent, child, expected) in [
        ("TEXT", "INTEGER", Some(Weight::Lacking)),
        ("TEXT", "REAL", Some(Weight::Lacking)),
        ("VARCHAR(9)", "NUMERIC", Some(Weight::Lacking)),
        ("BLOB", "INT", Some(Weight::Lacking)),
        ("INTEGER", "TEXT", Some(Weight::Advice)),
        ("INT", "", Some(Weight::Advice)),
        ("TEXT", "", Some(Weight::Advice)),
        ("INTEGER", "BIGINT", None),
        ("NUMERIC", "INTEGER", None),
        ("TEXT", "CHAR(9)", None),
        ("BLOB", "TEXT", None),
        ("BLOB", "", None),
    ] {
        let (directory, _db) = database(&tables(parent, child));
        let mut rows = open(&at(&directory)).await;
        let set = family(rows.as_mut(), "n = 1").await;
        let findings = rows.examine(&set).await.unwrap();
        let pair = format!("{child} refers to {parent}: {findings:?}");
        assert_eq!(told(&findings), Vec::from_iter(expected), "{pair}");
        // The index is used where it can be.
        let outlook = rows.outlook(&set, 10, Estimate::default()).await.unwrap();
        let step = &outlook.steps[1];
        let searches = |line: &String| line.starts_with("SEARCH") && line.contains("INDEX c_code");
        assert_eq!(step.plan.iter().any(searches), expected.is_none(), "{pair}, {step:?}");
    }
}

/// An index by another collation than that of the reference finds nothing, neither for those that
/// select rows nor for SQLite when it deletes what they refer to.
#[tokio::test]
async fn an_index_by_another_collation_is_told_with_the_one_that_helps() {
    const NOCASE: Option<&str> = Some("c (\"code\" COLLATE \"NOCASE\")");
    const BINARY: Option<&str> = Some("c (\"code\" COLLATE \"BINARY\")");
    const PLAIN: Option<&str> = Some("c (\"code\")");
    for (parent, child, index, lacking) in [
        ("TEXT COLLATE NOCASE", "TEXT", "code", NOCASE),
        ("TEXT COLLATE NOCASE", "TEXT COLLATE RTRIM", "code", NOCASE),
        ("TEXT COLLATE NOCASE", "TEXT", "code COLLATE nocase", None),
        ("TEXT COLLATE NOCASE", "TEXT COLLATE nocase", "code, id", None),
        ("TEXT COLLATE NOCASE", "TEXT COLLATE NOCASE", "code COLLATE BINARY", PLAIN),
        ("TEXT", "TEXT COLLATE RTRIM", "code", BINARY),
        ("TEXT", "TEXT COLLATE RTRIM", "code COLLATE BINARY", None),
        // No text is like a row id.
        ("INTEGER", "INTEGER COLLATE NOCASE", "code", None),
    ] {
        let tables = tables(parent, child).replace("ON c (code)", &format!("ON c ({index})"));
        let (directory, db) = database(&tables);
        db.execute_batch("PRAGMA foreign_keys = ON").unwrap();
        let mut rows = open(&at(&directory)).await;
        let set = family(rows.as_mut(), "n = 1").await;
        let pair = format!("{child} refers to {parent} by an index of {index}");
        let told = lacking_indexes(rows.as_mut(), &set).await;
        let expected = lacking.map(|on| format!("CREATE INDEX \"c_code_2\" ON {on}"));
        assert_eq!(told, Vec::from_iter(expected), "{pair}");
        let outlook = rows.outlook(&set, 10, Estimate::default()).await.unwrap();
        let step = &outlook.steps[1];
        assert_eq!(is_searched(&step.plan), lacking.is_none(), "{pair}: {step:?}");
        assert_eq!(is_searched(&scans(&db)), lacking.is_none(), "{pair}");
        let advice = step.advice.as_ref().map(|advice| advice.statement.as_deref().unwrap());
        let expected = lacking.map(|on| format!("CREATE INDEX … ON {on}"));
        assert_eq!(advice, expected.as_deref(), "{pair}");
        if lacking.is_none() {
            continue;
        }
        // What is said to help does.
        db.execute_batch(&told[0]).unwrap();
        assert_eq!(lacking_indexes(rows.as_mut(), &set).await, Vec::<String>::new(), "{pair}");
        let outlook = rows.outlook(&set, 10, Estimate::default()).await.unwrap();
        assert!(is_searched(&outlook.steps[1].plan), "{pair}: {:?}", outlook.steps[1]);
        assert!(is_searched(&scans(&db)), "{pair}");
    }
}

/// Where the types keep an index from being used, none by another collation is asked for.
#[tokio::test]
async fn no_index_is_asked_for_that_would_not_help() {
    for (parent, child) in [
        ("INTEGER", "TEXT COLLATE NOCASE"),
        ("INT", "TEXT COLLATE NOCASE"),
        ("TEXT COLLATE NOCASE", ""),
    ] {
        let (directory, db) = database(&tables(parent, child));
        db.execute_batch("PRAGMA foreign_keys = ON").unwrap();
        let mut rows = open(&at(&directory)).await;
        let set = family(rows.as_mut(), "n = 1").await;
        let told = lacking_indexes(rows.as_mut(), &set).await;
        assert_eq!(told, Vec::<String>::new(), "{child} refers to {parent}");
        assert!(!is_searched(&scans(&db)), "{child} refers to {parent}");
    }
}

/// What is said to make the indexes that lack.
async fn lacking_indexes(rows: &mut dyn Rows, set: &ArchiveSet) -> Vec<String> {
    let findings = rows.examine(set).await.unwrap();
    let mut told = Vec::new();
    for one in findings.into_iter().filter(|one| one.subject == "index") {
        assert_eq!(one.weight, Weight::Lacking, "{one:?}");
        let statement = one.statement.unwrap();
        let is_by_another = one.found.contains("by which the reference compares");
        assert_eq!(is_by_another, statement.contains("COLLATE"), "{}", one.found);
        // Who refers to a table is looked at with either of the two.
        if !told.contains(&statement) {
            told.push(statement);
        }
    }
    told
}

fn is_searched(plan: &[String]) -> bool {
    plan.iter().any(|line| line.starts_with("SEARCH") && line.contains(" INDEX c_"))
}

/// How SQLite finds what refers to rows that it deletes.
fn scans(db: &Connection) -> Vec<String> {
    let mut plan = db.prepare("EXPLAIN QUERY PLAN DELETE FROM p").unwrap();
    plan.query_map([], |row| row.get(3)).unwrap().map(Result::unwrap).collect()
}

/// Each column of several compares as the one does that it refers to, and an index of all is used.
#[tokio::test]
async fn references_of_several_columns_compare_each_by_its_own_collation() {
    const LACKING: &str =
        "CREATE INDEX \"c_a_b\" ON c (\"a\" COLLATE \"NOCASE\", \"b\" COLLATE \"BINARY\")";
    for (index, lacking) in [
        ("a, b", Some(LACKING)),
        ("b, a COLLATE NOCASE", Some(LACKING)),
        ("b COLLATE BINARY, a COLLATE NOCASE, id", None),
    ] {
        let (directory, db) = database(&format!(
            "PRAGMA foreign_keys = ON;
             CREATE TABLE p (a TEXT COLLATE NOCASE NOT NULL, b TEXT NOT NULL, n INTEGER,
                PRIMARY KEY (a, b));
             CREATE TABLE c (id INTEGER PRIMARY KEY, a TEXT, b TEXT COLLATE NOCASE,
                FOREIGN KEY (a, b) REFERENCES p);
             CREATE INDEX c_code ON c ({index});
             INSERT INTO p VALUES ('x', 'y', 1), ('x', 'Y', 0), ('z', 'y', 0);
             INSERT INTO c VALUES (1, 'x', 'y'), (2, 'X', 'y'), (3, 'X', 'Y'), (4, 'Z', 'y'),
                (5, 'x', NULL), (6, NULL, 'y')"
        ));
        let mut rows = open(&at(&directory)).await;
        let set = family(rows.as_mut(), "n = 1").await;
        assert_eq!(hanging(rows.as_mut(), &set).await, [1, 2], "{index}");
        let told = lacking_indexes(rows.as_mut(), &set).await;
        assert_eq!(told, Vec::from_iter(lacking), "{index}");
        if let Some(lacking) = lacking {
            db.execute_batch(lacking).unwrap();
        }
        let outlook = rows.outlook(&set, 10, Estimate::default()).await.unwrap();
        let is_whole = |line: &String| line.contains("a=? AND b=?") || line.contains("b=? AND a=?");
        for plan in [&outlook.steps[1].plan, &scans(&db)] {
            assert!(is_searched(plan) && plan.iter().any(is_whole), "{index}: {plan:?}");
        }
        assert_eq!(hanging(rows.as_mut(), &set).await, [1, 2], "{index}");
    }
}

/// The child of '1' is none of '01', which alone is selected.
#[tokio::test]
async fn a_child_of_a_row_that_stays_is_not_taken_along() {
    let (directory, db) = database(&tables("TEXT", "INTEGER"));
    db.execute_batch(
        "INSERT INTO p VALUES ('1', 0), ('01', 1), ('2', 1); INSERT INTO c VALUES (1, 1), (2, 2)",
    )
    .unwrap();
    let mut rows = open(&at(&directory)).await;
    let set = family(rows.as_mut(), "n = 1").await;
    assert_eq!(hanging(rows.as_mut(), &set).await, [2]);
    let findings = rows.examine(&set).await.unwrap();
    let lacking = findings.iter().find(|finding| finding.weight == Weight::Lacking).unwrap();
    assert!(lacking.found.contains("c.code") && lacking.found.contains("p.code"), "{lacking:?}");
    let statement = lacking.statement.as_deref().unwrap();
    assert_eq!(statement, "make c anew with \"code\" TEXT REFERENCES p");
}

/// However a reference writes the column that it is to.
#[tokio::test]
async fn columns_that_are_referred_to_have_the_names_that_their_table_gives_them() {
    let (directory, _db) = database(
        "CREATE TABLE p (Code TEXT COLLATE NOCASE, n INTEGER, PRIMARY KEY (Code, n));
         CREATE TABLE c (id INTEGER PRIMARY KEY, a TEXT, b,
            FOREIGN KEY (A, b) REFERENCES P (cOde, N));
         CREATE TABLE d (id INTEGER PRIMARY KEY, a TEXT, b, FOREIGN KEY (a, b) REFERENCES p);
         CREATE TABLE e (id INTEGER PRIMARY KEY, a REFERENCES p (gone))",
    );
    let mut rows = open(&at(&directory)).await;
    let table = rows.table("p").await.unwrap();
    let referrers = rows.referrers(&table).await.unwrap();
    let text = Some(Class::Text);
    let text = Likeness { becomes: text, alike: Alike::Case, ..Likeness::default() };
    let number = Likeness { becomes: Some(Class::Integer), ..Likeness::default() };
    for (referrer, table) in referrers[..2].iter().zip(["c", "d"]) {
        assert_eq!((&*referrer.table, &*referrer.columns.join(",")), (table, "a,b"));
        assert_eq!(referrer.parent_columns, ["Code", "n"], "{referrer:?}");
        assert_eq!(referrer.likeness, [text, number], "{referrer:?}");
    }
    // What refers to nothing compares with nothing.
    assert_eq!((referrers.len(), referrers[2].likeness.len()), (3, 0), "{referrers:?}");
}
