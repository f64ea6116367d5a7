//! Backups, captures and tellers at work, each killed again and again.

use std::{
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

use stillpoint::repository::store::Dice;

use super::teller::hire;
use crate::site::{Running, Site};

/// Tellers at work at once.
const TELLERS: usize = 3;

/// A supervisor that knows no mercy.
pub(super) struct Havoc<'a> {
    site: &'a Site,
    dice: Dice,
    seed: u64,
    tellers: Vec<Running>,
    hired: u64,
    capture: Option<Running>,
    /// Until when nobody starts another capture.
    capture_after: Instant,
    backup: Option<Running>,
    /// What happened, for the one who reads it.
    pub(super) tally: Tally,
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) backups_done: u32,
    pub(super) backups_killed: u32,
    pub(super) captures_killed: u32,
    captures_ended: u32,
    tellers_killed: u32,
}

#[expect(clippy::disallowed_methods, reason = "the test measures real time")]
fn now() -> Instant {
    Instant::now()
}

impl<'a> Havoc<'a> {
    pub(super) fn new(site: &'a Site, seed: u64) -> Self {
        let mut havoc = Self {
            site,
            dice: Dice::new(seed),
            seed,
            tellers: Vec::new(),
            hired: 0,
            capture: None,
            capture_after: now(),
            backup: None,
            tally: Tally::default(),
        };
        for _ in 0..TELLERS {
            let teller = havoc.hire();
            havoc.tellers.push(teller);
        }
        havoc
    }

    /// Lets everything run, and kills, for so long.
    pub(super) fn run(&mut self, length: Duration) {
        let end = now() + length;
        while now() < end {
            self.supervise();
            sleep(Duration::from_millis(20 + self.dice.below(300) as u64));
            match self.dice.below(24) {
                0 | 1 => self.kill_capture(),
                2..6 => self.kill_backup(),
                6 => self.kill_teller(),
                _ => {}
            }
        }
    }

    /// Lets one capture and one backup live, closes the bank, and captures the rest.
    pub(super) fn end(mut self) -> Tally {
        self.capture_after = now();
        self.supervise();
        sleep(Duration::from_secs(1));
        if let Some(backup) = self.backup.take() {
            self.count(backup.end());
        }
        self.count(self.site.spawn(&["backup", "sqlite:bank.db"], "backup").end());
        sleep(Duration::from_secs(2));
        fs::write(self.site.path("closed"), "").unwrap();
        for teller in std::mem::take(&mut self.tellers) {
            assert_eq!(teller.end(), 0, "a teller failed");
        }
        sleep(Duration::from_secs(2));
        let status = self.capture.take().unwrap().end();
        assert_eq!(status, 0, "a capture ended: {}", self.log("capture"));
        self.tally
    }

    /// Starts again what has ended.
    fn supervise(&mut self) {
        if let Some(status) = self.capture.as_mut().and_then(Running::ended) {
            // A database whose log was emptied under a capture has a gap; the next one begins anew.
            assert_eq!(status, 6, "a capture ended: {}", self.log("capture"));
            self.capture = None;
            self.tally.captures_ended += 1;
        }
        if self.capture.is_none() && self.capture_after <= now() {
            let words = ["logs", "stream", "sqlite:bank.db", "--take-over", "--stop-at-eof"];
            let flush = ["0s", "1s"][self.dice.below(2)];
            let words = [&words[..], &["--flush", flush, "-v"]].concat();
            self.capture = Some(self.site.spawn(&words, "capture"));
        }
        if let Some(status) = self.backup.as_mut().and_then(Running::ended) {
            self.backup = None;
            self.count(status);
        }
        if self.backup.is_none() && self.dice.below(4) == 0 {
            self.backup = Some(self.start_backup());
        }
    }

    fn start_backup(&self) -> Running {
        let full: &[&str] = if self.dice.below(4) == 0 { &["--full"] } else { &[] };
        self.site.spawn(&[&["backup", "sqlite:bank.db"], full].concat(), "backup")
    }

    fn count(&mut self, status: i32) {
        assert_eq!(status, 0, "a backup failed: {}", self.log("backup"));
        self.tally.backups_done += 1;
    }

    fn kill_capture(&mut self) {
        if let Some(capture) = self.capture.take() {
            capture.kill();
            self.tally.captures_killed += 1;
            let pause_ms = if self.dice.below(2) == 0 { self.dice.below(2_500) } else { 0 };
            self.capture_after = now() + Duration::from_millis(pause_ms as u64);
        }
    }

    fn kill_backup(&mut self) {
        let mut backup = self.backup.take().unwrap_or_else(|| self.start_backup());
        sleep(Duration::from_millis(self.dice.below(60) as u64));
        if let Some(status) = backup.ended() {
            return self.count(status);
        }
        backup.kill();
        self.tally.backups_killed += 1;
    }

    fn kill_teller(&mut self) {
        let teller = self.hire();
        let index = self.dice.below(self.tellers.len());
        std::mem::replace(&mut self.tellers[index], teller).kill();
        self.tally.tellers_killed += 1;
    }

    fn hire(&mut self) -> Running {
        self.hired += 1;
        hire(self.site, self.seed.wrapping_mul(1_000) + self.hired)
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.site.path(&format!("{name}.log"))).unwrap_or_default()
    }
}
