//! Deleting rows.

use std::time::Duration;

use stillpoint_contract::{ArchiveSet, ErrorKind, KeyRange, Pruning, Result, Rows};

use super::moved::{
    Kept, OLD, ORDERS, PATIENCE, entry, exported, family, fill, key, name, number, settles,
};
use crate::stage::{Failure, Outcome, Stage, Verdict, abandon, ensure, kind_of};

/// Opens a session that may delete.
pub(super) async fn ready(stage: &Stage) -> Result<(Box<dyn Rows>, ArchiveSet), Failure> {
    let mut rows = stage.driver.rows().await?;
    let set = family(stage, rows.as_mut()).await?;
    rows.lock(&set.name, PATIENCE).await?;
    rows.open_ledger().await?;
    Ok((rows, set))
}

/// Deletes everything of a set in a range, those that refer to others first.
pub(super) async fn delete_all(
    pruning: &mut dyn Pruning,
    set: &ArchiveSet,
    range: &KeyRange,
) -> Result<Vec<Vec<Vec<u8>>>> {
    let mut all = Vec::new();
    for member in (0..set.members.len()).rev() {
        let mut kept = Kept::default();
        let count = pruning.delete(set, member, range, &mut kept).await?;
        assert_eq!(count, kept.0.len() as u64, "it says another number than it hands over");
        all.push(kept.sorted());
    }
    all.reverse();
    Ok(all)
}

pub(crate) async fn deleted_rows_are_those_that_were_exported(stage: &Stage) -> Verdict {
    fill(stage).await?;
    let (mut rows, set) = ready(stage).await?;
    let all = KeyRange::default();
    let mut before = Vec::new();
    for member in 0..3 {
        before.push(exported(rows.as_mut(), &set, member, &all).await?.sorted());
    }
    ensure!(before[0].len() as u64 == OLD, "{} rows are old", before[0].len());
    let estimate = rows.estimate(&set).await?;
    ensure!(estimate.rows == OLD && estimate.bytes > 0, "{estimate:?}");
    let mut pruning = rows.prune().await?;
    let shown: Vec<_> = set.members.iter().map(|m| m.table.fingerprint.clone()).collect();
    ensure!(pruning.fingerprints(&set).await? == shown, "the schema looks changed");
    let deleted = delete_all(pruning.as_mut(), &set, &all).await?;
    ensure!(deleted == before, "deleted rows are not those that were exported");
    pruning.commit().await?;
    for (table, left) in [("orders", u64::from(ORDERS) - OLD), ("items", 80), ("parts", 80)] {
        settles(stage, table, left).await?;
    }
    let left = "SELECT count(*) FROM orders WHERE status = 'closed' AND placed < '2020-01-01'";
    ensure!(number(stage, left).await? == 0, "old ones are left");
    ensure!(rows.burden(&set).await?.dead_rows != Some(u64::MAX), "it cannot be asked");
    ensure!(rows.space(&set.root().table).await?.total_bytes > 0, "it takes no space");
    Ok(Outcome::Proven)
}

/// The versions of a member's rows.
async fn versions(rows: &mut dyn Rows, set: &ArchiveSet, member: usize) -> Result<Kept, Failure> {
    let mut kept = Kept::default();
    let mut snapshot = rows.snapshot().await?;
    let count = snapshot.versions(set, member, &KeyRange::default(), &mut kept).await?;
    ensure!(count == kept.0.len() as u64, "{count} versions, it says, of {}", kept.0.len());
    Ok(kept)
}

pub(crate) async fn versions_that_are_told_apart_stand_for_rows(stage: &Stage) -> Verdict {
    fill(stage).await?;
    let (mut rows, set) = ready(stage).await?;
    if let Some(why) = rows.why_no_versions(&set).await? {
        let mut snapshot = rows.snapshot().await?;
        let told = snapshot.versions(&set, 0, &KeyRange::default(), &mut Kept::default()).await;
        ensure!(kind_of(&told) == Some(ErrorKind::Unsupported), "it tells versions: {told:?}");
        return Ok(Outcome::NotApplicable(why));
    }
    let before = versions(rows.as_mut(), &set, 0).await?.sorted();
    ensure!(before.len() as u64 == OLD, "{} rows have versions", before.len());
    ensure!(before.windows(2).all(|two| two[0] != two[1]), "two rows have the same version");
    // Written again, each row is as it was, and is another version.
    stage.server.execute("UPDATE orders SET placed = placed").await?;
    let mut after = Vec::new();
    for member in 0..3 {
        after.push(versions(rows.as_mut(), &set, member).await?.sorted());
    }
    ensure!(after[0].iter().all(|one| !before.contains(one)), "a change makes no other version");
    let mut pruning = rows.prune().await?;
    for member in (0..3).rev() {
        let mut kept = Kept::default();
        pruning.delete_versions(&set, member, &KeyRange::default(), &mut kept).await?;
        ensure!(kept.sorted() == after[member], "other versions were deleted, of table {member}");
    }
    pruning.commit().await?;
    settles(stage, "orders", u64::from(ORDERS) - OLD).await?;
    Ok(Outcome::Proven)
}

pub(crate) async fn rows_hang_on_those_they_refer_to(stage: &Stage) -> Verdict {
    fill(stage).await?;
    let (mut rows, set) = ready(stage).await?;
    let roots = exported(rows.as_mut(), &set, 0, &KeyRange::default()).await?.0;
    let (after, to) = (Some(key(&set, &roots[4])?), Some(key(&set, &roots[6])?));
    let range = KeyRange { after, to, ..KeyRange::default() };
    let mut expected = Vec::new();
    for member in 0..3 {
        expected.push(exported(rows.as_mut(), &set, member, &range).await?.sorted());
    }
    let lengths: Vec<_> = expected.iter().map(Vec::len).collect();
    ensure!(lengths == [2, 4, 4], "of two orders there are {lengths:?}");
    let mut pruning = rows.prune().await?;
    ensure!(delete_all(pruning.as_mut(), &set, &range).await? == expected, "others were deleted");
    pruning.commit().await?;
    settles(stage, "orders", u64::from(ORDERS) - 2).await?;
    settles(stage, "parts", u64::from(ORDERS) * 2 - 4).await?;
    let after = exported(rows.as_mut(), &set, 0, &KeyRange::default()).await?.0;
    ensure!(after.len() == roots.len() - 2, "{} are left", after.len());
    Ok(Outcome::Proven)
}

pub(crate) async fn a_dropped_deletion_never_was(stage: &Stage) -> Verdict {
    fill(stage).await?;
    let all = KeyRange::default();
    for pendings in (0..8).chain([12, 20, 33, 65]) {
        let (mut rows, set) = ready(stage).await?;
        let cut = async {
            let mut pruning = rows.prune().await?;
            pruning.fingerprints(&set).await?;
            delete_all(pruning.as_mut(), &set, &all).await?;
            pruning.note(&entry(1)).await?;
            // Dropped instead of being committed, at the latest.
            Ok::<_, stillpoint_contract::Error>(())
        };
        abandon(cut, pendings).await.transpose()?;
        settles(stage, "orders", u64::from(ORDERS)).await?;
        settles(stage, "parts", u64::from(ORDERS) * 2).await?;
        drop(rows);
        stage.settled().await?;
    }
    // In the middle of handing over, and in another way: told so.
    let (mut rows, set) = ready(stage).await?;
    let mut pruning = rows.prune().await?;
    delete_all(pruning.as_mut(), &set, &all).await?;
    pruning.roll_back().await?;
    settles(stage, "items", u64::from(ORDERS) * 2).await?;
    ensure!(rows.ledger("set").await?.is_empty(), "the ledger tells of what never was");
    Ok(Outcome::Proven)
}

pub(crate) async fn a_ledger_entry_is_there_when_its_transaction_committed(
    stage: &Stage,
) -> Verdict {
    fill(stage).await?;
    let mut rows = stage.driver.rows().await?;
    ensure!(rows.ledger("set").await?.is_empty(), "entries without a ledger");
    drop(rows);
    let (mut rows, set) = ready(stage).await?;
    rows.open_ledger().await?;
    let mut pruning = rows.prune().await?;
    pruning.note(&entry(2)).await?;
    pruning.note(&entry(1)).await?;
    pruning.commit().await?;
    let mut pruning = rows.prune().await?;
    pruning.note(&entry(3)).await?;
    pruning.roll_back().await?;
    let noted = rows.ledger(&set.name).await?;
    let slices: Vec<_> = noted.iter().map(|entry| entry.slice).collect();
    ensure!(slices == [1, 2], "the ledger has slices {slices:?}");
    let first = stillpoint_contract::LedgerEntry { at: None, position: None, ..noted[0].clone() };
    ensure!(first == entry(1), "it has become {first:?}");
    let age = (rows.now().await? - noted[0].at.unwrap_or_default()).num_seconds();
    ensure!((-5..600).contains(&age), "it was noted {age} s ago");
    ensure!(rows.ledger("other").await?.is_empty(), "another set has the same entries");
    let mut pruning = rows.prune().await?;
    let again = pruning.note(&entry(2)).await;
    ensure!(kind_of(&again) == Some(ErrorKind::Refused), "noted twice: {again:?}");
    drop(pruning);
    drop(rows);
    let (mut rows, _) = ready(stage).await?;
    let mut pruning = rows.prune().await?;
    pruning.strike(&entry(1)).await?;
    let again = pruning.strike(&entry(1)).await;
    ensure!(again.is_err(), "struck twice");
    drop(pruning);
    drop(rows);
    let (mut rows, _) = ready(stage).await?;
    let mut pruning = rows.prune().await?;
    pruning.strike(&entry(1)).await?;
    pruning.commit().await?;
    ensure!(rows.ledger("set").await?.len() == 1, "a struck entry is there");
    Ok(Outcome::Proven)
}

pub(crate) async fn a_lock_keeps_others_out(stage: &Stage) -> Verdict {
    fill(stage).await?;
    let (mut first, _) = ready(stage).await?;
    let mut second = stage.connect().await?.rows().await?;
    let refused = second.lock("set", PATIENCE).await;
    ensure!(kind_of(&refused) == Some(ErrorKind::Busy), "two have it: {refused:?}");
    second.lock("another set", PATIENCE).await?;
    // Who gave up waiting does not get it later.
    let mut third = stage.connect().await?.rows().await?;
    let waits = third.lock("set", Duration::from_mins(1));
    let given_up = tokio::time::timeout(PATIENCE, waits).await;
    ensure!(given_up.is_err(), "it did not wait");
    first.lock("set", PATIENCE).await?;
    let waits = second.lock("set", Duration::from_secs(10));
    let ends = async {
        let mut pruning = first.prune().await?;
        pruning.note(&entry(1)).await?;
        drop(pruning);
        drop(first);
        Ok::<_, stillpoint_contract::Error>(())
    };
    let (waited, ended) = tokio::join!(waits, ends);
    ended?;
    waited?;
    ensure!(second.ledger("set").await?.is_empty(), "what was dropped committed");
    drop((second, third));
    stage.settled().await?;
    Ok(Outcome::Proven)
}

pub(crate) async fn what_others_changed_is_seen(stage: &Stage) -> Verdict {
    fill(stage).await?;
    let (mut rows, set) = ready(stage).await?;
    let all = KeyRange::default();
    let before = exported(rows.as_mut(), &set, 0, &all).await?.sorted();
    let orders = "INSERT INTO orders (id, placed, status, total, note) VALUES";
    for (change, changed, added, missing) in [
        ("UPDATE orders SET note = 'late' WHERE id = 2", 1, 0, 0),
        (&*format!("{orders} (1000, '2018-01-01 00:00:00', 'closed', 1, 'late')"), 0, 1, 0),
        ("UPDATE orders SET status = 'open' WHERE id = 4", 0, 0, 1),
        ("UPDATE orders SET id = 1001 WHERE id = 1000", 1, 0, 0),
        ("DELETE FROM orders WHERE id = 1001", 0, 0, 1),
    ] {
        let then = exported(rows.as_mut(), &set, 0, &all).await?.sorted();
        stage.server.execute(change).await?;
        let mut pruning = rows.prune().await?;
        let deleted = delete_all(pruning.as_mut(), &set, &all).await;
        pruning.roll_back().await?;
        let deleted = &deleted?[0];
        let only = |left: &[Vec<u8>], right: &[Vec<u8>]| {
            left.iter().filter(|row| !right.contains(row)).count()
        };
        let (new, gone) = (only(deleted, &then), only(&then, deleted));
        let expected = (changed + added, changed + missing);
        ensure!((new, gone) == expected, "{change}: {new} new, {gone} gone");
    }
    ensure!(before.len() as u64 == OLD, "there were {}", before.len());
    let table = name(stage, "orders")?;
    ensure!(rows.table(&table).await? == set.root().table, "the table looks changed");
    Ok(Outcome::Proven)
}
