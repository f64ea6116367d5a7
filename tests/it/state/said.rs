//! What people said, and what they were told.

use std::time::Duration;

use stillpoint::{
    coordinator::state::{MARKS_MAX, MESSAGES_MAX, Mark, Outcome},
    policy::{Alert, Class, Urgency},
};
use stillpoint_contract::ErrorKind;

use super::bench::{Bench, LEASE, due, minute, outcome, start, task};

pub(super) async fn marks_hold_until_somebody_says_otherwise(bench: &Bench) {
    let state = &bench.state;
    assert_eq!(state.marks().await.unwrap(), []);
    let pause = Mark::Paused { until: None };
    for _ in 0..2 {
        state.set_mark("shop", Some(pause), "vacation", "eve").await.unwrap();
    }
    bench.wait(LEASE).await;
    let until = start() + Duration::from_hours(24 * 90_000);
    let longer = Mark::Paused { until: Some(until) };
    state.set_mark("shop", Some(longer), "vacation", "bob").await.unwrap();
    state.set_mark("old", Some(Mark::Retired), "gone", "eve").await.unwrap();
    let marks = state.marks().await.unwrap();
    let told: Vec<_> = marks.iter().map(|one| (one.database.as_str(), one.mark)).collect();
    let [_, second, first] = &marks[..] else { panic!("{marks:?}") };
    let ended = Mark::Paused { until: Some(second.since) };
    assert_eq!(told, [("old", Mark::Retired), ("shop", longer), ("shop", ended)]);
    assert_eq!((first.who.as_str(), second.who.as_str()), ("eve", "bob"));
    assert!(first.holds(first.since) && !first.holds(second.since));
    assert!(second.holds(second.since) && !second.holds(until));
    bench.wait(LEASE).await;
    for _ in 0..2 {
        state.set_mark("shop", None, "back", "eve").await.unwrap();
        state.set_mark("unknown", None, "", "eve").await.unwrap();
    }
    let past = Some(Mark::Paused { until: Some(start() - Duration::from_hours(999_999)) });
    let refused = state.set_mark("shop", past, "", "eve").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    let marks = state.marks().await.unwrap();
    assert!(marks[1].until.unwrap() < until && !marks[1].holds(marks[1].until.unwrap()));
    assert_eq!(marks.len(), 3);
    let actions = state.audit(0).await.unwrap();
    let actions: Vec<_> = actions.iter().map(|line| (line.action.as_str(), &*line.who)).collect();
    assert_eq!(
        actions,
        [
            ("database.paused", "eve"),
            ("database.paused", "bob"),
            ("database.retired", "eve"),
            ("database.resumed", "eve"),
        ]
    );
}

pub(super) async fn a_mark_ends_what_waits(bench: &Bench) {
    let state = &bench.state;
    bench.worker("w1").await;
    state.enqueue(&task("shop", "full", 9), "s").await.unwrap();
    let runs = bench.claim("w1").await;
    for database in ["shop", "other"] {
        state.enqueue(&due(database, 1), "s").await.unwrap();
    }
    let pause = Mark::Paused { until: None };
    assert_eq!(state.set_mark("shop", Some(pause), "", "eve").await.unwrap(), 1);
    state.finish(&runs, Outcome::Succeeded, "").await.unwrap();
    assert_eq!(bench.claim("w1").await.task.database, "other");
    assert_eq!(state.claim("w1").await.unwrap(), None);
    let jobs = bench.jobs().await;
    let ended: Vec<_> = jobs.iter().filter_map(outcome).collect();
    let cancelled = (Outcome::Cancelled, "the database is paused");
    assert_eq!(ended, [cancelled, (Outcome::Succeeded, "")]);
}

pub(super) async fn the_newest_marks_are_remembered(bench: &Bench) {
    let state = &bench.state;
    for number in 0..2 * MARKS_MAX {
        let mark = Mark::Paused { until: None };
        state.set_mark("shop", Some(mark), &number.to_string(), "eve").await.unwrap();
        bench.wait(Duration::from_millis(1)).await;
    }
    let marks = state.marks().await.unwrap();
    let reasons: Vec<usize> = marks.iter().map(|one| one.reason.parse().unwrap()).collect();
    assert_eq!(reasons, (MARKS_MAX..2 * MARKS_MAX).rev().collect::<Vec<_>>());
}

pub(super) async fn one_configuration_holds(bench: &Bench) {
    let (one, other) = (&bench.state, bench.again().await);
    assert_eq!(one.applied().await.unwrap(), None);
    assert!(!one.set_applied(Some("b"), "a", "text a", "eve").await.unwrap());
    assert!(one.set_applied(None, "a", "text a", "eve").await.unwrap());
    // The answer was lost, and it is said again; somebody else comes too late.
    assert!(one.set_applied(None, "a", "text a", "eve").await.unwrap());
    assert!(!other.set_applied(None, "b", "text b", "bob").await.unwrap());
    let applied = other.applied().await.unwrap().unwrap();
    let told = (&*applied.digest, &*applied.text, &*applied.who);
    assert_eq!(told, ("a", "text a", "eve"));
    assert!(other.set_applied(Some("a"), "b", "text b", "bob").await.unwrap());
    assert_eq!(one.applied().await.unwrap().unwrap().digest, "b");
    let lines = one.audit(0).await.unwrap();
    let subjects: Vec<_> = lines.iter().map(|line| (&*line.subject, &*line.detail)).collect();
    assert_eq!(subjects, [("a", "in place of none"), ("b", "in place of a")]);
}

pub(super) async fn what_was_told_is_told_once_over_restarts(bench: &Bench) {
    let breach = |database: &str, cause: Option<&str>| Alert {
        class: Class::RpoBreached,
        database: database.to_owned(),
        urgency: Urgency::Page,
        since: minute(1),
        what: String::new(),
        cause: cause.map(str::to_owned),
        muted_until: None,
    };
    let both = [breach("a b", None), breach("shop", Some("repository primary"))];
    let state = &bench.state;
    let mut kept = state.board().await.unwrap();
    let before = kept.clone();
    assert_eq!(kept.board.step(&both).len(), 2);
    let messages = ["one", "two"].map(str::to_owned);
    let after = state.set_board(&kept, &messages).await.unwrap().unwrap();
    // Another leader went on from what was there before: it is told nothing twice.
    let other = bench.again().await;
    assert_eq!(other.set_board(&before, &messages).await.unwrap(), None);
    let mut again = other.board().await.unwrap();
    assert_eq!(again, after);
    assert_eq!(again.board.step(&both), []);
    let unsent = other.unsent().await.unwrap();
    assert_eq!(unsent.iter().map(|one| &*one.body).collect::<Vec<_>>(), ["one", "two"]);
    other.sent(&unsent[0].id).await.unwrap();
    other.sent(&unsent[0].id).await.unwrap();
    assert_eq!(state.unsent().await.unwrap(), unsent[1..]);
    assert_eq!(again.board.step(&both[..1]).len(), 1, "one is over");
    other.set_board(&again, &[]).await.unwrap().unwrap();
    let mut last = state.board().await.unwrap();
    assert_eq!(last.board.open().count(), 1);
    assert_eq!(last.board.step(&both[..1]), []);
    assert_eq!(last.board.step(&[]).len(), 1);
    state.set_board(&last, &[]).await.unwrap().unwrap();
    assert_eq!(other.board().await.unwrap().board.open().count(), 0);
}

pub(super) async fn messages_that_nobody_takes_are_bounded(bench: &Bench) {
    let state = &bench.state;
    let messages: Vec<_> = (0..MESSAGES_MAX + 5).map(|number| number.to_string()).collect();
    let kept = state.board().await.unwrap();
    state.set_board(&kept, &messages).await.unwrap().unwrap();
    let unsent = state.unsent().await.unwrap();
    let unsent: Vec<_> = unsent.into_iter().map(|one| one.body).collect();
    assert_eq!(unsent, messages[5..]);
}
