//! What Prometheus is told: one family after the other, and no sample of what is not known.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use chrono::{DateTime, Utc};

use super::{
    super::copy::lag,
    matters::{matters, reach},
};
use crate::{
    coordinator::{
        CopyKnown, Fleet, Member, Standing,
        state::{Job, Phase},
    },
    policy::{Logs, Pause, Registry, State},
};

/// The content type of the text format. Source: Prometheus documentation, "Exposition formats",
/// version 0.0.4.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A database, and what is known of it.
pub(super) struct Measured<'a> {
    pub member: &'a Member,
    pub standing: Option<Standing>,
    /// The pause that it is in.
    pub pause: Option<Pause>,
    /// What is known of its copies.
    pub copies: Vec<CopyKnown>,
}

/// When each agent was last heard of.
pub(super) type Agents = BTreeMap<String, DateTime<Utc>>;

/// Families of metrics, as they are written.
struct Page(String);

/// The value of a label, and its name.
type Label<'a> = (&'a str, &'a str);

impl Page {
    /// A family of gauges: a sample of each value that is known, and nothing if none is.
    fn gauge<'a>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Vec<Label<'a>>, Option<f64>)>,
    ) {
        let known = samples.into_iter().filter_map(|(labels, value)| Some((labels, value?)));
        let mut known = known.peekable();
        if known.peek().is_none() {
            return;
        }
        let _ = writeln!(self.0, "# HELP stillpoint_{name} {help}");
        let _ = writeln!(self.0, "# TYPE stillpoint_{name} gauge");
        for (labels, value) in known {
            let labels: Vec<_> = labels
                .into_iter()
                .map(|(label, value)| format!("{label}=\"{}\"", escaped(value)))
                .collect();
            let labels =
                if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            let _ = writeln!(self.0, "stillpoint_{name}{labels} {value}");
        }
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn seconds(at: DateTime<Utc>) -> f64 {
    at.timestamp_micros() as f64 / 1e6
}

/// Everything, in the text format.
pub(super) fn page(
    fleet: &Fleet,
    measured: &[Measured<'_>],
    (jobs, registry, agents): (&[Job], &Registry, &Agents),
    now: DateTime<Utc>,
) -> String {
    let mut page = Page(String::new());
    let each = |value: &dyn Fn(&Member, &Standing) -> Option<f64>| {
        let known = |one: &Measured<'_>| value(one.member, one.standing.as_ref()?);
        let samples = measured.iter();
        let samples = samples.map(|one| (vec![("database", &*one.member.name)], known(one)));
        samples.collect::<Vec<_>>()
    };
    identity(&mut page, measured);
    let active = |member: &Member| member.state == State::Active;
    page.gauge(
        "database_restore_point_newest_timestamp_seconds",
        "The newest instant that can be restored.",
        each(&|_, standing| standing.coverage.iter().map(|i| i.to).max().map(seconds)),
    );
    page.gauge(
        "database_restore_point_oldest_timestamp_seconds",
        "The oldest instant that can be restored.",
        each(&|_, standing| standing.coverage.iter().map(|i| i.from).min().map(seconds)),
    );
    page.gauge(
        "database_rpo_target_seconds",
        "How old the newest restorable point may be.",
        each(&|member, _| active(member).then(|| member.policy.rpo.as_secs_f64())),
    );
    page.gauge(
        "database_rpo_breached",
        "Whether the newest restorable point is older than that.",
        each(&|member, standing| {
            let reach = reach(member, standing);
            let fresh = reach.freshness(&member.policy, now)?;
            Some(f64::from(u8::from(fresh.breached_since.is_some())))
        }),
    );
    page.gauge(
        "database_coverage_gaps",
        "Stretches of the window that cannot be restored.",
        each(&|member, standing| {
            let has_log = active(member) && member.policy.logs != Logs::Never;
            has_log.then(|| reach(member, standing).gaps(&member.policy, now).len() as f64)
        }),
    );
    page.gauge(
        "database_backup_ever_succeeded",
        "Whether there is any backup.",
        each(&|_, standing| Some(f64::from(u8::from(standing.backups > 0)))),
    );
    page.gauge(
        "database_backup_last_timestamp_seconds",
        "The state of the newest backup.",
        each(&|_, standing| standing.newest_backup.map(seconds)),
    );
    page.gauge(
        "database_drill_last_success_timestamp_seconds",
        "The end of the last drill that passed.",
        each(&|_, standing| standing.drill_passed.map(seconds)),
    );
    page.gauge(
        "database_rto_target_seconds",
        "How long a restore may take.",
        each(&|member, _| member.policy.rto.map(|rto| rto.as_secs_f64())),
    );
    of_copies(&mut page, measured, now);
    let open = measured.iter().flat_map(|one| {
        let matters = |known| matters(one.member, (known, &one.copies), one.pause, now);
        let known = one.standing.as_ref().map(matters);
        let known = known.unwrap_or_default().into_iter();
        known.map(|alert| {
            let labels = vec![
                ("database", one.member.name.as_str()),
                ("class", alert.class.name()),
                ("urgency", alert.urgency.name()),
            ];
            (labels, Some(1.0))
        })
    });
    page.gauge("database_alert", "What is the matter with a database.", open);
    seen(&mut page, agents);
    queue(&mut page, jobs);
    endpoints(&mut page, fleet, registry);
    let databases = fleet.members.values();
    let unknown = measured.iter().filter(|one| one.standing.is_none()).count();
    page.gauge(
        "databases",
        "How many databases are configured.",
        [(Vec::new(), Some(databases.count() as f64))],
    );
    page.gauge(
        "databases_unknown",
        "Of how many nothing is known, for lack of an answer.",
        [(Vec::new(), Some(unknown as f64))],
    );
    page.0
}

/// How far copies have come. Of one that nobody could look at, only how long it waits is known.
fn of_copies(page: &mut Page, measured: &[Measured<'_>], now: DateTime<Utc>) {
    let each = |value: &dyn Fn(&CopyKnown) -> Option<f64>| {
        let mut samples = Vec::new();
        for one in measured {
            for copy in &one.copies {
                let labels = vec![("database", &*one.member.name), ("copy", &*copy.name)];
                samples.push((labels, value(copy)));
            }
        }
        samples
    };
    page.gauge(
        "database_copy_lag_seconds",
        "How long the oldest of what a copy lacks waits; 0 where it lacks nothing.",
        each(&|copy| {
            let is_known = copy.problem.is_none() || copy.waiting_since.is_some();
            is_known.then(|| lag(copy.waiting_since, now) as f64)
        }),
    );
    page.gauge(
        "database_copy_backups",
        "How many backups a copy has.",
        each(&|copy| copy.problem.is_none().then_some(copy.backups as f64)),
    );
    page.gauge(
        "database_copy_restore_point_newest_timestamp_seconds",
        "The newest instant that can be restored from a copy.",
        each(&|copy| copy.newest.map(seconds)),
    );
}

/// What does not change.
fn identity(page: &mut Page, measured: &[Measured<'_>]) {
    let version = env!("CARGO_PKG_VERSION");
    page.gauge(
        "build_info",
        "The version of the program.",
        [(vec![("version", version)], Some(1.0))],
    );
    let info = measured.iter().map(|one| {
        let member = one.member;
        let engine = member.place.as_ref().map_or("", |place| place.engine.name());
        let labels = vec![
            ("database", member.name.as_str()),
            ("engine", engine),
            ("policy", member.policy.name.as_str()),
            ("repository", member.repository.as_str()),
            ("state", state_name(member.state)),
        ];
        (labels, Some(1.0))
    });
    page.gauge("database_info", "What is configured for a database.", info);
}

/// Endpoints that are remembered, and what nobody looks after.
fn endpoints(page: &mut Page, fleet: &Fleet, registry: &Registry) {
    let chosen = fleet.members.values().filter_map(|member| member.endpoints.chosen.as_ref());
    let chosen: BTreeSet<&str> = chosen.map(|chosen| chosen.id.as_str()).collect();
    let mut counted: BTreeMap<&str, u32> = BTreeMap::new();
    for one in registry.values() {
        let phase = one.phase(chosen.get(&*one.id).copied());
        *counted.entry(phase.name()).or_default() += 1;
    }
    let samples = counted.into_iter();
    let samples = samples.map(|(phase, count)| (vec![("state", phase)], Some(f64::from(count))));
    page.gauge("endpoints", "Endpoints that were registered, by what became of them.", samples);
    let active = fleet.members.values().filter(|member| member.state == State::Active);
    let active = active.map(|member| (vec![("database", member.name.as_str())], Some(1.0)));
    let none = fleet.unprotected.iter();
    let none = none.map(|one| (vec![("database", one.name.as_str())], Some(0.0)));
    page.gauge(
        "database_protected",
        "Whether a policy applies to what was configured or discovered.",
        active.chain(none),
    );
}

/// When agents were last heard of.
fn seen(page: &mut Page, agents: &Agents) {
    let samples = agents.iter();
    let samples = samples.map(|(name, at)| (vec![("agent", &**name)], Some(seconds(*at))));
    page.gauge("agent_last_seen_timestamp_seconds", "When an agent was last heard of.", samples);
}

fn queue(page: &mut Page, jobs: &[Job]) {
    let mut counted: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for job in jobs {
        let phase = match job.phase {
            Phase::Waiting => "waiting",
            Phase::Running { .. } => "running",
            Phase::Ended { .. } => continue,
        };
        *counted.entry((&job.task.kind, phase)).or_default() += 1;
    }
    let samples = counted.into_iter().map(|((kind, phase), count)| {
        (vec![("kind", kind), ("state", phase)], Some(f64::from(count)))
    });
    page.gauge("queue_jobs", "Jobs that wait or run.", samples);
}

/// A state, in a word.
pub(super) fn state_name(state: State) -> &'static str {
    match state {
        State::Active => "active",
        State::Retiring => "retiring",
        State::Retired => "retired",
    }
}
