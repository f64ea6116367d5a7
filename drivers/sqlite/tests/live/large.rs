//! A database of more than 1 GiB, whose lock-byte page SQLite never uses.

use std::{
    fs::{self, File},
    ops::Range,
    os::unix::fs::FileExt,
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::Connection;
use stillpoint_contract::{
    BackupRequest, Engine, Overwrite, PartSpec, PartWriter, Recovery, RecoveryTarget,
    RestoreExtras, RestoreRequest, Result, Sink,
};
use tempfile::TempDir;

use crate::{
    doubles::{Copy, Log, application, connect, drain, engine},
    process::now,
};

#[derive(Clone, Debug)]
struct FileSink(Arc<File>);

#[async_trait]
impl Sink for FileSink {
    async fn create(&self, _: PartSpec) -> Result<Box<dyn PartWriter>> {
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl PartWriter for FileSink {
    async fn write(&self, offset: u64, bytes: Bytes) -> Result<()> {
        // Zeros are left out, so that the file takes no space.
        if bytes.iter().any(|byte| *byte != 0) {
            self.0.write_all_at(&bytes, offset).unwrap();
        }
        Ok(())
    }

    async fn keep(&self, _: Range<u64>) -> Result<()> {
        unreachable!("there is no base")
    }

    async fn finish(self: Box<Self>, length_bytes: u64) -> Result<()> {
        self.0.set_len(length_bytes).unwrap();
        Ok(())
    }
}

#[tokio::test]
async fn a_database_beyond_one_gibibyte_survives() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("large.db");
    let rows = 1080;
    Connection::open(&path)
        .unwrap()
        .execute_batch(&format!(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;
             CREATE TABLE t(id INTEGER PRIMARY KEY, a BLOB);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < {rows})
             INSERT INTO t SELECT i, zeroblob(1000000) FROM n;"
        ))
        .unwrap();
    let db = application(&path);
    let driver = connect(&path).await;
    let mut opened = driver.open_log(None).await.unwrap();
    let staging = directory.path().join("staging");
    fs::create_dir(&staging).unwrap();
    let file = File::create(staging.join("database")).unwrap();
    let begun = now();
    let request = BackupRequest { base: None, streams_max: 1.try_into().unwrap() };
    let evidence = driver.backup(request, &FileSink(Arc::new(file))).await.unwrap();
    let length = fs::metadata(staging.join("database")).unwrap().len();
    let rate = length as f64 / begun.elapsed().as_secs_f64() / 1e6;
    println!("read {length} bytes at {rate:.0} MB/s");
    assert!(1 << 30 < length);

    let mut log = Log::default();
    db.execute_batch(
        "UPDATE t SET a = zeroblob(1000000) || 'x' WHERE id > 1070; DELETE FROM t WHERE id = 1080",
    )
    .unwrap();
    drain(&mut opened, &mut log).await;
    let target = directory.path().join("restored.db");
    let anchor = evidence.consistent_at.clone().unwrap();
    let copy = Copy { evidence, parts: std::collections::BTreeMap::new(), written_bytes: 0 };
    let request = RestoreRequest {
        evidence: &copy.evidence,
        version: "3",
        settings: &std::collections::BTreeMap::new(),
        parts: &copy,
        extras: &RestoreExtras::default(),
        target: &target,
        staging: &staging,
        until: &RecoveryTarget::Latest,
        overwrite: Overwrite::Never,
    };
    let engine = engine();
    let plan = engine.plan_restore(&request).await.unwrap();
    let mut log = log.from(&anchor);
    let recovery = Recovery { plan: &plan, evidence: &copy.evidence, parts: &copy, log: &mut log };
    engine.recover(recovery).await.unwrap();
    let said = engine.check(&plan).await.unwrap();
    assert_eq!(said, "integrity_check: ok; foreign_key_check: ok");
    engine.publish(&plan).await.unwrap();
    let sum = |db: &Connection| -> (i64, i64) {
        db.query_row("SELECT count(*), sum(length(a)) FROM t", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap()
    };
    assert_eq!(sum(&Connection::open(&target).unwrap()), sum(&db));
}
