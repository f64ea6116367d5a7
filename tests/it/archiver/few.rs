//! A table of few rows, which the program archives.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use rusqlite::Connection;

use crate::serving::ward::{HEAD, Ward};

const FEW: &str = r#"
[database.shop]
endpoint = "sqlite:shop.db"
[archive.few]
database = "shop"
root = "few"
where = "state = 'closed'"
"#;

/// A configuration that archives it, and what else its policy says.
pub(super) fn configured(more: &str) -> String {
    format!("{HEAD}{FEW}{more}")
}

/// A folder with that, a repository that is not encrypted, and the database: so many rows, of which
/// all are to be archived.
pub(super) fn few(rows: u32, more: &str) -> (Ward, Connection) {
    let ward = Ward::new(&configured(more));
    ward.ok(&["init", "--repo", "repo", "--no-encryption"]);
    let shop = Connection::open(ward.path("shop.db")).unwrap();
    shop.execute_batch("CREATE TABLE few (id INTEGER PRIMARY KEY, v TEXT, state TEXT)").unwrap();
    for id in 1..=rows {
        shop.execute("INSERT INTO few VALUES (?1, 'v' || ?1, 'closed')", [id]).unwrap();
    }
    (ward, shop)
}
