//! Which archived rows are found: those that the engine would have found in its table.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, and says what it tried")]

use stillpoint::archiver::{
    Erasing, FoundRows, Holding, Returning, Shelf, Wanted, erase, find, hold, put_back,
};
use stillpoint_contract::{Conflict, ErrorKind};

use super::shop::{InPostgres, Shop, Sqlite, Yard};

async fn count<S: Shop>(yard: &Yard<S>, condition: &str) -> u64 {
    let terms = Wanted::terms_of(condition).unwrap();
    let wanted = Wanted { terms, ..Wanted::default() };
    let take = async |_: FoundRows| Ok(());
    Box::pin(find(&yard.place, &yard.world.cpu, &wanted, None, take)).await.unwrap()
}

async fn erased<S: Shop>(yard: &Yard<S>, column: &str, value: &str) -> u64 {
    let places = [yard.place.clone()];
    erase(&places, &yard.world, (None, column, value), ("Art. 17", "dba"), Erasing::Always)
        .await
        .unwrap()
        .rows
}

/// Columns whose declaration says little of what they hold, which are the commonest ones.
#[tokio::test(flavor = "multi_thread")]
async fn values_of_sqlite_are_found_as_what_they_are() {
    let mut yard = Yard::new(Sqlite::new().await, false);
    let day = "date('2020-01-01', '+' || n || ' days')";
    yard.shop
        .change(&[
            "CREATE TABLE visits (code TEXT PRIMARY KEY NOT NULL, state TEXT, at DATETIME, \
             customer NUMERIC(10), paid BOOLEAN, price DECIMAL(8, 2))"
                .to_owned(),
            format!(
                "WITH RECURSIVE r(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM r WHERE n < 999) \
                 INSERT INTO visits SELECT printf('%04d', n), 'closed', {day} || ' 12:00:00', \
                 n % 10, n % 2, n + 0.5 FROM r"
            ),
        ])
        .await;
    "visits".clone_into(&mut yard.rule.root);
    assert_eq!(yard.run().await.unwrap().pruned_rows, 1000);
    for (condition, expected) in [
        ("at < 2021-01-01", 366),
        ("at > 2030-01-01", 0),
        ("paid = 1", 500),
        ("customer = 3", 100),
        ("customer >= 9.0", 100),
        ("price = 7.50", 1),
        ("code = 7", 0),
        ("code = 0007", 1),
    ] {
        assert_eq!(count(&yard, condition).await, expected, "{condition}");
    }
    assert_eq!(erased(&yard, "code", "7").await, 0);
    assert_eq!(erased(&yard, "customer", "3").await, 100);
    assert_eq!(count(&yard, "customer = 3").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_postgresql_are_found_however_they_are_written() {
    let Some(shop) = InPostgres::new(18).await else { return };
    shop.client()
        .await
        .batch_execute(
            "DROP TABLE IF EXISTS visits;
             CREATE TABLE visits (id int PRIMARY KEY, state text, at timestamptz,
                 customer numeric(10, 2), rate float8, code text, paid bool);
             INSERT INTO visits SELECT n, 'closed',
                 timestamptz '2024-01-01 00:00:00+00' + n * interval '1 minute', n % 10,
                 CASE n % 2 WHEN 0 THEN float8 'NaN' ELSE n END, '0' || n, n % 2 = 1
                 FROM generate_series(0, 999) AS n",
        )
        .await
        .unwrap();
    let mut yard = Yard::new(&shop, false);
    "public.visits".clone_into(&mut yard.rule.root);
    assert_eq!(yard.run().await.unwrap().pruned_rows, 1000);
    for (condition, expected) in [
        ("at < '2024-01-01 12:00:00'", 720),
        ("at >= '2024-01-01 12:00:00+00'", 280),
        ("at >= '2024-01-01 14:00:00+02:00'", 280),
        ("customer = 3", 100),
        ("rate = NaN", 500),
        ("rate = 5", 1),
        ("code = 7", 0),
        ("code = 07", 1),
        ("paid = t", 500),
    ] {
        assert_eq!(count(&yard, condition).await, expected, "{condition}");
    }
    assert_eq!(erased(&yard, "customer", "3.0").await, 100);
    assert_eq!(erased(&yard, "paid", "t").await, 500 - 100);
    shop.client().await.batch_execute("DROP TABLE visits").await.unwrap();
}

/// NULL is found by its own name only, also where a file was written before there was the column.
async fn nulls_and_lists_are_found<S: Shop>(yard: &Yard<S>) {
    yard.fill(0..10, 0).await;
    let orders = yard.shop.table("orders");
    yard.shop.change(&[format!("UPDATE {orders} SET note = NULL WHERE id < 4")]).await;
    assert_eq!(yard.run().await.unwrap().pruned_rows, 10);
    yard.shop.change(&[format!("ALTER TABLE {orders} ADD COLUMN city TEXT")]).await;
    let later = "(20, 'o20', 'closed', 'note 20', 1, 'Bonn'), (21, 'o21', 'closed', '', 1, NULL)";
    yard.shop.change(&[format!("INSERT INTO {orders} VALUES {later}")]).await;
    assert_eq!(yard.run().await.unwrap().pruned_rows, 2);
    for (condition, expected) in [
        ("note is null", 4),
        ("note IS NOT NULL", 8),
        ("note = ''", 1),
        ("note != 'note 5'", 7),
        ("note in ('note 5', 'note 7', 'note 1')", 2),
        ("note not in ('note 5', 'note 7')", 6),
        ("city is null", 11),
        ("city is not null", 1),
        ("city = Bonn", 1),
        ("city not in (Ulm)", 1),
        ("note is null and id in (1, 2.0, 9)", 2),
        ("id not in (1, 2)", 10),
    ] {
        assert_eq!(count(yard, condition).await, expected, "{condition}");
    }
    let terms = Wanted::terms_of("note is null").unwrap();
    let wanted = Wanted { terms, ..Wanted::default() };
    let returning = Returning { wanted, conflict: Conflict::Fail, staging: None };
    let driver = yard.shop.driver().await;
    let back = Box::pin(put_back(&yard.place, &yard.world, &*driver, &returning)).await.unwrap();
    assert_eq!(back.iter().map(|one| one.tally.inserted).sum::<u64>(), 4);
    assert_eq!(yard.live("orders").await, ["o0", "o1", "o2", "o3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nulls_and_lists_of_sqlite_are_found() {
    nulls_and_lists_are_found(&Yard::new(Sqlite::new().await, false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nulls_and_lists_of_postgresql_are_found() {
    let Some(shop) = InPostgres::new(18).await else { return };
    let yard = Yard::new(shop, false);
    nulls_and_lists_are_found(&yard).await;
    // Each of a list has to be a value of the column.
    let terms = Wanted::terms_of("id in (1, many)").unwrap();
    let wanted = Wanted { terms, ..Wanted::default() };
    let take = async |_: FoundRows| Ok(());
    let found = Box::pin(find(&yard.place, &yard.world.cpu, &wanted, None, take)).await;
    assert_eq!(found.unwrap_err().kind(), ErrorKind::Invalid);
}

/// One key is in one file, which the manifest tells: no other one is opened.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_looked_for_in_no_file_that_cannot_have_it() {
    let mut yard = Yard::new(Sqlite::new().await, false);
    yard.fill(0..300, 0).await;
    yard.rule.file_bytes = 1;
    yard.run().await.unwrap();
    let files = yard.store.list("archive/orders/orders/").await.unwrap();
    assert!(files.len() > 1, "{files:?}");
    assert_eq!((count(&yard, "id = 299").await, count(&yard, "id = 999").await), (1, 0));
    yard.store.delete(&files.last().unwrap().key).await.unwrap();
    assert_eq!((count(&yard, "id = 0").await, count(&yard, "id = 19").await), (1, 1));
    assert_eq!(count(&yard, "id in (0, 19)").await, 2);
    for condition in ["id = 299", "id in (0, 299)", "id >= 19", "token = o3"] {
        let terms = Wanted::terms_of(condition).unwrap();
        let wanted = Wanted { terms, ..Wanted::default() };
        let take = async |_: FoundRows| Ok(());
        let found = find(&yard.place, &yard.world.cpu, &wanted, None, take);
        assert!(Box::pin(found).await.is_err(), "{condition}");
    }
}

/// Columns that files hold as text, or whose texts have several forms.
#[tokio::test(flavor = "multi_thread")]
async fn values_are_found_whose_texts_are_not_in_the_order_of_their_types() {
    let Some(shop) = InPostgres::new(17).await else { return };
    let make = "CREATE TABLE things (id int PRIMARY KEY, state text, amount numeric, u uuid,
            code char(8), iv interval, ip inet, t time, doc json);
         INSERT INTO things SELECT n, 'closed', CASE n WHEN 9 THEN 'NaN' ELSE n * 10.50 END,
            ('550e8400-e29b-41d4-a716-44665544000' || n)::uuid, 'AB' || n, n * interval '10 hours',
            ('10.0.0.' || n * 20)::inet, time '00:30' + n * interval '1 hour', '{}'
         FROM generate_series(0, 9) AS n";
    shop.client().await.batch_execute(make).await.unwrap();
    let mut yard = Yard::new(&shop, false);
    "public.things".clone_into(&mut yard.rule.root);
    assert_eq!(yard.run().await.unwrap().pruned_rows, 10);
    for (condition, expected) in [
        ("amount > 9", 9),
        ("amount > 84", 1),
        ("amount = 10.5", 1),
        ("u = 550E8400-E29B-41D4-A716-446655440003", 1),
        ("code = AB7", 1),
        ("iv > '40:00:00'", 5),
        ("iv <= '1 day'", 3),
        ("ip < 10.0.0.100", 5),
        ("t = 01:30", 1),
        ("t >= 05:00", 5),
        ("doc = {}", 10),
    ] {
        assert_eq!(count(&yard, condition).await, expected, "{condition}");
    }
    for wrong in ["amount > many", "doc > {}", "u = 550E", "t = noon"] {
        let terms = Wanted::terms_of(wrong).unwrap();
        let wanted = Wanted { terms, ..Wanted::default() };
        let take = async |_: FoundRows| Ok(());
        let found = find(&yard.place, &yard.world.cpu, &wanted, None, take);
        assert_eq!(Box::pin(found).await.unwrap_err().kind(), ErrorKind::Invalid, "{wrong}");
    }
    assert_eq!(erased(&yard, "amount", "42.0").await, 1);
    // Whoever is held is held however that is written.
    let held = Holding::Subject(None, "u", "{550E8400E29B41D4A716446655440003}");
    hold(&yard.place, &yard.world, held, "LEG-1", "dba").await.unwrap();
    let places = [yard.place.clone()];
    let subject = (None, "code", "AB3");
    let asked = erase(&places, &yard.world, subject, ("Art. 17", "dba"), Erasing::Always);
    let done = asked.await.unwrap();
    assert_eq!((done.rows, done.held), (0, 1), "{done:?}");
}

/// However small slices are, a manifest stays short enough to be read.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_has_no_more_slices_than_its_manifest_can_hold() {
    let mut yard = Yard::new(Sqlite::new().await, false);
    yard.rule.slice_rows = 1;
    yard.shop
        .change(&[
            "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 5000) \
             INSERT INTO orders SELECT n, 'o' || n, 'closed', 'n', 1 FROM r"
                .to_owned(),
        ])
        .await;
    assert_eq!(yard.run().await.unwrap().pruned_rows, 5000);
    let shelf = Shelf::load(&yard.place).await.unwrap();
    let slices: Vec<usize> =
        shelf.runs[0].batches.values().map(|one| one.batch.slices.len()).collect();
    assert!(slices.len() > 1 && slices.iter().all(|count| *count <= 4096), "{slices:?}");
    assert_eq!(slices.iter().sum::<usize>(), 5000);
}

/// Texts of digits are texts: of those who look alike, one is erased.
#[tokio::test(flavor = "multi_thread")]
async fn who_looks_like_somebody_is_not_erased() {
    let mut yard = Yard::new(Sqlite::new().await, false);
    yard.shop
        .change(&[
            "CREATE TABLE people (id INTEGER PRIMARY KEY, state TEXT, code)".to_owned(),
            "INSERT INTO people VALUES (1, 'closed', '007'), (2, 'closed', '07'), \
             (3, 'closed', '7'), (4, 'closed', 7), (5, 'closed', 7.0), (6, 'closed', x'37')"
                .to_owned(),
        ])
        .await;
    "people".clone_into(&mut yard.rule.root);
    assert_eq!(yard.run().await.unwrap().pruned_rows, 6);
    assert_eq!(count(&yard, "code = 007").await, 1);
    assert_eq!(erased(&yard, "code", "007").await, 1);
    assert_eq!(erased(&yard, "code", "7").await, 3);
    assert_eq!(count(&yard, "id > 0").await, 2);
}

/// A column that was kept as exact text in one file is still of numbers.
#[tokio::test(flavor = "multi_thread")]
async fn subjects_are_found_in_files_whose_columns_are_text() {
    let Some(shop) = InPostgres::new(18).await else { return };
    shop.client()
        .await
        .batch_execute(
            "DROP TABLE IF EXISTS people;
             CREATE TABLE people (id int PRIMARY KEY, state text, code numeric(10, 2));
             INSERT INTO people VALUES (1, 'closed', 3), (2, 'closed', 'NaN'), (3, 'closed', 30)",
        )
        .await
        .unwrap();
    let mut yard = Yard::new(&shop, false);
    "public.people".clone_into(&mut yard.rule.root);
    assert_eq!(yard.run().await.unwrap().pruned_rows, 3);
    assert_eq!(count(&yard, "code < 4").await, 1);
    assert_eq!(erased(&yard, "code", "3").await, 1);
    assert_eq!(count(&yard, "id > 0").await, 2);
    shop.client().await.batch_execute("DROP TABLE people").await.unwrap();
}
