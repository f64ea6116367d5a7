//! Rows that refer to others by columns that compare otherwise than their bytes do: those go
//! together that the foreign key means, into the archive and out of it.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, and says what it tried")]

use stillpoint::policy::ArchivedChild;
use stillpoint_contract::{ErrorKind, code};

use super::shop::{Shop, Sqlite, Yard};

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

/// Such tables, with columns of these types.
fn tables(head: &str, line: &str) -> String {
    format!(
        "CREATE TABLE heads (code {head} PRIMARY KEY NOT NULL, token TEXT, state TEXT, mail TEXT);
         CREATE TABLE lines (id INTEGER PRIMARY KEY, code {line} REFERENCES heads (code),
             token TEXT);
         CREATE INDEX lines_code ON lines (code);"
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
