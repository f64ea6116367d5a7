//! From a policy to what is moved: tables looked at, the cutoff decided, everything refused that
//! could lose a row.

use chrono::{DateTime, LocalResult, NaiveDateTime, TimeZone as _, Utc};
use chrono_tz::Tz;
use stillpoint_contract::{
    ArchiveSet, Compared, Cutoff, Error, ErrorKind, Estimate, Finding, Link, Measure, Member,
    Referrer, Result, Rows, UNTOLD_REFERENCE, Weight, code,
};

use super::document::Plan;
use crate::policy::{ArchiveRule, ArchivedChild, DestinationRule, Verification};

/// The most tables of one set.
const MEMBERS_MAX: usize = 64;

/// How far behind the database's clock cutoffs are, so that a row of a transaction that is still
/// open is none of theirs.
const MARGIN_SECONDS: i64 = 60;

/// What a policy means now.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// What is moved.
    pub set: ArchiveSet,
    /// When that was decided, by the database's clock.
    pub at: DateTime<Utc>,
    /// Rows before this instant are moved.
    pub cutoff: Option<DateTime<Utc>>,
    /// What there is to know before.
    pub findings: Vec<Finding>,
    /// How much it is.
    pub estimate: Estimate,
    /// What is compared with the cutoff, where the engine's types do not settle what that is.
    pub compared: Option<Compared>,
}

impl Prepared {
    /// Refuses what cannot be moved safely.
    ///
    /// # Errors
    ///
    /// [`Refused`](ErrorKind::Refused) with everything that speaks against it, and the statements
    /// that would change it.
    pub fn admit(&self) -> Result<()> {
        let why = "rows could be lost, or the work would fail half-way; nothing was changed";
        refuse(&self.set.root().table.name, &self.findings, why)
    }

    /// Lets lack what is advice elsewhere: that files do not tell which rows hang on which.
    pub(super) fn refuse_untold(&mut self, why: &'static str) {
        refuse_untold(&mut self.findings, why);
    }
}

fn refuse_untold(findings: &mut [Finding], why: &'static str) {
    let is_advice =
        |one: &&mut Finding| one.subject == UNTOLD_REFERENCE && one.weight < Weight::Lacking;
    for finding in findings.iter_mut().filter(is_advice) {
        finding.weight = Weight::Lacking;
        finding.found = format!("{}; and {why}", finding.found);
    }
}

/// Refuses to move rows where something is lacking.
fn refuse(root: &str, findings: &[Finding], why: &'static str) -> Result<()> {
    let lacking = findings.iter().filter(|finding| finding.weight == Weight::Lacking);
    let lacking: Vec<&Finding> = lacking.collect();
    if lacking.is_empty() {
        return Ok(());
    }
    let step = format!("move rows of {root}");
    let mut error = Error::new(ErrorKind::Refused, code::ROWS_REFUSED, step).why(why);
    for finding in lacking {
        error = error.with(finding.subject, &finding.found);
        if let Some(statement) = &finding.statement {
            error = error.next(statement.clone());
        }
    }
    Err(error)
}

/// Refuses to read rows for a plan that was made when times were written in another form: where
/// the engine compares values of any class, that selects rows however new they are.
pub(super) async fn refuse_misfits(
    rows: &mut dyn Rows,
    rule: &ArchiveRule,
    plan: &Plan,
) -> Result<()> {
    let Some(at) = plan.cutoff else { return Ok(()) };
    let set = plan.archive_set();
    let compared = rows.compared(&set, &rule.selects, &cutoff_of(rule, at)).await?;
    let misfit = compared.and_then(|compared| compared.misfit);
    let why = "times are written in another form than when the run was planned; no more are read";
    refuse(&set.root().table.name, misfit.as_slice(), why)
}

/// Refuses limits that the engine does not know: rows would be deleted as if there were none, or
/// never.
pub(super) async fn refuse_unmeasured(rows: &mut dyn Rows, rule: &ArchiveRule) -> Result<()> {
    let why = "the engine cannot tell whether a limit of the policy is kept; nothing was changed";
    refuse(&rule.root, &unmeasured(rows, rule).await?, why)
}

/// Limits of which nobody knows whether they are kept.
async fn unmeasured(rows: &mut dyn Rows, rule: &ArchiveRule) -> Result<Vec<Finding>> {
    let throttle = &rule.throttle;
    let mut findings = Vec::new();
    for (option, is_set, measure) in [
        ("max_threads_running", throttle.active.is_some(), Measure::Sessions),
        ("max_wal_rate", throttle.log_bytes_per_second.is_some(), Measure::LogWritten),
        ("max_dead_rows", throttle.dead_rows.is_some(), Measure::DeadRows),
        ("max_log_used", throttle.log_used.is_some(), Measure::LogUsed),
    ] {
        if !is_set {
            continue;
        }
        let Some(told) = rows.untold(measure).await? else { continue };
        let leave = || format!("leave {option} out of throttle of [archive.{}]", rule.name);
        findings.push(Finding {
            found: format!("{option}: {}", told.found),
            statement: Some(told.statement.unwrap_or_else(leave)),
            ..told
        });
    }
    Ok(findings)
}

/// The instant that cutoffs are counted from when the database's clock says another one.
pub(super) fn safe(now: DateTime<Utc>) -> DateTime<Utc> {
    now - chrono::TimeDelta::seconds(MARGIN_SECONDS)
}

/// What columns are compared with where a policy says `:cutoff`.
pub(super) fn cutoff_of(rule: &ArchiveRule, at: DateTime<Utc>) -> Cutoff {
    Cutoff { at, local: rule.zone.map(|zone| shown(zone, at)), form: rule.form }
}

/// Decides what a policy means now. Changes nothing.
pub async fn prepare(rows: &mut dyn Rows, rule: &ArchiveRule) -> Result<Prepared> {
    let root = match &rule.key {
        Some(index) => rows.table_by(&rule.root, index).await?,
        None => rows.table(&rule.root).await?,
    };
    let at = rows.now().await?;
    let instant = rule.cutoff(safe(at));
    if instant.is_none() && rule.selects.contains(":cutoff") {
        let step = "decide which rows are old enough";
        return Err(Error::new(ErrorKind::Config, code::CONFIG_LACKS, step)
            .with("where", &rule.selects)
            .next(format!("[archive.{}]  cutoff = \"now - 24 months\"", rule.name)));
    }
    let cutoff = instant.map(|at| cutoff_of(rule, at));
    let bound = rows.bind(&root, &rule.selects, cutoff.as_ref()).await;
    let members = vec![Member { table: root, link: None }];
    let predicate = match bound {
        // What the role lacks is said with the statements that give it.
        Err(error) if error.kind() == ErrorKind::Denied => {
            let predicate = "1 = 1".to_owned();
            let (name, derived) = (rule.name.clone(), Vec::new());
            let set = ArchiveSet { name, members, predicate, derived };
            let findings = rows.examine(&set).await.unwrap_or_default();
            let estimate = Estimate::default();
            let prepared =
                Prepared { set, at, cutoff: instant, findings, estimate, compared: None };
            return Err(prepared.admit().err().unwrap_or(error));
        }
        bound => bound?,
    };
    let (name, derived) = (rule.name.clone(), Vec::new());
    let mut set = ArchiveSet { name, members, predicate, derived };
    add_members(rows, rule, &mut set).await?;
    set.derived = derived_tables(rows, rule, &set).await?;
    know_lookup(rule, &set)?;
    let mut findings = rows.examine(&set).await?;
    findings.extend(unsorted(rule, &set));
    if rule.retention.is_some() {
        refuse_untold(&mut findings, "the policy keeps rows until so long after an event");
    }
    findings.extend(uncopied(rule, &set));
    findings.extend(unmeasured(rows, rule).await?);
    if rule.verification == Verification::Tuple {
        let why = rows.why_no_versions(&set).await?;
        findings.extend(why.map(|why| no_versions(rule, &why)));
    }
    let estimate = rows.estimate(&set).await?;
    let compared = match &cutoff {
        Some(cutoff) if estimate.rows > 0 => rows.compared(&set, &rule.selects, cutoff).await?,
        _ => None,
    };
    findings.extend(compared.iter().filter_map(|compared| compared.misfit.clone()));
    Ok(Prepared { set, at, cutoff: instant, findings, estimate, compared })
}

/// Files have another order than somebody wants: a slice is a stretch of the key.
fn unsorted(rule: &ArchiveRule, set: &ArchiveSet) -> Option<Finding> {
    let table = &set.root().table;
    let key = table.key.iter().filter_map(|at| table.columns.get(*at));
    let key: Vec<&str> = key.map(|column| column.name.as_str()).collect();
    let is_it = rule.sort.is_empty() || key.is_empty() || rule.sort == key;
    (!is_it).then(|| Finding {
        subject: "sort",
        found: format!("rows are written in the order of the key ({})", key.join(", ")),
        weight: Weight::Lacking,
        statement: Some(format!("[archive.{}]  sort = {key:?}", rule.name)),
    })
}

/// Rows of a table without a key cannot be copied: by their keys, those that are there are found.
fn uncopied(rule: &ArchiveRule, set: &ArchiveSet) -> Option<Finding> {
    let DestinationRule::Tables { .. } = &rule.destination else { return None };
    // What lacks of the root is said of it anyway.
    let member = set.members.iter().skip(1).find(|member| member.table.key.is_empty())?;
    Some(Finding {
        subject: "destination",
        found: format!(
            "{} has no key, by which a table of another database could keep its rows: give it one, \
             or leave destination out",
            member.table.name
        ),
        weight: Weight::Lacking,
        statement: Some(format!(
            "CREATE UNIQUE INDEX … ON {} (…)   of columns that are all NOT NULL",
            member.table.name
        )),
    })
}

fn no_versions(rule: &ArchiveRule, why: &str) -> Finding {
    Finding {
        subject: "verify",
        found: format!("\"tuple\" compares versions of rows, and {why}"),
        weight: Weight::Lacking,
        statement: Some(format!("[archive.{}]  verify = \"row\"", rule.name)),
    }
}

/// What clocks of a zone showed before an instant, and not after it again: where they were put
/// back, a time may be that of either hour, and rows of the later one are not old enough yet.
fn shown(zone: Tz, at: DateTime<Utc>) -> NaiveDateTime {
    let local = at.with_timezone(&zone).naive_local();
    match zone.from_local_datetime(&local) {
        LocalResult::Ambiguous(first, second) if first == at => local - (second - first),
        _ => local,
    }
}

/// Refuses columns to find rows by that no table has: whoever looked for rows later would read all
/// of every file.
fn know_lookup(rule: &ArchiveRule, set: &ArchiveSet) -> Result<()> {
    let has = |member: &Member, name: &String| member.table.columns.iter().any(|c| c.name == *name);
    let unknown = rule.lookup.iter().find(|name| !set.members.iter().any(|one| has(one, name)));
    let Some(unknown) = unknown else { return Ok(()) };
    let columns: Vec<&str> = set.root().table.columns.iter().map(|c| c.name.as_str()).collect();
    Err(Error::new(ErrorKind::Config, code::CONFIG_VALUE, "find the columns of lookup")
        .with("lookup", unknown)
        .with("table", &set.root().table.name)
        .with("its columns", columns.join(", "))
        .why("no table of the set has it, and rows could not be found by it")
        .next(format!("[archive.{}]  lookup = [COLUMN, …]", rule.name)))
}

/// The tables of which a policy says that their rows only derive from others, sorted by their
/// complete names.
///
/// # Errors
///
/// [`Config`](ErrorKind::Config) when there is no such table, or its rows are archived.
pub(super) async fn derived_tables(
    rows: &mut dyn Rows,
    rule: &ArchiveRule,
    set: &ArchiveSet,
) -> Result<Vec<String>> {
    let told = |name: &String| {
        Error::new(ErrorKind::Config, code::CONFIG_VALUE, "find the tables of derived")
            .with("derived", name)
    };
    let mut found: Vec<String> = Vec::new();
    for name in &rule.derived {
        let named = match rows.named(name).await {
            // A partition that is gone is missing, too, and is no error.
            Err(error) if error.kind() == ErrorKind::Missing => {
                return Err(told(name)
                    .why("there is no such table, or the role cannot see it")
                    .next(format!("[archive.{}]  derived = [TABLE, …]", rule.name))
                    .caused_by(error));
            }
            named => named?,
        };
        for member in &set.members {
            if rows.named(&member.table.name).await?.whole == named.whole {
                return Err(told(name)
                    .with("table of the set", &member.table.name)
                    .why("rows of tables of the set are archived, and do not only derive")
                    .next(format!("leave {name} out of derived of [archive.{}]", rule.name)));
            }
        }
        found.push(named.name);
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// Adds the tables that are listed, and the others that refer to them where those are wanted.
async fn add_members(rows: &mut dyn Rows, rule: &ArchiveRule, set: &mut ArchiveSet) -> Result<()> {
    let mut listed = Vec::new();
    for child in &rule.children {
        listed.push((rows.table(&child.table).await?.name, child, false));
    }
    let mut parent = 0;
    while parent < set.members.len() {
        let table = set.members[parent].table.clone();
        for referrer in rows.referrers(&table).await? {
            let fits = |(name, child, _): &&mut (String, &ArchivedChild, bool)| {
                *name == referrer.table
                    && (child.columns.is_empty() || are_same(&child.columns, &referrer.columns))
            };
            let is_listed = match listed.iter_mut().find(fits) {
                Some((_, _, is_found)) => {
                    *is_found = true;
                    true
                }
                None => false,
            };
            let is_member = set.members.iter().any(|one| one.table.name == referrer.table);
            if is_member && is_listed {
                return Err(refers_twice(&referrer));
            }
            if !is_member && (is_listed || rule.includes_unlisted) {
                add(rows, set, parent, referrer).await?;
            }
        }
        parent += 1;
    }
    let Some((name, child, _)) = listed.into_iter().find(|(_, _, is_found)| !is_found) else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::Config, code::CONFIG_VALUE, "find what a child refers to")
        .with("archive", &rule.name)
        .with("child", name)
        .with("fk", child.columns.join(", "))
        .why("no foreign key of it refers to the root, or to another child"))
}

/// Whether columns are the same, in whatever order: a policy need not know that of the constraint.
fn are_same(some: &[String], others: &[String]) -> bool {
    some.len() == others.len() && some.iter().all(|one| others.contains(one))
}

async fn add(
    rows: &mut dyn Rows,
    set: &mut ArchiveSet,
    parent: usize,
    referrer: Referrer,
) -> Result<()> {
    if set.members.len() >= MEMBERS_MAX {
        return Err(Error::new(
            ErrorKind::Unsupported,
            code::ROWS_REFUSED,
            "gather a set's tables",
        )
        .with("limit", MEMBERS_MAX));
    }
    let table = rows.table(&referrer.table).await?;
    let Referrer { columns, parent_columns, likeness, .. } = referrer;
    let link = Link { parent, columns, parent_columns, likeness };
    set.members.push(Member { table, link: Some(link) });
    Ok(())
}

fn refers_twice(referrer: &Referrer) -> Error {
    Error::new(ErrorKind::Refused, code::ROWS_REFUSED, "gather a set's tables")
        .with("table", &referrer.table)
        .with("constraint", &referrer.constraint)
        .why(
            "it refers to the set twice, or to itself: a row of it could hang on rows that stay, \
             and such a table cannot be archived as long as it has both references",
        )
        .next(format!(
            "ALTER TABLE {} DROP CONSTRAINT {} (in SQLite, make the table anew without it), and \
             keep the rows right otherwise, as by a trigger",
            referrer.table, referrer.constraint
        ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_later_time_is_shown_before_an_instant() {
        let zone = chrono_tz::America::New_York;
        for (at, expected) in [
            ("2025-03-09T06:59:59Z", "2025-03-09T01:59:59"),
            ("2025-03-09T07:00:00Z", "2025-03-09T03:00:00"),
            ("2025-11-02T04:59:59Z", "2025-11-02T00:59:59"),
            // The hour that comes again, and then does.
            ("2025-11-02T05:00:00Z", "2025-11-02T00:00:00"),
            ("2025-11-02T05:59:59Z", "2025-11-02T00:59:59"),
            ("2025-11-02T06:00:00Z", "2025-11-02T01:00:00"),
            ("2025-11-02T07:00:00Z", "2025-11-02T02:00:00"),
        ] {
            let at: DateTime<Utc> = at.parse().expect("a time");
            let local = shown(zone, at);
            assert_eq!(local, expected.parse().expect("a time"), "{at}");
            // Whatever shows less was before.
            for minutes in 0..180 {
                let later = at + chrono::TimeDelta::minutes(minutes);
                assert!(later.with_timezone(&zone).naive_local() >= local, "{at} {later}");
            }
        }
    }
}
