//! A shop whose orders are archived: on SQLite, and on PostgreSQL where there is one.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{
    collections::BTreeMap,
    fmt::Display,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::FutureExt as _;
use rusqlite::Connection;
use stillpoint::{
    archiver::{
        Archiving, FoundRows, Gate, Limits, Nobody, Overlap, Place, Reconciling, Returning,
        RunReport, Shelf, Step, Wanted, Witness, file::json_line, find, ledger_of, put_back,
        reconcile, verify,
    },
    policy::{
        ArchiveRule, ArchivedChild, DestinationRule, FileFormat, Gates, Throttle, Verification,
    },
    registry,
    repository::store::{Fs, Key, LocalStore, MemoryStore, Store, Writers},
    world::World,
};
use stillpoint_contract::{Conflict, Driver, Endpoint, Engine, LedgerEntry, PutBackTally, Result};
use stillpoint_testcontainers::Postgres;
use tempfile::TempDir;
use tokio_postgres::{Client, error::SqlState};

use super::keys::{bytes, replace};

/// The table. Each order, and each item, has a token that no other one ever had.
pub(crate) const ORDERS: &str = "
    CREATE TABLE orders (id INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE, state TEXT NOT NULL,
        note TEXT, amount NUMERIC(12, 2))";

/// What some shops have besides.
const ITEMS: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS items (id INTEGER PRIMARY KEY, order_id INTEGER NOT NULL
        REFERENCES orders (id), token TEXT NOT NULL UNIQUE)",
    "CREATE INDEX IF NOT EXISTS items_order ON items (order_id)",
];

/// Leaves nothing of the test before.
pub(crate) const RESET: &str = "
    DROP TABLE IF EXISTS items; DROP TABLE IF EXISTS orders;
    DROP SCHEMA IF EXISTS stillpoint CASCADE;";

/// A database with the shop.
#[async_trait]
pub(crate) trait Shop: Send + Sync {
    /// What can be compared before rows are deleted.
    fn verifications(&self) -> &'static [Verification] {
        &[Verification::Row]
    }

    /// A driver of its own.
    async fn driver(&self) -> Box<dyn Driver>;

    /// Runs statements in one transaction; how many rows each one changed.
    async fn change(&self, statements: &[String]) -> Vec<u64>;

    /// The same, but where the engine refuses what they make of rows that refer to each other, or
    /// has to end one of two that wait for each other: then nothing was changed.
    async fn try_change(&self, statements: &[String]) -> Option<Vec<u64>>;

    /// What a query of one column of text answers.
    async fn ask(&self, query: &str) -> Vec<String>;

    /// The name of one of its tables.
    fn table(&self, name: &str) -> String;
}

/// The shop in a file.
pub(crate) struct Sqlite {
    folder: TempDir,
}

impl Sqlite {
    #[expect(clippy::unused_async, reason = "other shops are made by waiting")]
    pub(crate) async fn new() -> Self {
        let shop = Self { folder: tempfile::Builder::new().prefix("shop-").tempdir().unwrap() };
        let connection = Connection::open(shop.path()).unwrap();
        connection.pragma_update(None, "journal_mode", "WAL").unwrap();
        connection.execute_batch(ORDERS).unwrap();
        shop
    }

    /// A file without any tables.
    pub(crate) async fn empty() -> Self {
        let shop = Self::new().await;
        shop.change(&["DROP TABLE orders".to_owned()]).await;
        shop
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("shop.db")
    }

    fn connect(&self) -> Connection {
        let connection = Connection::open(self.path()).unwrap();
        connection.busy_timeout(Duration::from_secs(30)).unwrap();
        connection.pragma_update(None, "foreign_keys", true).unwrap();
        connection
    }

    /// An error where a row would refer to nothing.
    async fn attempt(&self, statements: &[String]) -> Result<Vec<u64>, String> {
        let mut connection = self.connect();
        let statements = statements.to_vec();
        let change = move || {
            let transaction = connection
                .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
                .unwrap();
            let mut changed = Vec::new();
            for statement in &statements {
                match transaction.execute(statement, []) {
                    Ok(rows) => changed.push(rows as u64),
                    Err(rusqlite::Error::SqliteFailure(cause, why))
                        if cause.code == rusqlite::ErrorCode::ConstraintViolation =>
                    {
                        return Err(format!("{statement}: {}", why.unwrap_or_default()));
                    }
                    Err(error) => panic!("{statement}: {error}"),
                }
            }
            transaction.commit().unwrap();
            Ok(changed)
        };
        tokio::task::spawn_blocking(change).await.unwrap()
    }
}

#[async_trait]
impl Shop for Sqlite {
    async fn driver(&self) -> Box<dyn Driver> {
        driver("sqlite", &self.path().display().to_string()).await
    }

    async fn change(&self, statements: &[String]) -> Vec<u64> {
        self.attempt(statements).await.unwrap_or_else(|why| panic!("{why}"))
    }

    async fn try_change(&self, statements: &[String]) -> Option<Vec<u64>> {
        self.attempt(statements).await.ok()
    }

    async fn ask(&self, query: &str) -> Vec<String> {
        let connection = self.connect();
        let mut statement = connection.prepare(query).unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::<String, _>::unwrap).collect()
    }

    fn table(&self, name: &str) -> String {
        name.to_owned()
    }
}

/// The shop in a server.
pub(crate) struct InPostgres {
    pub(crate) server: Postgres,
}

impl InPostgres {
    /// `None` where there is no such server, which fails in continuous integration.
    pub(crate) async fn new(major: u32) -> Option<Self> {
        let shop = Self { server: Postgres::required(major)? };
        shop.reset().await;
        Some(shop)
    }

    /// As new.
    pub(crate) async fn reset(&self) {
        self.execute(&format!("{RESET}{ORDERS}")).await;
    }

    /// Another database of the server, as new.
    pub(crate) async fn beside(&self, name: &str) -> Beside<'_> {
        let client = self.client().await;
        for statement in ["DROP DATABASE IF EXISTS", "CREATE DATABASE"] {
            // Whoever was killed may still be there for a moment.
            let force = if statement.starts_with("DROP") { "WITH (FORCE)" } else { "" };
            client.batch_execute(&format!("{statement} {name} {force}")).await.unwrap();
        }
        self.known(name)
    }

    /// That database, as it is.
    pub(crate) fn known(&self, name: &str) -> Beside<'_> {
        Beside { server: &self.server, name: name.to_owned() }
    }

    pub(crate) async fn client(&self) -> Client {
        crate::postgres::connect(&self.server).await
    }

    /// Runs statements, of any kind.
    pub(crate) async fn execute(&self, statements: &str) {
        self.client().await.batch_execute(statements).await.unwrap();
    }

    /// The address of its database.
    pub(crate) fn address(&self) -> String {
        format!("//postgres@127.0.0.1:{}/postgres", self.server.port())
    }

    /// An error where a row would refer to nothing, or two wait for each other.
    async fn attempt(&self, statements: &[String]) -> Result<Vec<u64>, String> {
        let mut client = self.client().await;
        let transaction = client.transaction().await.unwrap();
        let mut changed = Vec::new();
        for statement in statements {
            match transaction.execute(statement, &[]).await {
                Ok(rows) => changed.push(rows),
                Err(error) if is_refusal(&error) => return Err(format!("{statement}: {error}")),
                Err(error) => panic!("{statement}: {error}"),
            }
        }
        transaction.commit().await.unwrap();
        Ok(changed)
    }
}

fn is_refusal(error: &tokio_postgres::Error) -> bool {
    let refusals = [SqlState::FOREIGN_KEY_VIOLATION, SqlState::T_R_DEADLOCK_DETECTED];
    error.code().is_some_and(|code| refusals.contains(code))
}

#[async_trait]
impl Shop for InPostgres {
    fn verifications(&self) -> &'static [Verification] {
        &[Verification::Row, Verification::Tuple]
    }

    async fn driver(&self) -> Box<dyn Driver> {
        driver("postgres", &self.address()).await
    }

    async fn change(&self, statements: &[String]) -> Vec<u64> {
        self.attempt(statements).await.unwrap_or_else(|why| panic!("{why}"))
    }

    async fn try_change(&self, statements: &[String]) -> Option<Vec<u64>> {
        // Whoever moves rows does not wait for long: of two, the application gives up.
        let soon = ["SET LOCAL deadlock_timeout = '50ms'".to_owned()];
        let changed = self.attempt(&[&soon[..], statements].concat()).await.ok()?;
        Some(changed[1..].to_vec())
    }

    async fn ask(&self, query: &str) -> Vec<String> {
        let rows = self.client().await.query(query, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    fn table(&self, name: &str) -> String {
        format!("public.{name}")
    }
}

/// Another database of the server that a shop is in, without any tables.
pub(crate) struct Beside<'a> {
    server: &'a Postgres,
    name: String,
}

impl Beside<'_> {
    pub(crate) async fn client(&self) -> Client {
        let address = format!("{} dbname={}", self.server.conninfo(), self.name);
        let (client, connection) =
            tokio_postgres::connect(&address, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }
}

#[async_trait]
impl Shop for Beside<'_> {
    async fn driver(&self) -> Box<dyn Driver> {
        let (port, name) = (self.server.port(), &self.name);
        driver("postgres", &format!("//postgres@127.0.0.1:{port}/{name}")).await
    }

    async fn change(&self, statements: &[String]) -> Vec<u64> {
        let client = self.client().await;
        let mut changed = Vec::new();
        for statement in statements {
            let done = client.execute(statement, &[]).await;
            changed.push(done.unwrap_or_else(|e| panic!("{statement}: {e}")));
        }
        changed
    }

    async fn try_change(&self, statements: &[String]) -> Option<Vec<u64>> {
        Some(self.change(statements).await)
    }

    async fn ask(&self, query: &str) -> Vec<String> {
        let rows = self.client().await.query(query, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    fn table(&self, name: &str) -> String {
        format!("archive.{name}")
    }
}

/// What leads to a shop is one.
macro_rules! lead {
    ($($to:ty),*) => {$(
        #[async_trait]
        impl<S: Shop> Shop for $to {
            fn verifications(&self) -> &'static [Verification] {
                (**self).verifications()
            }

            async fn driver(&self) -> Box<dyn Driver> {
                (**self).driver().await
            }

            async fn change(&self, statements: &[String]) -> Vec<u64> {
                (**self).change(statements).await
            }

            async fn try_change(&self, statements: &[String]) -> Option<Vec<u64>> {
                (**self).try_change(statements).await
            }

            async fn ask(&self, query: &str) -> Vec<String> {
                (**self).ask(query).await
            }

            fn table(&self, name: &str) -> String {
                (**self).table(name)
            }
        }
    )*};
}

lead!(&S, Arc<S>);

pub(crate) async fn driver(scheme: &str, address: &str) -> Box<dyn Driver> {
    let world = World::real(1);
    let engines = registry::engines(&world.clock);
    let engine: &Arc<dyn Engine> =
        engines.iter().find(|engine| engine.schemes().contains(&scheme)).unwrap();
    let endpoint = Endpoint {
        scheme: scheme.to_owned(),
        address: address.to_owned(),
        settings: BTreeMap::new(),
    };
    engine.connect(&endpoint).await.unwrap()
}

/// What is to be archived of orders, with their items where those are named.
pub(crate) fn rule(root: String, items: Option<String>) -> ArchiveRule {
    let child = |table| ArchivedChild { table, columns: Vec::new() };
    ArchiveRule {
        name: "orders".to_owned(),
        database: "shop".to_owned(),
        to: "primary".to_owned(),
        root,
        key: None,
        selects: "state = 'closed'".to_owned(),
        age: None,
        zone: None,
        form: None,
        children: items.into_iter().map(child).collect(),
        includes_unlisted: false,
        derived: Vec::new(),
        format: FileFormat::Parquet,
        destination: DestinationRule::None,
        encryption: None,
        lookup: Vec::new(),
        file_bytes: 64 << 20,
        slice_rows: 10,
        transaction: Duration::from_millis(250),
        verification: Verification::Row,
        gates: Gates::default(),
        detaches: true,
        grace: Duration::ZERO,
        throttle: Throttle::default(),
        schedule: None,
        windows: Vec::new(),
        runtime_max: None,
        reclaim: None,
        sort: Vec::new(),
        keep: None,
        retention: None,
    }
}

/// The tokens of some orders, sorted.
pub(crate) fn tokens(ids: impl IntoIterator<Item: Display>) -> Vec<String> {
    let mut tokens: Vec<String> = ids.into_iter().map(|id| format!("o{id}")).collect();
    tokens.sort();
    tokens
}

/// A store in a directory.
pub(crate) async fn local_store<F: Fs>(fs: F, folder: &Path, world: &World) -> Arc<dyn Store> {
    let (clock, entropy) = (&*world.clock, Arc::clone(&world.entropy));
    let store = LocalStore::open(fs, folder, Writers::Several, clock, entropy).await;
    Arc::new(store.unwrap())
}

/// A shop, and the archive of its closed orders.
pub(crate) struct Yard<S> {
    pub(crate) shop: S,
    pub(crate) world: World,
    pub(crate) rule: ArchiveRule,
    pub(crate) place: Place,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) gates: Vec<Box<dyn Gate>>,
    pub(crate) limits: Limits,
}

impl<S: Shop> Yard<S> {
    /// Orders only, or with their items.
    pub(crate) fn new(shop: S, with_items: bool) -> Self {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        Self::in_store(shop, with_items, store)
    }

    pub(crate) fn in_store(shop: S, with_items: bool, store: Arc<dyn Store>) -> Self {
        let items = with_items.then(|| shop.table("items"));
        let rule = rule(shop.table("orders"), items);
        let place = Place::new(Arc::clone(&store), "orders").unwrap();
        let world = World::real(2);
        let limits = Limits::default();
        Self { shop, world, rule, place, store, gates: Vec::new(), limits }
    }

    /// A run.
    pub(crate) async fn run(&self) -> Result<RunReport> {
        self.run_seen(&Nobody).await
    }

    pub(crate) async fn run_seen(&self, witness: &dyn Witness) -> Result<RunReport> {
        let driver = self.shop.driver().await;
        Box::pin(self.archiving(&*driver, witness).run()).await
    }

    /// A comparison, as after a restore of the database.
    pub(crate) async fn reconcile(&self, may: Reconciling) -> Result<Overlap> {
        self.reconcile_seen(may, &Nobody).await
    }

    pub(crate) async fn reconcile_seen(
        &self,
        may: Reconciling,
        witness: &dyn Witness,
    ) -> Result<Overlap> {
        let driver = self.shop.driver().await;
        Box::pin(reconcile(&self.archiving(&*driver, witness), may)).await
    }

    fn archiving<'a>(&'a self, driver: &'a dyn Driver, witness: &'a dyn Witness) -> Archiving<'a> {
        Archiving {
            driver,
            place: &self.place,
            world: &self.world,
            rule: &self.rule,
            gates: &self.gates,
            limits: self.limits,
            witness,
        }
    }

    /// A run that ends amid its `number`th step, as if it had been killed there. `None` if it was.
    pub(crate) async fn run_until(&self, number: i64) -> Option<Result<RunReport>> {
        let killer = Killer(AtomicI64::new(number));
        let run = std::panic::AssertUnwindSafe(self.run_seen(&killer)).catch_unwind().await;
        run.map_err(|cause| assert!(cause.is::<Killed>(), "it broke")).ok()
    }

    /// Puts everything back that is archived of the root.
    pub(crate) async fn put_back(&self) -> Result<PutBackTally> {
        let driver = self.shop.driver().await;
        let wanted = Wanted { table: Some(self.rule.root.clone()), ..Wanted::default() };
        let returning = Returning { wanted, conflict: Conflict::Fail, staging: None };
        let back = Box::pin(put_back(&self.place, &self.world, &*driver, &returning)).await?;
        Ok(back.first().map(|one| one.tally).unwrap_or_default())
    }

    /// The tokens of a table's archived rows, sorted.
    pub(crate) async fn archived(&self, table: &str) -> Vec<String> {
        let wanted = Wanted { table: Some(self.shop.table(table)), ..Wanted::default() };
        let mut tokens = Vec::new();
        let take = async |found: FoundRows| {
            for row in found.rows.rows() {
                let mut line = Vec::new();
                json_line(row, &found.columns, &mut line)?;
                let row: serde_json::Value = serde_json::from_slice(&line).unwrap();
                tokens.push(row["token"].as_str().unwrap().to_owned());
            }
            Ok(())
        };
        let driver = self.shop.driver().await;
        let ledger = ledger_of(&self.place, &*driver).await.unwrap();
        let found = find(&self.place, &self.world.cpu, &wanted, ledger.as_deref(), take);
        Box::pin(found).await.unwrap();
        tokens.sort();
        tokens
    }

    /// What the ledger says of it.
    pub(crate) async fn ledger(&self) -> Vec<LedgerEntry> {
        let driver = self.shop.driver().await;
        driver.rows().await.unwrap().ledger("orders").await.unwrap()
    }

    /// The files are whole, and have as many rows as the ledger says.
    pub(crate) async fn agrees(&self, rows: u64, at: &str) {
        let ledger = self.ledger().await;
        assert_eq!(ledger.iter().map(|entry| entry.rows).sum::<u64>(), rows, "{at}");
        let found = verify(&self.place, &self.world.cpu, Some(&ledger), |_| true).await.unwrap();
        assert_eq!((found.rows, found.damages.len()), (rows, 0), "{at}: {found:?}");
    }

    /// The tokens of a table's rows, sorted.
    pub(crate) async fn live(&self, table: &str) -> Vec<String> {
        let table = self.shop.table(table);
        let mut tokens = self.shop.ask(&format!("SELECT token FROM {table}")).await;
        tokens.sort();
        tokens
    }

    /// Each of some orders, and the one item that each has, is in its table or in the archive, and
    /// in one of them only.
    pub(crate) async fn conserves_each(&self, ids: impl Iterator<Item = i64> + Clone, at: &str) {
        let orders: Vec<String> = ids.clone().map(|id| format!("o{id}")).collect();
        let items: Vec<String> = ids.map(|id| format!("i{}", id * 100)).collect();
        for (table, mut wanted) in [("orders", orders), ("items", items)] {
            wanted.sort();
            let mut found = [self.live(table).await, self.archived(table).await].concat();
            found.sort();
            assert_eq!(found, wanted, "{table}, {at}");
        }
    }

    /// Lets the plans of all runs but the newest one be of an older version, which did not say how
    /// the engine compares keys and references.
    pub(crate) async fn forget_likeness(&self) {
        let shelf = Shelf::load(&self.place).await.unwrap();
        let (_, older) = shelf.runs.split_last().unwrap();
        for run in older {
            let name = format!("archive/orders/_stillpoint/{}/plan.json", run.plan.run);
            let key = Key::new(name).unwrap();
            let mut plan: serde_json::Value =
                serde_json::from_slice(&bytes(&*self.store, &key).await).unwrap();
            for member in plan["members"].as_array_mut().unwrap() {
                member["table"].as_object_mut().unwrap().remove("alike");
                if let Some(link) = member.get_mut("link") {
                    link.as_object_mut().unwrap().remove("likeness");
                }
            }
            let plan = serde_json::to_vec_pretty(&plan).unwrap();
            replace(&*self.store, &key, plan).await;
        }
    }

    /// Adds closed orders, each with so many items.
    pub(crate) async fn fill(&self, ids: std::ops::Range<i64>, items: i64) {
        let (orders, of_items) = (self.shop.table("orders"), self.shop.table("items"));
        if items > 0 {
            self.shop.change(&ITEMS.map(str::to_owned)).await;
        }
        let mut statements = Vec::new();
        for id in ids {
            statements.push(format!(
                "INSERT INTO {orders} VALUES ({id}, 'o{id}', 'closed', 'note {id}', {id}.50)"
            ));
            statements.extend((0..items).map(|item| {
                let item = id * 100 + item;
                format!("INSERT INTO {of_items} VALUES ({item}, {id}, 'i{item}')")
            }));
        }
        self.shop.change(&statements).await;
    }
}

/// Ends a run amid a step.
#[derive(Debug)]
struct Killer(AtomicI64);

/// What somebody who is killed leaves.
pub(crate) struct Killed;

impl Witness for Killer {
    fn see(&self, _step: &Step) {
        if self.0.fetch_sub(1, Ordering::Relaxed) == 1 {
            std::panic::resume_unwind(Box::new(Killed));
        }
    }
}
