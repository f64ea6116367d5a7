//! Doubts on their way into a copy: what drills found damaged in backups that it has already.
//!
//! What is wrong with a backup beside its bytes is wrong with it everywhere. A drill that casts
//! doubt on one, and one that takes such a doubt back, is written down in the copy as it was in the
//! original, with its evidence. What the copy's own drills found stands until one of them passes.

use stillpoint_contract::Result;

use super::{
    drill::{STORED_BYTES_MAX, drill_objects},
    entry::{Action, Drilled},
    history::History,
    replica::{Replication, put_whole},
    store::Key,
    verify::is_finding,
};

impl Replication<'_> {
    /// Tells the target of drills at the source, as long as any of them casts doubt on a backup of
    /// the target, or takes that back, and is not known there.
    pub(super) async fn doubts(&self, theirs: &History, database: &str) -> Result<()> {
        loop {
            let own = self.target.history().await?;
            let Some(next) = untold(theirs, &own, database) else { return Ok(()) };
            self.evidence(next).await?;
            self.target
                .append(async |own| {
                    let is_next = untold(theirs, own, database) == Some(next);
                    Ok(is_next.then(|| Action::Drill(Box::new(next.clone()))))
                })
                .await?;
        }
    }

    /// Brings the evidence of a drill to the target. A doubt goes all the same where that is not as
    /// it was written: then it is missed there as it is at the source.
    async fn evidence(&self, drill: &Drilled) -> Result<()> {
        let target = self.target;
        for (name, hash) in drill_objects(drill) {
            let key = Key::new(name.clone())?;
            let brought = match self.source.hashed(name, hash, STORED_BYTES_MAX).await {
                Ok(bytes) => put_whole(&*target.store, &target.world, &key, bytes).await,
                Err(error) => Err(self.at_source(error)),
            };
            match brought {
                Err(error) if is_finding(&error) => {
                    tracing::warn!(object = name, "evidence stays behind: could not {error}");
                }
                brought => brought?,
            }
        }
        Ok(())
    }
}

/// The drill that the target has to know of next.
fn untold<'a>(theirs: &'a History, own: &History, database: &str) -> Option<&'a Drilled> {
    let is_there = |backup: &str| {
        let known = own.commit(backup).filter(|known| !known.forgotten);
        known.is_some_and(|known| known.commit.database == database)
    };
    let mut cast = theirs.doubts();
    let is_new = |(backup, drill): &(&str, &str)| is_there(backup) && own.drilled(drill).is_none();
    if let Some((_, drill)) = cast.find(is_new) {
        return theirs.drilled(drill);
    }
    // Only what was cast at the source is taken back there.
    let mut over = own.doubts().filter(|(backup, drill)| {
        is_there(backup) && theirs.drilled(drill).is_some() && theirs.doubt(backup).is_none()
    });
    over.find_map(|(backup, _)| {
        let is_new = |drill: &&Drilled| own.drilled(&drill.drill).is_none();
        let passed = theirs.drills().filter(|drill| drill.passed && drill.damage.is_none());
        passed.filter(|drill| drill.backup.as_deref() == Some(backup)).filter(is_new).last()
    })
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;
    use crate::repository::history::tests::{commit, drill_of, fold, init};

    /// Row 65: a copy learns of a doubt about what it has, once, and of what takes it back.
    #[test]
    fn row_65_a_doubt_is_told_once_and_so_is_what_takes_it_back() {
        let there = [init(), Action::Commit(commit("a").into())];
        let of = |more: &[Action]| fold([&there[..], more].concat()).unwrap();
        let told = |theirs: &History, own: &History| {
            untold(theirs, own, "db").map(|drill| drill.drill.clone()).unwrap_or_default()
        };
        let found = drill_of("1", "a", false, Some("page 3"));
        let passed = drill_of("2", "a", true, None);
        let (blank, doubted) = (of(&[]), of(from_ref(&found)));
        assert_eq!(told(&doubted, &blank), "1");
        assert_eq!(told(&doubted, &doubted), "");
        // Neither another database's, nor what never was there or was given up.
        assert_eq!(untold(&doubted, &blank, "other"), None);
        assert_eq!(told(&doubted, &fold(vec![init()]).unwrap()), "");
        let forget = Action::Forget { backups: vec!["a".to_owned()], reason: String::new() };
        assert_eq!(told(&doubted, &of(from_ref(&forget))), "");

        let over = of(&[found.clone(), passed.clone()]);
        assert_eq!(told(&over, &blank), "", "there was nothing to take back");
        assert_eq!(told(&over, &doubted), "2");
        assert_eq!(told(&over, &over), "");
        let again = of(&[found, passed, drill_of("4", "a", false, Some("page 3"))]);
        assert_eq!(told(&again, &over), "4");
        // What the copy found by itself stands until a drill passes there.
        let own = of(&[drill_of("3", "a", false, Some("page 9"))]);
        assert_eq!(told(&over, &own), "");
        assert_eq!(told(&doubted, &own), "1");
    }
}
