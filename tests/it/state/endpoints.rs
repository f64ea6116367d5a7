//! Endpoints, as every coordinator and every command sees them.

use std::time::Duration;

use stillpoint::policy::{Change, Drain, End, Registration, Registry, Sighting, Wanted, observe};

use super::bench::{Bench, minute, start};

fn seen(id: &str) -> Sighting {
    Sighting {
        id: id.to_owned(),
        target: "10.0.0.1:5432".to_owned(),
        labels: [("app".to_owned(), "s\"h{op}\u{1f400}".to_owned())].into(),
        wanted: Wanted::Active,
        ttl: Some(Duration::from_secs(90)),
        sign: Some("1".to_owned()),
    }
}

pub(super) async fn endpoints_are_remembered_as_they_were_changed(bench: &Bench) {
    let state = &bench.state;
    assert!(state.endpoints().await.unwrap().is_empty());
    let register =
        |registry: &mut Registry, now| observe(registry, "files", (&[seen("i-1")], true), now);
    let changes = state.change_endpoints("eve", register).await.unwrap();
    assert_eq!((changes.len(), changes[0].what), (1, "endpoint.registered"));
    // Said twice, it is said once.
    assert_eq!(state.change_endpoints("eve", register).await.unwrap(), []);
    let known = state.endpoints().await.unwrap();
    let since = known["i-1"].since;
    assert_eq!(known["i-1"], Registration::new(&seen("i-1"), "files", since));
    let whole = Registration {
        wanted: Wanted::Draining,
        ttl: None,
        sign: String::new(),
        renewed: minute(3),
        active: Some(minute(1)),
        identity: Some("7301".to_owned()),
        silent: Some(minute(2)),
        trouble: Some("refused".to_owned()),
        drain: Some(Drain { since: minute(4), until: minute(5), done: Some(minute(6)) }),
        end: Some((minute(7), End::Lost)),
        ..known["i-1"].clone()
    };
    let put = |registry: &mut Registry, _| {
        registry.insert(whole.id.clone(), whole.clone());
        let (id, detail) = (whole.id.clone(), "lost".to_owned());
        vec![Change { id, what: "endpoint.gone", detail }]
    };
    state.change_endpoints("bob", put).await.unwrap();
    assert_eq!(bench.again().await.endpoints().await.unwrap()["i-1"], whole);
    let audit = state.audit(0).await.unwrap();
    let told: Vec<_> =
        audit.iter().map(|line| (&*line.action, &*line.who, &*line.subject)).collect();
    assert_eq!(told, [("endpoint.registered", "eve", "i-1"), ("endpoint.gone", "bob", "i-1")]);
    let forget = |registry: &mut Registry, _| {
        registry.clear();
        Vec::new()
    };
    state.change_endpoints("eve", forget).await.unwrap();
    assert!(state.endpoints().await.unwrap().is_empty());
    assert!(start() <= since);
}

pub(super) async fn two_that_change_endpoints_lose_nothing(bench: &Bench) {
    let others = [bench.again().await, bench.again().await];
    let add = async |number: usize| {
        for round in 0..5 {
            let id = format!("i-{number}-{round}");
            let register =
                |registry: &mut Registry, now| observe(registry, &id, (&[seen(&id)], true), now);
            others[number].change_endpoints("eve", register).await.unwrap();
        }
    };
    tokio::join!(add(0), add(1));
    assert_eq!(bench.state.endpoints().await.unwrap().len(), 10);
}

pub(super) async fn an_adoption_is_remembered_until_its_database_is_forgotten(bench: &Bench) {
    let state = &bench.state;
    for incarnation in ["a", "b"] {
        state.adopt("shop", incarnation, "eve").await.unwrap();
        let adoptions = state.adoptions().await.unwrap();
        assert_eq!(adoptions["shop"].incarnation, incarnation);
    }
    state.look_after(["shop", "other"]).await.unwrap();
    state.forget_database("shop", "2 backups: asked for", "eve").await.unwrap();
    assert!(state.adoptions().await.unwrap().is_empty());
    assert!(state.known("shop").await.unwrap().is_none());
    assert!(state.known("other").await.unwrap().is_some());
}
