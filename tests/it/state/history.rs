//! Jobs of all times.

use std::time::Duration;

use stillpoint::coordinator::state::{Filter, Job, Outcome, Stage};

use super::bench::{Bench, due, task};

fn names(jobs: &[Job]) -> Vec<String> {
    jobs.iter().map(|job| format!("{} {}", job.task.database, job.task.kind)).collect()
}

pub(super) async fn jobs_are_found_by_what_they_are(bench: &Bench) {
    let state = &bench.state;
    bench.worker("w1").await;
    for database in ["a", "b"] {
        for kind in ["full", "drill"] {
            state.enqueue(&task(database, kind, 1), "s").await.unwrap();
        }
    }
    let ended = bench.claim("w1").await;
    state.finish(&ended, Outcome::Succeeded, "").await.unwrap();
    let runs = bench.claim("w1").await;
    let found = async |filter: Filter| names(&state.jobs(&filter).await.unwrap());
    let all = Filter::default();
    assert_eq!(found(all.clone()).await, ["b drill", "b full", "a drill", "a full"]);
    let of_b = Filter { database: Some("b".to_owned()), ..all.clone() };
    assert_eq!(found(of_b.clone()).await, ["b drill", "b full"]);
    let drills = Filter { kind: Some("drill".to_owned()), ..all.clone() };
    assert_eq!(found(drills).await, ["b drill", "a drill"]);
    let waits = Filter { stage: Some(Stage::Waiting), ..of_b };
    assert_eq!(found(waits).await, ["b drill", "b full"]);
    let running = Filter { stage: Some(Stage::Running), ..all.clone() };
    assert_eq!(found(running).await, ["a drill"]);
    let over = Filter { stage: Some(Stage::Ended), ..all.clone() };
    assert_eq!(found(over).await, ["a full"]);
    let page = Filter { most: 3, ..all };
    let first = state.jobs(&page).await.unwrap();
    let next = Filter { before: first.last().map(|job| job.id.clone()), ..page };
    assert_eq!((first.len(), found(next).await), (3, vec!["a full".to_owned()]));
    let job = state.job(&runs.job).await.unwrap().unwrap();
    assert_eq!(names(&[job]), ["a drill"]);
    assert_eq!(state.job("unknown").await.unwrap(), None);
}

pub(super) async fn old_jobs_are_forgotten_save_the_newest_of_each(bench: &Bench) {
    let state = &bench.state;
    bench.state.renew("w1", "here", Duration::from_hours(999)).await.unwrap();
    for minutes in 0..4 {
        for database in ["a", "b"] {
            state.enqueue(&due(database, minutes), "s").await.unwrap();
            let claim = bench.claim("w1").await;
            state.finish(&claim, Outcome::Succeeded, "").await.unwrap();
        }
        bench.wait(Duration::from_hours(1)).await;
    }
    state.enqueue(&task("a", "drill", 1), "s").await.unwrap();
    let drill = bench.claim("w1").await;
    state.enqueue(&due("c", 0), "s").await.unwrap();
    bench.wait(Duration::from_hours(9)).await;
    let ended_at = |job: &Job| match &job.phase {
        stillpoint::coordinator::state::Phase::Ended { at, .. } => *at,
        other => panic!("{other:?}"),
    };
    let first = ended_at(&bench.jobs().await[9 - 1]);
    let second = first + Duration::from_mins(90);
    assert_eq!(state.prune(second).await.unwrap(), 4);
    assert_eq!(bench.jobs().await.len(), 6);
    assert_eq!(state.prune(first + Duration::from_hours(999)).await.unwrap(), 2);
    let left = names(&bench.jobs().await);
    assert_eq!(left, ["c full", "a drill", "b full", "a full"]);
    state.progress(&drill, 1).await.unwrap();
}
