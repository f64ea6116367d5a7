//! Which backups a copy should have, and when it may run.
//!
//! What a copy keeps is decided there by its own rules, from what is there; what it should have is
//! decided by the same rules, as if everything that may go were there already. So nothing is copied
//! that would be given up at once, and nothing has to be remembered of what was.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;

use super::{
    model::{CopyKind, CopyRule, Policy, Window},
    retention::{Backup, Proof, Rules, Stock},
    window::{is_open, next_begin, open_until},
};

/// A backup that a copy may be made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The backup, where it is.
    pub backup: Backup,
    /// Of which kind it is.
    pub kind: CopyKind,
}

/// Windows in which a copy may run; without any, always.
#[derive(Clone, Copy, Debug)]
pub struct Hours<'a> {
    /// The zone of all of them.
    pub zone: Tz,
    /// Those of the copy.
    pub of_copy: &'a [Window],
    /// Those of the repository that gets it.
    pub of_repository: &'a [Window],
    /// When it does not run, whatever the others say.
    pub closed: &'a [Window],
}

impl CopyRule {
    /// Whether backups of a kind go.
    pub fn takes(&self, kind: CopyKind) -> bool {
        self.kinds.contains(&kind)
    }

    /// The backups of `source` that the copy lacks, by their ids, of those that are `there` by now.
    /// What is not proven does not go, and what somebody holds goes whatever the copy keeps.
    pub fn wanted(
        &self,
        policy: &Policy,
        source: &[Candidate],
        there: &Stock<'_>,
        now: DateTime<Utc>,
    ) -> BTreeSet<String> {
        let known: BTreeSet<&str> = there.backups.iter().map(|b| b.id.as_str()).collect();
        let may_go = |one: &&Candidate| {
            let is_new = !known.contains(one.backup.id.as_str());
            is_new && self.takes(one.kind) && one.backup.proof == Proof::Verified
        };
        let going: Vec<&Backup> = source.iter().filter(may_go).map(|one| &one.backup).collect();
        let all: Vec<Backup> = there.backups.iter().chain(going.iter().copied()).cloned().collect();
        let kept = Rules::of_copy(policy, self).retain(&Stock { backups: &all, ..*there }, now);
        let kept: BTreeMap<String, bool> =
            kept.verdicts.into_iter().map(|v| (v.id.clone(), v.is_kept())).collect();
        let is_kept = |backup: &&&Backup| kept.get(&backup.id).copied().unwrap_or_default();
        going.iter().filter(is_kept).map(|backup| backup.id.clone()).collect()
    }
}

impl Policy {
    /// Its copies, each behind the one that it is made of.
    pub fn copies_in_order(&self) -> Vec<&CopyRule> {
        let depth = |rule: &CopyRule| {
            let source = |rule: &&CopyRule| {
                let from = rule.from.as_ref()?;
                self.copies.iter().find(|copy| copy.name == *from)
            };
            std::iter::successors(Some(rule), source).take(self.copies.len() + 1).count()
        };
        let mut ordered: Vec<&CopyRule> = self.copies.iter().collect();
        ordered.sort_by_key(|rule| depth(rule));
        ordered
    }

    /// The repository that a copy is made of, where `original` is that of the database.
    pub fn source_of<'a>(&'a self, rule: &CopyRule, original: &'a str) -> &'a str {
        let of = |name: &String| self.copies.iter().find(|copy| copy.name == *name);
        rule.from.as_ref().and_then(of).map_or(original, |copy| &copy.to)
    }
}

impl Hours<'_> {
    /// Whether a copy may run at an instant.
    pub fn are_open(&self, at: DateTime<Utc>) -> bool {
        let opens = |windows: &[Window]| windows.is_empty() || is_open(windows, self.zone, at);
        opens(self.of_copy) && opens(self.of_repository) && !is_open(self.closed, self.zone, at)
    }

    /// When it may run, looked for from an instant on: that instant, if it may then. Nothing, if
    /// no time is found within days.
    pub fn next_open(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        /// Every beginning or end within two weeks is among so many.
        const STEPS_MAX: usize = 1_000;
        let until = at + TimeDelta::days(15);
        let mut at = at;
        for _ in 0..STEPS_MAX {
            if self.are_open(at) {
                return Some(at);
            }
            let begins = [self.of_copy, self.of_repository].into_iter();
            let begins = begins.filter_map(|windows| next_begin(windows, self.zone, at));
            let ends = open_until(self.closed, self.zone, at);
            at = begins.chain(ends).min().filter(|next| at < *next && *next <= until)?;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::Weekday;

    use super::*;
    use crate::policy::{
        civil::tests::berlin,
        model::{CopyWhen, Keep, State, tests::policy},
        retention::{Held, Hold, Verdict},
        window::tests::window,
    };

    const ALL: [CopyKind; 3] = [CopyKind::Full, CopyKind::Incremental, CopyKind::Logs];

    fn rule(name: &str, keep: Keep, kinds: &[CopyKind]) -> CopyRule {
        CopyRule {
            name: name.to_owned(),
            to: name.to_owned(),
            from: None,
            when: CopyWhen::Verified,
            kinds: kinds.to_vec(),
            keep,
            windows: Vec::new(),
            site: None,
        }
    }

    fn backup(day: u32) -> Backup {
        Backup {
            id: format!("{day:02}"),
            at: berlin(&format!("2026-11-{day:02}T02:00:00")),
            seq: u64::from(day),
            proof: Proof::Verified,
            own_log: None,
            subjects: Vec::new(),
            is_acknowledged: false,
            is_odd: false,
        }
    }

    /// A full backup each Sunday, others in between, all of November.
    fn month() -> Vec<Candidate> {
        (1..=28)
            .map(|day| {
                let is_full = day % 7 == 1;
                let kind = if is_full { CopyKind::Full } else { CopyKind::Incremental };
                Candidate { backup: backup(day), kind }
            })
            .collect()
    }

    fn stock(backups: &[Backup]) -> Stock<'_> {
        Stock { backups, holds: &[], events: &[], state: State::Active }
    }

    fn now() -> DateTime<Utc> {
        berlin("2026-11-28T12:00:00")
    }

    fn days(of: &CopyRule, policy: &Policy, there: &Stock<'_>) -> Vec<String> {
        of.wanted(policy, &month(), there, now()).into_iter().collect()
    }

    /// Rows 4, 66 and 71: the original and each of any number of copies keep what they are told to,
    /// independently.
    #[test]
    fn row_4_66_71_every_copy_keeps_what_its_own_rules_say() {
        let mut policy = policy();
        policy.floor = 1;
        policy.pitr_window = Duration::from_hours(3 * 24);
        policy.keep = Keep { last: 2, ..Keep::default() };
        let weekly = rule("dr", Keep { weekly: 3, ..Keep::default() }, &[CopyKind::Full]);
        let daily = rule("cloud", Keep { daily: 5, ..Keep::default() }, &ALL[..2]);
        let last = rule("tape", Keep { last: 1, ..Keep::default() }, &ALL);
        policy.copies = vec![weekly.clone(), daily.clone(), last.clone()];

        let all: Vec<Backup> = month().into_iter().map(|one| one.backup).collect();
        let kept = |rules: Rules<'_>| {
            let kept = rules.retain(&stock(&all), now()).verdicts;
            kept.into_iter().filter(Verdict::is_kept).map(|v| v.id).collect::<Vec<_>>()
        };
        // The window of three days, and the backup from which its first point is reached.
        assert_eq!(kept(Rules::of(&policy)), ["25", "26", "27", "28"]);
        assert_eq!(days(&weekly, &policy, &stock(&[])), ["08", "15", "22"]);
        assert_eq!(days(&daily, &policy, &stock(&[])), ["24", "25", "26", "27", "28"]);
        assert_eq!(days(&last, &policy, &stock(&[])), ["25", "26", "27", "28"]);
        // Nothing that one of them says changes what another keeps.
        policy.keep = Keep::default();
        policy.copies.truncate(1);
        assert_eq!(days(&daily, &policy, &stock(&[])), ["24", "25", "26", "27", "28"]);
    }

    /// Row 67: only the chosen classes go.
    #[test]
    fn row_67_only_chosen_classes_go() {
        let mut policy = policy();
        policy.floor = 1;
        let keep = Keep { last: 100, ..Keep::default() };
        let ids = |kinds: &[CopyKind]| days(&rule("dr", keep.clone(), kinds), &policy, &stock(&[]));
        assert_eq!(ids(&[CopyKind::Full]), ["01", "08", "15", "22"]);
        assert_eq!(ids(&[CopyKind::Incremental]).len(), 24);
        assert_eq!(ids(&ALL).len(), 28);
        assert_eq!(ids(&[CopyKind::Logs]), Vec::<String>::new());
    }

    #[test]
    fn what_is_there_or_not_proven_does_not_go() {
        let mut policy = policy();
        policy.floor = 1;
        let rule = rule("dr", Keep { last: 3, ..Keep::default() }, &ALL[..2]);
        assert_eq!(days(&rule, &policy, &stock(&[backup(27)])), ["26", "28"]);
        let mut doubtful = month();
        for one in doubtful.iter_mut().filter(|one| one.backup.id.as_str() > "20") {
            one.backup.proof = Proof::Unverified;
        }
        doubtful[19].backup.proof = Proof::Suspect;
        let wanted = rule.wanted(&policy, &doubtful, &stock(&[]), now());
        assert_eq!(wanted.into_iter().collect::<Vec<_>>(), ["17", "18", "19"]);
    }

    #[test]
    fn what_would_be_given_up_at_once_does_not_go_unless_it_is_held() {
        let mut policy = policy();
        policy.floor = 1;
        let rule = rule("dr", Keep { last: 1, ..Keep::default() }, &ALL[..2]);
        assert_eq!(days(&rule, &policy, &stock(&[])), ["28"]);
        let holds = [Hold { case: "LEG-1".to_owned(), of: Held::Backup("03".to_owned()) }];
        let held = Stock { holds: &holds, ..stock(&[]) };
        assert_eq!(days(&rule, &policy, &held), ["03", "28"]);
        // Once all of it is there, nothing lacks, and nothing of it goes.
        let there = [backup(3), backup(28)];
        let held = Stock { holds: &holds, ..stock(&there) };
        assert_eq!(days(&rule, &policy, &held), Vec::<String>::new());
        let kept = Rules::of_copy(&policy, &rule).retain(&held, now()).verdicts;
        assert!(kept.iter().all(Verdict::is_kept), "{kept:?}");
    }

    #[test]
    fn a_copy_runs_where_all_of_its_windows_are_open_and_no_blackout_is() {
        let night = [window(&[Weekday::Fri, Weekday::Sat], "20:00", "06:00")];
        let line = [window(&[Weekday::Fri, Weekday::Sat], "22:00", "08:00")];
        let closed = [window(&[Weekday::Fri], "23:00", "01:00")];
        let zone = Tz::Europe__Berlin;
        let hours = Hours { zone, of_copy: &night, of_repository: &line, closed: &closed };
        let at = |text: &str| berlin(&format!("2026-11-{text}:00"));
        for (time, is_open) in [
            ("27T21:00", false),
            ("27T22:00", true),
            ("27T23:00", false),
            ("28T01:00", true),
            ("28T05:59", true),
            ("28T06:00", false),
        ] {
            assert_eq!(hours.are_open(at(time)), is_open, "{time}");
        }
        assert_eq!(hours.next_open(at("27T12:00")), Some(at("27T22:00")));
        assert_eq!(hours.next_open(at("27T23:30")), Some(at("28T01:00")));
        assert_eq!(hours.next_open(at("28T03:00")), Some(at("28T03:00")));
        let always = Hours { zone, of_copy: &[], of_repository: &[], closed: &[] };
        assert_eq!(always.next_open(at("28T03:00")), Some(at("28T03:00")));
    }
}
