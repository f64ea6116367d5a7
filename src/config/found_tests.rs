//! Rules and what they make of what was discovered.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::{Config, Loaded, Source};
use crate::policy::{Lifecycle, Registration, Registry, Sighting, Wanted};

const HEAD: &str = "version = 1\ntimezone = \"UTC\"\nrepository.primary.url = \"repo\"\n";

const RULE: &str = "[[rule]]\nselect = \"engine=sqlite, app\"\ndatabase = \"{app}/main\"\n\
    endpoint = \"sqlite:{target}\"\nhandoff = \"1m\"\n";

const FILES: &str = "[[discover]]\nkind = \"files\"\npath = \"targets.d\"\n";

fn now() -> DateTime<Utc> {
    "2026-11-26T12:00:00Z".parse().unwrap()
}

fn of(text: &str) -> Loaded {
    let path = "stillpoint.toml".to_owned();
    super::load(vec![Source { path, text: format!("{HEAD}{text}") }], now())
}

fn problems(text: &str) -> Vec<String> {
    let loaded = of(text);
    let told = loaded.problems.iter().map(|one| format!("{} {}", one.code, one.what));
    told.filter(|told| !told.contains("one place only")).collect()
}

fn registered(id: &str, labels: &[(&str, &str)], second: i64) -> Registration {
    let labels = labels.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned()));
    let sighting = Sighting {
        id: id.to_owned(),
        target: format!("/data/{id}.db"),
        labels: labels.collect(),
        wanted: Wanted::Active,
        ttl: Some(Duration::from_secs(90)),
        sign: None,
    };
    Registration::new(&sighting, "files", now() + TimeDelta::seconds(second))
}

fn with(text: &str, all: Vec<Registration>) -> Config {
    let loaded = of(text);
    assert!(loaded.is_sound(), "{:?}", problems(text));
    let mut config = loaded.config;
    let registry: Registry = all.into_iter().map(|one| (one.id.clone(), one)).collect();
    config.discover(&registry, now() + TimeDelta::seconds(60));
    config
}

const SHOP: &[(&str, &str)] = &[("engine", "sqlite"), ("app", "shop")];

#[test]
fn a_rule_makes_a_database_that_is_known_before_and_after_its_endpoints() {
    let blue = registered("blue", SHOP, 0);
    let config = with(&format!("{FILES}{RULE}"), vec![blue.clone()]);
    let shop = &config.databases["shop/main"];
    let found = shop.found.as_ref().unwrap();
    assert_eq!((&*shop.policy, &*shop.repository), ("default", "primary"));
    assert_eq!(shop.lifecycle, Some(Lifecycle::Ephemeral));
    assert_eq!((found.rule, &found.chosen), (1, &None));
    assert!(found.obstacle().unwrap().contains("blue"), "{found:?}");

    let green = Registration { active: Some(now()), ..registered("green", SHOP, 5) };
    let config = with(&format!("{FILES}{RULE}"), vec![blue.clone(), green]);
    let shop = &config.databases["shop/main"];
    let found = shop.found.as_ref().unwrap();
    assert_eq!(found.chosen.as_ref().unwrap().id, "green");
    assert_eq!((found.obstacle(), &*shop.endpoint), (None, "sqlite:/data/green.db"));
    assert_eq!(config.candidate(&blue).unwrap().endpoint, "sqlite:/data/blue.db");

    let gone = Registration { end: Some((now(), crate::policy::End::Lost)), ..blue };
    let config = with(&format!("{FILES}{RULE}"), vec![gone]);
    let found = config.databases["shop/main"].found.as_ref().unwrap();
    assert!(found.obstacle().unwrap().contains("the lease of blue ran out"), "{found:?}");
    assert!(found.present.is_empty());
}

#[test]
fn a_database_that_was_written_down_says_more_than_a_rule() {
    let own = "[policy.gold]\nrpo = \"5m\"\n[database.\"shop/main\"]\npolicy = \"gold\"\n\
        lifecycle = \"fixed\"\nlabels = { app = \"mine\" }\n";
    let text = format!("{FILES}{RULE}{own}");
    let config = with(&text, Vec::new());
    assert_eq!(config.databases["shop/main"].endpoint, "");
    let blue = Registration { active: Some(now()), ..registered("blue", SHOP, 0) };
    let shop = with(&text, vec![blue.clone()]).databases.remove("shop/main").unwrap();
    assert_eq!((&*shop.policy, shop.lifecycle), ("gold", Some(Lifecycle::Fixed)));
    assert_eq!((&*shop.labels["app"], &*shop.labels["engine"]), ("mine", "sqlite"));
    assert_eq!(shop.endpoint, "sqlite:/data/blue.db");
    // Its own endpoint is there as long as nobody registers another one.
    let text = text.replace("policy = \"gold\"", "policy = \"gold\"\nendpoint = \"sqlite:own.db\"");
    let pending = registered("blue", SHOP, 0);
    let shop = with(&text, vec![pending]).databases.remove("shop/main").unwrap();
    assert_eq!((&*shop.endpoint, &shop.found), ("sqlite:own.db", &None));
    let shop = with(&text, vec![blue]).databases.remove("shop/main").unwrap();
    assert_eq!(shop.endpoint, "sqlite:/data/blue.db");
}

/// Row 60: what no rule is about is told with its reason.
#[test]
fn row_60_what_belongs_to_no_database_is_told() {
    let labels = [("app", "billing"), ("database", "billing/new")];
    let mut gone = registered("old", &labels, 0);
    gone.end = Some((now(), crate::policy::End::Expected));
    let all = vec![registered("i-1", &labels, 0), registered("i-2", &[], 0), gone];
    let config = with(&format!("{FILES}{RULE}"), all);
    let told: Vec<_> =
        config.unprotected.iter().map(|one| (one.name.as_str(), one.why.as_str())).collect();
    let why = "no [[rule]] matches app=billing,database=billing/new";
    let none = "no [[rule]] matches what has no labels";
    assert_eq!(told, [("billing/new", why), ("i-2", none)]);
    assert!(config.databases.is_empty());
}

#[test]
fn what_is_wrong_about_discovery_is_told() {
    for (text, wanted) in [
        (FILES.to_owned(), "endpoints are discovered, and no rule"),
        (format!("[[discover]]\nkind = \"files\"\n{RULE}"), "`path` is not there"),
        (format!("[[discover]]\nkind = \"exec\"\ncommand = []\n{RULE}"), "no program is named"),
        (format!("{FILES}port = 3\n{RULE}"), "`port` says nothing to `files`"),
        (format!("[[discover]]\nkind = \"file\"\npath = \"x\"\n{RULE}"), "`file` is not known"),
        (RULE.replace("{app}", "{app"), "this is not a text with labels in braces"),
        (RULE.replace("sqlite, app", "sqlite,,app"), "this is not a choice of labels"),
        (format!("{RULE}policy = \"gold\"\n"), "no policy is `gold`"),
        (format!("{RULE}repository = \"dr\"\n"), "no repository is `dr`"),
        (format!("{RULE}lifecycle = \"ephemral\"\n"), "`ephemral` is not known here"),
        (RULE.replace("sqlite:{target}", "postgres://u:x@{target}"), "a password does not belong"),
        ("[database.shop]\npolicy = \"default\"\n".to_owned(), "does not say where it is"),
    ] {
        let told = problems(&text).join("\n");
        assert!(told.contains(wanted), "{text}\n{told}");
    }
    assert_eq!(problems(&format!("{FILES}{RULE}")), Vec::<String>::new());
    let loaded = of(&format!("{FILES}{RULE}lifecycle = \"ephemral\"\n"));
    let helps: Vec<_> = loaded.problems.iter().filter_map(|one| one.help.clone()).collect();
    assert!(helps.iter().any(|help| help.contains("did you mean `ephemeral`")), "{helps:?}");
}

#[test]
fn no_password_of_a_rule_is_shown() {
    let loaded = of(&RULE.replace("sqlite:{target}", "postgres://u:hunter2@{target}"));
    let shown = format!("{:?}{:?}", loaded.sources, loaded.problems);
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn an_agent_reaches_what_was_written_down_and_nothing_else() {
    let told = problems(&format!("[database.x]\nagent = \"db-7\"\n{FILES}{RULE}"));
    assert_eq!(told, ["SP0110 an agent cannot be told where `x` is"]);
    let database = "[database.\"shop/main\"]\nendpoint = \"sqlite:own.db\"\nagent = \"db-7\"\n";
    let blue = registered("blue", SHOP, 0);
    let config = with(&format!("{database}{FILES}{RULE}"), vec![blue]);
    let shop = &config.databases["shop/main"];
    assert_eq!((shop.endpoint.as_str(), shop.agent.as_deref()), ("sqlite:own.db", Some("db-7")));
    assert!(shop.found.is_none());
}
