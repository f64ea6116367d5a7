//! What somebody is told, as it is stored until it was delivered, and as it is sent.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use stillpoint_contract::{Error, Result, quoted};

use crate::policy::{Alert, AlertKey, Class, Message, Told, Urgency};

/// The form of a notice.
pub const NOTICE_SCHEMA: &str = "stillpoint.notice/1";

/// One message about everything of one cause that began or ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// The form.
    pub schema: String,
    /// Its id, the same whenever it is sent: whoever got it already may ignore it.
    pub id: String,
    /// When it was found out.
    pub at: DateTime<Utc>,
    /// Whether it began or is over.
    pub kind: NoticeKind,
    /// How soon somebody has to know.
    pub urgency: NoticeUrgency,
    /// Whether it adds to what was told before: nobody has to be woken again.
    pub is_more: bool,
    /// What all of it has in common, if anything.
    pub cause: Option<String>,
    /// Of what is over: how many alerts of that cause are left.
    pub left: usize,
    /// What began, or is over.
    pub alerts: Vec<NoticeAlert>,
}

/// Whether something began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeKind {
    /// It began.
    Raised,
    /// It is over.
    Resolved,
}

/// How soon somebody has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeUrgency {
    /// During working hours.
    Ticket,
    /// Now.
    Page,
}

/// One alert of a notice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoticeAlert {
    /// Its class, such as `rpo-breached`.
    pub class: String,
    /// The database.
    pub database: String,
    /// Since when it lasts, or lasted.
    pub since: DateTime<Utc>,
    /// What is the matter; nothing of what is over.
    pub what: Option<String>,
    /// The command that tells more.
    pub next: String,
}

impl Notice {
    /// The notice of a message.
    pub(super) fn of(message: Message, id: String, at: DateTime<Utc>) -> Self {
        let blank = Self {
            schema: NOTICE_SCHEMA.to_owned(),
            id,
            at,
            kind: NoticeKind::Raised,
            urgency: NoticeUrgency::Ticket,
            is_more: false,
            cause: None,
            left: 0,
            alerts: Vec::new(),
        };
        match message {
            Message::Raised { cause, urgency, is_more, alerts } => Self {
                urgency: urgency.into(),
                is_more,
                cause,
                alerts: alerts.into_iter().map(NoticeAlert::raised).collect(),
                ..blank
            },
            Message::Resolved { cause, left, alerts } => Self {
                kind: NoticeKind::Resolved,
                urgency: alerts
                    .iter()
                    .map(|(_, told)| told.urgency)
                    .max()
                    .unwrap_or(Urgency::Ticket)
                    .into(),
                cause,
                left,
                alerts: alerts.into_iter().map(NoticeAlert::resolved).collect(),
                ..blank
            },
        }
    }

    /// The same without the alerts of other classes; nothing, if none is left.
    pub fn only(&self, classes: &[Class]) -> Option<Self> {
        let is_wanted =
            |alert: &&NoticeAlert| classes.iter().any(|class| class.name() == alert.class);
        let alerts: Vec<_> = self.alerts.iter().filter(is_wanted).cloned().collect();
        (!alerts.is_empty()).then(|| Self { alerts, ..self.clone() })
    }

    /// It in one line.
    pub fn title(&self) -> String {
        let word = match (self.kind, self.urgency) {
            (NoticeKind::Resolved, _) => "over",
            (NoticeKind::Raised, NoticeUrgency::Page) => "page",
            (NoticeKind::Raised, NoticeUrgency::Ticket) => "ticket",
        };
        let subject = match self.alerts.as_slice() {
            [one] => format!("{}: {}", one.database, one.class),
            many => format!("{} alerts", many.len()),
        };
        let cause = self.cause.as_ref().map(|cause| format!(" ({cause})")).unwrap_or_default();
        format!("[stillpoint {word}] {subject}{cause}")
    }

    /// It as a text for people.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n", self.title());
        for alert in &self.alerts {
            let what = alert.what.as_deref().unwrap_or("is over");
            let since = alert.since.format("%Y-%m-%d %H:%M:%S UTC");
            let _ = writeln!(text, "\n{} ({}): {what}", alert.database, alert.class);
            let _ = writeln!(text, "  since {since}\n  next: {}", alert.next);
        }
        if self.kind == NoticeKind::Resolved && self.left > 0 {
            let _ = writeln!(text, "\n{} of the same cause are left.", self.left);
        }
        text
    }
}

impl From<Urgency> for NoticeUrgency {
    fn from(urgency: Urgency) -> Self {
        match urgency {
            Urgency::Ticket => Self::Ticket,
            Urgency::Page => Self::Page,
        }
    }
}

impl NoticeAlert {
    fn raised(alert: Alert) -> Self {
        Self {
            class: alert.class.name().to_owned(),
            next: next(&alert.database),
            database: alert.database,
            since: alert.since,
            what: Some(alert.what),
        }
    }

    fn resolved(((class, database), told): (AlertKey, Told)) -> Self {
        Self {
            class: class.name().to_owned(),
            next: next(&database),
            database,
            since: told.since,
            what: None,
        }
    }
}

fn next(database: &str) -> String {
    format!("stillpoint status {}", quoted(database))
}

/// A notice that waits to be sent along a route.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Outgoing {
    pub route: String,
    pub notice: Notice,
}

impl Outgoing {
    pub(super) fn write(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|cause| Error::bug("write a notice").caused_by(cause))
    }

    pub(super) fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}
