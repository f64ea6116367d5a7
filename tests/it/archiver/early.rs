//! Holds and events that were recorded before anything was archived: whose rows those are is known
//! once there are files, by the types that their columns have.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, and says what it tried")]

use std::fs;

use chrono::{DateTime, Months, NaiveDate, Utc};
use rusqlite::Connection;
use stillpoint::{
    archiver::{
        Erasing, Expiry, FoundRows, Holding, Wanted, erase, expire, find, hold, look_up, record,
        release, withdraw,
    },
    policy::{EventRule, Period, PeriodUnit},
};
use stillpoint_contract::{ErrorKind, code};

use super::shop::{InPostgres, Shop, Sqlite, Yard};
use crate::serving::ward::{HEAD, Ward};

const WHO: (&str, &str) = ("account closed", "dba");

impl<S: Shop> Yard<S> {
    /// Holds rows of somebody; returns the hold's id.
    async fn holds(&self, column: &str, value: &str) -> String {
        let what = Holding::Subject(None, column, value);
        hold(&self.place, &self.world, what, "LEG-1", "dba").await.unwrap().id
    }

    async fn lets_go(&self, id: &str) {
        release(&self.place, &self.world, id, "over", "dba").await.unwrap();
    }

    /// Keeps files for a month.
    fn keeps_a_month(mut self) -> Self {
        self.rule.keep = Some(Period { count: 1, unit: PeriodUnit::Months });
        self
    }

    /// Expires what is over by some time; three months from now, where that is not said.
    async fn is_over(&self, at: Option<&str>) -> Expiry {
        let later = || self.world.clock.now().checked_add_months(Months::new(3)).unwrap();
        let now: DateTime<Utc> = at.map_or_else(later, |at| at.parse().unwrap());
        let places = [self.place.clone()];
        Box::pin(expire(&places, &self.world, &self.rule, now, false)).await.unwrap()
    }

    async fn happens(&self, column: &str, value: &str, on: &str) -> String {
        let on: NaiveDate = on.parse().unwrap();
        let about = ("closed_at", column, value);
        record(&self.place, &self.world, about, on, WHO).await.unwrap().id
    }

    /// How many rows of the root are archived.
    async fn count(&self) -> u64 {
        let take = async |_: FoundRows| Ok(());
        let wanted = Wanted::default();
        Box::pin(find(&self.place, &self.world.cpu, &wanted, None, take)).await.unwrap()
    }
}

fn retention(column: &str) -> EventRule {
    EventRule {
        after: Period { count: 7, unit: PeriodUnit::Years },
        event: "closed_at".to_owned(),
        subject: column.to_owned(),
    }
}

/// A shop with one row of many types, of which nothing is archived.
async fn people(shop: &InPostgres, has_citext: bool) -> Yard<&InPostgres> {
    shop.reset().await;
    let citext = if has_citext { "citext" } else { "text" };
    let make = format!(
        "DROP TABLE IF EXISTS people; DROP DOMAIN IF EXISTS amount, word;
         CREATE DOMAIN amount AS numeric; CREATE DOMAIN word AS char(8);
         CREATE TABLE people (id int PRIMARY KEY, state text, u uuid, n numeric, d numeric(10, 2),
             c char(8), t text, e {citext}, at timestamptz, m macaddr, a amount, w word, f float8);
         INSERT INTO people VALUES (1, 'closed', '550e8400-e29b-41d4-a716-446655440001', 1.0, 1,
             'AB1', '1', 'Ann@Example.org', '2024-01-01 00:00:00+00', '08:00:2b:01:02:03', 10.50,
             'AB1', 1.5)"
    );
    shop.client().await.batch_execute(&make).await.unwrap();
    let mut yard = Yard::new(shop, false).keeps_a_month();
    "public.people".clone_into(&mut yard.rule.root);
    yard
}

const ID: &str = "550E8400-E29B-41D4-A716-446655440001";

/// What is said of the row before it is archived, and whether it is about it.
const SAID: [(&str, &str, bool); 24] = [
    ("u", ID, true),
    ("u", "{550E8400E29B41D4A716446655440001}", true),
    ("u", "550e8400-e29b-41d4-a716-446655440002", false),
    ("n", "1", true),
    ("n", "1.000", true),
    ("n", "1e0", true),
    ("n", "10", false),
    ("d", "1.0", true),
    ("d", "1", true),
    ("d", "1.01", false),
    ("c", "AB1", true),
    ("c", "AB1     ", true),
    ("c", "AB", false),
    ("t", "1", true),
    ("t", "1.0", false),
    ("e", "ANN@example.org", true),
    ("e", "Ann@Example.com", false),
    ("at", "2024-01-01 01:00:00+01", true),
    ("at", "2024-01-01 01:00:00+00", false),
    ("f", "1.50", true),
    ("f", "1.5000001", false),
    ("id", "01", true),
    ("id", "1.0", true),
    ("id", "2", false),
];

/// What only the database compares, or a column does in its own way: it is kept, and goes for no
/// event.
const DOUBTFUL: [(&str, &str); 4] =
    [("m", "08-00-2B-01-02-03"), ("a", "10.5"), ("w", "AB1"), ("t", "1 ")];

async fn has_citext(shop: &InPostgres) -> bool {
    let create = "CREATE EXTENSION IF NOT EXISTS citext";
    shop.client().await.batch_execute(create).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn i16_who_is_held_before_the_first_run_is_found_as_types_have_it() {
    let Some(shop) = InPostgres::new(18).await else { return };
    let has_citext = has_citext(&shop).await;
    let doubtful = DOUBTFUL.map(|(column, said)| (column, said, true));
    for (column, said, is_about) in SAID.into_iter().chain(doubtful) {
        if column == "e" && !has_citext {
            continue;
        }
        let yard = people(&shop, has_citext).await;
        let at = format!("{column} = {said}");
        let hold = yard.holds(column, said).await;
        assert_eq!(yard.run().await.unwrap().pruned_rows, 1, "{at}");
        let places = [yard.place.clone()];
        let erase = async |column: &'static str, value: &'static str| {
            let of = (None, column, value);
            Box::pin(erase(&places, &yard.world, of, ("Art. 17", "dba"), Erasing::Dry)).await
        };
        let found = erase("id", "1").await.unwrap();
        let held = u64::from(is_about);
        assert_eq!((found.rows, found.held_rows, found.held), (1 - held, held, held), "{at}");
        let kept = yard.is_over(None).await;
        assert_eq!((kept.batches[0].is_held, kept.batches[0].is_unsure), (is_about, false), "{at}");
        assert_eq!(yard.count().await, u64::from(is_about), "{at}");
        yard.lets_go(&hold).await;
        yard.is_over(None).await;
        assert_eq!(yard.count().await, 0, "{at}");
    }
    // Whoever asks for that one to be erased is refused, however that is written.
    let yard = people(&shop, has_citext).await;
    yard.holds("u", ID).await;
    yard.run().await.unwrap();
    let of = (None, "u", "550e8400e29b41d4a716446655440001");
    let places = [yard.place.clone()];
    let refused = erase(&places, &yard.world, of, ("Art. 17", "dba"), Erasing::IfFound).await;
    assert_eq!(refused.unwrap_err().code(), code::HELD);
    shop.client().await.batch_execute("DROP TABLE people").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn i16_events_before_the_first_run_are_about_whom_types_say() {
    let Some(shop) = InPostgres::new(17).await else { return };
    let has_citext = has_citext(&shop).await;
    let doubtful = DOUBTFUL.map(|(column, said)| (column, said, false));
    // What the row has, to the letter, is what it has to any type.
    let exact = [("m", "08:00:2b:01:02:03", true)];
    for (column, said, is_about) in SAID.into_iter().chain(doubtful).chain(exact) {
        if column == "e" && !has_citext {
            continue;
        }
        let mut yard = people(&shop, has_citext).await;
        yard.rule.retention = Some(retention(column));
        if column == "id" && said == "01" {
            // Recorded again since, in another form, with a day that is not over.
            yard.happens(column, said, "2010-01-31").await;
            let later = yard.happens(column, "1", "2040-01-31").await;
            yard.run().await.unwrap();
            assert_eq!(yard.is_over(Some("2030-01-01T00:00:00Z")).await, Expiry::default());
            withdraw(&yard.place, &yard.world, &later, "mistyped", "dba").await.unwrap();
        } else {
            yard.happens(column, said, "2010-01-31").await;
            yard.run().await.unwrap();
        }
        let gone = yard.is_over(Some("2030-01-01T00:00:00Z")).await;
        let rows: u64 = gone.batches.iter().map(|one| one.rows).sum();
        assert_eq!(rows, u64::from(is_about), "{column} = {said}");
        assert_eq!(yard.count().await, 1 - rows, "{column} = {said}");
    }
    shop.client().await.batch_execute("DROP TABLE people").await.unwrap();
}

/// Also of an engine whose values say themselves what they are.
#[tokio::test(flavor = "multi_thread")]
async fn i16_numbers_and_texts_of_sqlite_are_told_apart_before_the_first_run() {
    for (column, said, is_about) in [
        ("amount", "1.50", 1),
        ("amount", "15e-1", 1),
        ("amount", "1.51", 0),
        ("note", "note 1", 1),
        ("note", "NOTE 1", 1),
        ("note", "note 11", 0),
        ("id", "1", 1),
        // To a column of numbers that is one.
        ("id", "01", 1),
        ("id", "note 1", 0),
    ] {
        let yard = Yard::new(Sqlite::new().await, false).keeps_a_month();
        yard.fill(1..2, 0).await;
        yard.holds(column, said).await;
        yard.run().await.unwrap();
        yard.is_over(None).await;
        assert_eq!(yard.count().await, is_about, "{column} = {said}");
    }
}

/// Nobody knows whose rows those are: they stay, and that is said. What had no such column has
/// nobody's.
#[tokio::test(flavor = "multi_thread")]
async fn i16_rows_stay_of_which_nobody_knows_whether_they_are_held() {
    let yard = Yard::new(Sqlite::new().await, false).keeps_a_month();
    yard.fill(0..5, 0).await;
    let hold = yard.holds("note", "note 3").await;
    let rename = "ALTER TABLE orders RENAME COLUMN note TO remark".to_owned();
    yard.shop.change(&[rename]).await;
    assert_eq!(yard.run().await.unwrap().pruned_rows, 5);
    let kept = yard.is_over(None).await;
    assert!(kept.batches[0].is_held && kept.batches[0].is_unsure, "{kept:?}");
    let places = [yard.place.clone()];
    let of = (None, "id", "1");
    let erased = erase(&places, &yard.world, of, ("Art. 17", "dba"), Erasing::Always);
    let erased = Box::pin(erased).await.unwrap();
    assert_eq!((erased.rows, erased.held, yard.count().await), (0, 1, 5));
    yard.lets_go(&hold).await;

    // A column that was added since, and one that has another name since.
    let others = [
        "ALTER TABLE orders ADD COLUMN who TEXT",
        "INSERT INTO orders VALUES (10, 'o10', 'closed', 'note 10', 1, 'ann')",
    ];
    yard.shop.change(&others.map(str::to_owned)).await;
    yard.run().await.unwrap();
    let rename = "ALTER TABLE orders RENAME COLUMN remark TO words".to_owned();
    yard.shop.change(&[rename]).await;
    yard.fill_words(20..22).await;
    yard.run().await.unwrap();
    let held = |expiry: Expiry| -> Vec<(bool, bool)> {
        expiry.batches.iter().map(|one| (one.is_held, one.is_unsure)).collect()
    };
    let hold = yard.holds("words", "note 20").await;
    let unsure = (true, true);
    assert_eq!(held(yard.is_over(None).await), [unsure, unsure, (true, false)]);
    yard.lets_go(&hold).await;
    yard.holds("who", "ann").await;
    let gone = held(yard.is_over(None).await);
    assert_eq!(gone, [(false, false), (true, false), (false, false)]);
    assert_eq!(yard.archived("orders").await, ["o10"]);
}

impl Yard<Sqlite> {
    /// Adds closed orders to the table as it is by then.
    async fn fill_words(&self, ids: std::ops::Range<i64>) {
        let insert = |id| {
            format!("INSERT INTO orders VALUES ({id}, 'o{id}', 'closed', 'note {id}', 1, 'bob')")
        };
        let statements: Vec<String> = ids.map(insert).collect();
        self.shop.change(&statements).await;
    }
}

/// What is written down does not say who that is, and a column is looked for in the database.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_held_before_the_first_run_is_a_secret() {
    let yard = Yard::new(Sqlite::new().await, true);
    let what = Holding::Subject(None, "note", "Somebody-4711");
    let made = hold(&yard.place, &yard.world, what, "LEG-1", "dba").await.unwrap();
    let word = serde_json::to_string(&made).unwrap().to_lowercase();
    assert!(word.contains("leg-1") && !word.contains("somebody"), "{word}");
    let driver = yard.shop.driver().await;
    let look = async |what: Holding<'static>| look_up(&*driver, "orders", what).await;
    look(what).await.unwrap();
    for (table, column) in [(None, "nots"), (Some("nothing"), "note")] {
        let error = look(Holding::Subject(table, column, "x")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Missing, "{error:?}");
    }
}

const ARCHIVE: &str = r#"
[database.shop]
endpoint = "sqlite:shop.db"
[archive.orders]
database = "shop"
root = "orders"
where = "state = 'closed'"
"#;

#[test]
fn a_hold_comes_before_the_first_run() {
    let ward = Ward::new(&format!("{HEAD}{ARCHIVE}"));
    ward.ok(&["init", "--repo", "repo", "--no-encryption"]);
    let shop = Connection::open(ward.path("shop.db")).unwrap();
    let make = "PRAGMA journal_mode = WAL;
        CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER, state TEXT);
        INSERT INTO orders VALUES (1, 41, 'closed'), (2, 42, 'closed')";
    shop.execute_batch(make).unwrap();
    drop(shop);
    let words = |subject: &'static str| {
        ["archive", "hold", "add", "orders", "--case", "LEG-1", "--subject", subject]
    };
    let (status, told) = ward.run(&words("custmer_id=41"));
    assert!(status == 6 && told.contains("customer_id"), "{status} {told}");
    let made = ward.json(&words("customer_id=41"));
    assert_eq!(
        (&made["holds"][0]["subject"], &made["unchecked"]),
        (&"customer_id".into(), &().into())
    );

    // Whoever cannot be asked keeps nobody from being held.
    fs::rename(ward.path("shop.db"), ward.path("away.db")).unwrap();
    let made = ward.json(&words("custmer_id=42"));
    assert!(made["unchecked"].is_string(), "{made:#}");
    let told = ward.ok(&words("custmer_id=42"));
    assert!(told.contains("could not be asked") && told.contains("every row"), "{told}");
    fs::rename(ward.path("away.db"), ward.path("shop.db")).unwrap();
    ward.ok(&["archive", "run", "orders"]);
    let erase = |customer: &str| {
        let subject = format!("customer_id={customer}");
        ward.run(&["archive", "erase", "orders", "--subject", &subject, "--reason", "Art. 17"])
    };
    let (status, told) = erase("41");
    assert!(status == 5 && told.contains("SP0709"), "{status} {told}");
    // As long as nobody knows whom the other holds are about, nobody goes.
    let (status, told) = erase("42");
    assert!(status != 0 && told.contains("may hold"), "{status} {told}");
    let listed = ward.json(&["archive", "hold", "ls", "orders"]);
    for hold in listed["holds"].as_array().unwrap() {
        if hold["subject"] == "custmer_id" {
            let id = hold["id"].as_str().unwrap();
            ward.ok(&["archive", "hold", "release", "orders", id, "--reason", "mistyped"]);
        }
    }
    let (status, told) = erase("42");
    assert!(status == 0 && told.contains("1 row is erased"), "{status} {told}");
}
