//! A configuration as a person writes it, right and wrong.

use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use proptest::prelude::*;

use super::{DiscoverKind, EXAMPLE, Encryption, Loaded, Secret, Source, schema};
use crate::policy::{
    Absence, CopyKind, DrillPoint, Keep, Lifecycle, LogShare, Logs, Missed, Period, PeriodUnit,
    Verification,
};

/// A large one, of everything that there is.
const LARGE: &str = r#"
version  = 1
timezone = "Europe/London"

[coordinator]
state   = "sqlite:///var/lib/stillpoint/state.db"
running = 8

[repository.primary]
url        = "s3://corp-db-backups/prod"
encryption = { key = { file = "/etc/stillpoint/keys/prod.key" } }
limits     = { running = 64 }

[repository.dr]
url    = "file:///mnt/dr-nas/stillpoint"
site   = "dr"
quota  = "2TiB"
limits = { upload = "80MiB/s", window = ["20:00-06:00"] }

[repository.third]
url    = "/srv/third"
limits = { window = "SAT,SUN 00:00-24:00" }

[policy.tier1]
rpo         = "5m"
rto         = "1h"
pitr_window = "14d"
full        = { at = "0 2 * * SUN", spread = "6h" }
incremental = "0 2 * * MON-SAT"
logs        = { every = "1m" }
keep        = { last = 3, weekly = 8 }
missed      = { run = "all", within = "6h" }
blackout    = ["MON-FRI 08:00-18:00"]
priority    = 90

[[policy.tier1.copy]]
name  = "dr"
to    = "dr"
when  = "verified"
keep  = { daily = 35, monthly = 12, yearly = 7 }
class = ["full", "logs"]

[[policy.tier1.copy]]
name = "again"
to   = "third"
from = "dr"

[policy.tier1.drill]
every  = "7d"
from   = "dr"
run_on = "site=dr"
point  = "latest"
checks = [{ sql = "select count(*) from orders where total < 0", expect = 0 }]

[policy.tier1-gold]
extends = "tier1"
keep    = { for = "7y", after_event = "relationship_end", subject = "customer_id" }

[[discover]]
kind   = "files"
path   = "/run/stillpoint/targets.d"
ttl    = "90s"
labels = { engine = "postgres" }

[[discover]]
kind    = "exec"
command = ["/etc/stillpoint/discover-ec2"]
every   = "60s"

[[discover]]
kind   = "dns"
name   = "_postgresql._tcp.db.internal"
record = "srv"
server = "127.0.0.1:53"

[[rule]]
select     = "engine=postgres, env=prod, app"
database   = "{app}/{cluster}"
endpoint   = "postgres://stillpoint@{target}/postgres"
password   = { file = "/run/secrets/pg" }
policy     = "tier1"
repository = "primary"
lifecycle  = "fixed"
handoff    = "20m"
on_absence = "retire"

[database."shop/orders"]
endpoint   = "postgres://stillpoint@orders-primary.db.internal:5432/postgres"
password   = { env = "ORDERS_PASSWORD" }
policy     = "tier1-gold"
repository = "primary"
labels     = { team = "shop" }
"#;

fn source(path: &str, text: &str) -> Source {
    Source { path: path.to_owned(), text: text.to_owned() }
}

fn now() -> DateTime<Utc> {
    "2026-11-26T12:00:00Z".parse().unwrap()
}

fn load(sources: Vec<Source>) -> Loaded {
    super::load(sources, now())
}

fn of(text: &str) -> Loaded {
    load(vec![source("stillpoint.toml", text)])
}

fn told(loaded: &Loaded) -> String {
    loaded.problems.iter().map(|problem| problem.render(&loaded.sources, false)).collect()
}

fn codes(loaded: &Loaded) -> Vec<String> {
    loaded.problems.iter().map(|problem| problem.code.to_string()).collect()
}

#[test]
fn six_lines_are_enough() {
    let loaded = of(EXAMPLE);
    assert!(loaded.is_sound(), "{}", told(&loaded));
    assert_eq!(EXAMPLE.lines().count(), 6);
    let database = &loaded.config.databases["shop/orders"];
    assert_eq!(database.endpoint, "sqlite:/var/lib/shop/orders.db");
    assert_eq!(database.repository, "primary");
    let policy = &loaded.config.policies[&database.policy];
    assert_eq!(policy.rpo, Duration::from_hours(1));
    assert_eq!(policy.pitr_window, Duration::from_hours(14 * 24));
    assert_eq!(policy.keep, Keep { weekly: 8, ..Keep::default() });
    assert_eq!(policy.zone, Tz::Europe__London);
    assert!(policy.incremental.is_some() && policy.drill.is_some());
}

/// Everything that there is for rows.
const ARCHIVE: &str = r#"
version  = 1
timezone = "UTC"
repository.primary.url = "/srv/primary"
repository.dr.url = "/srv/dr"
[[policy.default.copy]]
name = "dr"
to = "dr"
[database.shop-primary]
endpoint = "postgres://stillpoint@127.0.0.1/postgres"
[archive.orders]
database = "shop-primary"
root   = "public.orders"
where  = "created_at < :cutoff AND status IN ('closed','cancelled')"
cutoff = "now - 24 months"
key    = "primary"
cutoff_timezone = "UTC"
children = [{ table="public.items", fk="order_id" }, { table="public.events", fk="order_id" }]
on_unlisted_child = "refuse"
derived = ["public.search", "cache.totals"]
format = "parquet"
sort   = ["id"]
lookup = ["customer_id"]
file_target = "256MiB"
slice_rows = 8000
txn_target = "250ms"
verify = "tuple"
partition_path = "auto"
grace  = "7d"
delete_gate = { second_copy = true, verified_backup = true, min_age = "24h" }
window = ["22:00-05:00 Europe/Berlin"]
max_runtime = "4h"
retention = { basis="subject.closed_at", keep="7y", subject="customer_id" }
encryption = "repo"
reclaim = "report"
[archive.orders.throttle]
max_replica_lag = "2s"
max_threads_running = 40
max_log_used = "60%"
max_wal_rate = "20MiB/s"
dead_tuples_per_hour = 2_000_000
critical = "abort"
"#;

#[test]
fn an_archive_may_say_all_that_there_is() {
    let loaded = of(ARCHIVE);
    assert!(loaded.problems.is_empty(), "{}", told(&loaded));
    let rule = &loaded.config.archives["orders"];
    assert_eq!((&rule.key, &rule.sort[..]), (&None, &["id".to_owned()][..]));
    assert_eq!(rule.derived, ["public.search", "cache.totals"]);
    assert_eq!(rule.transaction, Duration::from_millis(250));
    assert_eq!(rule.verification, Verification::Tuple);
    assert_eq!(rule.gates.second_copy.as_deref(), Some("dr"));
    assert_eq!(rule.throttle.dead_rows_per_hour, Some(2_000_000));
    assert_eq!(rule.throttle.log_used, Some(LogShare::Percent(60)));
    assert_eq!(rule.windows[0].zone, Some(Tz::Europe__Berlin));
    assert_eq!(rule.reclaim.as_deref(), Some("none"));
    let other = ARCHIVE.replace("\"250ms\"", "250").replace("\"primary\"", "\"orders_number\"");
    let loaded = of(&other);
    let rule = &loaded.config.archives["orders"];
    assert_eq!(rule.transaction, Duration::from_millis(250));
    assert_eq!(rule.key.as_deref(), Some("orders_number"));

    // A window that names no zone is in that of the cutoff, or else in the usual one, as schedules.
    let usual = "timezone = \"Asia/Tokyo\"\nrepository.primary";
    let text = ARCHIVE.replace("timezone = \"UTC\"\nrepository.primary", usual);
    let text = text.replace("05:00 Europe/Berlin", "05:00\", \"12:00-13:00 Europe/Berlin");
    for (own, zone) in
        [("UTC", Tz::UTC), ("America/Lima", Tz::America__Lima), ("", Tz::Asia__Tokyo)]
    {
        let line = format!("cutoff_timezone = \"{own}\"");
        let line = if own.is_empty() { "" } else { &line };
        let loaded = of(&text.replace("cutoff_timezone = \"UTC\"", line));
        assert!(loaded.problems.is_empty(), "{}", told(&loaded));
        let zones = loaded.config.archives["orders"].windows.iter().map(|window| window.zone);
        assert!(zones.eq([Some(zone), Some(Tz::Europe__Berlin)]), "{own}");
    }

    // What nobody can know is asked for.
    let nowhere = ARCHIVE.replace("[[policy.default.copy]]\nname = \"dr\"\nto = \"dr\"", "");
    let several = ARCHIVE.replace(
        "[[policy.default.copy]]",
        "repository.third.url = \"/srv/third\"\n[[policy.default.copy]]\nname = \"third\"\n\
         to = \"third\"\n[[policy.default.copy]]",
    );
    for (text, why) in [
        (nowhere, "copies to no second repository"),
        (several, "may be in third or dr"),
        (ARCHIVE.replace("root   =", "to = \"dr\"\nroot ="), "would be where the first one is"),
        (ARCHIVE.replace("\"tuple\"", "\"none\""), "`none` is not known here"),
        (ARCHIVE.replace("250ms", "2m"), "ms and s are"),
        (ARCHIVE.replace("Europe/Berlin", "Europe/Nowhere"), "Europe/Nowhere"),
    ] {
        let loaded = of(&text);
        assert!(!loaded.is_sound() && told(&loaded).contains(why), "{why}: {}", told(&loaded));
    }
}

#[test]
fn derived_tables_are_none_that_are_archived() {
    let schema = jsonschema::validator_for(&schema()).unwrap();
    let fits = |text: &str| {
        let table: toml::Table = toml::from_str(text).unwrap();
        schema.is_valid(&serde_json::to_value(table).unwrap())
    };
    let with = |derived: &str| ARCHIVE.replace("[\"public.search\", \"cache.totals\"]", derived);
    let none = of(&with("[]"));
    assert!(none.problems.is_empty() && none.config.archives["orders"].derived.is_empty());
    assert!(of(&ARCHIVE.replace("derived =", "# derived =")).is_sound());
    assert!(fits(ARCHIVE) && fits(&with("[]")));
    for (derived, code, why) in [
        (
            "[\"public.search\", \"public.items\"]",
            "SP0109",
            "`public.items` is archived by `orders`",
        ),
        ("[\"public.orders\"]", "SP0109", "`public.orders` is archived by `orders`"),
        ("\"public.search\"", "SP0108", "a list of texts"),
        ("[{ table = \"public.search\" }]", "SP0108", "a table does not belong here"),
        ("[1]", "SP0108", "a number does not belong here"),
    ] {
        let text = with(derived);
        let loaded = of(&text);
        assert_eq!(codes(&loaded), [code], "{derived}: {}", told(&loaded));
        assert!(told(&loaded).contains(why), "{derived}: {}", told(&loaded));
        assert!(code == "SP0109" || !fits(&text), "the schema takes {derived}");
    }
    let called_otherwise = of(&ARCHIVE.replace("derived =", "caches ="));
    assert_eq!(codes(&called_otherwise), ["SP0107"]);
    assert!(told(&called_otherwise).contains("did you mean `derived`?"));
}

#[test]
fn row_59_79_everything_that_is_written_is_understood() {
    let loaded = of(LARGE);
    assert_eq!(idle(&loaded), ["`quota`"], "{}", told(&loaded));
    let config = &loaded.config;
    assert_eq!(config.coordinator.running, 8);
    assert_eq!(config.repositories["dr"].upload, Some(80 << 20));
    assert_eq!(config.repositories["dr"].quota, Some(2 << 40));
    assert_eq!(config.repositories["third"].windows[0].days.len(), 2);
    assert!(matches!(
        &config.repositories["primary"].encryption,
        Some(Encryption::Key(Secret::File(path))) if path.ends_with("prod.key")
    ));
    let tier1 = &config.policies["tier1"];
    assert_eq!(tier1.logs, Logs::Every(Duration::from_mins(1)));
    assert_eq!(tier1.missed, Missed::All(Duration::from_hours(6)));
    assert_eq!(tier1.incremental.as_ref().unwrap().spread, Duration::ZERO);
    assert_eq!(tier1.copies[0].kinds, [CopyKind::Full, CopyKind::Logs]);
    assert_eq!(tier1.copies[1].keep, tier1.keep);
    let drill = tier1.drill.as_ref().unwrap();
    assert_eq!(drill.point, DrillPoint::Latest);
    assert_eq!(drill.checks[0].1, "0");
    assert_eq!((tier1.copies[0].site.as_deref(), drill.site.as_deref()), (None, Some("dr")));
    // One layer says what it keeps, the one below when it runs, and ours the rest.
    let gold = &config.policies["tier1-gold"];
    let event = gold.keep.event.as_ref().unwrap();
    assert_eq!(event.after, Period { count: 7, unit: PeriodUnit::Years });
    assert_eq!((gold.rpo, gold.priority), (tier1.rpo, 90));
    assert_eq!(gold.stall, Duration::from_mins(15));
    let database = &config.databases["shop/orders"];
    assert_eq!(config.discover.len(), 3);
    assert_eq!(config.discover[0].ttl, Some(Duration::from_secs(90)));
    assert_eq!(config.discover[0].labels["engine"], "postgres");
    assert_eq!(
        config.discover[1].kind,
        DiscoverKind::Program(vec!["/etc/stillpoint/discover-ec2".to_owned(),])
    );
    assert!(matches!(&config.discover[2].kind, DiscoverKind::Dns { server: Some(_), .. }));
    let ruling = &config.rules[0];
    assert_eq!((&*ruling.policy, &*ruling.repository), ("tier1", "primary"));
    assert_eq!(ruling.rule.lifecycle, Lifecycle::Fixed);
    assert_eq!(ruling.rule.on_absence, Absence::Retire);
    assert_eq!(ruling.rule.handoff, Duration::from_mins(20));
    assert!(matches!(&ruling.password, Some(Secret::File(_))));
    assert!(
        matches!(&database.password, Some(Secret::Variable(name)) if name == "ORDERS_PASSWORD")
    );
    assert_eq!(database.labels["team"], "shop");
}

#[test]
fn json_says_the_same() {
    let table: toml::Table = toml::from_str(LARGE).unwrap();
    let json = serde_json::to_string_pretty(&table).unwrap();
    let (toml, json) = (of(LARGE), load(vec![source("stillpoint.JSON", &json)]));
    assert_eq!(idle(&json), idle(&toml), "{}", told(&json));
    assert_eq!(format!("{:?}", toml.config), format!("{:?}", json.config));
}

#[test]
fn all_errors_are_told_at_once_where_they_are() {
    let loaded = of(r#"version = 1
[repository.primary]
url = "/srv/stillpoint"
[policy.tier1]
rpo = "5 minutes"
retention = { weekly = 8 }
keep = { weekly = "8", wekly = 4 }
logs = "streams"
blackout = ["MON-FRY 08:00-18:00"]
[database.shop]
endpoint = "postgres://app:secret@db/shop"
policy = "tier2"
"#);
    assert_eq!(told(&loaded), include_str!("problems.golden"), "{}", told(&loaded));
    assert!(!loaded.is_sound());
}

#[test]
fn a_file_that_is_broken_is_read_as_far_as_it_goes() {
    let loaded = of("version = 1\ntimezone = \"UTC\ncoordinator = = 3\n");
    assert!(codes(&loaded).iter().all(|code| code == "SP0106"), "{}", told(&loaded));
    assert!(loaded.problems.len() >= 2, "{}", told(&loaded));
    let loaded = load(vec![source("a.json", "{ \"version\": 1, }")]);
    assert_eq!(codes(&loaded), ["SP0106"]);
    assert_eq!(loaded.problems[0].place(&loaded.sources).unwrap().0, "a.json");
}

#[test]
fn files_add_names_and_never_another_word() {
    let more = "[policy.tier1]\nrpo = \"5m\"\n[database.crm]\nendpoint = \"sqlite:/crm.db\"\n";
    let files = [("a.toml", EXAMPLE), ("conf.d/b.toml", more)];
    let loaded = load(files.map(|(path, text)| source(path, text)).to_vec());
    assert!(loaded.is_sound(), "{}", told(&loaded));
    assert_eq!(loaded.config.databases.len(), 2);

    let twice = [("a.toml", EXAMPLE), ("b.toml", more), ("c.toml", more), ("d.toml", "version=1")];
    let loaded = load(twice.map(|(path, text)| source(path, text)).to_vec());
    assert_eq!(codes(&loaded)[..3], ["SP0111", "SP0111", "SP0111"]);
    let text = told(&loaded);
    assert!(text.contains("b.toml:1") && text.contains("c.toml:1"), "{text}");
    let json = "{\"version\": 1, \"version\": 1, \"timezone\": \"UTC\"}";
    assert!(codes(&load(vec![source("a.json", json)])).contains(&"SP0111".to_owned()));
}

#[test]
fn circles_are_found() {
    let copies = |first: &str, second: &str| {
        format!(
            "{EXAMPLE}[repository.b]\nurl = \"/b\"\n[repository.c]\nurl = \"/c\"\n\
             [[policy.p.copy]]\nname = \"x\"\nto = \"b\"\n{first}\n\
             [[policy.p.copy]]\nname = \"y\"\nto = \"c\"\n{second}\n"
        )
        .replace("policy = \"default\"", "repository = \"primary\"")
    };
    let fine = of(&copies("", "from = \"x\""));
    assert!(fine.is_sound(), "{}", told(&fine));
    let circle = of(&copies("from = \"y\"", "from = \"x\""));
    assert_eq!(codes(&circle)[0], "SP0141", "{}", told(&circle));
    let twice = of(&copies("", "").replace("to = \"c\"", "to = \"b\""));
    assert_eq!(codes(&twice)[0], "SP0111", "{}", told(&twice));
    let parents = of(&format!(
        "{EXAMPLE}[policy.a]\nextends = \"b\"\n[policy.b]\nextends = \"a\"\n\
         [policy.c]\nextends = \"d\""
    ));
    let chain = |length: usize| {
        let policy = |number| format!("[policy.p{number}]\nextends = \"p{}\"\n", number + 1);
        let chain: String = (1..length).map(policy).collect();
        of(&format!("{EXAMPLE}{chain}[policy.p{length}]\nrpo = \"5m\"\n"))
    };
    assert!(chain(16).is_sound(), "{}", told(&chain(16)));
    assert_eq!(codes(&chain(17))[0], "SP0109");
    let found = codes(&parents);
    assert!(found.contains(&"SP0141".to_owned()) && found.contains(&"SP0112".to_owned()));
}

/// Row 19: a folder for others is no repository, and says what it cannot be.
#[test]
fn row_19_a_handoff_is_configured_and_is_no_repository() {
    let with = |place: &str, copy: &str| {
        of(&format!(
            "{EXAMPLE}[repository.onprem]\nkind = \"handoff\"\n{place}\n\
             [[policy.p.copy]]\nname = \"tape\"\nto = \"onprem\"\n{copy}\n"
        ))
    };
    let keep = "keep = { for = \"14d\", until_ack = true }";
    let fine = with("path = \"/mnt/efs/outbox\"\nquota = \"2TiB\"", keep);
    assert!(fine.is_sound(), "{}", told(&fine));
    let config = &fine.config;
    assert!(config.is_handoff("onprem") && !config.is_handoff("primary"));
    assert_eq!(config.restorable().collect::<Vec<_>>(), ["primary"]);
    let repository = &config.repositories["onprem"];
    assert_eq!((&*repository.url, repository.quota), ("/mnt/efs/outbox", Some(2 << 40)));
    let rule = &config.policies["p"].copies[0];
    assert!(rule.keep.until_acknowledged);
    assert_eq!(rule.kinds, [CopyKind::Full, CopyKind::Incremental], "log has no use there");

    let path = "path = \"/mnt/outbox\"";
    for (place, copy, code, what) in [
        ("", "", "SP0110", "`path` is not there"),
        ("path = \"/x\"\nurl = \"/y\"", "", "SP0107", "`url` says nothing"),
        (path, "class = [\"logs\"]", "SP0109", "no log"),
        (path, "[policy.p]\nkeep = { until_ack = true }", "SP0109", "only what was handed over"),
        (path, "[policy.p.drill]\nevery = \"7d\"\nfrom = \"tape\"", "SP0109", "not restored from"),
        (path, "[database.x]\nrepository = \"onprem\"", "SP0109", "not kept in a handoff"),
    ] {
        let found = with(place, copy);
        let text = told(&found);
        assert!(text.contains(code) && text.contains(what), "{code} {what}:\n{text}");
    }
    let plain = of(&EXAMPLE.replace("url", "path"));
    assert!(codes(&plain).iter().any(|code| code == "SP0107"), "{}", told(&plain));
}

/// Row 30: a copy or a drill is bound to a site that there is; what was meant is suggested.
#[test]
fn row_30_copies_and_drills_are_bound_to_sites_that_there_are() {
    let with = |copy: &str, drill: &str, more: &str| {
        of(&format!(
            "{EXAMPLE}[repository.dr]\nurl = \"/dr\"\nsite = \"dr\"\n\
             [[policy.default.copy]]\nname = \"dr\"\nto = \"dr\"\n{copy}\n\
             [policy.default.drill]\nevery = \"7d\"\nfrom = \"dr\"\n{drill}\n{more}\n"
        ))
    };
    let on = |site: &str| format!("run_on = \"site={site}\"");
    let fine = with(&on("dr"), &on("lab"), "[coordinator]\nsites = [\"lab\"]");
    assert!(fine.is_sound() && idle(&fine).is_empty(), "{}", told(&fine));
    let policy = &fine.config.policies["default"];
    assert_eq!(policy.sites().collect::<Vec<_>>(), ["dr", "lab"]);
    assert_eq!(fine.config.sites().into_iter().collect::<Vec<_>>(), ["dr", "lab"]);
    // Each policy says for itself where its copies are made.
    let explained = fine.explain("default");
    let said = |key: &str| {
        let setting = explained.iter().find(|setting| setting.key == key).unwrap();
        setting.value.clone().unwrap_or_default()
    };
    assert!(said("copy").contains(&on("dr")) && said("drill").contains(&on("lab")));

    for (copy, drill, more, code, what) in [
        ("run_on = \"site=rd\"", "", "", "SP0112", "no site is `rd`"),
        ("run_on = \"site=rd\"", "", "", "SP0112", "did you mean `dr`? known here: dr"),
        ("", "run_on = \"site=x\"", "", "SP0112", "known here: dr"),
        ("run_on = \"dr\"", "", "", "SP0109", "write it as \"site=dr\""),
        ("runon = \"site=dr\"", "", "", "SP0107", "did you mean `run_on`?"),
        ("site = \"dr\"", "", "", "SP0107", "did you mean `run_on`?"),
        ("", "", "[coordinator]\nsite = \"x\"", "SP0107", "did you mean `sites`?"),
    ] {
        let found = with(copy, drill, more);
        let text = told(&found);
        assert!(!found.is_sound() && text.contains(code) && text.contains(what), "{what}:\n{text}");
    }
    let nowhere =
        of(&format!("{EXAMPLE}[policy.default.drill]\nevery = \"7d\"\nrun_on = \"site=dr\"\n"));
    assert!(told(&nowhere).contains("[repository.NAME]"), "{}", told(&nowhere));
    // A site that nothing is bound to is told.
    let idle_ones = with("", "", "[coordinator]\nsites = [\"lab\"]");
    assert_eq!(idle(&idle_ones), ["`site`", "`sites`"], "{}", told(&idle_ones));
}

/// The settings of which it is told that they do nothing; nothing else is told.
fn idle(loaded: &Loaded) -> Vec<&str> {
    let settings = loaded.problems.iter().map(|problem| {
        let setting = problem.what.split_once(" does nothing for ");
        setting.unwrap_or_else(|| panic!("{}", told(loaded))).0
    });
    let mut settings: Vec<_> = settings.collect();
    settings.sort_unstable();
    settings
}

#[test]
fn settings_that_do_nothing_are_told() {
    let with = |more: &str| of(&format!("{EXAMPLE}{more}\n"));
    let onprem = "[repository.onprem]\nkind = \"handoff\"\npath = \"/x\"\n";
    let week = "blackout = [\"MON-FRI 00:00-24:00\"]";
    for (more, expected) in [
        (
            "repository = \"b\"\n[repository.b]\nurl = \"/b\"\nquota = \"1GiB\"",
            Some("`quota` does nothing for `b`"),
        ),
        (&*format!("{onprem}quota = \"1GiB\""), None),
        (&*format!("{onprem}site = \"dr\""), Some("`site` does nothing for `onprem`")),
        ("[coordinator]\nrunning_per_host = 4", None),
        ("[coordinator]\nrunning_per_host = 5", Some("5 on one host are never reached: 4 run")),
        (&*format!("[policy.a]\n{week}"), None),
        (
            &*format!("[policy.a]\n{week}\nblackout_hard = [\"SAT,SUN 00:00-24:00\"]"),
            Some("the blackout of `a` never ends"),
        ),
        (
            "[policy.a]\nblackout = [\"MON-SUN 00:00-12:00\", \"MON-SUN 12:00-24:00\"]",
            Some("the blackout of `a` never ends"),
        ),
        ("[policy.a]\nblackout = [\"MON-SUN 00:00-12:00\", \"MON-SUN 12:01-24:00\"]", None),
    ] {
        let loaded = with(more);
        assert!(loaded.is_sound(), "{more}: {}", told(&loaded));
        let told = told(&loaded);
        let tells = ["does nothing", "never reached", "never ends"];
        let found = tells.iter().any(|words| told.contains(words));
        let is_expected = expected.is_none_or(|expected| told.contains(expected));
        assert!(is_expected && found == expected.is_some(), "{more}: {told}");
    }
}

#[test]
fn schedules_are_read_and_their_uneven_days_are_named() {
    let with = |full: &str| of(&format!("{EXAMPLE}[policy.a]\nfull = {full}\n"));
    let never = with("{ at = \"0 2 31 2 *\" }");
    assert_eq!(codes(&never)[0], "SP0109", "{}", told(&never));
    let gap = with("\"*/15 1 * * *\"");
    assert!(gap.is_sound());
    let text = told(&gap);
    for told in ["SP0142", "2027-03-28", "0 times instead of 4", "2027-10-31"] {
        assert!(text.contains(told), "{told} is missing in\n{text}");
    }
    for fine in ["30 1 * * *", "@hourly", "*/5 * * * *"] {
        assert!(!told(&with(&format!("\"{fine}\""))).contains("SP0142"), "{fine}");
    }
}

#[test]
fn each_setting_says_where_it_comes_from() {
    let loaded = of(LARGE);
    let settings = loaded.explain("tier1-gold");
    let setting = |key: &str| {
        let found = settings.iter().find(|setting| setting.key == key).unwrap();
        (found.value.as_deref().unwrap_or(""), found.from.as_deref().unwrap_or(""))
    };
    let line = |text: &str| LARGE.lines().position(|line| line.contains(text)).unwrap() + 1;
    assert_eq!(setting("rpo"), ("\"5m\"", &*format!("stillpoint.toml:{}", line("rpo  "))));
    assert_eq!(setting("keep").1, format!("stillpoint.toml:{}", line("after_event")));
    assert_eq!(setting("stall"), ("\"15m\"", "(built in)"));
    assert_eq!(setting("timezone"), ("", ""));
}

#[test]
fn secrets_are_shown_nowhere() {
    let text = r#"version = 1
[repository.primary]
url = "/b"
encryption = { passphrase = { insecure_literal = "hunter2\u0032", file = "x" }, wrong = 1 }
[database.one]
endpoint = "postgres://app:hunter2@db/shop"
password = { insecure_literal = "hunter2", env = "x", wrong = 1 }
[database.two]
endpoint = 'postgres://db/shop?password=hunter2'
"#;
    let loaded = of(text);
    assert!(loaded.problems.len() >= 6, "{}", told(&loaded));
    assert!(!told(&loaded).contains("hunter2"), "{}", told(&loaded));
    let config = loaded.config;
    assert!(matches!(&config.databases["one"].password, Some(Secret::Variable(_))));
    let sound = of(&EXAMPLE.replace(
        "[database",
        "[repository.primary.encryption.passphrase]\ninsecure_literal = \"hunter2\"\n[database",
    ));
    assert!(sound.is_sound() && sound.config.repositories["primary"].encryption.is_some());
    assert!(!format!("{:?}", sound.config).contains("hunter2"));
}

#[test]
fn row_59_79_the_schema_agrees_with_the_check() {
    let schema = jsonschema::validator_for(&schema()).unwrap();
    let json =
        |text: &str| serde_json::to_value(toml::from_str::<toml::Table>(text).unwrap()).unwrap();
    for text in [EXAMPLE, LARGE] {
        assert!(schema.is_valid(&json(text)));
    }
    for (old, new) in [
        ("version  = 1", "version = 2"),
        ("version  = 1\n", ""),
        ("rpo         = \"5m\"", "rpo = \"5 minutes\""),
        ("rpo         =", "rpoo ="),
        ("running = 8", "running = 0"),
        ("when  = \"verified\"", "when = \"always\""),
        ("[\"full\", \"logs\"]", "[\"full\", \"log\"]"),
        ("{ env = \"ORDERS_PASSWORD\" }", "{ env = \"A\", file = \"B\" }"),
        ("{ env = \"ORDERS_PASSWORD\" }", "\"secret\""),
        ("expect = 0", "expect = 0.5"),
        ("every  = \"7d\"", "every = \"7m\""),
        ("run_on = \"site=dr\"", "run_on = \"dr\""),
        ("name  = \"dr\"\n", ""),
    ] {
        let wrong = LARGE.replacen(old, new, 1);
        assert_ne!(wrong, LARGE, "{old}");
        assert!(!of(&wrong).is_sound(), "the check takes {new}");
        assert!(!schema.is_valid(&json(&wrong)), "the schema takes {new}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever is written, it is told and nothing breaks.
    #[test]
    fn no_text_breaks_it(at in 0..LARGE.len(), length in 0..40_usize, new in ".{0,12}") {
        let mut text = LARGE.to_owned();
        let end = (at + length).min(text.len());
        if text.is_char_boundary(at) && text.is_char_boundary(end) {
            text.replace_range(at..end, &new);
        }
        let loaded = of(&text);
        told(&loaded);
        loaded.explain("tier1");
        let json = load(vec![source("a.json", &text.replace('=', ":"))]);
        told(&json);
    }
}
