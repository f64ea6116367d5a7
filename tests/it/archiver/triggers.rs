//! Triggers that change rows of a set while others of it are deleted: what differs from its file
//! stays, and whoever reads why learns where to look.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use stillpoint::archiver::Quit;

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

#[tokio::test(flavor = "multi_thread")]
async fn i7_triggers_of_sqlite_that_change_rows_of_the_set_are_named() {
    let trigger = |name: &str, when: &str, then: &str| {
        format!("CREATE TRIGGER {name} AFTER {when} ON items BEGIN {then}; END")
    };
    let amount = "UPDATE orders SET amount = amount + 1 WHERE id = old.order_id";
    let touch = trigger("touch", "DELETE", amount);
    let other = trigger("other_delete", "UPDATE OF token", amount);
    changed(Yard::new(Sqlite::new().await, true), &[&touch, &other], "DROP TRIGGER touch").await;
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
