//! When a run rests, and when it stops instead: before anything is read, taken out of its table or
//! deleted.

use std::time::Duration;

use stillpoint_contract::{ArchiveSet, Result, Rows};

use super::{
    control::{LOOK_EVERY, control},
    pace::{Cause, Rest, Turn},
    run::{Archiving, Limits, Quit},
    witness::Step,
    work::Work,
};

impl Work<'_, '_> {
    /// Rests until rows may be deleted, where somebody paused it or the server needs it; why the
    /// run stops instead, if it does.
    pub(super) async fn turn(
        &mut self,
        pruner: &mut dyn Rows,
        set: &ArchiveSet,
    ) -> Result<Option<Quit>> {
        loop {
            if let Some(quit) = self.quit(0) {
                return Ok(Some(quit));
            }
            let now = self.hear().await?;
            let turn = match self.pause() {
                Some(rest) => {
                    self.pace.look(pruner, set, now).await?;
                    Turn::Rest(rest)
                }
                None => self.pace.turn(pruner, set, now).await?,
            };
            self.report.debts = self.pace.debts;
            if let Some(quit) = self.follow(&turn, now).await {
                return Ok(Some(quit));
            }
            if turn == Turn::Go {
                return Ok(None);
            }
        }
    }

    /// Looks how much log was written, before nothing is for a while.
    pub(super) async fn settle_debts(
        &mut self,
        pruner: &mut dyn Rows,
        set: &ArchiveSet,
    ) -> Result<()> {
        let now = self.archiving.world.clock.elapsed();
        self.pace.look(pruner, set, now).await?;
        self.report.debts = self.pace.debts;
        Ok(())
    }

    /// Rests while somebody paused it, whatever it is about to do; why the run stops instead, if it
    /// does. Looks in any case: what comes next takes longer than that.
    pub(super) async fn resumed(&mut self) -> Result<Option<Quit>> {
        let mut has_rested = false;
        loop {
            self.looked = None;
            let now = self.hear().await?;
            let Some(rest) = self.pause() else {
                if has_rested {
                    self.follow(&Turn::Go, now).await;
                }
                return Ok(None);
            };
            let quit = match self.quit(0) {
                None => self.follow(&Turn::Rest(rest), now).await,
                quit => quit,
            };
            if quit.is_some() {
                return Ok(quit);
            }
            has_rested = true;
        }
    }

    /// Learns what it is told, unless it just did. Returns what time it is.
    async fn hear(&mut self) -> Result<Duration> {
        let now = self.archiving.world.clock.elapsed();
        if self.looked.is_none_or(|looked| now.saturating_sub(looked) >= LOOK_EVERY) {
            self.looked = Some(now);
            self.told = Box::pin(control(self.archiving.place)).await?;
            self.pace.follow(&self.told.said);
            self.stride.aim_at(self.told.said.transaction_ms.map(Duration::from_millis));
        }
        Ok(now)
    }

    /// A rest, where somebody paused it.
    fn pause(&self) -> Option<Rest> {
        let why = self.told.pause(self.archiving.place.set())?;
        let cause = Cause::Paused { by: self.told.by.clone() };
        Some(Rest { cause, why, length: LOOK_EVERY })
    }

    /// Tells of a turn, and rests if that is what it is; why the run stops instead, if it does.
    async fn follow(&mut self, turn: &Turn, now: Duration) -> Option<Quit> {
        let Archiving { world, witness, limits, .. } = self.archiving;
        let kept = self.rests.kept(turn, now);
        // It would rest anyway; and another attempt would not know what this one owes.
        let kept = if self.pace.owes_rows(now) { Duration::ZERO } else { kept };
        if let Some(quit) = limits.quit(turn, kept) {
            return Some(quit);
        }
        let heard = self.rests.see(turn, now);
        self.rests.log(self.archiving.place.set(), turn, heard.as_ref());
        if let Some(heard) = heard {
            self.archiving.say_heard(self.report, heard).await;
        }
        if let Turn::Rest(Rest { cause, why, length }) = turn {
            witness.see(&Step::Resting { why: why.clone(), length: *length });
            world.clock.sleep(*length).await;
            *self.report.rested.entry(cause.clone()).or_default() += *length;
        }
        None
    }
}

impl Limits {
    /// Why a run stops instead of following a turn, if it does: it was kept from work for so long.
    fn quit(&self, turn: &Turn, kept: Duration) -> Option<Quit> {
        match (turn, self.rests_max) {
            (Turn::Stop(why), _) => Some(Quit::Critical(why.clone())),
            (Turn::Rest(Rest { cause: Cause::Paused { .. }, why, .. }), Some(_)) => {
                Some(Quit::Paused(why.clone()))
            }
            (Turn::Rest(Rest { why, .. }), Some(max)) if kept >= max => {
                Some(Quit::Rested(why.clone()))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_to_rest_stops_at_a_pause_and_else_after_a_while() {
        let limits = Limits { rests_max: Some(Duration::from_mins(5)), ..Limits::default() };
        let turn = |cause: Cause| Turn::Rest(Rest::of(cause, LOOK_EVERY));
        let quit = |limits: Limits, turn: &Turn, kept| {
            limits.quit(turn, Duration::from_secs(kept)).map(|quit| quit.words())
        };
        let paused = turn(Cause::Paused { by: "dba".to_owned() });
        assert_eq!(quit(limits, &paused, 0).as_deref(), Some("dba paused it"));
        let lag = turn(Cause::Lag);
        assert_eq!(quit(limits, &lag, 299), None);
        let why = quit(limits, &lag, 300).unwrap_or_default();
        assert!(why.contains("replicas are behind"), "{why}");
        assert_eq!(
            (quit(limits, &Turn::Go, 300), quit(Limits::default(), &lag, 300)),
            (None, None)
        );
        assert_eq!(quit(Limits::default(), &paused, 9_999), None, "by hand, it waits");
    }
}
