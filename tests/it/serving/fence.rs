//! For one due time there is one backup, whoever believes to be at it.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use stillpoint::{
    pipeline::Meter,
    repository::{
        Repository, WriteOptions,
        store::{MemoryStore, Store},
    },
};
use stillpoint_contract::{ErrorKind, Evidence, Extensions, code};

use crate::support::{
    session::{init, intent},
    world::{TestClock, world_at},
};

/// Several workers have slept through their leases, wake together, and all come to their ends, each
/// over a view of the repository of its own.
#[test]
fn of_workers_that_wake_too_late_one_commits() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let clock = TestClock::new();
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let world = world_at(clock, 7);
        init(world.clone(), Arc::clone(&store)).await.unwrap();
        let commit = async |task: &str| {
            let repository =
                Repository::open(world.clone(), Arc::clone(&store), None, None).await?;
            let mut intent = intent(&world, "shop");
            intent.task = Some(task.to_owned());
            let at = intent.started_at;
            let meter = Arc::new(Meter::default());
            let draft = repository.begin(intent, WriteOptions::default(), meter).await?;
            draft.commit(&evidence(), at).await
        };
        let task = "full 2026-11-27T02:00:00Z";
        let ends = join_all((0..4).map(|_| commit(task))).await;
        let (made, late): (Vec<_>, Vec<_>) = ends.into_iter().partition(Result::is_ok);
        assert_eq!((made.len(), late.len()), (1, 3));
        for end in late {
            let error = end.unwrap_err();
            assert_eq!((error.kind(), error.code()), (ErrorKind::Fenced, code::FENCED));
        }
        let other = commit("full 2026-11-28T02:00:00Z").await.unwrap();
        let repository = Repository::open(world.clone(), Arc::clone(&store), None, None).await;
        let repository = repository.unwrap();
        assert_eq!(repository.history().await.unwrap().live().len(), 2);
        // What was forgotten was made all the same.
        repository.forget(&[other.commit.backup], "a test").await.unwrap();
        assert!(commit("full 2026-11-28T02:00:00Z").await.is_err());
    });
}

fn evidence() -> Evidence {
    Evidence {
        consistent_at: None,
        consistent_time: chrono::DateTime::UNIX_EPOCH,
        cursor: Bytes::new(),
        replay: None,
        incremental: false,
        method: "none".to_owned(),
        tallies: Vec::new(),
        extensions: Extensions::new(),
        damage: None,
    }
}
