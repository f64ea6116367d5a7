//! What is printed for query engines shows archived rows, each once and as it was, and no others.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::sync::Arc;

use stillpoint::{
    archiver::{Quit, Shelf, duckdb_views},
    policy::FileFormat,
    repository::store::{LocalStore, RealFs, Store, Writers},
    world::World,
};
use stillpoint_testcontainers::DuckDb;

use super::shop::{Shop as _, Sqlite, Yard};

/// Texts that are something else to those who guess.
const NOTES: &[Option<&str>] = &[
    None,
    Some(""),
    Some("a newline at the end\n"),
    Some("\r\n"),
    Some("\"quoted\""),
    Some("'single', and a comma"),
    Some("NULL"),
    Some("\\N"),
    Some("\\"),
    Some(" spaces "),
    Some("\ttab"),
    Some("é 😀"),
    Some("007"),
    Some("1e3"),
    Some("{\"a\": 1}"),
];

/// The rows of a view, as texts.
fn seen(duckdb: &DuckDb, views: &str, query: &str) -> Vec<Vec<Option<String>>> {
    let answer = duckdb.query(&format!("{views}\n{query}"));
    let answer = answer.unwrap_or_else(|error| panic!("{views}\n{query}\n{error}"));
    answer.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn show(duckdb: &DuckDb, format: FileFormat, notes: &[Option<&str>]) {
    let folder = tempfile::tempdir().unwrap();
    let world = World::real(3);
    let root = folder.path().join("it's here");
    let entropy = Arc::clone(&world.entropy);
    let store = LocalStore::open(RealFs, &root, Writers::Several, &*world.clock, entropy).await;
    let store: Arc<dyn Store> = Arc::new(store.unwrap());
    let mut yard = Yard::in_store(Sqlite::new().await, true, store);
    yard.rule.format = format;
    yard.rule.file_bytes = 1;
    let mut wanted = Vec::new();
    yard.fill(0..45, 1).await;
    let connection = rusqlite::Connection::open(yard.shop.path()).unwrap();
    for id in 0..45 {
        let note = notes[id as usize % notes.len()];
        let update = "UPDATE orders SET note = ? WHERE id = ?";
        connection.execute(update, (note, id)).unwrap();
        wanted.push(vec![Some(format!("o{id}")), note.map(str::to_owned)]);
    }
    assert_eq!(yard.run().await.unwrap().pruned_rows, 90);
    // Files of a later schema.
    yard.shop.change(&["ALTER TABLE orders ADD COLUMN later TEXT".to_owned()]).await;
    wanted.extend(fill_later(&yard, 45..60, notes));
    assert_eq!(yard.run().await.unwrap().pruned_rows, 15);
    // Rows that live: open ones, and closed ones whose files are there already.
    fill_later(&yard, 60..70, notes);
    yard.shop.change(&["UPDATE orders SET state = 'open' WHERE id > 65".to_owned()]).await;
    yard.limits.keeps_source = true;
    assert_eq!(yard.run().await.unwrap().quit, Quit::KeptSource);

    let views = duckdb_views(&yard.place, &Shelf::load(&yard.place).await.unwrap()).await.unwrap();
    let found = seen(
        duckdb,
        &views,
        "SELECT token, note FROM orders ORDER BY CAST(substr(token, 2) AS INTEGER)",
    );
    assert_eq!(found.len(), wanted.len(), "{format:?}");
    for (found, wanted) in found.iter().zip(&wanted) {
        assert_eq!(found, wanted, "{format:?}");
    }
    let items = seen(duckdb, &views, "SELECT token FROM orders_items");
    assert_eq!(items.len(), 45, "{format:?}");
    let later = "SELECT count(*), count(later), min(later) FROM orders";
    let later = seen(duckdb, &views, later).concat();
    assert_eq!(later, ["60", "15", "later"].map(|text| Some(text.to_owned())), "{format:?}");
}

/// Fills the table as it is since.
fn fill_later(
    yard: &Yard<Sqlite>,
    ids: std::ops::Range<i64>,
    notes: &[Option<&str>],
) -> Vec<Vec<Option<String>>> {
    let connection = rusqlite::Connection::open(yard.shop.path()).unwrap();
    let mut rows = Vec::new();
    for id in ids {
        let note = notes[id as usize % notes.len()];
        let insert = "INSERT INTO orders VALUES (?1, 'o' || ?1, 'closed', ?2, 1.5, 'later')";
        connection.execute(insert, (id, note)).unwrap();
        rows.push(vec![Some(format!("o{id}")), note.map(str::to_owned)]);
    }
    rows
}

/// Also pt-archiver 8: text that nobody else reads as it was.
#[tokio::test(flavor = "multi_thread")]
async fn duckdb_sees_exactly_what_is_archived() {
    let Some(duckdb) = DuckDb::required() else { return };
    for format in FileFormat::ALL {
        show(&duckdb, format, NOTES).await;
    }
}

/// Where all texts of a column look like times or numbers, they are texts all the same.
#[tokio::test(flavor = "multi_thread")]
async fn duckdb_takes_no_text_for_something_else() {
    let Some(duckdb) = DuckDb::required() else { return };
    for notes in [
        [Some("2024-01-01T00:00:00")],
        [Some("00010203-0405-0607-0809-0A0B0C0D0E0F")],
        [Some("12:00")],
        [Some("007")],
        [Some("")],
        [None],
    ] {
        for format in FileFormat::ALL {
            show(&duckdb, format, &notes).await;
        }
    }
}
