//! How fast copies go, and what is sent again after a kill.

use std::{fs, sync::Arc};

use serde_json::Value;
use stillpoint::{
    pipeline::Meter,
    repository::{Pace, Replication, Road, descriptor::Writers, store::MemoryStore},
};
use stillpoint_contract::{Clock as _, ErrorKind};

use super::yard::{DR, copy, grow, packs, prove, yard};
use crate::support::{
    data::content,
    ledger::Ledger,
    session::{Driver, Method, init, restore},
    world::{TestClock, runtime, world_at},
};

/// Row 6: so many bytes each second, and within a tenth; as the clock says that is given.
#[test]
fn row_6_a_copy_goes_as_fast_as_it_may_and_no_faster() {
    const RATE: u64 = 256 << 10;
    runtime().block_on(async {
        let clock = TestClock::new();
        let world = world_at(Arc::clone(&clock), 7);
        let store = Arc::new(MemoryStore::default());
        let source = init(world.clone(), store).await.unwrap();
        let data = content(7, &[("a", 6 << 20), ("b", 5 << 20)]);
        let driver = Driver::new(&world, "app", &Ledger::default());
        let committed = driver.back_up(&source, &data, Method::Whole).await.unwrap();
        let report = source.verify_backup(&committed, &Arc::new(Meter::default())).await.unwrap();
        source.prove(&committed, &report).await.unwrap();
        let target = Arc::new(MemoryStore::default());
        let target = source.init_replica(target, Writers::Many, None).await.unwrap();

        let meter = Arc::new(Meter::default());
        let pace = Pace::new(Arc::clone(&world.clock), Some(RATE));
        let road = Road { pace: &pace, may_go: &|| Ok(()), meter: &meter };
        let replication = Replication::new(&source, &target, road).unwrap();
        let begun = clock.elapsed();
        replication.backup(&committed).await.unwrap().unwrap();
        let took = clock.elapsed().saturating_sub(begun).as_secs_f64();
        let (_, bytes) = replication.sent();
        let rate = bytes as f64 / took;
        assert!(bytes > 3 << 20, "{bytes}");
        assert!((rate / RATE as f64 - 1.0).abs() < 0.1, "{rate} instead of {RATE}");
        let there = target.find_backup(&committed.commit.backup).await.unwrap();
        assert_eq!(restore(&target, &there).await.unwrap(), data);

        // A window that closes ends it amid an object.
        let other = Arc::new(MemoryStore::default());
        let other = source.init_replica(other, Writers::Many, None).await.unwrap();
        let until = clock.elapsed() + std::time::Duration::from_secs(5);
        let closes = || {
            if clock.elapsed() < until {
                return Ok(());
            }
            Err(stillpoint_contract::Error::new(
                ErrorKind::Busy,
                stillpoint_contract::code::COPY_PAUSED,
                "copy any more",
            ))
        };
        let road = Road { pace: &pace, may_go: &closes, meter: &meter };
        let cut = Replication::new(&source, &other, road).unwrap();
        let error = cut.backup(&committed).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert!(clock.elapsed() < until + std::time::Duration::from_secs(2));
        assert!(other.find_backup(&committed.commit.backup).await.is_err());
        let road = Road { pace: &pace, may_go: &|| Ok(()), meter: &meter };
        let goes_on = Replication::new(&source, &other, road).unwrap();
        goes_on.backup(&committed).await.unwrap();
        let there = other.find_backup(&committed.commit.backup).await.unwrap();
        assert_eq!(restore(&other, &there).await.unwrap(), data);
    });
}

/// Row 6: killed at 60 %, it goes on, and sends less than 5 % again.
#[test]
fn row_6_a_killed_copy_goes_on_with_what_lacks() {
    let places = "[repository.dr]\nurl = \"dr\"\nlimits = { upload = \"3MiB/s\" }\n";
    let (ward, application) = yard(places, "", &format!("{DR}keep = {{ last = 99 }}\n"));
    for _ in 0..12 {
        grow(&application, 700);
        prove(&ward, &[]);
    }
    let stored = |place: &str| -> u64 {
        packs(&ward, place).iter().map(|pack| fs::metadata(pack).unwrap().len()).sum()
    };
    let whole = stored("repo");
    let mut first = ward.command(&["copy", "run"]).spawn().unwrap();
    ward.wait_until("60 %", || stored("dr") * 10 >= whole * 6);
    first.kill().unwrap();
    first.wait().unwrap();
    let before = stored("dr");
    assert!(before < whole, "it was killed too late");
    let ran: Value = copy(&ward);
    assert_eq!(ran["lacking_backups"], 0);
    // What goes beside packs is small, and counted as well.
    let again = before + ran["sent_bytes"].as_u64().unwrap();
    assert!(again * 100 < whole * 105, "{again} bytes were sent of {whole}");
    ward.ok(&["verify", "--repo", "dr"]);
    assert_eq!(copy(&ward)["sent_objects"], 0);
}
