//! Backups, captures, connections and the server, each ended again and again.

use std::{
    fmt,
    time::{Duration, Instant},
};

use stillpoint::repository::store::Dice;
use tokio::task::block_in_place;

use super::{
    branch::{Branch, NAME, connect},
    ledger::lsn,
    staff::{Book, Staff},
};
use crate::site::Running;

/// What a backup may end with when its server or its connections were taken away: it cannot reach
/// the server, or it was left, or it must be begun again.
const TAKEN_AWAY: [i32; 3] = [4, 8, 11];

/// What happens, in an order that the dice decide, and then again.
const DISASTERS: [Disaster; 8] = [
    Disaster::KillCapture,
    Disaster::KillBackup,
    Disaster::KillServer,
    Disaster::CutConnections,
    Disaster::KillBackup,
    Disaster::CutConnections,
    Disaster::RestartServer,
    Disaster::FailOver,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disaster {
    KillCapture,
    KillBackup,
    KillServer,
    CutConnections,
    RestartServer,
    FailOver,
}

/// A supervisor that knows no mercy.
#[derive(Debug)]
pub(super) struct Havoc {
    branch: Branch,
    dice: Dice,
    deck: Vec<Disaster>,
    capture: Option<Running>,
    captures: u32,
    capture_after: Instant,
    backup: Option<Running>,
    /// Whether the backup at work met a disaster.
    is_backup_excused: bool,
    tally: Tally,
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    backups: u32,
    backups_failed: u32,
    disasters: Vec<Disaster>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backups, backups_failed, disasters } = self;
        write!(f, "{backups} backups, {backups_failed} failed; {disasters:?}")
    }
}

#[expect(clippy::disallowed_methods, reason = "the test measures real time")]
fn now() -> Instant {
    Instant::now()
}

impl Havoc {
    /// Begins to capture, before anybody moves money.
    pub(super) async fn new(branch: Branch, seed: u64) -> Self {
        let mut havoc = Self {
            branch,
            dice: Dice::new(seed),
            deck: Vec::new(),
            capture: None,
            captures: 0,
            capture_after: now(),
            backup: None,
            is_backup_excused: false,
            tally: Tally::default(),
        };
        havoc.keep_capturing();
        while !havoc.branch.log(&havoc.capture_name()).contains("Capturing") {
            havoc.supervise_capture();
            havoc.branch.pause(50).await;
        }
        havoc
    }

    /// Who is employed while it goes on.
    pub(super) fn branch(&self) -> &Branch {
        &self.branch
    }

    /// Lets everything run, and breaks it, for so long.
    pub(super) async fn run(&mut self, length: Duration) {
        let end = now() + length;
        while now() < end {
            for _ in 0..2 + self.dice.below(3) {
                self.supervise();
                self.branch.pause(20 + self.dice.below(400)).await;
            }
            if self.deck.is_empty() {
                self.deck = DISASTERS.to_vec();
            }
            let disaster = self.deck.swap_remove(self.dice.below(self.deck.len()));
            self.tally.disasters.push(disaster);
            self.strike(disaster).await;
        }
    }

    async fn strike(&mut self, disaster: Disaster) {
        if disaster != Disaster::KillCapture {
            self.is_backup_excused = true;
        }
        match disaster {
            Disaster::KillCapture => {
                if let Some(capture) = self.capture.take() {
                    capture.kill();
                    let pause_ms = [0, self.dice.below(2500)][self.dice.below(2)];
                    self.capture_after = now() + Duration::from_millis(pause_ms as u64);
                }
            }
            Disaster::KillBackup => {
                let backup = self.backup.take();
                let mut backup = backup.unwrap_or_else(|| self.branch.start_backup(false));
                self.branch.pause(self.dice.below(900)).await;
                match backup.ended() {
                    Some(status) => self.count(status),
                    None => backup.kill(),
                }
            }
            Disaster::CutConnections => {
                let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                           WHERE application_name = 'stillpoint' OR random() < 0.3 \
                           AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
                let client = connect(&self.branch.server.conninfo()).await.unwrap();
                client.batch_execute(cut).await.unwrap();
            }
            Disaster::KillServer => {
                self.branch.server.kill();
                self.branch.pause(self.dice.below(1500)).await;
                block_in_place(|| self.branch.server.restart()).unwrap();
            }
            Disaster::RestartServer => {
                block_in_place(|| self.branch.server.stop()).unwrap();
                self.branch.pause(self.dice.below(500)).await;
                block_in_place(|| self.branch.server.restart()).unwrap();
            }
            Disaster::FailOver => {
                block_in_place(|| self.branch.server.fail_over()).unwrap();
            }
        }
    }

    fn keep_capturing(&mut self) {
        self.supervise_capture();
        if self.capture.is_none() && self.capture_after <= now() {
            let flush = ["0s", "1s"][self.dice.below(2)];
            self.captures += 1;
            self.capture = Some(self.branch.start_capture(flush, &self.capture_name()));
        }
    }

    /// Starts again what has ended.
    fn supervise(&mut self) {
        self.keep_capturing();
        if let Some(status) = self.backup.as_mut().and_then(Running::ended) {
            self.backup = None;
            self.count(status);
        }
        if self.backup.is_none() && self.dice.below(3) == 0 {
            self.is_backup_excused = false;
            self.backup = Some(self.branch.start_backup(self.dice.below(4) == 0));
        }
    }

    fn count(&mut self, status: i32) {
        if status == 0 {
            self.tally.backups += 1;
        } else {
            self.tally.backups_failed += 1;
            let is_expected = self.is_backup_excused && TAKEN_AWAY.contains(&status);
            let (tally, log) = (&self.tally, self.branch.log("backup"));
            assert!(is_expected, "a backup failed ({status}) after {tally}: {log}");
        }
    }

    /// Lets one capture and one backup live, closes the bank, and captures the rest.
    pub(super) async fn end(mut self, staff: Staff) -> (Branch, Book, Tally) {
        self.capture_after = now();
        self.supervise();
        if let Some(backup) = self.backup.take() {
            let status = block_in_place(|| backup.end());
            self.count(status);
        }
        self.is_backup_excused = false;
        let last = self.branch.start_backup(false);
        let status = block_in_place(|| last.end());
        self.count(status);
        self.branch.pause(1000).await;
        let book = staff.close().await;
        self.wait_for_capture().await;
        let capture = self.capture.take().unwrap();
        let status = block_in_place(|| capture.end());
        assert_eq!(status, 0, "a capture ended: {}", self.branch.log(&self.capture_name()));
        (self.branch, book, self.tally)
    }

    /// Waits until everything that was committed is captured.
    async fn wait_for_capture(&mut self) {
        let client = connect(&self.branch.server.conninfo()).await.unwrap();
        let query = "SELECT pg_current_wal_insert_lsn()::text";
        let goal = lsn(client.query_one(query, &[]).await.unwrap().get(0));
        // A commit, since a capture hands nothing over without one.
        let after = "UPDATE counter SET n = n";
        client.batch_execute(after).await.unwrap();
        for _ in 0..300 {
            let answer = self.branch.ok(&["logs", "status", NAME]);
            let reached = answer["databases"][0]["captured_to_engine_position"].as_str();
            if reached.is_some_and(|reached| lsn(reached) >= goal) {
                return;
            }
            self.keep_capturing();
            self.branch.pause(200).await;
        }
        panic!("the capture does not get there: {}", self.branch.log(&self.capture_name()));
    }

    /// What passes by itself is waited out once a capture runs.
    fn supervise_capture(&mut self) {
        if let Some(status) = self.capture.as_mut().and_then(Running::ended) {
            let log = self.branch.log(&self.capture_name());
            let is_expected = !log.contains("Capturing") && TAKEN_AWAY.contains(&status);
            assert!(is_expected, "a capture ended ({status}): {log}");
            self.capture = None;
        }
    }

    fn capture_name(&self) -> String {
        format!("capture-{}", self.captures)
    }
}
