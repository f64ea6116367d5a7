//! Invariant 4: whatever SQLite can hold comes back out of files as it was, bit by bit.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use rusqlite::{Connection, params_from_iter, types::Value, types::ValueRef};
use stillpoint::policy::FileFormat;

use super::shop::{Sqlite, Yard};

/// A value of each class, and such as affinities turn into others: expressions.
pub(super) const VALUES: &[&str] = &[
    "NULL",
    "0",
    "-1",
    "9223372036854775807",
    "-9223372036854775807 - 1",
    "9007199254740993",
    "9007199254740993.0",
    "1.5",
    "-0.0",
    "0.1",
    "5e-324",
    "1.7976931348623157e308",
    "9e999",
    "-9e999",
    "9e999 - 9e999",
    "1e15",
    "''",
    "'text'",
    "'12'",
    "' 12 '",
    "'1e3'",
    "'0x10'",
    "'-0'",
    "'nan'",
    "'NULL'",
    "'a newline at the end' || char(10)",
    "char(13, 10)",
    "char(9)",
    "'\\N'",
    "'\"quoted\", ''both'''",
    "char(128512, 65279, 8232)",
    "CAST(x'610062' AS TEXT)",
    "CAST(x'ff' AS TEXT)",
    "CAST(x'61c3' AS TEXT)",
    "CAST(x'eda080' AS TEXT)",
    "replace(hex(zeroblob(500000)), '0', 'é')",
    "x''",
    "x'00'",
    "x'0a'",
    "x'616263'",
    "x'ff00fe80c3a9'",
    "CAST('12' AS BLOB)",
    "randomblob(1000000)",
];

/// Tables whose last column or columns take values; `{}` stands for their type.
pub(super) const AFFINITIES: &[&str] = &[
    "",
    "BLOB",
    "INTEGER",
    "INT",
    "BIGINT",
    "TINYINT(1)",
    "UNSIGNED BIG INT",
    "TEXT",
    "VARCHAR(3)",
    "CLOB",
    "REAL",
    "DOUBLE PRECISION",
    "FLOAT",
    "NUMERIC",
    "DECIMAL(10,5)",
    "BOOLEAN",
    "DATE",
    "DATETIME",
    "ANY",
    "JSON",
    "CHARINT",
    "FLOATING POINT",
];

/// Types of strict tables.
const STRICT: &[&str] = &["INT", "INTEGER", "REAL", "TEXT", "BLOB", "ANY"];

/// What a row holds: of each value its class and its bytes.
type Image = Vec<Option<(char, Vec<u8>)>>;

fn image(connection: &Connection, table: &str, order: &str) -> Vec<Image> {
    let query = format!("SELECT * FROM {table} ORDER BY {order}");
    let mut query = connection.prepare(&query).unwrap();
    let columns = query.column_count();
    let value = |value: ValueRef<'_>| match value {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(('i', number.to_be_bytes().to_vec())),
        ValueRef::Real(number) => Some(('r', number.to_bits().to_be_bytes().to_vec())),
        ValueRef::Text(text) => Some(('t', text.to_vec())),
        ValueRef::Blob(bytes) => Some(('b', bytes.to_vec())),
    };
    let rows = query.query_map([], |row| {
        (0..columns).map(|at| Ok(value(row.get_ref(at)?))).collect::<rusqlite::Result<Image>>()
    });
    rows.unwrap().map(Result::unwrap).collect()
}

/// How many rows of a table another one does not have.
fn except(connection: &Connection, one: &str, other: &str) -> i64 {
    let query = format!("SELECT count(*) FROM (SELECT * FROM {one} EXCEPT SELECT * FROM {other})");
    connection.query_row(&query, [], |row| row.get(0)).unwrap()
}

/// Makes a table, archives all of it in each format, and puts it back.
async fn there_and_back(make: &str, order: &str, fill: impl Fn(&Connection)) {
    for format in FileFormat::ALL {
        let shop = Sqlite::new().await;
        let connection = Connection::open(shop.path()).unwrap();
        connection.execute_batch(make).unwrap_or_else(|e| panic!("{make}: {e}"));
        fill(&connection);
        let copy = shop.path().with_extension("kept").display().to_string();
        connection.execute("VACUUM INTO ?", [&copy]).unwrap();
        connection.execute("ATTACH ? AS kept", [&copy]).unwrap();
        let before = image(&connection, "main.every", order);
        assert!(before.len() > 2, "{make}");

        let mut yard = Yard::new(shop, false);
        "every".clone_into(&mut yard.rule.root);
        "1".clone_into(&mut yard.rule.selects);
        yard.rule.format = format;
        let at = format!("{format:?}: {make}");
        let report = yard.run().await.unwrap_or_else(|e| panic!("{at}: {e:?}"));
        assert_eq!(report.pruned_rows as usize, before.len(), "{at}: {report:?}");
        assert!(image(&connection, "main.every", order).is_empty(), "{at}");
        let back = yard.put_back().await.unwrap_or_else(|e| panic!("{at}: {e:?}"));
        assert_eq!(back.inserted as usize, before.len(), "{at}");
        let after = image(&connection, "main.every", order);
        assert_eq!(after.len(), before.len(), "{at}");
        for (row, (after, before)) in after.iter().zip(&before).enumerate() {
            for (column, (after, before)) in after.iter().zip(before).enumerate() {
                let shown = |value: &Option<(char, Vec<u8>)>| {
                    let value = value.as_ref();
                    value.map(|(of, bytes)| (*of, bytes[..bytes.len().min(40)].to_vec()))
                };
                let (was, is) = (shown(before), shown(after));
                assert!(after == before, "{at}: row {row}, column {column}: {was:?}, now {is:?}");
            }
        }
        for (one, other) in [("main.every", "kept.every"), ("kept.every", "main.every")] {
            assert_eq!(except(&connection, one, other), 0, "{at}");
        }
    }
}

/// Every value in a column of every type, where the table takes it.
pub(super) fn fill(connection: &Connection, types: usize) {
    let mut taken = 0;
    for value in VALUES {
        for at in 0..types {
            let insert = format!("INSERT INTO every (c{at}) VALUES ({value})");
            taken += usize::from(connection.execute(&insert, []).is_ok());
        }
    }
    assert!(taken >= 2 * VALUES.len(), "{taken}");
}

pub(super) fn columns(types: &[&str]) -> String {
    let named = types.iter().enumerate().map(|(at, of)| format!("c{at} {of}"));
    named.collect::<Vec<_>>().join(", ")
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_every_value_in_every_column_of_sqlite_comes_back_as_it_was() {
    let make = format!("CREATE TABLE every (id INTEGER PRIMARY KEY, {})", columns(AFFINITIES));
    there_and_back(&make, "id", |connection| fill(connection, AFFINITIES.len())).await;
    let make = format!("CREATE TABLE every (id INTEGER PRIMARY KEY, {}) STRICT", columns(STRICT));
    there_and_back(&make, "id", |connection| fill(connection, STRICT.len())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_generated_and_oddly_named_columns_of_sqlite_come_back() {
    let make = "CREATE TABLE every (\"a \"\"key\"\"\" INTEGER PRIMARY KEY AUTOINCREMENT,
        gone TEXT, \"select\" TEXT, \"größe 😀\" BLOB, \"a.b, c\" REAL NOT NULL DEFAULT 1.5,
        virtual GENERATED ALWAYS AS (\"a \"\"key\"\"\" * 2) VIRTUAL,
        stored TEXT GENERATED ALWAYS AS (hex(\"größe 😀\")) STORED,
        \"\" TEXT DEFAULT 'empty', UPPER TEXT COLLATE NOCASE UNIQUE);
        ALTER TABLE every DROP COLUMN gone; ALTER TABLE every ADD COLUMN later DEFAULT 'old'";
    there_and_back(make, "1", |connection| {
        let insert = "INSERT INTO every (\"select\", \"größe 😀\", UPPER) VALUES (?, ?, ?)";
        for (text, bytes) in [("one", &b"\xff\0"[..]), ("", b""), ("\n", b"\n"), ("ä", b"x")] {
            connection.execute(insert, (text, bytes, format!("U{text}"))).unwrap();
        }
        connection.execute_batch("DELETE FROM every WHERE \"select\" = 'ä'").unwrap();
    })
    .await;
}

/// Keys of any class, of several columns, and compared by each collation.
#[tokio::test(flavor = "multi_thread")]
async fn i4_keys_of_every_class_of_sqlite_find_their_rows() {
    for make in [
        "CREATE TABLE every (a BLOB, b TEXT, c INTEGER, v, PRIMARY KEY (a, b, c)) WITHOUT ROWID",
        "CREATE TABLE every (a NOT NULL, b NUMERIC NOT NULL, c TEXT COLLATE NOCASE NOT NULL, v,
            UNIQUE (a, b, c))",
        "CREATE TABLE every (a TEXT COLLATE RTRIM, b ANY, c TEXT COLLATE NOCASE, v ANY,
            PRIMARY KEY (c DESC, a, b)) STRICT, WITHOUT ROWID",
    ] {
        there_and_back(make, "a, b, c", |connection| {
            let insert = "INSERT OR IGNORE INTO every VALUES (?, ?, ?, ?)";
            let text = |text: &str| Value::Text(text.to_owned());
            let values = [
                Value::Integer(i64::MIN),
                Value::Integer(7),
                Value::Real(7.5),
                Value::Real(f64::INFINITY),
                text(""),
                text("a"),
                text("A"),
                text("a "),
                text("é\n"),
                text("7"),
                Value::Blob(Vec::new()),
                Value::Blob(vec![0xff, 0]),
            ];
            let mut taken = 0;
            for (at, a) in values.iter().enumerate() {
                for (also, b) in values.iter().enumerate().skip(at % 3).step_by(3) {
                    let c = values[(at + also) % values.len()].clone();
                    let row = [a.clone(), b.clone(), c, a.clone()];
                    taken += connection.execute(insert, params_from_iter(row)).unwrap_or(0);
                }
            }
            assert!(taken > 12, "{make}: {taken}");
        })
        .await;
    }
}
