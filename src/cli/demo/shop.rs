//! The demo's database: a shop.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use stillpoint_contract::{Error, ErrorKind, Result, code};

/// How long a customer waits for another one, as applications do.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

const CUSTOMERS: u32 = 2_000;
const PRODUCTS: u32 = 500;
/// Orders before the doors open; about 20 MiB.
const ORDERS_BEFORE_OPENING: u32 = 150_000;

const SCHEMA: &str = "
    PRAGMA journal_mode = WAL;
    CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL, city TEXT NOT NULL);
    CREATE TABLE products (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL, price_cents INTEGER NOT NULL);
    CREATE TABLE orders (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        customer_id INTEGER NOT NULL REFERENCES customers,
        note TEXT NOT NULL,
        total_cents INTEGER NOT NULL
    );
    CREATE TABLE order_lines (
        order_id INTEGER NOT NULL REFERENCES orders,
        line INTEGER NOT NULL,
        product_id INTEGER NOT NULL REFERENCES products,
        quantity INTEGER NOT NULL,
        price_cents INTEGER NOT NULL,
        PRIMARY KEY (order_id, line)
    ) WITHOUT ROWID;
    CREATE TABLE payments (
        id INTEGER PRIMARY KEY,
        order_id INTEGER NOT NULL UNIQUE REFERENCES orders,
        amount_cents INTEGER NOT NULL
    );
    CREATE INDEX orders_by_customer ON orders (customer_id);
";

/// The table that somebody drops by mistake.
pub(super) const PRECIOUS_TABLE: &str = "payments";

/// An order that was confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    /// Its number. Orders are numbered in the order of their commits, without holes.
    pub id: u64,
    /// What it cost, in cents.
    pub total_cents: u64,
}

/// Choices that a seed makes. Good enough for shopping.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    /// Dice that fall the same way for the same seed.
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `limit`.
    pub(super) fn below(&mut self, limit: u32) -> u32 {
        // SplitMix64, Steele, Lea and Flood, OOPSLA 2014, figure 16.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % u64::from(limit.max(1))) as u32
    }
}

/// Opens the shop's database as its application does.
pub(super) fn open(path: &Path) -> Result<Connection> {
    let connection = Connection::open(path).map_err(failed)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    Ok(connection)
}

/// Creates the shop, with stock, customers and a past. Returns the number of its last order.
pub(super) fn found(path: &Path, dice: &mut Dice) -> Result<u64> {
    let build = |dice: &mut Dice| -> rusqlite::Result<u64> {
        let mut connection = Connection::open(path)?;
        connection.execute_batch(SCHEMA)?;
        let transaction = connection.transaction()?;
        stock(&transaction, dice)?;
        let mut last = 0;
        for _ in 0..ORDERS_BEFORE_OPENING {
            last = place_order(&transaction, dice)?.id;
        }
        transaction.commit()?;
        Ok(last)
    };
    build(dice).map_err(failed)
}

fn stock(transaction: &Transaction<'_>, dice: &mut Dice) -> rusqlite::Result<()> {
    const CITIES: [&str; 5] = ["Berlin", "Lisboa", "København", "Kraków", "Zürich"];
    let mut customer = transaction.prepare("INSERT INTO customers VALUES (?1, ?2, ?3)")?;
    for id in 1..=CUSTOMERS {
        let city = CITIES[dice.below(CITIES.len() as u32) as usize];
        customer.execute(params![id, format!("Customer {id}"), city])?;
    }
    let mut product = transaction.prepare("INSERT INTO products VALUES (?1, ?2, ?3)")?;
    for id in 1..=PRODUCTS {
        let price = 99 + dice.below(20_000);
        product.execute(params![id, format!("Product {id}"), price])?;
    }
    Ok(())
}

/// Buys something: an order, its lines and its payment, which always add up.
pub(super) fn place_order(
    transaction: &Transaction<'_>,
    dice: &mut Dice,
) -> rusqlite::Result<Order> {
    let mut order = transaction
        .prepare_cached("INSERT INTO orders (customer_id, note, total_cents) VALUES (?1, ?2, 0)")?;
    let note = format!("leave it with neighbour {:08x}", dice.below(u32::MAX));
    let id = order.insert(params![1 + dice.below(CUSTOMERS), note])?;
    let mut line = transaction.prepare_cached(
        "INSERT INTO order_lines SELECT ?1, ?2, id, ?3, price_cents FROM products WHERE id = ?4
         RETURNING quantity * price_cents",
    )?;
    let mut total = 0_i64;
    for number in 1..=1 + dice.below(4) {
        let (quantity, product) = (1 + dice.below(3), 1 + dice.below(PRODUCTS));
        let row = params![id, number, quantity, product];
        total += line.query_row(row, |row| row.get::<_, i64>(0))?;
    }
    transaction
        .prepare_cached("UPDATE orders SET total_cents = ?2 WHERE id = ?1")?
        .execute(params![id, total])?;
    transaction
        .prepare_cached("INSERT INTO payments (order_id, amount_cents) VALUES (?1, ?2)")?
        .execute(params![id, total])?;
    Ok(Order { id: id.unsigned_abs(), total_cents: total.unsigned_abs() })
}

/// Buys something in a transaction of its own.
pub(super) fn buy(connection: &mut Connection, dice: &mut Dice) -> rusqlite::Result<Order> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let order = place_order(&transaction, dice)?;
    transaction.commit()?;
    Ok(order)
}

/// The mistake.
pub(super) fn drop_precious_table(path: &Path) -> Result<()> {
    let mistake = format!("DROP TABLE {PRECIOUS_TABLE}");
    open(path)?.execute_batch(&mistake).map_err(failed)
}

pub(super) fn failed(error: rusqlite::Error) -> Error {
    Error::new(ErrorKind::Transient, code::FILE, "use the shop's database").caused_by(error)
}
