//! Tests of how much of a set is read at once, with a database that is made up.

use std::time::Duration;

use chrono::{DateTime, Utc};
use stillpoint_contract::{
    Burden, Column, Conflict, Cutoff, Estimate, Finding, Kind, LedgerEntry, Link, Member, Outlook,
    Pruning, PutBack, Referrer, Space, Table,
};

use super::{super::file::Format, *};

/// Roots from 1 to `roots`, and what hangs on each: so many rows of 1,000 bytes.
#[derive(Debug)]
struct MadeUp {
    roots: i64,
    hanging: fn(i64) -> usize,
}

fn row(values: &[&[u8]], out: &mut RowWriter) -> Result<()> {
    out.begin(values.len());
    values.iter().for_each(|value| out.value(&[value]));
    out.end()
}

fn number(key: Option<&Key>) -> Option<i64> {
    let value = values(&key?.0).next()?.ok()??;
    Some(i64::from_be_bytes(value.try_into().ok()?))
}

#[async_trait]
impl Exporting for MadeUp {
    async fn position(&mut self) -> Result<Option<String>> {
        Ok(None)
    }

    async fn root(
        &mut self,
        _: &ArchiveSet,
        range: &KeyRange,
        rows_max: u64,
        into: &mut dyn RowSink,
    ) -> Result<u64> {
        let first = number(range.after.as_ref()).unwrap_or(0) + 1;
        let mut rows = RowWriter::default();
        let mut count = 0;
        for id in (first..=self.roots).take(rows_max as usize) {
            row(&[&id.to_be_bytes()], &mut rows)?;
            count += 1;
        }
        into.put(rows.take()).await?;
        Ok(count)
    }

    async fn member(
        &mut self,
        _: &ArchiveSet,
        _: usize,
        range: &KeyRange,
        into: &mut dyn RowSink,
    ) -> Result<u64> {
        let after = number(range.after.as_ref()).unwrap_or(0);
        let to = number(range.to.as_ref()).unwrap_or(self.roots);
        let mut count = 0;
        for id in after + 1..=to {
            for _ in 0..(self.hanging)(id) {
                let mut rows = RowWriter::default();
                row(&[&id.to_be_bytes(), &[b'x'; 1000]], &mut rows)?;
                into.put(rows.take()).await?;
                count += 1;
            }
        }
        Ok(count)
    }
}

#[async_trait]
impl Rows for MadeUp {
    async fn snapshot(&mut self) -> Result<Box<dyn Exporting + '_>> {
        Ok(Box::new(Self { ..*self }))
    }

    async fn now(&mut self) -> Result<DateTime<Utc>> {
        unreachable!()
    }

    async fn table(&mut self, _: &str) -> Result<Table> {
        unreachable!()
    }

    async fn referrers(&mut self, _: &Table) -> Result<Vec<Referrer>> {
        unreachable!()
    }

    async fn bind(&mut self, _: &Table, _: &str, _: Option<&Cutoff>) -> Result<String> {
        unreachable!()
    }

    async fn examine(&mut self, _: &ArchiveSet) -> Result<Vec<Finding>> {
        unreachable!()
    }

    async fn estimate(&mut self, _: &ArchiveSet) -> Result<Estimate> {
        unreachable!()
    }

    async fn outlook(&mut self, _: &ArchiveSet, _: u64, _: Estimate) -> Result<Outlook> {
        unreachable!()
    }

    async fn lock(&mut self, _: &str, _: Duration) -> Result<()> {
        unreachable!()
    }

    async fn open_ledger(&mut self) -> Result<()> {
        unreachable!()
    }

    async fn ledger(&mut self, _: &str) -> Result<Vec<LedgerEntry>> {
        unreachable!()
    }

    async fn prune(&mut self) -> Result<Box<dyn Pruning + '_>> {
        unreachable!()
    }

    async fn put_back<'a>(
        &'a mut self,
        _: &Table,
        _: &Conflict,
        _: Option<&str>,
    ) -> Result<Box<dyn PutBack + 'a>> {
        unreachable!()
    }

    async fn burden(&mut self, _: &ArchiveSet) -> Result<Burden> {
        unreachable!()
    }

    async fn space(&mut self, _: &Table) -> Result<Space> {
        unreachable!()
    }
}

fn set() -> ArchiveSet {
    let column = |id, name: &str, kind| Column {
        name: name.to_owned(),
        id,
        engine_type: name.to_owned(),
        kind,
        is_cast: false,
        is_nullable: false,
        is_generated: false,
    };
    let table = |name: &str, columns| Table {
        name: name.to_owned(),
        identity: name.to_owned(),
        columns,
        key: vec![0],
        fingerprint: String::new(),
    };
    let roots = table("roots", vec![column(1, "id", Kind::Int64)]);
    let hanging = vec![column(1, "root", Kind::Int64), column(2, "text", Kind::Text)];
    let link =
        Link { parent: 0, columns: vec!["root".to_owned()], parent_columns: vec!["id".to_owned()] };
    let members = vec![
        Member { table: roots, link: None },
        Member { table: table("hanging", hanging), link: Some(link) },
    ];
    ArchiveSet { name: "made-up".to_owned(), members, predicate: String::new() }
}

fn plan(set: &ArchiveSet) -> Plan {
    Plan {
        format_version: 1,
        run: "run".to_owned(),
        set: set.name.clone(),
        made: DateTime::UNIX_EPOCH,
        cutoff: None,
        selects: String::new(),
        predicate: String::new(),
        members: Plan::members_of(set),
        part: None,
        format: Format::Jsonl,
        expire: "open".to_owned(),
        lookup: Vec::new(),
        rows: 100,
        bytes: 100,
    }
}

/// The batches of a database, each as its rows of the root and those that hang on them.
async fn batches(mut rows: MadeUp, raw_bytes: u64) -> Result<Vec<(u64, u64)>> {
    let cpu = CpuPool::inline();
    let mut set = set();
    let plan = plan(&set);
    let sizes = Sizes { raw_bytes, ..Sizes::new(64 << 20, 8000, u64::MAX) };
    let (mut range, mut batches) = (KeyRange::default(), Vec::new());
    loop {
        let draft = export(&mut rows, &cpu, &plan, &mut set, 1, &range, sizes).await?;
        let Some(draft) = draft else { return Ok(batches) };
        let count = |member: usize| draft.slices.iter().map(|one| one.members[member].rows).sum();
        batches.push((count(0), count(1)));
        range.after = Some(draft.last);
        if draft.is_last {
            return Ok(batches);
        }
    }
}

#[tokio::test]
async fn no_more_hangs_on_a_batch_than_memory_holds() {
    // As much as expected, nothing at first and then much, one that has most, all have much.
    let shapes: [fn(i64) -> usize; 4] =
        [|_| 2, |id| if id > 500 { 20 } else { 0 }, |id| if id == 300 { 300 } else { 1 }, |_| 90];
    for (number, hanging) in shapes.into_iter().enumerate() {
        let found = batches(MadeUp { roots: 600, hanging }, 100_000).await.unwrap();
        let all = found.iter().fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
        let wanted: usize = (1..=600).map(hanging).sum();
        assert_eq!(all, (600, wanted as u64), "{number}");
        for (roots, rows) in &found {
            assert!(*rows <= 150 || *roots == 1, "{number}: {found:?}");
        }
        // Nor are they much smaller than that.
        assert!(found.len() <= 2 + wanted / 40, "{number}: {} batches", found.len());
    }
}

#[tokio::test]
async fn what_hangs_on_one_row_and_is_too_much_is_refused() {
    let hanging = |id| if id == 30 { 500 } else { 1 };
    let error = batches(MadeUp { roots: 60, hanging }, 100_000).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Exhausted, code::ROWS_REFUSED));
    assert!(format!("{error:?}").contains("bytes at most"), "{error:?}");
}
