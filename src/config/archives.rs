//! `[archive.NAME]`: which rows are moved out of live tables.

use std::time::Duration;

use chrono_tz::Tz;
use stillpoint_contract::{CutoffForm, code};

use super::{
    build::named,
    form::{
        ANY, BASIS, CRON, CUTOFF, ENCRYPTION, LENGTH, LOG_SHARE, MOMENT, NAME, PERIOD, RATE, SIZE,
        WINDOW, ZONE, cutoff, event_of, length, log_share, moment, period, rate, size,
    },
    model::{Config, Database},
    problem::Problem,
    shape::{Key, Shape, suggestion},
    tree::{Node, Spot, Value},
};
use crate::policy::{
    ArchiveEncryption, ArchiveRule, ArchivedChild, DestinationRule, EventRule, FileFormat, Gates,
    Period, Throttle, Verification, Window,
};

/// How large files and slices are, and how long a transaction takes, where nothing is said.
const FILE_BYTES: u64 = 64 << 20;

/// How large files may be: one is read as a whole, and verified, before rows are deleted.
const FILE_BYTES_MAX: u64 = 1 << 30;

const SLICE_ROWS: u64 = 8_000;
const TRANSACTION: Duration = Duration::from_millis(250);

/// How long a partition stands beside its table, where nothing is said.
const GRACE: Duration = Duration::from_hours(7 * 24);

/// What a database without types for times can have for one.
const CUTOFF_FORMS: [(&str, CutoffForm); 6] = [
    ("datetime", CutoffForm::Datetime),
    ("iso8601", CutoffForm::Iso8601),
    ("date", CutoffForm::Date),
    ("unix", CutoffForm::Unix),
    ("unix-ms", CutoffForm::UnixMs),
    ("julian-day", CutoffForm::JulianDay),
];

const CHILD: &[Key] = &[
    Key::new("table", Shape::Text(&ANY), "the table").must(),
    Key::new(
        "fk",
        Shape::Either(&[Shape::Text(&NAME), Shape::List(&Shape::Text(&NAME))]),
        "the columns that refer to the root, or to another child [default: its only foreign key]",
    )
    .alike(&["columns", "foreign_key"]),
];

const DESTINATION: &[Key] = &[
    Key::new("database", Shape::Text(&NAME), "the database: another one, of the same engine")
        .must()
        .alike(&["db", "server", "endpoint"]),
    Key::new(
        "schema",
        Shape::Text(&NAME),
        "the schema of those tables [default: that of the tables that rows come from]",
    ),
];

const GATE: &[Key] = &[
    Key::new(
        "second_copy",
        Shape::Either(&[Shape::Flag, Shape::Text(&NAME)]),
        "the repository that gets a second copy of each file, which is read back; true: the one \
         that the policy of the database copies to",
    )
    .alike(&["copy", "copied"]),
    Key::new("verified_backup", Shape::Flag, "whether a verified backup must have the rows"),
    Key::new("min_age", Shape::Text(&LENGTH), "how old the file must be").alike(&["age", "after"]),
];

const THROTTLE: &[Key] = &[
    Key::new(
        "max_replica_lag",
        Shape::Text(&LENGTH),
        "while a replica is further behind, or nobody knows how far, nothing is deleted \
         [default: 2s]",
    )
    .alike(&["max_lag", "lag"]),
    Key::new(
        "max_threads_running",
        Shape::Whole { least: 1, most: 1_000_000 },
        "while more sessions are working, nothing is deleted",
    )
    .alike(&["max_sessions", "max_active"]),
    Key::new("max_wal_rate", Shape::Text(&RATE), "how much log may be written, by anybody")
        .alike(&["max_log_rate"]),
    Key::new(
        "max_dead_rows",
        Shape::Whole { least: 1, most: i64::MAX },
        "while its tables have more dead rows, nothing is deleted",
    )
    .alike(&["max_dead_tuples"]),
    Key::new(
        "dead_tuples_per_hour",
        Shape::Whole { least: 1, most: i64::MAX },
        "how many rows a run deletes in an hour at most; one transaction may be ahead of it",
    )
    .alike(&["dead_rows_per_hour", "max_rows_per_hour"]),
    Key::new(
        "max_log_used",
        Shape::Text(&LOG_SHARE),
        "while the server has to keep more log, nothing is deleted: a size, or a share of \
         max_wal_size, or with SQLite of what the disk has left",
    )
    .alike(&["max_wal_used", "max_wal_size"]),
    Key::new(
        "nice_percent",
        Shape::Whole { least: 0, most: 10_000 },
        "how long it rests after each transaction, in hundredths of what that took [default: 0]",
    )
    .alike(&["nice", "nice_ratio", "sleep_coef"]),
    Key::new(
        "critical",
        Shape::Word(&["rest", "abort"]),
        "what happens where more than twice a limit is seen: the run rests, or it stops \
         [default: \"rest\"]",
    ),
];

const RETENTION: &[Key] = &[
    Key::new(
        "basis",
        Shape::Text(&BASIS),
        "from when on: \"archived\", or \"subject.EVENT\", which `archive event add` records \
         [default: \"archived\"]",
    ),
    Key::new("keep", Shape::Text(&PERIOD), "for how long").must().alike(&["for", "after"]),
    Key::new("subject", Shape::Text(&NAME), "the column of the root that says whose a row is")
        .alike(&["column"]),
];

/// What an archive may say.
pub(super) const ARCHIVE: &[Key] = &[
    Key::new("database", Shape::Text(&NAME), "the database").must().alike(&["server", "db"]),
    Key::new(
        "to",
        Shape::Text(&NAME),
        "the repository that the files go to [default: the database's]",
    )
    .alike(&["repository", "repo", "dest"]),
    Key::new("root", Shape::Text(&ANY), "the table, with its schema").must().alike(&["table"]),
    Key::new(
        "key",
        Shape::Text(&NAME),
        "the unique index by which its rows are told apart and put in order [default: \"primary\"]",
    )
    .alike(&["index", "primary_key"]),
    Key::new(
        "where",
        Shape::Text(&ANY),
        "which of its rows, in the engine's SQL; :cutoff stands for the cutoff",
    )
    .must()
    .alike(&["predicate", "select"]),
    Key::new("cutoff", Shape::Text(&CUTOFF), "how old rows are at least, by the database's clock"),
    Key::new(
        "cutoff_timezone",
        Shape::Text(&ZONE),
        "the zone of the cutoff's calendar, and of times that the database keeps without one",
    )
    .alike(&["timezone"]),
    Key::new(
        "cutoff_form",
        Shape::Word(&["datetime", "iso8601", "date", "unix", "unix-ms", "julian-day"]),
        "how a database without types for times writes them",
    ),
    Key::new(
        "children",
        Shape::List(&Shape::Table(CHILD)),
        "tables whose rows refer to those rows, and go with them",
    )
    .alike(&["child", "related"]),
    Key::new(
        "on_unlisted_child",
        Shape::Word(&["refuse", "include"]),
        "what happens when other tables refer to them [default: \"refuse\"]",
    ),
    Key::new(
        "derived",
        Shape::List(&Shape::Text(&ANY)),
        "other tables whose rows only derive from others, such as one to search in: what triggers \
         delete of them while rows are archived is not kept [default: none]",
    )
    .alike(&["caches", "derives", "derived_tables"]),
    Key::new(
        "format",
        Shape::Word(&["parquet", "csv", "jsonl"]),
        "the format of files [default: \"parquet\"]",
    ),
    Key::new(
        "destination",
        Shape::Either(&[Shape::Word(&["none"]), Shape::Table(DESTINATION)]),
        "tables of another database that get a copy of the rows, which is read back before rows \
         are deleted; \"none\" gives copies up that there are",
    )
    .alike(&["destination_table", "copy_to", "into"]),
    Key::new(
        "encryption",
        Shape::Text(&ENCRYPTION),
        "\"repo\": each file with a key of its own, which the repository's wraps; \"none\": query \
         engines can read them [default: \"repo\" in an encrypted repository]",
    ),
    Key::new("lookup", Shape::List(&Shape::Text(&NAME)), "columns by whose values rows are found"),
    Key::new("file_target", Shape::Text(&SIZE), "how large a file is [default: 64MiB]"),
    Key::new(
        "slice_rows",
        Shape::Whole { least: 1, most: 50_000 },
        "how many rows are deleted together at least [default: 8000]",
    )
    .alike(&["batch", "limit"]),
    Key::new(
        "txn_target",
        Shape::Either(&[Shape::Whole { least: 1, most: 60_000 }, Shape::Text(&MOMENT)]),
        "how long a transaction should take that deletes; a number is one of milliseconds \
         [default: 250ms]",
    ),
    Key::new(
        "verify",
        Shape::Word(&["row", "tuple"]),
        "what is compared before rows are deleted: each row, or on PostgreSQL which version of it \
         that is, and the row where versions differ [default: \"row\"]",
    ),
    Key::new("delete_gate", Shape::Table(GATE), "what must be so before rows are deleted")
        .alike(&["gate", "prune"]),
    Key::new(
        "partition_path",
        Shape::Word(&["auto", "never"]),
        "\"auto\": a partition of which all rows are selected is taken out as a whole, and dropped \
         later; \"never\": its rows are deleted [default: \"auto\"]",
    ),
    Key::new(
        "grace",
        Shape::Text(&LENGTH),
        "how long a partition that was taken out stays before it is dropped [default: 7d]",
    ),
    Key::new("throttle", Shape::Table(THROTTLE), "when the work rests"),
    Key::new(
        "schedule",
        Shape::Text(&CRON),
        "when those that serve begin a run, in cutoff_timezone or, without one, timezone \
         [default: never]",
    )
    .alike(&["cron", "at", "every"]),
    Key::new(
        "window",
        Shape::List(&Shape::Text(&WINDOW)),
        "when it may run, in cutoff_timezone or, without one, timezone where it names no zone \
         [default: always]",
    ),
    Key::new("max_runtime", Shape::Text(&LENGTH), "how long it runs at most")
        .alike(&["run_time", "runtime"]),
    Key::new(
        "reclaim",
        Shape::Word(&["none", "report", "vacuum"]),
        "what a run does that deleted rows: \"report\" tells what became of their space; \
         \"vacuum\" lets it be used again before [default: \"none\"]",
    ),
    Key::new(
        "sort",
        Shape::List(&Shape::Text(&NAME)),
        "the order of rows in files, which is that of the key [default: the columns of the key]",
    ),
    Key::new(
        "keep",
        Shape::Text(&PERIOD),
        "how long files are kept from when they were written [default: for ever]",
    ),
    Key::new(
        "retention",
        Shape::Table(RETENTION),
        "the same as keep, or how long rows are kept from an event on that is recorded",
    ),
];

/// Everything that is archived.
pub(super) fn build(main: &Node, config: &Config) -> Vec<ArchiveRule> {
    let rules = named(main, "archive").filter_map(|(name, _, node)| rule(name, node, config));
    rules.collect()
}

fn rule(name: &str, node: &Node, config: &Config) -> Option<ArchiveRule> {
    let text = |key: &str| node.get(key).and_then(Node::text).map(str::to_owned);
    let number = |key: &str| whole(node.get(key));
    let database = text("database")?;
    let of_database = || config.databases.get(&database).map(|one| one.repository.clone());
    let form = text("cutoff_form");
    let list = |key: &str| node.get(key).map_or(&[][..], Node::list);
    let texts = |key: &str| list(key).iter().filter_map(Node::text).map(str::to_owned).collect();
    let of_policy = &copied_to(&database, config);
    let zone: Option<Tz> = text("cutoff_timezone").and_then(|text| text.parse().ok());
    Some(ArchiveRule {
        name: name.to_owned(),
        to: text("to").or_else(of_database).unwrap_or_default(),
        database,
        root: text("root")?,
        key: text("key").filter(|key| key != "primary"),
        selects: text("where")?,
        age: text("cutoff").and_then(|text| cutoff(&text).ok()),
        zone,
        form: form
            .and_then(|form| CUTOFF_FORMS.iter().find(|(name, _)| *name == form))
            .map(|(_, form)| *form),
        children: list("children").iter().filter_map(child).collect(),
        includes_unlisted: text("on_unlisted_child").as_deref() == Some("include"),
        derived: texts("derived"),
        format: match text("format").as_deref() {
            Some("csv") => FileFormat::Csv,
            Some("jsonl") => FileFormat::Jsonl,
            _ => FileFormat::Parquet,
        },
        destination: destination(node.get("destination")),
        encryption: match text("encryption").as_deref() {
            Some("repo") => Some(ArchiveEncryption::Repository),
            Some("none") => Some(ArchiveEncryption::None),
            _ => None,
        },
        lookup: texts("lookup"),
        file_bytes: text("file_target").and_then(|text| size(&text).ok()).unwrap_or(FILE_BYTES),
        slice_rows: number("slice_rows").unwrap_or(SLICE_ROWS),
        transaction: transaction(node.get("txn_target")),
        verification: match text("verify").as_deref() {
            Some("tuple") => Verification::Tuple,
            _ => Verification::Row,
        },
        gates: node.get("delete_gate").map(|gate| gates(gate, of_policy)).unwrap_or_default(),
        detaches: text("partition_path").as_deref() != Some("never"),
        grace: text("grace").and_then(|text| length(&text).ok()).unwrap_or(GRACE),
        throttle: node.get("throttle").map(throttle).unwrap_or_default(),
        schedule: text("schedule"),
        windows: windows(node.get("window"), zone.unwrap_or(config.zone)),
        runtime_max: text("max_runtime").and_then(|text| length(&text).ok()),
        reclaim: match text("reclaim").as_deref() {
            None | Some("none") => None,
            Some("report") => Some("none".to_owned()),
            Some(method) => Some(method.to_owned()),
        },
        sort: texts("sort"),
        keep: keep(node),
        retention: node.get("retention").and_then(retention),
    })
}

/// When it may run: each window in its own zone, or else in that one.
fn windows(node: Option<&Node>, zone: Tz) -> Vec<Window> {
    let windows = super::build::windows(node).into_iter();
    windows.map(|window| Window { zone: window.zone.or(Some(zone)), ..window }).collect()
}

fn destination(node: Option<&Node>) -> DestinationRule {
    let Some(node) = node else { return DestinationRule::None };
    let text = |key: &str| node.get(key).and_then(Node::text).map(str::to_owned);
    match text("database") {
        Some(database) => DestinationRule::Tables { database, schema: text("schema") },
        None => DestinationRule::GivenUp,
    }
}

/// How long files are kept from when they were written.
fn keep(node: &Node) -> Option<Period> {
    let keep = |node: &Node| period(node.get("keep")?.text()?).ok();
    let from_archived = node.get("retention").filter(|node| retention(node).is_none());
    keep(node).or_else(|| keep(from_archived?))
}

/// How long rows are kept from an event on.
fn retention(node: &Node) -> Option<EventRule> {
    let text = |key: &str| node.get(key).and_then(Node::text);
    Some(EventRule {
        after: text("keep").and_then(|text| period(text).ok())?,
        event: event_of(text("basis")?)?.to_owned(),
        subject: text("subject")?.to_owned(),
    })
}

fn whole(node: Option<&Node>) -> Option<u64> {
    match node?.value {
        Value::Whole(number) => u64::try_from(number).ok(),
        _ => None,
    }
}

fn child(node: &Node) -> Option<ArchivedChild> {
    let table = node.get("table")?.text()?.to_owned();
    let columns = node.get("fk").map_or_else(Vec::new, |fk| match fk.text() {
        Some(one) => vec![one.to_owned()],
        None => fk.list().iter().filter_map(Node::text).map(str::to_owned).collect(),
    });
    Some(ArchivedChild { table, columns })
}

fn transaction(node: Option<&Node>) -> Duration {
    let in_text = || moment(node?.text()?).ok();
    whole(node).map(Duration::from_millis).or_else(in_text).unwrap_or(TRANSACTION)
}

/// The repositories that the policy of a database copies to.
fn copied_to(database: &str, config: &Config) -> Vec<String> {
    let policy = config.databases.get(database).and_then(|one| config.policies.get(&one.policy));
    let copies = policy.iter().flat_map(|policy| &policy.copies).map(|copy| copy.to.clone());
    let is_one = |to: &String| config.repositories.get(to).is_some_and(|one| !one.is_handoff);
    copies.filter(is_one).collect()
}

fn is_true(node: Option<&Node>) -> bool {
    node.is_some_and(|one| matches!(one.value, Value::Flag(true)))
}

/// `copies` are the repositories that there are for a second copy that is not named: of several,
/// somebody has to say which.
fn gates(node: &Node, copies: &[String]) -> Gates {
    let second = node.get("second_copy");
    let usual = copies.first().filter(|_| is_true(second)).cloned();
    Gates {
        second_copy: second.and_then(Node::text).map(str::to_owned).or(usual),
        verified_backup: is_true(node.get("verified_backup")),
        age: node.get("min_age").and_then(|age| length(age.text()?).ok()),
    }
}

fn throttle(node: &Node) -> Throttle {
    let usual = Throttle::default();
    let lag = node.get("max_replica_lag").and_then(|lag| length(lag.text()?).ok());
    let active = whole(node.get("max_threads_running"));
    Throttle {
        lag: lag.unwrap_or(usual.lag),
        active: active.and_then(|active| u32::try_from(active).ok()),
        log_bytes_per_second: node.get("max_wal_rate").and_then(|max| rate(max.text()?).ok()),
        dead_rows: whole(node.get("max_dead_rows")),
        dead_rows_per_hour: whole(node.get("dead_tuples_per_hour")),
        log_used: node.get("max_log_used").and_then(|max| log_share(max.text()?).ok()),
        nice_percent: whole(node.get("nice_percent"))
            .and_then(|percent| u32::try_from(percent).ok())
            .unwrap_or(usual.nice_percent),
        aborts: node.get("critical").and_then(Node::text) == Some("abort"),
    }
}

/// Notes names of nothing, and what is said of a cutoff that is not there.
pub(super) fn judge(main: &Node, config: &Config, problems: &mut Vec<Problem>) {
    for (name, spot, node) in named(main, "archive") {
        let databases = config.databases.keys().map(String::as_str);
        let repositories = config.repositories.keys().map(String::as_str);
        problems.extend(unknown(node.get("database"), "database", databases.clone()));
        problems.extend(unknown(node.get("to"), "repository", repositories.clone()));
        let copy = node.get("delete_gate").and_then(|gate| gate.get("second_copy"));
        problems.extend(unknown(copy, "repository", repositories));
        problems.extend(copy.and_then(|copy| judge_copy(name, copy, config)));
        let destination = node.get("destination");
        let there = destination.and_then(|destination| destination.get("database"));
        problems.extend(unknown(there, "database", databases.clone()));
        problems.extend(destination.and_then(|node| judge_destination(name, node, config)));
        problems.extend(node.get("file_target").and_then(|node| judge_file(name, node)));
        problems.extend(judge_derived(name, node));
        let compares =
            node.get("where").and_then(Node::text).is_some_and(|w| w.contains(":cutoff"));
        if compares && node.get("cutoff").is_none() {
            let what = format!("`{name}` does not say what :cutoff stands for");
            let problem = Problem::error(code::CONFIG_LACKS, Spot::clone(spot), what);
            problems.push(problem.help("cutoff = \"now - 24 months\"".to_owned()));
        }
        problems.extend(
            node.get("retention")
                .and_then(|retention| judge_retention(name, retention, node.get("keep"))),
        );
    }
}

/// A second copy that is none, since it is where the first one is.
fn judge_copy(name: &str, copy: &Node, config: &Config) -> Option<Problem> {
    let rule = config.archives.get(name)?;
    let second = if is_true(Some(copy)) {
        let copies = copied_to(&rule.database, config);
        if let Some(problem) = judge_usual_copy(name, copy, &copies) {
            return Some(problem);
        }
        copies.into_iter().next()?
    } else {
        copy.text()?.to_owned()
    };
    let url = |name: &str| config.repositories.get(name).map(|one| one.url.clone());
    let is_same = rule.to == second || url(&second).is_some_and(|of| url(&rule.to) == Some(of));
    let what = format!("the second copy of `{name}` would be where the first one is");
    let problem = Problem::error(code::CONFIG_VALUE, Spot::clone(&copy.spot), what);
    is_same.then(|| problem.help("name a repository in another place".to_owned()))
}

/// A second copy of which nobody knows where it is.
fn judge_usual_copy(name: &str, copy: &Node, copies: &[String]) -> Option<Problem> {
    let what = match copies {
        [_] => return None,
        [] => format!("the policy of the database of `{name}` copies to no second repository"),
        several => format!("the second copy of `{name}` may be in {}", several.join(" or ")),
    };
    let problem = Problem::error(code::CONFIG_VALUE, Spot::clone(&copy.spot), what);
    Some(problem.help("name one: second_copy = \"NAME\"".to_owned()))
}

/// Tables that are no copies, since they are where the rows come from, or that cannot have every
/// value as it is.
fn judge_destination(name: &str, node: &Node, config: &Config) -> Option<Problem> {
    let rule = config.archives.get(name)?;
    let DestinationRule::Tables { database, .. } = &rule.destination else { return None };
    let (from, to) = (config.databases.get(&rule.database)?, config.databases.get(database)?);
    let there = node.get("database")?;
    let problem = |spot: &Spot, what: String, help: &str| {
        let problem = Problem::error(code::CONFIG_VALUE, Spot::clone(spot), what);
        Some(problem.help(help.to_owned()))
    };
    if rule.database == *database || from.endpoint == to.endpoint {
        let what = format!("the copies of `{name}` would be where its rows come from");
        return problem(&there.spot, what, "name another database");
    }
    let (of, other) = (engine(from), engine(to));
    // Some engines have a longer name as well.
    if of.starts_with(other) || other.starts_with(of) {
        return None;
    }
    let what = format!("rows of {of} are no rows of {other}: values would be others there");
    problem(&there.spot, what, "name a database of the same engine")
}

/// What a database says of its engine.
fn engine(database: &Database) -> &str {
    let scheme = database.endpoint.split_once(':').map(|(scheme, _)| scheme);
    database.engine.as_deref().or(scheme).unwrap_or_default()
}

/// Tables that are archived, as they are written.
fn judge_derived(name: &str, node: &Node) -> Vec<Problem> {
    let list = |key: &str| node.get(key).map_or(&[][..], Node::list);
    let children = list("children").iter().filter_map(|child| child.get("table"));
    let members: Vec<&Node> = node.get("root").into_iter().chain(children).collect();
    let judge = |derived: &Node| {
        let table = derived.text()?;
        let member = members.iter().find(|one| one.text() == Some(table))?;
        let what =
            format!("`{table}` is archived by `{name}`, and does not only derive from others");
        let problem = Problem::error(code::CONFIG_VALUE, Spot::clone(&derived.spot), what);
        let problem = problem.beside(Spot::clone(&member.spot), "here");
        Some(problem.help("leave it out of derived".to_owned()))
    };
    list("derived").iter().filter_map(judge).collect()
}

/// Files that would be longer than what can be read again.
fn judge_file(name: &str, node: &Node) -> Option<Problem> {
    size(node.text()?).ok().filter(|bytes| *bytes > FILE_BYTES_MAX)?;
    let what = format!("`{name}` would have files that are too large to be verified");
    let problem = Problem::error(code::CONFIG_VALUE, Spot::clone(&node.spot), what);
    Some(problem.help("at most 1GiB, for example file_target = \"64MiB\"".to_owned()))
}

/// What does not go together in how long rows are kept.
fn judge_retention(name: &str, node: &Node, keep: Option<&Node>) -> Option<Problem> {
    let spot = Spot::clone(&node.spot);
    if let Some(keep) = keep {
        let what = format!("`{name}` says twice how long rows are kept");
        let problem = Problem::error(code::CONFIG_VALUE, Spot::clone(&keep.spot), what);
        return Some(problem.beside(spot, "here, too").help("leave one of them out".to_owned()));
    }
    let event = node.get("basis").and_then(Node::text).and_then(event_of);
    match (event, node.get("subject")) {
        (Some(_), None) => {
            let what = format!("`{name}` does not say whose event it is");
            let problem = Problem::error(code::CONFIG_LACKS, spot, what);
            Some(problem.help("subject = \"customer_id\"".to_owned()))
        }
        (None, Some(subject)) => {
            let what = format!("`{name}` names a subject, and counts from no event of it");
            let spot = Spot::clone(&subject.spot);
            let problem = Problem::error(code::CONFIG_LACKS, spot, what);
            Some(problem.help("basis = \"subject.closed_at\"".to_owned()))
        }
        _ => None,
    }
}

fn unknown<'k>(
    node: Option<&Node>,
    what: &str,
    known: impl Iterator<Item = &'k str> + Clone,
) -> Option<Problem> {
    let node = node?;
    let name = node.text()?;
    if known.clone().any(|known| known == name) {
        return None;
    }
    let spot = Spot::clone(&node.spot);
    let problem = Problem::error(code::CONFIG_NAME, spot, format!("no {what} is `{name}`"));
    Some(problem.help(suggestion(name, known, &[])))
}

#[cfg(test)]
mod tests {
    use crate::{
        config::{Source, load},
        policy::DestinationRule,
    };

    #[test]
    fn files_that_could_not_be_verified_are_refused() {
        let told = |target: &str| {
            let text = format!(
                "version = 1\ntimezone = \"UTC\"\nrepository.primary.url = \"repo\"\n\
                 [database.shop]\nendpoint = \"sqlite:/data/shop.db\"\n\
                 [archive.orders]\ndatabase = \"shop\"\nroot = \"orders\"\nwhere = \"id < 5\"\n\
                 file_target = \"{target}\"\n"
            );
            let source = Source { path: "stillpoint.toml".to_owned(), text };
            let loaded = load(vec![source], "2026-11-26T12:00:00Z".parse().unwrap());
            loaded.problems.iter().filter(|one| one.what.contains("too large")).count()
        };
        assert_eq!(told("1GiB"), 0);
        assert_eq!(told("1025MiB"), 1);
    }

    #[test]
    fn destination_tables_are_in_another_database_of_the_same_engine() {
        let told = |destination: &str| {
            let text = format!(
                "version = 1\ntimezone = \"UTC\"\nrepository.primary.url = \"repo\"\n\
                 [database.shop]\nendpoint = \"sqlite:/data/shop.db\"\n\
                 [database.history]\nendpoint = \"sqlite:/data/history.db\"\n\
                 [database.alias]\nendpoint = \"sqlite:/data/shop.db\"\n\
                 [database.server]\nendpoint = \"postgres://db/history\"\n\
                 [archive.orders]\ndatabase = \"shop\"\nroot = \"orders\"\nwhere = \"id < 5\"\n\
                 destination = {destination}\n"
            );
            let source = Source { path: "stillpoint.toml".to_owned(), text };
            let loaded = load(vec![source], "2026-11-26T12:00:00Z".parse().unwrap());
            let told = loaded.problems.iter().map(|one| format!("{} {}", one.code, one.what));
            let told: Vec<String> = told.collect();
            (told, loaded.config.archives["orders"].destination.clone())
        };
        let tables = |database: &str| DestinationRule::Tables {
            database: database.to_owned(),
            schema: None,
        };
        let (usual, none) = told("\"none\"");
        assert_eq!(none, DestinationRule::GivenUp);
        assert_eq!(told("{ database = \"history\" }"), (usual.clone(), tables("history")));
        for (destination, why) in [
            ("{ database = \"shop\" }", "SP0109 the copies of `orders` would be where its rows"),
            ("{ database = \"alias\" }", "SP0109 the copies of `orders` would be where its rows"),
            ("{ database = \"server\" }", "SP0109 rows of sqlite are no rows of postgres"),
            ("{ database = \"histroy\" }", "SP0112 no database is `histroy`"),
            ("{ schema = \"archive\" }", "SP0110 `database` is not there"),
            ("\"history\"", "SP0109 "),
        ] {
            let (mut told, _) = told(destination);
            told.retain(|one| !usual.contains(one));
            assert_eq!(told.len(), 1, "{destination}: {told:?}");
            assert!(told[0].starts_with(why), "{destination}: {told:?}");
        }
    }

    #[test]
    fn a_second_copy_is_in_another_place() {
        let told = |copy: &str, url: &str| {
            let text = format!(
                "version = 1\ntimezone = \"UTC\"\nrepository.primary.url = \"repo\"\n\
                 repository.second.url = \"{url}\"\n\
                 [database.shop]\nendpoint = \"sqlite:/data/shop.db\"\n\
                 repository = \"primary\"\n\
                 [archive.orders]\ndatabase = \"shop\"\nroot = \"orders\"\nwhere = \"id < 5\"\n\
                 delete_gate = {{ second_copy = \"{copy}\" }}\n"
            );
            let source = Source { path: "stillpoint.toml".to_owned(), text };
            let loaded = load(vec![source], "2026-11-26T12:00:00Z".parse().unwrap());
            loaded.problems.iter().filter(|one| one.what.contains("second copy")).count()
        };
        assert_eq!(told("second", "elsewhere"), 0);
        assert_eq!(told("primary", "elsewhere"), 1);
        assert_eq!(told("second", "repo"), 1);
    }
}
