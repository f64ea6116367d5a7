//! Reading rows.

use stillpoint_contract::{ArchiveSet, KeyRange, Rows};

use super::moved::{Kept, OLD, OLD_ONES, ORDERS, alone, exported, family, fill, key, settles};
use crate::stage::{Failure, Outcome, Stage, Verdict, abandon, ensure};

/// Numbers of awaits after which a future is dropped.
fn cuts() -> impl Iterator<Item = u64> {
    (0..6).chain([9, 17, 40])
}

pub(crate) async fn an_export_sees_one_state(stage: &Stage) -> Verdict {
    fill(stage).await?;
    let mut rows = stage.driver.rows().await?;
    let set = family(stage, rows.as_mut()).await?;
    let everything = KeyRange::default();
    let before = exported(rows.as_mut(), &set, 1, &everything).await?.sorted();
    let has_log = stage.fixture.row_tables().is_ok_and(|tables| tables.reads_beside_writers);
    if !has_log {
        return Ok(Outcome::NotApplicable("writers wait for readers".to_owned()));
    }
    let mut snapshot = rows.snapshot().await?;
    let mut first = Kept::default();
    snapshot.root(&set, &everything, 1, &mut first).await?;
    ensure!(first.0.len() == 1, "of one row, it handed over {}", first.0.len());
    stage.server.execute("UPDATE items SET body = 'other'; DELETE FROM parts").await?;
    let (mut items, mut parts) = (Kept::default(), Kept::default());
    snapshot.member(&set, 1, &everything, &mut items).await?;
    snapshot.member(&set, 2, &everything, &mut parts).await?;
    ensure!(items.sorted() == before, "it sees what was changed after it began");
    ensure!(parts.0.len() == 2 * OLD as usize, "it misses what was deleted after it began");
    drop(snapshot);
    ensure!(
        exported(rows.as_mut(), &set, 2, &everything).await?.0.is_empty(),
        "the next one sees what is gone"
    );
    Ok(Outcome::Proven)
}

pub(crate) async fn settings_change_no_bytes(stage: &Stage) -> Verdict {
    fill(stage).await?;
    let tables = stage.fixture.row_tables().map_err(Failure::new)?;
    if tables.other_settings.is_empty() {
        return Ok(Outcome::NotApplicable("no setting changes how it writes values".to_owned()));
    }
    let read = async || {
        let mut rows = stage.connect().await?.rows().await?;
        let set = alone(stage, rows.as_mut(), "samples", "id > 0").await?;
        let kept = exported(rows.as_mut(), &set, 0, &KeyRange::default()).await?;
        Ok::<_, Failure>((set, kept.0))
    };
    let before = read().await?;
    ensure!(!before.1.is_empty(), "there are no samples");
    stage.server.execute(tables.other_settings).await?;
    let after = read().await?;
    ensure!(before.0 == after.0, "the table looks different");
    ensure!(before.1 == after.1, "the bytes differ");
    Ok(Outcome::Proven)
}

/// Reads a table in pages of so many rows, and checks that each row is there once and in order.
async fn pages(rows: &mut dyn Rows, set: &ArchiveSet, length: u64) -> Result<(), Failure> {
    let all = exported(rows, set, 0, &KeyRange::default()).await?.0;
    let mut paged: Vec<Vec<u8>> = Vec::new();
    let mut range = KeyRange::default();
    loop {
        let mut page = Kept::default();
        let count = rows.snapshot().await?.root(set, &range, length, &mut page).await?;
        let Some(last) = page.0.last() else { break };
        ensure!(count <= length, "{count} rows, and {length} were wanted");
        let to = Some(key(set, last)?);
        let closed = KeyRange { after: range.after.clone(), from: None, to: to.clone() };
        let again = exported(rows, set, 0, &closed).await?.0;
        ensure!(again == page.0, "the range that ends with the last key of a page is another one");
        let from = page.0.first().map(|first| key(set, first)).transpose()?;
        let begun = KeyRange { after: None, from, to: to.clone() };
        let again = exported(rows, set, 0, &begun).await?.0;
        ensure!(again == page.0, "the range that begins with the first key of a page is another");
        paged.append(&mut page.0);
        range.after = to;
        ensure!(paged.len() <= all.len(), "pages overlap");
    }
    ensure!(paged == all, "{} rows in pages, {} at once", paged.len(), all.len());
    Ok(())
}

pub(crate) async fn keys_of_any_text_make_ranges(stage: &Stage) -> Verdict {
    fill(stage).await?;
    let names = [
        "",
        " ",
        "'",
        "''",
        "\\",
        "\\'",
        "\"",
        "a",
        "A",
        "ä",
        "ß",
        "z'); DROP TABLE orders; --",
        "$1",
        "?1",
        ":cutoff",
        "%",
        "E'\\n'",
        "\u{1F600}",
        "line\nbreak",
        "tab\t",
        "e\u{301}",
        "é",
    ];
    let quoted = |name: &&str| format!("('{}', 1)", name.replace('\'', "''"));
    let list = names.iter().map(quoted).collect::<Vec<_>>().join(", ");
    stage.server.execute(&format!("INSERT INTO named (name, v) VALUES {list}")).await?;
    let mut rows = stage.driver.rows().await?;
    let set = alone(stage, rows.as_mut(), "named", "v = 1").await?;
    for length in [1, 2, 7] {
        pages(rows.as_mut(), &set, length).await?;
    }
    let all = exported(rows.as_mut(), &set, 0, &KeyRange::default()).await?;
    ensure!(all.0.len() == names.len(), "{} of {} rows", all.0.len(), names.len());
    settles(stage, "orders", u64::from(ORDERS)).await?;
    Ok(Outcome::Proven)
}

pub(crate) async fn keys_of_several_columns_make_ranges(stage: &Stage) -> Verdict {
    fill(stage).await?;
    let mut list = Vec::new();
    for a in [-5, 0, 3] {
        list.extend(["", "x", "y'"].map(|b| format!("({a}, '{}', 1)", b.replace('\'', "''"))));
    }
    let insert = format!("INSERT INTO pairs (a, b, v) VALUES {}", list.join(", "));
    stage.server.execute(&insert).await?;
    let mut rows = stage.driver.rows().await?;
    let set = alone(stage, rows.as_mut(), "pairs", "v = 1").await?;
    ensure!(set.root().table.key.len() == 2, "its key is {:?}", set.root().table.key);
    for length in [1, 2, 4] {
        pages(rows.as_mut(), &set, length).await?;
    }
    Ok(Outcome::Proven)
}

pub(crate) async fn a_dropped_export_leaves_nothing(stage: &Stage) -> Verdict {
    fill(stage).await?;
    for pendings in cuts() {
        let mut rows = stage.driver.rows().await?;
        let set = alone(stage, rows.as_mut(), "orders", OLD_ONES).await?;
        let cut = async {
            let mut snapshot = rows.snapshot().await?;
            let mut kept = Kept::default();
            snapshot.root(&set, &KeyRange::default(), 1000, &mut kept).await
        };
        let is_cut = abandon(cut, pendings).await.transpose()?.is_none();
        // The same session goes on; one that was in the middle of something may have ended.
        match exported(rows.as_mut(), &set, 0, &KeyRange::default()).await {
            Ok(kept) => ensure!(kept.0.len() as u64 == OLD, "{} rows", kept.0.len()),
            Err(_) if is_cut => {}
            Err(failure) => return Err(failure),
        }
        drop(rows);
        stage.settled().await?;
        stage.server.execute("UPDATE orders SET note = 'x' WHERE id = 1").await?;
    }
    Ok(Outcome::Proven)
}
