//! Log is captured of every database that is to have it, by one coordinator at a time.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use stillpoint_contract::{ErrorKind, Result};
use tokio::sync::watch;

use super::{
    fleet::{Fleet, Member},
    run::{Coordinator, is_true},
    work::told,
};
use crate::{
    coordinator::CaptureEvent,
    policy::{Logs, State},
};

/// How long a capture may take to store what it has, once it is told to end.
const END_MAX: Duration = Duration::from_mins(1);

impl Coordinator {
    /// Captures whatever is to be captured.
    pub(super) async fn capture(
        &self,
        mut fleets: watch::Receiver<Arc<Fleet>>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut running = FuturesUnordered::new();
        let mut names = BTreeSet::new();
        let mut fleet = Arc::clone(&fleets.borrow_and_update());
        let mut captured = fleet.captured();
        loop {
            if fleets.has_changed().unwrap_or(false) {
                fleet = Arc::clone(&fleets.borrow_and_update());
                captured = fleet.captured();
            }
            for member in &captured {
                let name = &member.name;
                if names.contains(name) {
                    continue;
                }
                let known = self.shared.known(name);
                if known.is_none_or(|(_, standing)| member.may_join(&standing)) {
                    names.insert(name.clone());
                    let (fleet, member) = (Arc::clone(&fleet), Arc::clone(member));
                    let (mut fleets, mut stop) = (fleets.clone(), stop.clone());
                    running.push(Box::pin(async move {
                        let is_over = async {
                            tokio::select! {
                                biased;
                                () = is_true(&mut stop) => {}
                                () = fleet.is_left_for_another(&mut fleets, &member.name) => {}
                            }
                        };
                        self.keep_capturing(&fleet, &member, is_over).await;
                        member.name.clone()
                    }));
                }
            }
            tokio::select! {
                biased;
                () = is_true(&mut stop) => break,
                Some(name) = running.next(), if !running.is_empty() => drop(names.remove(&name)),
                () = self.shared.joinable.notified() => {}
                () = self.world.clock.sleep(self.rhythm.report) => {}
            }
        }
        while running.next().await.is_some() {}
    }

    /// Captures one database's log, if nobody else does and there is a backup that it can join.
    async fn keep_capturing(
        &self,
        fleet: &Fleet,
        member: &Member,
        is_over: impl Future<Output = ()>,
    ) {
        let (send, mut receive) = watch::channel(false);
        let captured = async {
            let outcome = self.capture_once(fleet, member, &mut receive).await;
            if let Err(error) = outcome {
                let what = told(&error);
                tracing::warn!(event = "capture.failed", database = member.name, what);
                self.shared.trouble(&member.name, Some(format!("log is not captured: {what}")));
            }
            // The next try begins a while later, unless all is over.
            tokio::select! {
                biased;
                () = is_true(&mut receive) => {}
                () = self.world.clock.sleep(self.rhythm.report) => {}
            }
        };
        let mut captured = std::pin::pin!(captured);
        tokio::select! {
            biased;
            () = &mut captured => {}
            () = is_over => {
                send.send_replace(true);
                // A server that went away may leave us waiting for its answer.
                tokio::select! {
                    biased;
                    () = captured => {}
                    () = self.world.clock.sleep(END_MAX) => {}
                }
            }
        }
    }

    async fn capture_once(
        &self,
        fleet: &Fleet,
        member: &Member,
        is_over: &mut watch::Receiver<bool>,
    ) -> Result<()> {
        let lease = format!("log of {}", member.name);
        // It lasts as long as this coordinator is heard of. Whoever takes over after that is
        // noticed in the repository.
        if self.state.lease(&lease, &self.worker, None).await?.is_none() {
            return Ok(());
        }
        let tell = |event| match event {
            CaptureEvent::Started { stream, gap, .. } => {
                let database = &member.name;
                tracing::info!(event = "capture.started", database, stream, gap);
                self.shared.trouble(database, None);
                self.shared.change(database);
            }
            CaptureEvent::Interrupted { reason } => {
                let what = format!("log is not captured: {reason}");
                self.shared.trouble(&member.name, Some(what));
            }
            CaptureEvent::Stored { .. } => {
                self.shared.trouble(&member.name, None);
                self.shared.copies().changed.insert(member.name.clone());
            }
        };
        let captured = self.hands.capture(fleet, member, is_over, &tell).await;
        self.state.release(&lease, &self.worker).await?;
        match captured {
            // Whoever took over captures now.
            Err(error) if error.kind() == ErrorKind::Fenced => Ok(()),
            captured => captured,
        }
    }
}

impl Fleet {
    /// Databases whose log is captured.
    fn captured(&self) -> Vec<Arc<Member>> {
        self.members.values().filter(|member| is_captured(member)).cloned().collect()
    }
}

fn is_captured(member: &Member) -> bool {
    let is_wanted = member.state == State::Active && member.policy.logs != Logs::Never;
    is_wanted && member.place.is_some() && !member.is_observed
}
