//! From stored segments to coverage: which stretches of captured log are one history.
//!
//! Captures of a database can overlap: one takes over while the other still writes, or wakes up.
//! Then the log forks, and the branch of the capture that began last is the one that counts; it
//! holds again whatever the other stored after the fork.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use stillpoint_contract::Result;

use super::{
    handle::Repository,
    heads::{Heads, is_unreadable, key_of},
    history::History,
    names,
    segment::StoredHead,
    store::Key,
    timeline::{Coverage, Point, SegmentId, Unwatched},
};

/// Segments of one stream without a hole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    stream: String,
    seqs: Range<u64>,
}

/// The stored segments of a database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stored {
    /// By stream and number.
    pub(super) runs: Vec<Run>,
    /// Of each hole, the last segment. What garbage collection took away is not missing.
    pub(super) missing: Vec<Key>,
    /// Whether there are others that are doomed.
    has_doomed: bool,
}

impl Run {
    fn first(&self) -> SegmentId {
        SegmentId { stream: self.stream.clone(), seq: self.seqs.start }
    }

    fn ids(&self, seqs: Range<u64>) -> impl DoubleEndedIterator<Item = SegmentId> + '_ {
        seqs.map(|seq| SegmentId { stream: self.stream.clone(), seq })
    }
}

impl Stored {
    /// Whether nothing was ever captured, as far as there are traces.
    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty() && !self.has_doomed
    }

    /// From the newest segment to the oldest.
    pub(super) fn newest_first(&self) -> impl Iterator<Item = SegmentId> + '_ {
        self.runs.iter().rev().flat_map(|run| run.ids(run.seqs.clone()).rev())
    }
}

impl Repository {
    /// Every segment of a database that is not doomed.
    pub(super) async fn stored(&self, database: &str, history: &History) -> Result<Stored> {
        let mut streams: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        let mut stored = Stored::default();
        for object in self.store.list(&names::streams(database)).await? {
            if history.is_doomed_object(object.key.as_str()) {
                stored.has_doomed = true;
                continue;
            }
            if let Some((stream, seq)) = names::segment_of(&object.key) {
                streams.entry(stream).or_default().push(seq);
            }
        }
        for (stream, mut seqs) in streams {
            seqs.sort_unstable();
            let mut next = 1;
            for seq in seqs {
                if next != seq {
                    let before = names::segment(database, &stream, seq - 1)?;
                    if !history.is_doomed_object(before.as_str()) {
                        stored.missing.push(before);
                    }
                }
                match stored.runs.last_mut() {
                    Some(run) if run.stream == stream && next == seq => run.seqs.end = seq + 1,
                    _ => {
                        let (stream, seqs) = (stream.clone(), seq..seq + 1);
                        stored.runs.push(Run { stream, seqs });
                    }
                }
                next = seq + 1;
            }
        }
        Ok(stored)
    }

    /// What was stored after `last` on the branch that counts.
    pub(super) async fn segments_after(
        &self,
        heads: &Heads<'_>,
        last: &SegmentId,
    ) -> Result<Vec<SegmentId>> {
        let history = self.history().await?;
        let stored = self.stored(heads.database(), &history).await?;
        for branch in branches(heads, &stored.runs, &mut Vec::new()).await? {
            if let Some(at) = branch.iter().position(|id| id == last) {
                return Ok(branch[at + 1..].to_vec());
            }
        }
        Ok(Vec::new())
    }
}

/// Joins runs to branches, in the order in which their newest captures began.
pub(super) async fn branches(
    heads: &Heads<'_>,
    runs: &[Run],
    problems: &mut Vec<String>,
) -> Result<Vec<Vec<SegmentId>>> {
    let mut continues = Vec::new();
    for run in runs {
        let first = run.first();
        continues.push(match heads.read(&first).await {
            Ok(head) => head.and_then(|head| head.continues.clone()),
            Err(error) if is_unreadable(&error) => {
                problems.push(format!("{error}: {}", key_of(heads, &first)?));
                None
            }
            Err(error) => return Err(error),
        });
    }
    Ok(join(runs, &continues))
}

/// The branches that count. `continues` says which segment each run's first one continues.
fn join(runs: &[Run], continues: &[Option<(String, u64)>]) -> Vec<Vec<SegmentId>> {
    let before = |index: usize| {
        let (stream, seq) = continues[index].as_ref()?;
        let holds = |run: &Run| run.stream == *stream && run.seqs.contains(seq);
        Some((runs[..index].iter().position(holds)?, *seq))
    };
    let mut is_used = vec![false; runs.len()];
    let mut branches = Vec::new();
    for newest in (0..runs.len()).rev() {
        if is_used[newest] {
            continue;
        }
        let (mut path, mut index) = (vec![(newest, runs[newest].seqs.clone())], newest);
        let is_superseded = loop {
            is_used[index] = true;
            match before(index) {
                None => break false,
                // A newer capture left this one's way at or before the fork.
                Some((earlier, _)) if is_used[earlier] => break true,
                Some((earlier, seq)) => {
                    path.push((earlier, runs[earlier].seqs.start..seq + 1));
                    index = earlier;
                }
            }
        };
        if !is_superseded {
            let ids = path.into_iter().rev().flat_map(|(index, seqs)| runs[index].ids(seqs));
            branches.push(ids.collect());
        }
    }
    branches.reverse();
    branches
}

/// Why coverage begins where it does, when it was longer once.
const LET_GO: &str = "older log was let go: nothing that is kept needs it";

/// Reads the ends of a branch, leaving out what is damaged there, and says so.
pub(super) async fn cover(
    heads: &Heads<'_>,
    history: &History,
    mut segments: Vec<SegmentId>,
    problems: &mut Vec<String>,
) -> Result<Option<Coverage>> {
    let first = loop {
        let Some(id) = segments.first() else { return Ok(None) };
        match sound(heads, id, problems).await? {
            Some(head) => break head,
            None => drop(segments.remove(0)),
        }
    };
    let mut damaged_from = None;
    let last = loop {
        let Some(id) = segments.last() else { return Ok(None) };
        match sound(heads, id, problems).await? {
            Some(head) => break head,
            None => damaged_from = segments.pop(),
        }
    };
    let damaged = |id: SegmentId| format!("the segment {}/{} is damaged", id.stream, id.seq);
    let started = first.head.events.first().map_or(first.captured_at, |event| event.at);
    let ended = last.head.events.last().map_or(last.captured_at, |event| event.at);
    let unwatched = unwatched(heads, &segments).await;
    let before = match &first.continues {
        _ if first.seq > 1 => Some((first.stream.clone(), first.seq - 1)),
        continued => continued.clone(),
    };
    let is_let_go = |(stream, seq): &(String, u64)| {
        let key = names::segment(heads.database(), stream, *seq)?;
        Ok::<_, stillpoint_contract::Error>(history.is_doomed_object(key.as_str()))
    };
    let is_let_go = before.as_ref().map(is_let_go).transpose()?;
    let lost = || format!("the segment before {}/{} is missing", first.stream, first.seq);
    let missing = before.filter(|_| is_let_go == Some(false) && first.gap.is_none());
    Ok(Some(Coverage {
        start: Point { at: started, position: first.head.range.start().clone() },
        end: Point { at: ended, position: last.head.range.end().clone() },
        until: ended,
        unwatched,
        gap: first.gap.clone().or_else(|| {
            is_let_go.map(|is_let_go| if is_let_go { LET_GO.to_owned() } else { lost() })
        }),
        missing: missing.map(|(stream, seq)| SegmentId { stream, seq }),
        lost: damaged_from.map(damaged),
        backups: Vec::new(),
        segments,
    }))
}

/// The head of a segment, or `None` when it cannot be used, which is said.
async fn sound(
    heads: &Heads<'_>,
    id: &SegmentId,
    problems: &mut Vec<String>,
) -> Result<Option<Arc<StoredHead>>> {
    match heads.read(id).await {
        Err(error) if is_unreadable(&error) => {
            let problem = format!("{error}: {}", key_of(heads, id)?);
            if !problems.contains(&problem) {
                problems.push(problem);
            }
            Ok(None)
        }
        read => read,
    }
}

/// The stretches before each capture began, as the first segments of each stream tell.
async fn unwatched(heads: &Heads<'_>, segments: &[SegmentId]) -> Vec<Unwatched> {
    let mut found: Vec<Unwatched> = Vec::new();
    let mut is_open = false;
    for id in segments {
        if id.seq != 1 && !is_open {
            continue;
        }
        // What is damaged is told elsewhere.
        let Ok(Some(head)) = heads.read(id).await else { continue };
        let Some(next) = head.unwatched() else {
            is_open &= head.head.events.is_empty();
            continue;
        };
        match found.last_mut().filter(|last| is_open && last.from == next.from) {
            // What had waited did not fit into one segment.
            Some(last) => last.to = next.to,
            None if id.seq == 1 => found.push(next),
            None => {
                is_open = false;
                continue;
            }
        }
        is_open = true;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `a1-3` is segments 1 to 3 of stream a; `b1-2<a3` continues the third of them.
    fn joined(text: &str) -> Vec<String> {
        let (mut runs, mut continues) = (Vec::new(), Vec::new());
        for word in text.split_whitespace() {
            let (run, before) = word.split_once('<').map_or((word, None), |(r, b)| (r, Some(b)));
            let (first, last) = run[1..].split_once('-').unwrap();
            let seqs = first.parse().unwrap()..last.parse::<u64>().unwrap() + 1;
            runs.push(Run { stream: run[..1].to_owned(), seqs });
            continues.push(before.map(|b| (b[..1].to_owned(), b[1..].parse().unwrap())));
        }
        let told = |branch: Vec<SegmentId>| {
            let ids: Vec<_> = branch.iter().map(|id| format!("{}{}", id.stream, id.seq)).collect();
            ids.concat()
        };
        join(&runs, &continues).into_iter().map(told).collect()
    }

    #[test]
    fn the_branch_of_the_capture_that_began_last_counts() {
        assert_eq!(joined("a1-3 b1-2<a3"), ["a1a2a3b1b2"]);
        // The old capture went on for a while.
        assert_eq!(joined("a1-6 b1-2<a3"), ["a1a2a3b1b2"]);
        // One woke up that had been taken over twice.
        assert_eq!(joined("a1-9 b1-2<a3 c1-1<a7"), ["a1a2a3a4a5a6a7c1"]);
        assert_eq!(joined("a1-9 b1-5<a3 c1-1<a7 d1-1<b4"), ["a1a2a3b1b2b3b4d1"]);
        // Gaps, holes and what was collected.
        assert_eq!(joined("a1-2 b1-2"), ["a1a2", "b1b2"]);
        assert_eq!(joined("a1-2 a4-5 b1-1<a5"), ["a1a2", "a4a5b1"]);
        assert_eq!(joined("b1-1<a5 c1-1<b1"), ["b1c1"]);
        assert_eq!(joined(""), Vec::<String>::new());
    }

    #[test]
    fn streams_that_claim_to_continue_themselves_or_the_future_end_nowhere() {
        assert_eq!(joined("a1-2<a2 b1-1<c1 c1-1"), ["a1a2", "b1", "c1"]);
    }
}
