//! Second copies of which something is gone: the next run brings it again. What is there, and is
//! not what was written, is told and stays as it is.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, and says what it tried")]

use std::sync::Arc;

use stillpoint::{
    archiver::{
        Erasing, Holding, Place, Quit, Shelf, Verified, erase, hold, verify, verify_second,
    },
    repository::store::{Key, Store},
};
use stillpoint_contract::ErrorKind;

use super::{
    keys::{bytes, copy_of, names, replace},
    renewed::{SUBJECT, WHO, archived, are_one, doubled, files, memory},
    shop::{Shop as _, Sqlite, Yard},
};

/// Orders in two batches, with a second copy of them, and where that is.
async fn copied(first: Arc<dyn Store>, second: Arc<dyn Store>) -> (Yard<Sqlite>, Place) {
    let (yard, to) = doubled(first, second).await;
    for ids in [0..12, 12..20] {
        yard.fill(ids, 1).await;
        assert!(yard.run().await.unwrap().quit.is_done());
    }
    (yard, to)
}

async fn damages(yard: &Yard<Sqlite>, place: &Place) -> usize {
    verify(place, &yard.world.cpu, None, |_| true).await.unwrap().damages.len()
}

/// The folder of documents of the first run.
async fn folder(yard: &Yard<Sqlite>) -> String {
    let shelf = Shelf::load(&yard.place).await.unwrap();
    format!("archive/orders/_stillpoint/{}/", shelf.runs[0].plan.run)
}

#[tokio::test(flavor = "multi_thread")]
async fn i2_what_is_gone_from_a_second_copy_is_brought_again() {
    let stores = [memory(), memory()];
    let (yard, to) = copied(Arc::clone(&stores[0]), Arc::clone(&stores[1])).await;
    let intact = copy_of(&*stores[1]).await;
    let folder = folder(&yard).await;
    let of_run = files(&*stores[1]).await;
    let manifest = "000001.0000.json";
    for gone in [
        vec![manifest],
        vec!["plan.json"],
        vec![manifest, "000001.sealed.json"],
        vec![manifest, "plan.json", "end.json"],
        vec![&*of_run[0]],
        vec![manifest, &*of_run[0]],
        of_run.iter().map(|name| &**name).collect(),
    ] {
        for name in &gone {
            let is_file = name.starts_with("archive/");
            let name = if is_file { (*name).to_owned() } else { format!("{folder}{name}") };
            stores[1].delete(&Key::new(name).unwrap()).await.unwrap();
        }
        assert!(damages(&yard, &to).await > 0, "{gone:?}");
        assert_eq!(yard.run().await.unwrap().quit, Quit::NothingSelected, "{gone:?}");
        are_one(&yard, &to, [&stores[0], &stores[1]], &format!("{gone:?}")).await;
        let listed = [names(&*stores[1], &folder).await, names(&*intact, &folder).await];
        assert_eq!(listed[0], listed[1], "{gone:?}");
        for name in &listed[0] {
            assert_eq!(bytes(&*stores[1], name).await, bytes(&*intact, name).await, "{name}");
        }
        assert_eq!(archived(&yard, &to, "").await, 20, "{gone:?}");
    }
}

/// What a verification finds at the second place, seen from the first one.
async fn seen(yard: &Yard<Sqlite>, to: &Place) -> Verified {
    Box::pin(verify_second(&yard.place, to, &yard.world.cpu, |_| true)).await.unwrap()
}

/// Runs from before there was a second place, and all that there was of it: the next run brings
/// them, and until then somebody is told.
#[tokio::test(flavor = "multi_thread")]
async fn i2_batches_that_a_second_place_never_had_or_lost_are_brought() {
    let stores = [memory(), memory()];
    let (mut yard, to) = doubled(Arc::clone(&stores[0]), Arc::clone(&stores[1])).await;
    let gates = std::mem::take(&mut yard.gates);
    for ids in [0..12, 12..20] {
        yard.fill(ids, 1).await;
        assert!(yard.run().await.unwrap().quit.is_done());
    }
    // What waits is not sealed, and nobody misses it.
    yard.fill(20..24, 1).await;
    yard.limits.keeps_source = true;
    assert_eq!(yard.run().await.unwrap().quit, Quit::KeptSource);
    let set = "archive/orders/";
    assert_eq!(names(&*stores[1], set).await.len(), 0);
    yard.gates = gates;
    for what in ["it never had them", "it lost them"] {
        let found = seen(&yard, &to).await;
        let whose: Vec<_> = found.damages.iter().map(|one| (&*one.run, one.batch)).collect();
        let shelf = Shelf::load(&yard.place).await.unwrap();
        let runs: Vec<_> = shelf.runs[..2].iter().map(|run| (&*run.plan.run, 1_u32)).collect();
        assert_eq!(whose, runs, "{what}: {found:?}");
        let error = &found.damages[0].error;
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}");
        assert!(error.advice().iter().any(|next| next.contains("archive run orders")), "{what}");

        assert_eq!(yard.run().await.unwrap().quit, Quit::KeptSource, "{what}");
        let found = seen(&yard, &to).await;
        assert_eq!((found.rows, found.damages.len()), (40, 0), "{what}: {found:?}");
        assert_eq!(archived(&yard, &to, "").await, 20, "{what}");
        for name in names(&*stores[1], set).await {
            let both = [bytes(&*stores[0], &name).await, bytes(&*stores[1], &name).await];
            assert_eq!(both[0], both[1], "{what}: {name}");
            stores[1].delete(&name).await.unwrap();
        }
    }
    yard.limits.keeps_source = false;
    assert!(yard.run().await.unwrap().quit.is_done());
    are_one(&yard, &to, [&stores[0], &stores[1]], "all of them").await;
}

/// Nothing is overwritten that is there, whatever it is; all the rest is brought.
#[tokio::test(flavor = "multi_thread")]
async fn i5_what_is_damaged_in_a_second_copy_is_told_and_left() {
    let stores = [memory(), memory()];
    let (yard, to) = copied(Arc::clone(&stores[0]), Arc::clone(&stores[1])).await;
    let shelf = Shelf::load(&to).await.unwrap();
    let manifest = |run: usize| {
        let run = &shelf.runs[run].plan.run;
        Key::new(format!("archive/orders/_stillpoint/{run}/000001.0000.json")).unwrap()
    };
    let file = |member: usize| {
        let batch = &shelf.runs[0].batches[&1].batch;
        Key::new(&*batch.members[member].file.as_ref().unwrap().key).unwrap()
    };
    for (gone, damaged) in
        [(manifest(0), file(0)), (file(0), manifest(0)), (file(0), file(1)), (file(1), file(0))]
    {
        let what = format!("{gone} is gone, {damaged} is damaged");
        let was = bytes(&*stores[1], &damaged).await;
        let mut other = was.clone();
        let middle = other.len() / 2;
        other[middle..].reverse();
        assert_ne!(other, was);
        replace(&*stores[1], &damaged, other.clone()).await;
        for key in [&gone, &manifest(1)] {
            stores[1].delete(key).await.unwrap();
        }
        let error = yard.run().await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Refused), "{error:?}");
        assert_eq!(bytes(&*stores[1], &damaged).await, other, "{what}");
        let second = manifest(1);
        assert_eq!(bytes(&*stores[1], &second).await, bytes(&*stores[0], &second).await, "{what}");
        // Whoever puts back what was there lets the next run bring the rest.
        replace(&*stores[1], &damaged, was).await;
        assert_eq!(yard.run().await.unwrap().quit, Quit::NothingSelected, "{what}");
        are_one(&yard, &to, [&stores[0], &stores[1]], &what).await;
    }
}

/// Rows that somebody holds, and that only the second copy still has, stay there: its manifest is
/// brought again, and not the files of the first place.
#[tokio::test(flavor = "multi_thread")]
async fn i16_rows_that_are_held_stay_in_a_second_copy_that_lost_its_manifest() {
    let stores = [memory(), memory()];
    let (yard, to) = doubled(Arc::clone(&stores[0]), Arc::clone(&stores[1])).await;
    yard.fill(0..20, 1).await;
    yard.shop.change(&["UPDATE orders SET note = 'erase-me' WHERE id = 7".to_owned()]).await;
    assert!(yard.run().await.unwrap().quit.is_done());
    let before = files(&*stores[1]).await;
    let first = [yard.place.clone()];
    let erased = erase(&first, &yard.world, SUBJECT, WHO, Erasing::IfFound);
    assert_eq!(Box::pin(erased).await.unwrap().rows, 2);
    let (table, column, value) = SUBJECT;
    let held = Holding::Subject(table, column, value);
    hold(&yard.place, &yard.world, held, "LEG-1", "dba").await.unwrap();
    let manifest = format!("{}000001.0000.json", folder(&yard).await);
    stores[1].delete(&Key::new(manifest).unwrap()).await.unwrap();
    assert!(damages(&yard, &to).await > 0);

    assert_eq!(yard.run().await.unwrap().quit, Quit::NothingSelected);
    assert_eq!((damages(&yard, &to).await, files(&*stores[1]).await), (0, before));
    assert_eq!(archived(&yard, &to, "note = 'erase-me'").await, 1);
    assert_eq!(archived(&yard, &yard.place, "note = 'erase-me'").await, 0);
}
