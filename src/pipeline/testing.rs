//! What tests and benches of the pipeline share: repeatable randomness, and the pages of a real
//! database, because neither noise nor filler compresses or changes as they do.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
};

use rusqlite::Connection;
use stillpoint_contract::Entropy;

/// Randomness that a seed repeats.
#[derive(Debug)]
pub(crate) struct Seeded {
    seed: u64,
    calls: AtomicU64,
}

impl Seeded {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, calls: AtomicU64::new(0) }
    }

    pub(crate) fn bytes(&self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.fill(&mut bytes);
        bytes
    }

    pub(crate) fn below(&self, limit: u64) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes) % limit
    }
}

impl Entropy for Seeded {
    fn fill(&self, bytes: &mut [u8]) {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        blake3::Hasher::new()
            .update(&self.seed.to_le_bytes())
            .update(&call.to_le_bytes())
            .finalize_xof()
            .fill(bytes);
    }
}

/// A shop's SQLite database in a temporary directory: orders with an integer key, times, amounts,
/// short words, a random token and free text, and two indexes over them.
#[derive(Debug)]
pub(crate) struct Shop {
    directory: tempfile::TempDir,
    random: Seeded,
    rows: u64,
}

impl Shop {
    pub(crate) fn new(rows: u64, seed: u64) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut shop = Self { directory, random: Seeded::new(seed), rows: 0 };
        shop.open()
            .execute_batch(
                "PRAGMA page_size = 4096;
                 CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER NOT NULL,
                     placed_at TEXT NOT NULL, status TEXT NOT NULL, cents INTEGER NOT NULL,
                     token TEXT NOT NULL, note TEXT);
                 CREATE INDEX orders_by_customer ON orders (customer, placed_at);
                 CREATE INDEX orders_by_token ON orders (token);",
            )
            .expect("the schema is valid");
        shop.insert(rows);
        shop
    }

    /// Adds orders at the end.
    pub(crate) fn insert(&mut self, rows: u64) {
        let mut connection = self.open();
        let transaction = connection.transaction().expect("nobody else writes");
        {
            let mut insert = transaction
                .prepare("INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?, ?)")
                .expect("the statement is valid");
            for id in self.rows..self.rows + rows {
                insert.execute(self.order(id).as_params()).expect("the row is valid");
            }
        }
        transaction.commit().expect("there is room");
        self.rows += rows;
    }

    /// Changes status and amount of randomly chosen orders.
    pub(crate) fn update(&mut self, rows: u64) {
        let mut connection = self.open();
        let transaction = connection.transaction().expect("nobody else writes");
        for _ in 0..rows {
            let id = self.random.below(self.rows).cast_signed();
            let cents = self.random.below(500_000).cast_signed();
            transaction
                .execute(
                    "UPDATE orders SET status = 'shipped', cents = ? WHERE id = ?",
                    [cents, id],
                )
                .expect("the row exists");
        }
        transaction.commit().expect("there is room");
    }

    /// The whole file.
    pub(crate) fn pages(&self) -> Vec<u8> {
        fs::read(self.path()).expect("the file exists")
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("shop.db")
    }

    fn open(&self) -> Connection {
        let connection = Connection::open(self.path()).expect("the directory is writable");
        connection
            .execute_batch("PRAGMA synchronous = OFF; PRAGMA cache_size = -65536;")
            .expect("the pragmas are valid");
        connection
    }

    fn order(&self, id: u64) -> Order {
        const STATUS: [&str; 5] = ["new", "paid", "packed", "shipped", "returned"];
        const WORDS: [&str; 16] = [
            "please", "deliver", "after", "six", "ring", "twice", "gift", "wrapped", "fragile",
            "invoice", "to", "office", "second", "floor", "urgent", "thanks",
        ];
        let token = self.random.bytes(12);
        let words = self.random.bytes(usize::from(token[0] % 12));
        let note: Vec<_> = words.iter().map(|&w| WORDS[usize::from(w) % WORDS.len()]).collect();
        let seconds = id * 37 + self.random.below(37);
        Order {
            id,
            customer: self.random.below(20_000),
            placed_at: format!(
                "2026-{:02}-{:02} {:02}:{:02}:{:02}",
                1 + seconds / 2_592_000 % 12,
                1 + seconds / 86_400 % 28,
                seconds / 3600 % 24,
                seconds / 60 % 60,
                seconds % 60
            ),
            status: STATUS[usize::from(token[1]) % STATUS.len()],
            cents: self.random.below(500_000),
            token: data_encoding::HEXLOWER.encode(&token),
            note: (!note.is_empty()).then(|| note.join(" ")),
        }
    }
}

struct Order {
    id: u64,
    customer: u64,
    placed_at: String,
    status: &'static str,
    cents: u64,
    token: String,
    note: Option<String>,
}

impl Order {
    fn as_params(&self) -> impl rusqlite::Params {
        (
            self.id.cast_signed(),
            self.customer.cast_signed(),
            self.placed_at.clone(),
            self.status,
            self.cents.cast_signed(),
            self.token.clone(),
            self.note.clone(),
        )
    }
}
