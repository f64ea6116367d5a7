//! What Prometheus is told: one family after the other, and no sample of what is not known.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use chrono::{DateTime, TimeDelta, Utc};
use stillpoint_contract::Certificate;

use super::{
    super::copy::lag,
    matters::{matters, reach},
    stock::Stocks,
};
use crate::{
    coordinator::{
        BOUNDS_SECONDS, CopyKnown, Fleet, Histogram, Member, Standing, Tally,
        state::{Job, Phase},
    },
    policy::{ArchiveState, Logs, Pause, Registry, State},
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
    /// Its archive sets for which something is due.
    pub archives: Vec<ArchiveState>,
}

/// When each agent was last heard of.
pub(super) type Agents = BTreeMap<String, DateTime<Utc>>;

/// What was counted: by a coordinator, and by its stores.
pub(super) struct Counted<'a> {
    pub tally: &'a Tally,
    pub requests: Vec<(&'static str, u64)>,
    /// What repositories hold, by name.
    pub stocks: Stocks,
    /// Files that somebody has to renew in time.
    pub certificates: BTreeSet<Certificate>,
}

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
        self.family(("gauge", name), help, samples);
    }

    /// A family of counters.
    fn counter<'a>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Vec<Label<'a>>, u64)>,
    ) {
        let samples = samples.into_iter().map(|(labels, count)| (labels, Some(count as f64)));
        self.family(("counter", name), help, samples);
    }

    fn family<'a>(
        &mut self,
        (kind, name): (&str, &str),
        help: &str,
        samples: impl IntoIterator<Item = (Vec<Label<'a>>, Option<f64>)>,
    ) {
        let known = samples.into_iter().filter_map(|(labels, value)| Some((labels, value?)));
        let mut known = known.peekable();
        if known.peek().is_none() {
            return;
        }
        self.head((kind, name), help);
        for (labels, value) in known {
            self.sample(name, &labels, value);
        }
    }

    /// A family of histograms of seconds; none of what never happened.
    fn histogram<'a>(
        &mut self,
        name: &str,
        help: &str,
        all: impl IntoIterator<Item = (Vec<Label<'a>>, &'a Histogram)>,
    ) {
        let mut all = all.into_iter().filter(|(_, one)| one.count > 0).peekable();
        if all.peek().is_none() {
            return;
        }
        self.head(("histogram", name), help);
        for (labels, histogram) in all {
            let mut below = 0;
            let bounds = BOUNDS_SECONDS.map(|bound| bound.to_string());
            for (bound, count) in bounds.iter().zip(histogram.counts) {
                below += count;
                let labels = [labels.as_slice(), &[("le", bound.as_str())]].concat();
                self.sample(&format!("{name}_bucket"), &labels, below as f64);
            }
            let every = [labels.as_slice(), &[("le", "+Inf")]].concat();
            self.sample(&format!("{name}_bucket"), &every, histogram.count as f64);
            self.sample(&format!("{name}_sum"), &labels, histogram.sum.as_secs_f64());
            self.sample(&format!("{name}_count"), &labels, histogram.count as f64);
        }
    }

    fn head(&mut self, (kind, name): (&str, &str), help: &str) {
        let _ = writeln!(self.0, "# HELP stillpoint_{name} {help}");
        let _ = writeln!(self.0, "# TYPE stillpoint_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[Label<'_>], value: f64) {
        let labels = labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value)));
        let labels = labels.collect::<Vec<_>>().join(",");
        let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
        let _ = writeln!(self.0, "stillpoint_{name}{labels} {value}");
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
    counted: &Counted<'_>,
    now: DateTime<Utc>,
) -> String {
    let mut page = Page(String::new());
    identity(&mut page, measured);
    points(&mut page, measured, now);
    proofs(&mut page, measured);
    of_copies(&mut page, measured, now);
    open(&mut page, measured, now);
    seen(&mut page, fleet, agents);
    queue(&mut page, jobs);
    counters(&mut page, counted);
    repositories(&mut page, &counted.stocks);
    endpoints(&mut page, fleet, registry);
    certificates(&mut page, &counted.certificates);
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

/// A sample of each database, as far as it is known.
fn each<'a>(
    measured: &'a [Measured<'_>],
    value: &dyn Fn(&Member, &Standing) -> Option<f64>,
) -> Vec<(Vec<Label<'a>>, Option<f64>)> {
    let known = |one: &Measured<'_>| value(one.member, one.standing.as_ref()?);
    let samples = measured.iter();
    samples.map(|one| (vec![("database", &*one.member.name)], known(one))).collect()
}

/// What can be restored, against what is promised.
fn points(page: &mut Page, measured: &[Measured<'_>], now: DateTime<Utc>) {
    let active = |member: &Member| member.state == State::Active;
    page.gauge(
        "database_restore_point_newest_timestamp_seconds",
        "The newest instant that can be restored.",
        each(measured, &|_, standing| standing.coverage.iter().map(|i| i.to).max().map(seconds)),
    );
    page.gauge(
        "database_restore_point_oldest_timestamp_seconds",
        "The oldest instant that can be restored.",
        each(measured, &|_, standing| standing.coverage.iter().map(|i| i.from).min().map(seconds)),
    );
    page.gauge(
        "database_rpo_target_seconds",
        "How old the newest restorable point may be.",
        each(measured, &|member, _| active(member).then(|| member.policy.rpo.as_secs_f64())),
    );
    page.gauge(
        "database_rpo_breached",
        "Whether the newest restorable point is older than that.",
        each(measured, &|member, standing| {
            let reach = reach(member, standing);
            let fresh = reach.freshness(&member.policy, now)?;
            Some(f64::from(u8::from(fresh.breached_since.is_some())))
        }),
    );
    let gaps = |member: &Member, standing: &Standing| {
        let has_log = active(member) && member.policy.logs != Logs::Never;
        has_log.then(|| reach(member, standing).gaps(&member.policy, now))
    };
    page.gauge(
        "database_coverage_gaps",
        "Stretches of the window that cannot be restored.",
        each(measured, &|member, standing| Some(gaps(member, standing)?.len() as f64)),
    );
    page.gauge(
        "database_coverage_gap_seconds",
        "How much of the window cannot be restored, in all.",
        each(measured, &|member, standing| {
            let gaps = gaps(member, standing)?;
            let long = gaps.iter().map(|gap| gap.to - gap.from).sum::<TimeDelta>();
            Some(long.as_seconds_f64())
        }),
    );
}

/// Backups and drills.
fn proofs(page: &mut Page, measured: &[Measured<'_>]) {
    page.gauge(
        "database_backup_ever_succeeded",
        "Whether there is any backup.",
        each(measured, &|_, standing| Some(f64::from(u8::from(standing.backups > 0)))),
    );
    let newest = measured.iter().filter_map(|one| Some((one.member, one.standing.as_ref()?)));
    let newest = newest.flat_map(|(member, standing)| {
        let of = |kind, at: Option<DateTime<Utc>>| {
            (vec![("database", &*member.name), ("kind", kind)], at.map(seconds))
        };
        let Standing { newest_full, newest_incremental, .. } = standing;
        [of("full", *newest_full), of("incremental", *newest_incremental)]
    });
    page.gauge(
        "database_backup_last_success_timestamp_seconds",
        "The state of the newest backup of each kind.",
        newest,
    );
    page.gauge(
        "database_drill_last_success_timestamp_seconds",
        "The end of the last drill that passed.",
        each(measured, &|_, standing| standing.drill_passed.map(seconds)),
    );
    let in_seconds = |milliseconds: u64| milliseconds as f64 / 1e3;
    page.gauge(
        "database_drill_rto_seconds",
        "How long that drill took from its start until the restored database answered.",
        each(measured, &|_, standing| standing.rehearsed.rto_ms.map(in_seconds)),
    );
    page.gauge(
        "database_drill_rpo_seconds",
        "How much of what was committed was not there, as time.",
        each(measured, &|_, standing| standing.rehearsed.rpo_ms.map(in_seconds)),
    );
    page.gauge(
        "database_rto_target_seconds",
        "How long a restore may take.",
        each(measured, &|member, _| member.policy.rto.map(|rto| rto.as_secs_f64())),
    );
}

/// What is the matter.
fn open(page: &mut Page, measured: &[Measured<'_>], now: DateTime<Utc>) {
    let open = measured.iter().flat_map(|one| {
        let matters =
            |known| matters(one.member, (known, &one.copies, &one.archives), one.pause, now);
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
    let own = measured.iter().map(|one| {
        let labels = vec![("database", &*one.member.name), ("copy", "primary")];
        (labels, one.standing.as_ref().map(|standing| standing.stored_bytes as f64))
    });
    let copied = each(&|copy| copy.stored_bytes.map(|bytes| bytes as f64));
    page.gauge(
        "database_repo_bytes",
        "What the backups of a database take in the repository and in each copy.",
        own.chain(copied),
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

/// The certificates of all that is protected, as far as their files can be read.
pub(super) fn certificates_of(fleet: &Fleet) -> BTreeSet<Certificate> {
    let places = fleet.members.values().filter_map(|member| member.place.as_ref());
    places
        .flat_map(|place| place.engine.certificates(&place.endpoint).unwrap_or_default())
        .collect()
}

fn certificates(page: &mut Page, all: &BTreeSet<Certificate>) {
    let named: Vec<_> = all.iter().map(|one| (one.file.to_string_lossy(), one.ends_at)).collect();
    let samples = named.iter().map(|(file, at)| (vec![("name", &**file)], Some(seconds(*at))));
    page.gauge(
        "certificate_expiry_timestamp_seconds",
        "Until when the certificates in a file are valid.",
        samples,
    );
}

/// When agents were last heard of, as long as a database names them.
fn seen(page: &mut Page, fleet: &Fleet, agents: &Agents) {
    let active = fleet.members.values().filter(|member| member.state == State::Active);
    let named: BTreeSet<&str> = active.filter_map(|member| member.agent.as_deref()).collect();
    let samples = agents.iter().filter(|(name, _)| named.contains(name.as_str()));
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

/// What this process has counted since it began.
fn counters(page: &mut Page, counted: &Counted<'_>) {
    let tally = counted.tally;
    let jobs = tally.jobs.iter();
    let jobs = jobs.map(|((kind, outcome), count)| {
        (vec![("kind", kind.as_str()), ("outcome", outcome)], *count)
    });
    page.counter("jobs_total", "Jobs that ended.", jobs);
    let durations = tally.durations.iter();
    let durations = durations.map(|((kind, engine), histogram)| {
        (vec![("kind", kind.as_str()), ("engine", *engine)], histogram)
    });
    page.histogram("job_duration_seconds", "How long jobs took.", durations);
    page.histogram(
        "schedule_lateness_seconds",
        "How much later than they were due jobs began.",
        [(Vec::new(), &tally.lateness)],
    );
    let missed = tally.missed.iter();
    let missed = missed.map(|(reason, count)| (vec![("reason", reason.as_str())], *count));
    page.counter("schedule_missed_total", "Due times that became nothing.", missed);
    let suppressed = tally.suppressed.iter();
    let suppressed = suppressed.map(|(why, count)| (vec![("reason", why.name())], *count));
    page.counter("alerts_suppressed_total", "What nobody was told of.", suppressed);
    page.counter(
        "verify_corrupt_objects_total",
        "Objects that were found damaged when new backups were read back.",
        [(Vec::new(), tally.damaged)],
    );
    let requests = counted.requests.iter().map(|(op, count)| (vec![("op", *op)], *count));
    page.counter("repository_requests_total", "What repositories' stores were asked.", requests);
}

/// What repositories held when they were last counted.
fn repositories(page: &mut Page, stocks: &Stocks) {
    let kinds = |value: fn(&(u64, u64)) -> u64| {
        stocks.iter().flat_map(move |(name, stats)| {
            stats.stored.iter().map(move |(class, amount)| {
                (vec![("repo", &**name), ("class", &**class)], Some(value(amount) as f64))
            })
        })
    };
    page.gauge("repository_objects", "Objects, by what they are.", kinds(|amount| amount.0));
    page.gauge("repository_bytes", "Their bytes.", kinds(|amount| amount.1));
    let ratios = stocks.iter().map(|(name, stats)| {
        let stored: u64 = stats.stored.values().map(|amount| amount.1).sum();
        let ratio = stats.protected_bytes as f64 / stored as f64;
        (vec![("repo", name.as_str())], (stored > 0).then_some(ratio))
    });
    page.gauge(
        "repository_dedup_ratio",
        "The sizes of the databases of all backups, for each byte that is stored.",
        ratios,
    );
}

/// A state, in a word.
pub(super) fn state_name(state: State) -> &'static str {
    match state {
        State::Active => "active",
        State::Retiring => "retiring",
        State::Retired => "retired",
    }
}
