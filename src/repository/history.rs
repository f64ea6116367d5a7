//! What the log says, folded: which backups exist, which objects are doomed, where moved blobs are.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    custody::{Custody, Event, Held, HeldPart, Hold, Verified},
    entry::{Action, Commit, Doom, Drilled, Entry, Reported},
    index_run::RunName,
    pack::PackName,
    shards::Shards,
};

/// Packs and their sizes in bytes.
pub type PackList = BTreeMap<PackName, u64>;

/// The newest entry of a log: what a reader remembers in order to notice a rollback.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Its number; 0 before the first entry.
    pub seq: u64,
    /// BLAKE3 of its stored bytes, in hex; zeros before the first entry.
    pub hash: String,
}

impl Committed {
    /// Its place in the order in which backups were made: in a copy, they may arrive in another.
    pub fn made(&self) -> u64 {
        self.commit.origin.unwrap_or(self.seq)
    }
}

impl Default for Head {
    fn default() -> Self {
        Self { seq: 0, hash: "0".repeat(64) }
    }
}

/// A backup in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The number of the entry that made it.
    pub seq: u64,
    /// What the entry says.
    pub commit: Commit,
    /// Whether it was forgotten since.
    pub forgotten: bool,
}

/// A doom entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doomed {
    /// When it was written, as its writer believed.
    pub at: DateTime<Utc>,
    /// What it dooms.
    pub doom: Doom,
    /// Whether its objects are deleted.
    pub swept: bool,
}

/// The state of a repository after some entry of its log.
///
/// Invariant: a function of the entries alone. Two readers of the same prefix have equal states,
/// whatever their clocks say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    head: Head,
    latest: Option<DateTime<Utc>>,
    commits: Shards<Arc<Committed>>,
    /// The backups of each database, by id.
    of: Shards<Vec<String>>,
    doomed: Arc<Garbage>,
    descriptor: Option<String>,
    drills: Arc<BTreeMap<String, Drilled>>,
    reports: Arc<BTreeMap<String, Reported>>,
    key_slots: BTreeMap<String, String>,
    removed_slots: HashSet<String>,
    custody: Custody,
}

/// What is doomed, and where what was in it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Garbage {
    dooms: BTreeMap<u64, Doomed>,
    packs: HashSet<PackName>,
    indexes: HashSet<RunName>,
    objects: HashSet<String>,
    moved: HashMap<PackName, Vec<(PackName, u64)>>,
}

impl History {
    /// The newest entry that was folded.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The latest time that any entry says: no clock that is right shows an earlier one.
    pub fn latest(&self) -> Option<DateTime<Utc>> {
        self.latest
    }

    /// BLAKE3 of the descriptor, as the first entry names it.
    pub fn descriptor(&self) -> Option<&str> {
        self.descriptor.as_deref()
    }

    /// Every backup that was ever committed, also forgotten ones, in no order to rely on.
    pub fn commits(&self) -> impl Iterator<Item = &Committed> {
        self.commits.values().map(Arc::as_ref)
    }

    /// The backups that exist, in the order of their commits.
    pub fn live(&self) -> Vec<&Committed> {
        let mut live: Vec<_> = self.commits().filter(|c| !c.forgotten).collect();
        live.sort_by_key(|committed| committed.seq);
        live
    }

    /// Every backup of a database that was ever committed, also forgotten ones, in that order.
    pub fn commits_of(&self, database: &str) -> impl DoubleEndedIterator<Item = &Committed> {
        let ids = self.of.get(database).map(Vec::as_slice).unwrap_or_default().iter();
        ids.filter_map(|id| self.commit(id))
    }

    /// The backups of a database that exist, in the order of their commits.
    pub fn live_of(&self, database: &str) -> impl DoubleEndedIterator<Item = &Committed> {
        self.commits_of(database).filter(|committed| !committed.forgotten)
    }

    /// Whether a database has a backup that exists.
    pub fn protects(&self, database: &str) -> bool {
        self.live_of(database).next().is_some()
    }

    /// Whether a database had backups, and all of them are forgotten.
    pub fn has_given_up(&self, database: &str) -> bool {
        let mut own = self.commits_of(database).peekable();
        own.peek().is_some() && own.all(|c| c.forgotten)
    }

    /// The backup of a database that was made for a task, also a forgotten one. One whose stored
    /// bytes are known to be wrong was made for nothing.
    pub fn made_for(&self, database: &str, task: Option<&str>) -> Option<&Committed> {
        let mut own = self.commits_of(database).filter(|c| !self.is_suspect(&c.commit.backup));
        own.find(|c| task.is_some() && c.commit.task.as_deref() == task)
    }

    /// Backups that exist and whose stored bytes are known to be wrong.
    pub fn suspects(&self) -> impl Iterator<Item = &Committed> {
        self.custody.suspects().filter_map(|id| self.commit(id)).filter(|c| !c.forgotten)
    }

    /// Whether stored bytes of a backup are known to be wrong.
    pub fn is_suspect(&self, backup: &str) -> bool {
        self.proof(backup).is_some_and(|proof| proof.problem.is_some())
    }

    /// What a drill found damaged in a backup, if none of it has passed since.
    pub fn doubt(&self, backup: &str) -> Option<&str> {
        self.custody.doubt(backup)
    }

    /// The backups in which a drill found damage, each with that drill.
    pub(super) fn doubts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.custody.doubts()
    }

    /// What is known to be damaged in what a backup holds, however well its bytes are stored.
    pub fn damage(&self, backup: &str) -> Option<&str> {
        let copied = self.commit(backup).and_then(|known| known.commit.damage.as_deref());
        self.doubt(backup).or(copied)
    }

    /// What is known to be wrong with a backup: with its stored bytes, or with what was stored.
    pub fn fault(&self, backup: &str) -> Option<&str> {
        let stored = self.proof(backup).and_then(|proof| proof.problem.as_deref());
        stored.or_else(|| self.damage(backup))
    }

    /// One backup by id, also a forgotten one.
    pub fn commit(&self, backup: &str) -> Option<&Committed> {
        self.commits.get(backup).map(Arc::as_ref)
    }

    /// The doom entries, by number.
    pub fn dooms(&self) -> &BTreeMap<u64, Doomed> {
        &self.doomed.dooms
    }

    /// Whether a pack is doomed: it must not be referenced by anything new.
    pub fn is_doomed_pack(&self, pack: &PackName) -> bool {
        self.doomed.packs.contains(pack)
    }

    /// Whether an index run is superseded.
    pub fn is_doomed_index(&self, run: &RunName) -> bool {
        self.doomed.indexes.contains(run)
    }

    /// Whether an object (segment, manifest, pack list) is doomed.
    pub fn is_doomed_object(&self, name: &str) -> bool {
        self.doomed.objects.contains(name)
    }

    /// Every drill, in the order in which they began.
    pub fn drills(&self) -> impl Iterator<Item = &Drilled> {
        self.drills.values()
    }

    /// One drill by its id.
    pub(super) fn drilled(&self, drill: &str) -> Option<&Drilled> {
        self.drills.get(drill)
    }

    /// Every report on a month, in the order in which they were made.
    pub fn reports(&self) -> impl Iterator<Item = &Reported> {
        self.reports.values()
    }

    /// What came of reading a backup back the last time, if anybody did.
    pub fn proof(&self, backup: &str) -> Option<&Verified> {
        self.custody.proof(backup)
    }

    /// From when on log of a database is needed, if somebody said so: the newest word counts.
    pub fn trimmed(&self, database: &str) -> Option<DateTime<Utc>> {
        self.custody.trimmed(database)
    }

    /// Whether both know the same of proofs, doubts, holds, events, and of log that is needed no
    /// more.
    pub(super) fn agrees_on_custody(&self, other: &Self) -> bool {
        self.custody == other.custody
    }

    /// Every hold, also released ones, in the order of their ids.
    pub fn holds(&self) -> impl Iterator<Item = &Hold> {
        self.custody.holds()
    }

    /// Every event, also withdrawn ones, in the order in which they were recorded.
    pub fn events(&self) -> &[Event] {
        self.custody.events()
    }

    /// The key slots that the log knows, with the hash of their bytes.
    pub fn key_slots(&self) -> &BTreeMap<String, String> {
        &self.key_slots
    }

    /// Whether a key slot was taken away.
    pub fn is_removed_slot(&self, slot: &str) -> bool {
        self.removed_slots.contains(slot)
    }

    /// The packs that hold today what `packs` held when a backup was committed.
    pub fn resolve(&self, packs: PackList) -> PackList {
        self.resolve_as_if(packs, &BTreeMap::new())
    }

    /// The same if packs moved as `moves` says.
    pub(super) fn resolve_as_if(
        &self,
        packs: PackList,
        moves: &BTreeMap<PackName, Vec<(PackName, u64)>>,
    ) -> PackList {
        let mut resolved = PackList::new();
        let mut followed = HashSet::new();
        let mut pending: Vec<_> = packs.into_iter().collect();
        while let Some((pack, size_bytes)) = pending.pop() {
            match moves.get(&pack).or_else(|| self.doomed.moved.get(&pack)) {
                // An entry can only move a pack to packs that did not exist when earlier entries
                // were written, so following moves ends; the check is against a forged log.
                Some(homes) if followed.insert(pack) => pending.extend(homes.iter().copied()),
                Some(_) => {}
                None => {
                    resolved.insert(pack, size_bytes);
                }
            }
        }
        resolved
    }

    /// Folds the next entry.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](ErrorKind::Corrupt) when it does not continue the chain, or says what cannot
    /// be: then nothing after it can be believed.
    pub fn fold(&mut self, entry: &Entry, hash: String) -> Result<()> {
        if entry.seq != self.head.seq + 1 || entry.previous != self.head.hash {
            return Err(broken(entry, "it does not continue the entry before it"));
        }
        match &entry.action {
            Action::Init { descriptor } => {
                if entry.seq != 1 {
                    return Err(broken(entry, "a repository is created once"));
                }
                self.descriptor = Some(descriptor.clone());
            }
            _ if entry.seq == 1 => return Err(broken(entry, "the first entry creates it")),
            Action::Commit(commit) => self.fold_commit(entry, commit)?,
            Action::Forget { backups, .. } => {
                for backup in backups {
                    let known = self.commits.get_mut(backup);
                    let known = known.ok_or_else(|| broken(entry, "it forgets what never was"))?;
                    Arc::make_mut(known).forgotten = true;
                }
            }
            Action::Doom(doom) => self.fold_doom(entry, doom),
            Action::Swept { doom } => {
                let known = Arc::make_mut(&mut self.doomed).dooms.get_mut(doom);
                known.ok_or_else(|| broken(entry, "it sweeps what was not doomed"))?.swept = true;
            }
            Action::Drill(drill) => self.fold_drill(entry, drill)?,
            Action::Report(report) => self.fold_report(entry, report)?,
            Action::Verified(verified) => {
                if self.commits.get(&verified.backup).is_none() {
                    return Err(broken(entry, "it verifies what never was"));
                }
                self.custody.verify(verified);
            }
            Action::Held(held) => {
                let is_there = self.can_hold(held);
                let made = if is_there { self.custody.hold(entry.at, held) } else { Err(NOTHING) };
                made.map_err(|what| broken(entry, what))?;
            }
            Action::Released(ended) => {
                let released = self.custody.release(entry.at, ended);
                released.map_err(|what| broken(entry, what))?;
            }
            Action::Trim(trimmed) => self.custody.trim(trimmed),
            Action::Event(recorded) => {
                let noted = self.custody.record(entry.at, recorded);
                noted.map_err(|what| broken(entry, what))?;
            }
            Action::Withdrawn(ended) => {
                let withdrawn = self.custody.withdraw(entry.at, ended);
                withdrawn.map_err(|what| broken(entry, what))?;
            }
            Action::KeyAdded { slot, hash } => {
                self.key_slots.insert(slot.clone(), hash.clone());
                self.removed_slots.remove(slot);
            }
            Action::KeyRemoved { slot } => {
                self.key_slots.remove(slot);
                self.removed_slots.insert(slot.clone());
            }
        }
        self.latest = self.latest.max(Some(entry.at));
        self.head = Head { seq: entry.seq, hash };
        Ok(())
    }

    fn fold_commit(&mut self, entry: &Entry, commit: &Commit) -> Result<()> {
        let committed = Committed { seq: entry.seq, commit: commit.clone(), forgotten: false };
        match self.of.get_mut(&commit.database) {
            Some(own) => own.push(commit.backup.clone()),
            None => drop(self.of.insert(&commit.database, vec![commit.backup.clone()])),
        }
        match self.commits.insert(&commit.backup, Arc::new(committed)) {
            None => Ok(()),
            Some(_) => Err(broken(entry, "a backup is committed once")),
        }
    }

    /// Whether what is to be held is there.
    pub(super) fn can_hold(&self, held: &Held) -> bool {
        match &held.of {
            HeldPart::Backup(backup) => {
                let held_one = self.commits.get(backup).filter(|known| !known.forgotten);
                held_one.is_some_and(|known| known.commit.database == held.database)
            }
            HeldPart::Range { from, to } => to.is_none_or(|to| *from <= to),
        }
    }

    fn fold_drill(&mut self, entry: &Entry, drill: &Drilled) -> Result<()> {
        self.custody.drill(drill);
        match Arc::make_mut(&mut self.drills).insert(drill.drill.clone(), drill.clone()) {
            None => Ok(()),
            Some(_) => Err(broken(entry, "a drill is recorded once")),
        }
    }

    fn fold_report(&mut self, entry: &Entry, report: &Reported) -> Result<()> {
        match Arc::make_mut(&mut self.reports).insert(report.report.clone(), report.clone()) {
            None => Ok(()),
            Some(_) => Err(broken(entry, "a report is recorded once")),
        }
    }

    fn fold_doom(&mut self, entry: &Entry, doom: &Doom) {
        let garbage = Arc::make_mut(&mut self.doomed);
        garbage.packs.extend(doom.packs.iter().copied());
        garbage.indexes.extend(doom.indexes.iter().copied());
        garbage.objects.extend(doom.objects.iter().cloned());
        garbage.moved.extend(doom.moved.iter().map(|(from, to)| (*from, to.clone())));
        let doomed = Doomed { at: entry.at, doom: doom.clone(), swept: false };
        garbage.dooms.insert(entry.seq, doomed);
    }
}

/// What is said of a hold on nothing.
const NOTHING: &str = "it holds what is not there";

fn broken(entry: &Entry, what: &'static str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        code::BROKEN_LOG,
        format!("follow the repository log to entry {}", entry.seq),
    )
    .with("entry", what)
    .why("the log is the only thing that says which backups exist")
    .next("restore the log from another copy of the repository")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        policy::Proof,
        repository::{
            custody::{Ended, Recorded},
            entry::{ENTRY_FORMAT, hash_of, tests::Unsigned},
            pack::PackKind,
            proof_of,
        },
    };

    pub(crate) fn commit(backup: &str) -> Commit {
        Commit {
            backup: backup.to_owned(),
            database: "db".to_owned(),
            engine: "sim".to_owned(),
            incarnation: "i".to_owned(),
            location: "/db".to_owned(),
            started_at: DateTime::UNIX_EPOCH,
            finished_at: DateTime::UNIX_EPOCH,
            consistent_time: DateTime::UNIX_EPOCH,
            consistent_at: None,
            incremental: false,
            size_bytes: 1,
            stored_bytes: 1,
            manifest: "m".to_owned(),
            manifest_hash: "0".repeat(64),
            packs: "p".to_owned(),
            packs_hash: "0".repeat(64),
            damage: None,
            origin: None,
            task: None,
        }
    }

    pub(crate) fn fold(actions: Vec<Action>) -> Result<History> {
        let mut history = History::default();
        for action in actions {
            let entry = Entry {
                format: ENTRY_FORMAT,
                repository: "r".to_owned(),
                seq: history.head.seq + 1,
                previous: history.head.hash.clone(),
                at: DateTime::UNIX_EPOCH,
                nonce: String::new(),
                action,
            };
            let bytes = entry.encode(&Unsigned).unwrap();
            history.fold(&entry, hash_of(&bytes))?;
        }
        Ok(history)
    }

    pub(crate) fn init() -> Action {
        Action::Init { descriptor: "d".to_owned() }
    }

    pub(crate) fn drill_of(id: &str, backup: &str, passed: bool, damage: Option<&str>) -> Action {
        Action::Drill(Box::new(Drilled {
            drill: id.to_owned(),
            database: "db".to_owned(),
            started_at: DateTime::UNIX_EPOCH,
            finished_at: DateTime::UNIX_EPOCH,
            passed,
            backup: Some(backup.to_owned()),
            damage: damage.map(str::to_owned),
            rto_ms: None,
            rpo_ms: None,
            record: "r".to_owned(),
            record_hash: "0".repeat(64),
            page: "p".to_owned(),
            page_hash: "0".repeat(64),
        }))
    }

    fn drill(id: &str) -> Action {
        drill_of(id, "a", true, None)
    }

    fn read_back(id: &str, problem: Option<&str>) -> Action {
        let (backup, at) = (id.to_owned(), DateTime::UNIX_EPOCH);
        let problem = problem.map(str::to_owned);
        Action::Verified(Verified { backup, at, problem }.into())
    }

    fn verified(id: &str) -> Action {
        read_back(id, None)
    }

    fn hold(id: &str, backup: &str) -> Action {
        let held = Held {
            hold: id.to_owned(),
            database: "db".to_owned(),
            case: String::new(),
            of: HeldPart::Backup(backup.to_owned()),
            by: String::new(),
        };
        Action::Held(held.into())
    }

    fn event(id: &str) -> Action {
        let recorded = Recorded {
            event: id.to_owned(),
            database: None,
            name: String::new(),
            subject: String::new(),
            on: DateTime::UNIX_EPOCH.date_naive(),
            by: String::new(),
        };
        Action::Event(recorded.into())
    }

    fn pack(letter: char) -> PackName {
        PackName { hash: [letter as u8; 32], kind: PackKind::Data }
    }

    fn doom(from: char, homes: &[char]) -> Action {
        let homes: Vec<_> = homes.iter().map(|home| (pack(*home), 1)).collect();
        let moved = (!homes.is_empty()).then(|| (pack(from), homes)).into_iter().collect();
        let packs = vec![pack(from)];
        Action::Doom(Box::new(Doom { packs, moved, ..Doom::default() }))
    }

    #[test]
    fn moved_blobs_are_found_through_several_moves() {
        let history = fold(vec![init(), doom('a', &['b', 'c']), doom('b', &['d'])]).unwrap();
        let packs = history.resolve([(pack('a'), 9), (pack('x'), 9)].into());
        assert_eq!(packs.into_keys().collect::<Vec<_>>(), [pack('c'), pack('d'), pack('x')]);
        assert!(history.is_doomed_pack(&pack('a')) && history.is_doomed_pack(&pack('b')));
    }

    #[test]
    fn a_forged_log_that_moves_in_circles_does_not_hang() {
        let history = fold(vec![init(), doom('a', &['b']), doom('b', &['a'])]).unwrap();
        assert!(history.resolve([(pack('a'), 9)].into()).is_empty());
    }

    #[test]
    fn what_a_drill_found_damaged_is_in_doubt_until_one_passes() {
        let base = [init(), Action::Commit(commit("a").into()), verified("a")];
        let after = |more: &[Action]| {
            let history = fold([&base[..], more].concat()).unwrap();
            // Nothing that is stored is wrong.
            assert!(history.suspects().next().is_none() && !history.is_suspect("a"));
            (proof_of(&history, "a"), history.fault("a").map(str::to_owned))
        };
        let found = || drill_of("1", "a", false, Some("files: page 3"));
        let doubt = Some("drill 1 found damage: files: page 3".to_owned());
        assert_eq!(after(&[]), (Proof::Verified, None));
        assert_eq!(after(&[drill_of("2", "a", false, None)]), (Proof::Verified, None));
        assert_eq!(after(&[found()]), (Proof::Suspect, doubt.clone()));
        // Neither its bytes, nor a drill that says nothing of it, nor one of another backup.
        let others = [drill_of("2", "a", false, None), drill_of("3", "b", true, None)];
        let others = [&[found(), verified("a")][..], &others].concat();
        assert_eq!(after(&others), (Proof::Suspect, doubt));
        let passed = drill_of("4", "a", true, None);
        assert_eq!(after(&[others, vec![passed]].concat()), (Proof::Verified, None));
    }

    #[test]
    fn what_was_damaged_when_it_was_copied_is_suspect_whatever_is_read_back() {
        let damage = Some("page 2 of base/5/1259".to_owned());
        let made = Action::Commit(Commit { damage, ..commit("a") }.into());
        let all = [made, verified("a"), drill("1"), read_back("a", Some("pack x")), verified("a")];
        let told = |count: usize| {
            let history = fold([&[init()][..], &all[..count]].concat()).unwrap();
            (proof_of(&history, "a"), history.fault("a").map(str::to_owned))
        };
        let copied = (Proof::Suspect, Some("page 2 of base/5/1259".to_owned()));
        for count in [1, 2, 3, 5] {
            assert_eq!(told(count), copied, "{count}");
        }
        assert_eq!(told(4), (Proof::Suspect, Some("pack x".to_owned())));
    }

    #[test]
    fn a_log_that_says_what_cannot_be_is_refused() {
        let forget =
            |id: &str| Action::Forget { backups: vec![id.to_owned()], reason: String::new() };
        let committed = |id: &str| Action::Commit(commit(id).into());
        let ended = |id: &str| Box::new(Ended { id: id.to_owned(), ..Ended::default() });
        let released = |id: &str| Action::Released(ended(id));
        let withdrawn = |id: &str| Action::Withdrawn(ended(id));
        for actions in [
            vec![Action::Swept { doom: 1 }],
            vec![init(), init()],
            vec![init(), forget("x")],
            vec![init(), Action::Swept { doom: 7 }],
            vec![init(), committed("a"), committed("a")],
            vec![init(), drill("a"), drill("a")],
            vec![init(), verified("x")],
            vec![init(), hold("h", "x")],
            vec![init(), committed("x"), forget("x"), hold("h", "x")],
            vec![init(), committed("x"), hold("h", "x"), hold("h", "x")],
            vec![init(), released("h")],
            vec![init(), committed("x"), hold("h", "x"), released("h"), released("h")],
            vec![init(), event("e"), event("e")],
            vec![init(), withdrawn("e")],
            vec![init(), event("e"), withdrawn("e"), withdrawn("e")],
        ] {
            let error = fold(actions).unwrap_err();
            assert_eq!((error.kind(), error.code()), (ErrorKind::Corrupt, code::BROKEN_LOG));
        }
    }
}
