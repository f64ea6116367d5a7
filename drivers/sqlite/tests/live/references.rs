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
    let text = Likeness { becomes: Some(Class::Text), alike: Alike::Case };
    let number = Likeness { becomes: Some(Class::Integer), alike: Alike::Same };
    for (referrer, table) in referrers[..2].iter().zip(["c", "d"]) {
        assert_eq!((&*referrer.table, &*referrer.columns.join(",")), (table, "a,b"));
        assert_eq!(referrer.parent_columns, ["Code", "n"], "{referrer:?}");
        assert_eq!(referrer.likeness, [text, number], "{referrer:?}");
    }
    // What refers to nothing compares with nothing.
    assert_eq!((referrers.len(), referrers[2].likeness.len()), (3, 0), "{referrers:?}");
}
