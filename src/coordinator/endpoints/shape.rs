//! The form in which endpoints are registered: that of Prometheus' `file_sd` and `http_sd`, and
//! beside it an id, a state and how long it holds.
//!
//! Source: Prometheus documentation, "Configuration", `file_sd_config`.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use crate::policy::{Sighting, Wanted};

/// The largest file, or answer of a program.
pub(super) const BYTES_MAX: u64 = 4 << 20;

/// The most endpoints of a source.
pub(super) const TARGETS_MAX: usize = 20_000;

/// The longest id, target, label or value, in bytes.
const TEXT_BYTES_MAX: usize = 1_000;

/// The most labels of an endpoint.
const LABELS_MAX: usize = 100;

/// A longest lease: a year.
const TTL_MAX: Duration = Duration::from_hours(366 * 24);

/// Endpoints that have everything in common but where they are.
#[derive(Debug, Deserialize)]
struct Group {
    targets: Vec<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    id: Option<String>,
    state: Option<String>,
    ttl: Option<Ttl>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Ttl {
    Seconds(u64),
    Text(String),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Shape {
    Groups(Vec<Group>),
    Group(Group),
}

/// What goes for every endpoint of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Common {
    pub(super) ttl: Option<Duration>,
    pub(super) labels: BTreeMap<String, String>,
}

/// What a source answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) seen: Vec<Sighting>,
    /// Whether what is not in it is not there.
    pub(super) is_complete: bool,
}

/// Reads what was registered. `sign` tells one registration of the same from the next.
pub(super) fn read(bytes: &[u8], common: &Common, sign: Option<&str>) -> Result<Vec<Sighting>> {
    let shape: Shape = serde_json::from_slice(bytes).map_err(|cause| {
        wrong("it is no list of { targets, labels }, or not complete").with("reader", cause)
    })?;
    let groups = match shape {
        Shape::Groups(groups) => groups,
        Shape::Group(group) => vec![group],
    };
    let mut seen = Vec::new();
    for group in groups {
        sightings(group, common, sign, &mut seen)?;
    }
    let mut first: BTreeMap<&str, &Sighting> = BTreeMap::new();
    for one in &seen {
        if first.insert(&one.id, one).is_some_and(|before| before.labels != one.labels) {
            return Err(wrong(
                "one id, or one target without an id, is there twice with other \
                 labels: each endpoint needs an id of its own",
            )
            .with("id", &one.id));
        }
    }
    Ok(seen)
}

fn sightings(
    group: Group,
    common: &Common,
    sign: Option<&str>,
    seen: &mut Vec<Sighting>,
) -> Result<()> {
    let Group { targets, labels, id, state, ttl } = group;
    let wanted = match state.as_deref() {
        None => Wanted::Active,
        Some("terminated" | "terminating" | "removed") => Wanted::Gone,
        Some(state) => Wanted::named(state)
            .ok_or_else(|| wrong("its state is none of pending, active, draining, gone"))?,
    };
    let ttl = ttl.map(length).transpose()?.or(common.ttl);
    let mut all = common.labels.clone();
    all.extend(labels);
    if LABELS_MAX < all.len() {
        return Err(wrong("it has too many labels"));
    }
    all.iter().try_for_each(|(label, value)| {
        text(label)?;
        if value.is_empty() { Ok(()) } else { text(value) }
    })?;
    if id.is_some() && targets.len() != 1 {
        return Err(wrong("an id is of one target, and it has none or several"));
    }
    for target in targets {
        text(&target)?;
        if target.contains(char::is_whitespace) {
            return Err(wrong("a target has a blank in it"));
        }
        if Sighting::names_password(&target) {
            return Err(wrong("a password does not belong into a target"));
        }
        let id = id.clone().unwrap_or_else(|| target.clone());
        text(&id)?;
        if TARGETS_MAX <= seen.len() {
            return Err(wrong("it has too many targets"));
        }
        let labels = all.clone();
        let sign = sign.map(str::to_owned);
        seen.push(Sighting { id, target, labels, wanted, ttl, sign });
    }
    Ok(())
}

fn text(text: &str) -> Result<()> {
    let is_fine = !text.is_empty() && text.len() <= TEXT_BYTES_MAX;
    if is_fine && !text.chars().any(char::is_control) {
        Ok(())
    } else {
        Err(wrong("an id, target or label is empty, too long, or has control characters"))
    }
}

/// A length such as `90s`; a number is one of seconds.
fn length(ttl: Ttl) -> Result<Duration> {
    let seconds = match ttl {
        Ttl::Seconds(seconds) => Some(seconds),
        Ttl::Text(text) => {
            let at = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
            let (number, unit) = text.split_at(at);
            let of = match unit {
                "s" => Some(1),
                "m" => Some(60),
                "h" => Some(3_600),
                "d" => Some(86_400),
                _ => None,
            };
            number.parse().ok().zip(of).and_then(|(number, of): (u64, u64)| number.checked_mul(of))
        }
    };
    let length = seconds.filter(|seconds| *seconds > 0).map(Duration::from_secs);
    length
        .filter(|length| *length <= TTL_MAX)
        .ok_or_else(|| wrong("its ttl is no length of time, such as \"90s\""))
}

pub(super) fn wrong(why: &'static str) -> Error {
    Error::new(ErrorKind::Invalid, code::CONFIG_VALUE, "understand what was registered")
        .with("problem", why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Vec<Sighting>> {
        read(text.as_bytes(), &Common::default(), Some("1"))
    }

    #[test]
    fn the_shape_of_prometheus_is_understood_and_what_we_add_to_it() {
        let plain = of(r#"[{"targets":["a:1","b:1"],"labels":{"app":"x"}},{"targets":["c:1"]}]"#);
        let ids: Vec<_> = plain.unwrap().into_iter().map(|one| one.id).collect();
        assert_eq!(ids, ["a:1", "b:1", "c:1"]);
        let ours = r#"{"id":"i-1","targets":["a:1"],"state":"draining","ttl":"90s"}"#;
        let ours = of(ours).unwrap().remove(0);
        assert_eq!((&*ours.id, ours.wanted), ("i-1", Wanted::Draining));
        assert_eq!(ours.ttl, Some(Duration::from_secs(90)));
        assert_eq!(of(r#"{"targets":["a"],"ttl":30}"#).unwrap()[0].ttl.unwrap().as_secs(), 30);
        assert_eq!(
            of(r#"{"targets":["a"],"state":"terminated"}"#).unwrap()[0].wanted,
            Wanted::Gone
        );
        assert_eq!(of("[]").unwrap(), []);
    }

    #[test]
    fn what_is_wrong_is_refused_whole() {
        let many = format!("{{\"targets\":[{}\"x\"]}}", "\"x\",".repeat(TARGETS_MAX));
        for text in [
            "",
            "{",
            r#"[{"targets":["a:1"],"la"#,
            r#"[{"labels":{}}]"#,
            r#"[{"targets":["a"],"state":"sleepy"}]"#,
            r#"[{"targets":["a"],"ttl":"soon"}]"#,
            r#"[{"targets":["a"],"ttl":0}]"#,
            r#"[{"targets":["a","b"],"id":"i-1"}]"#,
            r#"[{"targets":["a b"]}]"#,
            r#"[{"targets":["postgres://u:hunter2@h/d"]}]"#,
            r#"[{"targets":["a\u0000"]}]"#,
            r#"[{"targets":[""]}]"#,
            &many,
        ] {
            assert!(of(text).is_err(), "{}", &text[..text.len().min(60)]);
        }
    }
}
