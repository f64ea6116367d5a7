//! Triggers that change rows of a set while others of it are deleted: what differs from its file
//! stays, and whoever reads why learns where to look.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use stillpoint::archiver::Quit;
use stillpoint_contract::{ErrorKind, code};

use super::shop::{InPostgres, Shop, Sqlite, Yard};

/// A child's trigger changes its parent, of which the file was written before.
async fn changed<S: Shop>(yard: Yard<S>, make: &[&str], remove: &str) {
    yard.fill(0..20, 1).await;
    let items = yard.shop.table("items");
    let orphan = format!("DELETE FROM {items} WHERE order_id < 10");
    let make = make.iter().map(|one| (*one).to_owned());
    yard.shop.change(&std::iter::once(orphan).chain(make).collect::<Vec<_>>()).await;
    let name = format!("touch of {items}");
    let report = yard.run().await.unwrap();
    assert_eq!((&report.quit, report.pruned_rows), (&Quit::Finished, 10), "{report:?}");
    assert_eq!((report.left_rows, yard.live("items").await.len()), (10, 10), "{report:?}");
    assert_eq!(report.triggers.iter().collect::<Vec<_>>(), [&name], "{report:?}");
    assert!(!report.differences.is_empty(), "{report:?}");
    for one in &report.differences {
        assert!(one.how.contains("may have changed") && one.how.contains(&name), "{one:?}");
    }
    assert!(report.words().contains(&name), "{}", report.words());
    // It was said before, too.
    let advice = report.findings.iter().filter(|one| one.subject == "trigger");
    let advice: Vec<&str> = advice.map(|one| &*one.found).collect();
    assert!(
        advice.len() == 1 && advice[0].contains("rows of the set that it changes"),
        "{advice:?}"
    );

    yard.shop.change(&[remove.to_owned()]).await;
    let report = yard.run().await.unwrap();
    assert_eq!((report.pruned_rows, report.left_rows), (20, 0), "{report:?}");
    assert!(report.triggers.is_empty() && !report.words().contains("trigger"), "{report:?}");
    assert_eq!((yard.archived("orders").await.len(), yard.live("orders").await.len()), (20, 0));
}

/// SQLite names before anything is done which trigger would make the set impossible.
#[tokio::test(flavor = "multi_thread")]
async fn i7_triggers_of_sqlite_that_change_rows_of_the_set_are_refused() {
    let yard = Yard::new(Sqlite::new().await, true);
    yard.fill(0..20, 1).await;
    let amount = "UPDATE orders SET amount = amount + 1 WHERE id = old.order_id";
    let touch = format!("CREATE TRIGGER touch AFTER DELETE ON items BEGIN {amount}; END");
    let other =
        format!("CREATE TRIGGER other_delete AFTER UPDATE OF token ON items BEGIN {amount}; END");
    yard.shop.change(&[touch, other]).await;
    let error = yard.run().await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Refused, code::ROWS_REFUSED), "{error:?}");
    let told = format!("{:?}", error.facts());
    assert!(told.contains("touch") && told.contains("orders"), "{error:?}");
    assert!(!told.contains("other_delete"), "{error:?}");
    assert_eq!(error.advice(), ["DROP TRIGGER \"touch\""], "{error:?}");
    assert_eq!((yard.live("orders").await.len(), yard.live("items").await.len()), (20, 20));

    yard.shop.change(&["DROP TRIGGER touch".to_owned()]).await;
    let report = yard.run().await.unwrap();
    assert_eq!((report.pruned_rows, report.left_rows), (40, 0), "{report:?}");
    assert!(report.triggers.is_empty() && !report.words().contains("trigger"), "{report:?}");
    assert_eq!((yard.archived("orders").await.len(), yard.live("orders").await.len()), (20, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn i7_triggers_of_postgresql_that_change_rows_of_the_set_are_named() {
    let Some(shop) = InPostgres::new(18).await else { return };
    let make = [
        "CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             UPDATE orders SET amount = amount + 1 WHERE id = old.order_id; RETURN NULL; END $$",
        "CREATE TRIGGER touch AFTER DELETE ON items FOR EACH ROW EXECUTE FUNCTION change()",
        "CREATE TRIGGER idle AFTER DELETE ON items FOR EACH ROW EXECUTE FUNCTION change()",
        "ALTER TABLE items DISABLE TRIGGER idle",
        "CREATE TRIGGER other AFTER UPDATE ON items FOR EACH ROW EXECUTE FUNCTION change()",
    ];
    changed(Yard::new(shop, true), &make, "DROP TRIGGER touch ON items").await;
}

/// A trigger deletes rows of a table that hangs on the root without a reference.
async fn cascaded<S: Shop>(yard: Yard<S>, make: &[&str], remove: &str, is_known: bool) {
    yard.fill(0..20, 1).await;
    yard.shop.change(&make.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>()).await;
    let error = yard.run().await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Refused, code::ROWS_REFUSED), "{error:?}");
    let told = format!("{:?}", error.facts());
    assert!(told.contains("parts"), "{error:?}");
    assert!(!is_known || error.advice().contains(&remove), "{error:?}");
    let (orders, parts) = (yard.live("orders").await.len(), yard.live("parts").await.len());
    assert_eq!((orders, parts, yard.archived("orders").await.len()), (20, 2, 0));

    yard.shop.change(&[remove.to_owned()]).await;
    let report = yard.run().await.unwrap();
    assert_eq!(report.quit, Quit::Finished, "{report:?}");
    assert_eq!((yard.live("orders").await.len(), yard.archived("orders").await.len()), (0, 20));
    assert_eq!(yard.live("parts").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn i2_a_trigger_of_sqlite_takes_no_rows_along_that_nothing_archives() {
    let make = [
        "CREATE TABLE parts (order_id INTEGER, token TEXT)",
        "INSERT INTO parts VALUES (3, 'p3'), (4, 'p4')",
        "CREATE TRIGGER casc AFTER DELETE ON orders BEGIN
             DELETE FROM parts WHERE order_id = old.id; END",
    ];
    let yard = Yard::new(Sqlite::new().await, true);
    cascaded(yard, &make, "DROP TRIGGER \"casc\"", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i2_a_trigger_of_postgresql_takes_no_rows_along_that_nothing_archives() {
    let Some(shop) = InPostgres::new(18).await else { return };
    let make = [
        "DROP TABLE IF EXISTS parts",
        "DROP FUNCTION IF EXISTS take",
        "CREATE TABLE parts (order_id integer, token text)",
        "INSERT INTO parts VALUES (3, 'p3'), (4, 'p4')",
        "CREATE FUNCTION take() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             DELETE FROM parts WHERE order_id = old.id; RETURN NULL; END $$",
        "CREATE TRIGGER casc AFTER DELETE ON orders FOR EACH ROW EXECUTE FUNCTION take()",
    ];
    cascaded(Yard::new(shop, true), &make, "DROP TRIGGER casc ON orders", false).await;
}
