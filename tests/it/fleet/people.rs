//! Whoever is told of something, and remembers it.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use stillpoint::{
    coordinator::{Notice, NoticeKind, NoticeUrgency, Notifier},
    repository::store::Dice,
};
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::time::Time;

/// What reached somebody.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    pub(super) id: String,
    pub(super) kind: NoticeKind,
    pub(super) urgency: NoticeUrgency,
    pub(super) class: String,
    pub(super) database: String,
    pub(super) at: DateTime<Utc>,
}

/// Everybody.
#[derive(Debug)]
pub(super) struct People {
    time: Arc<Time>,
    dice: Dice,
    /// Of 256 messages, so many do not get through.
    failing: u8,
    heard: Mutex<Vec<Heard>>,
}

impl People {
    pub(super) fn new(time: &Arc<Time>, seed: u64, failing: u8) -> Arc<Self> {
        let dice = Dice::new(seed ^ 0x7065_6f70);
        Arc::new(Self { time: Arc::clone(time), dice, failing, heard: Mutex::default() })
    }

    /// What they heard, each message once.
    pub(super) fn heard(&self) -> Vec<Heard> {
        let mut heard = self.heard.lock().unwrap().clone();
        let mut seen = std::collections::BTreeSet::new();
        heard.retain(|one| seen.insert((one.id.clone(), one.class.clone(), one.database.clone())));
        heard
    }
}

#[async_trait]
impl Notifier for People {
    fn routes(&self, notice: &Notice) -> Vec<(String, Notice)> {
        vec![("everybody".to_owned(), notice.clone())]
    }

    async fn send(&self, _: &str, notice: &Notice) -> Result<()> {
        let lost = self.dice.happens(self.failing);
        if lost && self.dice.happens(128) {
            return Err(Error::new(ErrorKind::Transient, code::NOTIFY, "tell somebody"));
        }
        let at = self.time.now();
        let heard = notice.alerts.iter().map(|alert| Heard {
            id: notice.id.clone(),
            kind: notice.kind,
            urgency: notice.urgency,
            class: alert.class.clone(),
            database: alert.database.clone(),
            at,
        });
        self.heard.lock().unwrap().extend(heard);
        if lost {
            // It arrived, and nobody knows.
            return Err(Error::new(ErrorKind::Transient, code::NOTIFY, "tell somebody"));
        }
        Ok(())
    }

    async fn live(&self) {}
}
