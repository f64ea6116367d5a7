//! From a checked tree to what it means. Whatever the check complained of is taken as if it had
//! not been written, so that one error does not hide the next.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use chrono_tz::Tz;
use stillpoint_contract::code;

use super::{
    archives, form,
    layers::{BUILT_IN, Layers},
    model::{
        Alerting, Channel, Config, Coordinator, Database, Discover, DiscoverKind, Encryption,
        Heartbeat, Mail, Repository, Ruling, Secret,
    },
    problem::Problem,
    shape::suggestion,
    tree::{Node, Spot, Table, Value},
};
use crate::policy::{
    Absence, Class, CopyKind, CopyRule, CopyWhen, DrillPoint, DrillRule, EventRule, Keep,
    Lifecycle, Logs, Missed, Mode, Period, Policy, Rule, Selector, Template, Timing, Window,
};

/// How many jobs run at once, where nothing is said.
const RUNNING: u32 = 4;

/// How often somebody is told that all is well, where nothing is said.
const HEARTBEAT: Duration = Duration::from_mins(1);

/// How often a directory is looked at, and others are asked, where nothing is said.
const FILES_EVERY: Duration = Duration::from_secs(2);
const ASK_EVERY: Duration = Duration::from_mins(1);

/// How long a database may be without an endpoint, where nothing is said.
const HANDOFF: Duration = Duration::from_mins(15);

/// How old a missed time may be, where nothing is said.
const WITHIN: Duration = Duration::from_hours(12);

/// What the main table says.
pub(super) fn build(main: &Node, built_in: &Node, problems: &mut Vec<Problem>) -> Config {
    let zone = main.get("timezone").and_then(|node| form::zone(node.text()?).ok());
    let zone = zone.unwrap_or(Tz::UTC);
    let repositories: BTreeMap<_, _> =
        named(main, "repository").map(|(name, _, node)| (name.clone(), repository(node))).collect();
    let policies = named(main, "policy").map(|(name, ..)| name.clone());
    let policies = policies.chain([BUILT_IN.to_owned()]).map(|name| {
        let layers = Layers::of(&name, main, built_in);
        let policy = policy(&name, &layers, zone, &repositories);
        (name, policy)
    });
    let policies: BTreeMap<_, _> = policies.collect();
    // What gets copies holds nothing else.
    let is_copy = |name: &&String| {
        let mut copies = policies.values().flat_map(|policy: &Policy| &policy.copies);
        copies.any(|copy| copy.to == **name)
    };
    let is_handoff = |name: &&String| repositories.get(*name).is_some_and(|one| one.is_handoff);
    let mut originals = repositories.keys().filter(|name| !is_copy(name) && !is_handoff(name));
    let only = match (originals.next(), originals.next()) {
        (Some(only), None) => Some(only.clone()),
        _ => None,
    };
    let mut place = |what: &str, spot: &Spot, node: &Node| {
        let repository = text(node, "repository").or_else(|| only.clone());
        if repository.is_none() && !repositories.is_empty() {
            let what = format!("{what} does not say in which repository its backups are kept");
            let known = repositories.keys().map(String::as_str);
            let help = format!("repository = \"...\"; {}", suggestion("", known, &[]));
            let problem = Problem::error(code::CONFIG_LACKS, Spot::clone(spot), what);
            problems.push(problem.help(help));
        }
        repository.unwrap_or_default()
    };
    let databases = named(main, "database").map(|(name, spot, node)| {
        let repository = place(&format!("`{name}`"), spot, node);
        (name.clone(), database(name, node, repository))
    });
    let databases = databases.collect();
    let rules = main.get("rule").map_or(&[][..], Node::list).iter();
    let rules =
        rules.filter_map(|node| ruling(node, place("this rule", &node.spot, node))).collect();
    let discover = main.get("discover").map_or(&[][..], Node::list);
    let discover = discover.iter().filter_map(discovery).collect();
    let coordinator = main.get("coordinator");
    let coordinator = Coordinator {
        state: coordinator.and_then(|node| text(node, "state")),
        running: coordinator.and_then(|node| whole(node, "running")).unwrap_or(RUNNING),
        running_per_host: coordinator.and_then(|node| whole(node, "running_per_host")),
        sites: coordinator.and_then(|node| node.get("sites")).map(words).unwrap_or_default(),
        metrics: coordinator.and_then(|node| text(node, "metrics")?.parse().ok()),
        mail: coordinator.and_then(|node| mail(node.get("mail")?)),
    };
    let alerts = main.get("alert").map_or(&[][..], Node::list).iter().map(alerting).collect();
    let unprotected = Vec::new();
    let archives = BTreeMap::new();
    let mut config = Config {
        zone,
        coordinator,
        repositories,
        policies,
        databases,
        archives,
        alerts,
        discover,
        rules,
        unprotected,
    };
    let archives = archives::build(main, &config).into_iter();
    config.archives = archives.map(|rule| (rule.name.clone(), rule)).collect();
    config
}

fn discovery(node: &Node) -> Option<Discover> {
    let kind = match node.get("kind")?.text()? {
        "files" => DiscoverKind::Files(PathBuf::from(text(node, "path")?)),
        "exec" => DiscoverKind::Program(words(node.get("command")?)),
        _ => DiscoverKind::Dns {
            name: text(node, "name")?,
            is_service: node.get("record").and_then(Node::text) != Some("a"),
            port: whole(node, "port").and_then(|port| u16::try_from(port).ok()),
            server: text(node, "server").and_then(|server| server.parse().ok()),
        },
    };
    let usual = if matches!(kind, DiscoverKind::Files(_)) { FILES_EVERY } else { ASK_EVERY };
    Some(Discover {
        kind,
        every: length(node.get("every")).unwrap_or(usual),
        ttl: length(node.get("ttl")),
        labels: labels(node),
    })
}

fn ruling(node: &Node, repository: String) -> Option<Ruling> {
    let template = |key| text(node, key).and_then(|text| Template::new(&text).ok());
    let on_absence = match node.get("on_absence").and_then(Node::text) {
        Some("retire") => Absence::Retire,
        _ => Absence::Alert,
    };
    let rule = Rule {
        select: Selector::new(node.get("select")?.text()?).ok()?,
        database: template("database")?,
        endpoint: template("endpoint").or_else(|| Template::new("{target}").ok())?,
        lifecycle: lifecycle(node).unwrap_or_default(),
        handoff: length(node.get("handoff")).unwrap_or(HANDOFF),
        on_absence,
    };
    Some(Ruling {
        rule,
        engine: text(node, "engine"),
        password: node.get("password").and_then(secret),
        policy: text(node, "policy").unwrap_or_else(|| BUILT_IN.to_owned()),
        repository,
    })
}

fn lifecycle(node: &Node) -> Option<Lifecycle> {
    match node.get("lifecycle")?.text()? {
        "fixed" => Some(Lifecycle::Fixed),
        _ => Some(Lifecycle::Ephemeral),
    }
}

fn labels(node: &Node) -> BTreeMap<String, String> {
    let labels = node.get("labels").and_then(Node::table).into_iter().flatten();
    let label =
        |(name, (_, node)): (&String, &(Spot, Node))| Some((name.clone(), node.text()?.to_owned()));
    labels.filter_map(label).collect()
}

fn mail(node: &Node) -> Option<Mail> {
    Some(Mail {
        server: text(node, "server")?,
        from: text(node, "from")?,
        user: text(node, "user"),
        password: node.get("password").and_then(secret),
    })
}

fn alerting(node: &Node) -> Alerting {
    let class =
        |node: &Node| Class::ALL.into_iter().find(|class| Some(class.name()) == node.text());
    let when = node.get("when").map(|node| node.list().iter().filter_map(class).collect());
    let channel = |node: &Node| {
        let address = text(node, "email").map(Channel::Email);
        let program = || node.get("exec").map(|node| Channel::Program(words(node)));
        let webhook = || node.get("webhook").and_then(url).map(Channel::Webhook);
        address.or_else(program).or_else(webhook)
    };
    let heartbeat = |node: &Node| {
        let every = length(node.get("every")).unwrap_or(HEARTBEAT);
        Some(Heartbeat { url: node.get("url").and_then(url)?, every })
    };
    Alerting {
        name: text(node, "name").unwrap_or_default(),
        when: when.unwrap_or_else(|| Class::ALL.to_vec()),
        to: node.get("to").map_or(&[][..], Node::list).iter().filter_map(channel).collect(),
        sign: node.get("sign").and_then(secret),
        heartbeat: node.get("heartbeat").and_then(heartbeat),
    }
}

/// The tables of one kind, by name.
pub(super) fn named<'a>(
    main: &'a Node,
    kind: &str,
) -> impl Iterator<Item = (&'a String, &'a Spot, &'a Node)> + use<'a> {
    static NONE: Table = Table::new();
    let table = main.get(kind).and_then(Node::table).unwrap_or(&NONE);
    table.iter().map(|(name, (spot, node))| (name, spot, node))
}

fn text(node: &Node, key: &str) -> Option<String> {
    node.get(key)?.text().map(str::to_owned)
}

fn whole(node: &Node, key: &str) -> Option<u32> {
    match node.get(key)?.value {
        Value::Whole(number) => u32::try_from(number).ok(),
        _ => None,
    }
}

fn length(node: Option<&Node>) -> Option<Duration> {
    form::length(node?.text()?).ok()
}

fn period(node: Option<&Node>) -> Option<Period> {
    form::period(node?.text()?).ok()
}

pub(super) fn windows(node: Option<&Node>) -> Vec<Window> {
    let one = node.filter(|node| node.text().is_some()).map(std::slice::from_ref);
    let windows = one.or(node.map(Node::list)).unwrap_or_default().iter();
    windows.filter_map(|node| form::window(node.text()?).ok()).collect()
}

fn words(node: &Node) -> Vec<String> {
    node.list().iter().filter_map(Node::text).map(str::to_owned).collect()
}

/// A URL that was written down, or where one is.
fn url(node: &Node) -> Option<Secret> {
    node.text().map(|text| Secret::Literal(text.to_owned().into())).or_else(|| secret(node))
}

fn secret(node: &Node) -> Option<Secret> {
    text(node, "file")
        .map(|path| Secret::File(PathBuf::from(path)))
        .or_else(|| text(node, "env").map(Secret::Variable))
        .or_else(|| node.get("exec").map(|node| Secret::Program(words(node))))
        .or_else(|| text(node, "insecure_literal").map(|text| Secret::Literal(text.into())))
}

fn repository(node: &Node) -> Repository {
    let encryption = node.get("encryption").and_then(|node| {
        let passphrase = node.get("passphrase").and_then(secret).map(Encryption::Passphrase);
        passphrase.or_else(|| node.get("key").and_then(secret).map(Encryption::Key))
    });
    let limits = node.get("limits");
    let is_handoff = node.get("kind").and_then(Node::text) == Some("handoff");
    let place = if is_handoff { "path" } else { "url" };
    Repository {
        url: text(node, place).unwrap_or_default(),
        is_handoff,
        encryption,
        site: text(node, "site"),
        running: limits.and_then(|limits| whole(limits, "running")),
        upload: limits.and_then(|limits| form::rate(limits.get("upload")?.text()?).ok()),
        windows: windows(limits.and_then(|limits| limits.get("window"))),
        quota: node.get("quota").and_then(|node| form::size(node.text()?).ok()),
    }
}

fn database(name: &str, node: &Node, repository: String) -> Database {
    Database {
        name: name.to_owned(),
        endpoint: text(node, "endpoint").unwrap_or_default(),
        engine: text(node, "engine"),
        password: node.get("password").and_then(secret),
        policy: text(node, "policy").unwrap_or_else(|| BUILT_IN.to_owned()),
        mode: mode(node.get("mode")),
        repository,
        labels: labels(node),
        lifecycle: lifecycle(node),
        agent: text(node, "agent"),
        found: None,
    }
}

/// What every layer together says; the last one, ours, says everything that must be said.
fn policy(
    name: &str,
    layers: &Layers<'_>,
    zone: Tz,
    repositories: &BTreeMap<String, Repository>,
) -> Policy {
    let number = |key| match layers.get(key)?.value {
        Value::Whole(number) => u32::try_from(number).ok(),
        _ => None,
    };
    let keep = layers.get("keep").map(keep).unwrap_or_default();
    let copies = layers.get("copy").map_or(&[][..], Node::list).iter();
    let own_zone = layers.get("timezone").and_then(|node| form::zone(node.text()?).ok());
    Policy {
        name: name.to_owned(),
        mode: mode(layers.get("mode")).unwrap_or_default(),
        zone: own_zone.unwrap_or(zone),
        rpo: length(layers.get("rpo")).unwrap_or_default(),
        rto: length(layers.get("rto")),
        pitr_window: length(layers.get("pitr_window")).unwrap_or_default(),
        full: layers.get("full").and_then(timing),
        incremental: layers.get("incremental").and_then(timing),
        logs: layers.get("logs").map_or(Logs::Stream, logs),
        copies: copies.map(|node| copy(node, &keep, repositories)).collect(),
        keep,
        floor: number("floor").unwrap_or_default(),
        missed: layers.get("missed").map_or(Missed::Latest(WITHIN), missed),
        blackout: windows(layers.get("blackout")),
        blackout_hard: windows(layers.get("blackout_hard")),
        priority: number("priority").unwrap_or_default() as u8,
        stall: length(layers.get("stall")).unwrap_or_default(),
        drill: layers.get("drill").and_then(drill),
    }
}

fn mode(node: Option<&Node>) -> Option<Mode> {
    match node?.text()? {
        "observe" => Some(Mode::Observe),
        _ => Some(Mode::Protect),
    }
}

fn timing(node: &Node) -> Option<Timing> {
    let spread = length(node.get("spread")).unwrap_or_default();
    let pattern = node.text().or_else(|| node.get("at")?.text())?;
    Some(Timing { pattern: pattern.to_owned(), spread })
}

fn logs(node: &Node) -> Logs {
    match node.text() {
        Some("never") => Logs::Never,
        _ => length(node.get("every")).map_or(Logs::Stream, Logs::Every),
    }
}

fn missed(node: &Node) -> Missed {
    let within = length(node.get("within")).unwrap_or(WITHIN);
    match node.get("run").and_then(Node::text) {
        Some("none") => Missed::None,
        Some("all") => Missed::All(within),
        _ => Missed::Latest(within),
    }
}

fn keep(node: &Node) -> Keep {
    let count = |key| whole(node, key).unwrap_or_default();
    let every = period(node.get("for"));
    let event = every.and_then(|after| {
        let subject = text(node, "subject").unwrap_or_else(|| "database".to_owned());
        Some(EventRule { after, event: text(node, "after_event")?, subject })
    });
    Keep {
        last: count("last"),
        hourly: count("hourly"),
        daily: count("daily"),
        weekly: count("weekly"),
        monthly: count("monthly"),
        yearly: count("yearly"),
        every: every.filter(|_| event.is_none()),
        event,
        until_acknowledged: is_true(node.get("until_ack")),
    }
}

fn is_true(node: Option<&Node>) -> bool {
    node.is_some_and(|node| matches!(node.value, Value::Flag(true)))
}

fn copy(node: &Node, of_policy: &Keep, repositories: &BTreeMap<String, Repository>) -> CopyRule {
    let kind = |node: &Node| match node.text()? {
        "full" => Some(CopyKind::Full),
        "incremental" => Some(CopyKind::Incremental),
        "logs" => Some(CopyKind::Logs),
        _ => None,
    };
    let kinds = node.get("class").map(|node| node.list().iter().filter_map(kind).collect());
    let to = text(node, "to").unwrap_or_default();
    let is_handoff = repositories.get(&to).is_some_and(|repository| repository.is_handoff);
    let all = || {
        let mut kinds = vec![CopyKind::Full, CopyKind::Incremental];
        // Complete files have no use for log.
        kinds.extend((!is_handoff).then_some(CopyKind::Logs));
        kinds
    };
    CopyRule {
        name: text(node, "name").unwrap_or_default(),
        to,
        from: text(node, "from"),
        when: CopyWhen::Verified,
        kinds: kinds.unwrap_or_else(all),
        keep: node.get("keep").map_or_else(|| of_policy.clone(), keep),
        windows: windows(node.get("window")),
        site: site(node),
    }
}

fn drill(node: &Node) -> Option<DrillRule> {
    let check = |node: &Node| {
        let expected = match &node.get("expect")?.value {
            Value::Text(text) => text.clone(),
            Value::Whole(number) => number.to_string(),
            Value::Flag(flag) => flag.to_string(),
            _ => return None,
        };
        Some((text(node, "sql")?, expected))
    };
    let checks = node.get("checks").map_or(&[][..], Node::list).iter();
    Some(DrillRule {
        every: period(node.get("every"))?,
        from: text(node, "from"),
        point: match node.get("point").and_then(Node::text) {
            Some("latest") => DrillPoint::Latest,
            _ => DrillPoint::Random,
        },
        checks: checks.filter_map(check).collect(),
        site: site(node),
    })
}

/// The site that a copy or a drill is bound to.
fn site(node: &Node) -> Option<String> {
    form::site(node.get("run_on")?.text()?).ok()
}
