//! What a policy says that the database does not mean: forms of times, and references.

use stillpoint::policy::{ArchivedChild, Period, PeriodUnit};
use stillpoint_contract::{CutoffForm, Error, ErrorKind};

use super::shop::{Shop as _, Sqlite, Yard};

/// Orders of three months, ten of each day, as `form` writes their times.
async fn orders(form: &str) -> Yard<Sqlite> {
    let mut yard = Yard::new(Sqlite::new().await, false);
    let make = "DROP TABLE orders; CREATE TABLE orders (id INTEGER PRIMARY KEY, token, at)";
    let mut statements: Vec<String> = make.split(';').map(str::to_owned).collect();
    statements.push(format!(
        "WITH n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 899)
         INSERT INTO orders SELECT i, 'o' || i, {form}
         FROM (SELECT i, '-' || (i / 10) || ' days' AS ago FROM n)"
    ));
    yard.shop.change(&statements).await;
    "at < :cutoff".clone_into(&mut yard.rule.selects);
    yard.rule.age = Some(Period { count: 30, unit: PeriodUnit::Days });
    yard
}

fn is_refused(error: &Error, what: &str) -> bool {
    // How it is printed has its quotes escaped.
    let told = format!("{error:?}").replace("\\\"", "\"");
    error.kind() == ErrorKind::Refused && told.contains(what)
}

/// In SQLite a number is less than any text, and a blank less than a letter: a form that does not
/// fit would select rows of this very second.
#[tokio::test(flavor = "multi_thread")]
async fn a_cutoff_in_another_form_than_the_rows_selects_none_of_them() {
    const UNIX: &str = "unixepoch('now', ago)";
    const TEXT: &str = "datetime('now', ago)";
    const ISO: &str = "strftime('%Y-%m-%dT%H:%M:%S', 'now', ago)";
    for (written, form, other) in [
        (UNIX, CutoffForm::Datetime, Some("cutoff_form = \"unix\"")),
        (UNIX, CutoffForm::UnixMs, Some("cutoff_form = \"unix\"")),
        (TEXT, CutoffForm::Iso8601, Some("cutoff_form = \"datetime\"")),
        ("julianday('now', ago)", CutoffForm::Unix, Some("cutoff_form = \"julian-day\"")),
        // One number among texts.
        ("iif(i = 77, 1700000000, datetime('now', ago))", CutoffForm::Datetime, Some("unix")),
        (TEXT, CutoffForm::Datetime, None),
        (ISO, CutoffForm::Iso8601, None),
        (UNIX, CutoffForm::Unix, None),
        ("julianday('now', ago)", CutoffForm::JulianDay, None),
    ] {
        let mut yard = orders(written).await;
        yard.rule.form = Some(form);
        match (yard.run().await, other) {
            (Err(error), Some(other)) => {
                assert!(is_refused(&error, other), "{written} {form:?}: {error:?}");
                assert_eq!(yard.live("orders").await.len(), 900);
                assert_eq!(yard.store.list("").await.unwrap(), []);
            }
            (Ok(report), None) => {
                let gone = report.pruned_rows;
                assert!((580..=600).contains(&gone), "{written} {form:?}: {report:?}");
            }
            (done, _) => panic!("{written} {form:?}: {done:?}"),
        }
    }
}

/// What is said to help does: columns of several are a list, in whatever order; and nothing is said
/// where nothing helps.
#[tokio::test(flavor = "multi_thread")]
async fn hints_for_references_lead_somewhere() {
    let make = "DROP TABLE orders;
        CREATE TABLE orders (id INTEGER NOT NULL, shop INTEGER NOT NULL, token TEXT, state TEXT,
            PRIMARY KEY (id, shop));
        CREATE TABLE items (id INTEGER PRIMARY KEY, o INTEGER, s INTEGER, token TEXT,
            FOREIGN KEY (o, s) REFERENCES orders (id, shop));
        CREATE INDEX items_order ON items (o, s);
        INSERT INTO orders VALUES (1, 1, 'o1', 'closed'); INSERT INTO items VALUES (1, 1, 1, 'i1')";
    let statements = |sql: &str| sql.split(';').map(str::to_owned).collect::<Vec<_>>();
    let mut yard = Yard::new(Sqlite::new().await, false);
    yard.shop.change(&statements(make)).await;
    let error = yard.run().await.unwrap_err();
    assert!(is_refused(&error, "fk = ['o', 's']"), "{error:?}");
    let columns = ["s", "o"].map(str::to_owned).to_vec();
    yard.rule.children = vec![ArchivedChild { table: "items".to_owned(), columns }];
    assert_eq!(yard.run().await.unwrap().pruned_rows, 2);
    assert_eq!(yard.archived("items").await, ["i1"]);

    let make = "DROP TABLE orders;
        CREATE TABLE orders (id INTEGER PRIMARY KEY, up INTEGER REFERENCES orders (id), state TEXT);
        CREATE INDEX orders_up ON orders (up); INSERT INTO orders VALUES (1, NULL, 'closed')";
    let yard = Yard::new(Sqlite::new().await, false);
    yard.shop.change(&statements(make)).await;
    let error = yard.run().await.unwrap_err();
    assert!(is_refused(&error, "on one of their own table"), "{error:?}");
    assert!(!format!("{error:?}").contains("children ="), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_to_find_rows_by_are_those_of_some_table() {
    let mut yard = Yard::new(Sqlite::new().await, false);
    yard.rule.lookup = vec!["token".to_owned(), "tokn".to_owned()];
    let error = yard.run().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
    assert!(format!("{error:?}").contains("tokn"), "{error:?}");
    assert_eq!(yard.store.list("").await.unwrap(), []);
    yard.rule.lookup.pop();
    yard.run().await.unwrap();
}
