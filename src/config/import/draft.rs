//! What is written in the end: repositories, policies, databases, and the report before them.

use std::fmt::Write as _;

use super::{Imported, sheet::Left};

/// What keeps everything that nothing was said about.
const FOR_EVER: &str = "100y";

/// A configuration that is being put together.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) repositories: Vec<Repository>,
    pub(super) policies: Vec<Policy>,
    pub(super) databases: Vec<Database>,
    pub(super) assumed: Vec<String>,
}

/// A place for backups.
#[derive(Debug, Default)]
pub(super) struct Repository {
    pub(super) name: String,
    pub(super) url: String,
    /// Whether it is encrypted: with a key of its own.
    pub(super) is_encrypted: bool,
}

/// What is promised.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) keeping: Keeping,
    pub(super) floor: Option<u32>,
    /// Repositories that get copies, and what is kept there.
    pub(super) copies: Vec<(String, Keeping)>,
}

/// What is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Keeping {
    /// Everything: nothing else was said.
    #[default]
    Everything,
    /// So many of the newest.
    Last(u32),
    /// Every instant of so many days.
    Days(u32),
}

/// Something protected.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) name: String,
    pub(super) endpoint: String,
    pub(super) password: Option<Password>,
    pub(super) policy: usize,
}

/// Where a password is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Password {
    /// In a file of the database's own.
    File,
    /// In the variable that libpq reads.
    Variable,
}

/// A text as TOML writes it.
pub(super) fn quoted(text: &str) -> String {
    let text = serde_json::Value::from(text).to_string();
    text.replace('\u{7f}', "\\u007F")
}

/// A text in a comment.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A part of a path.
fn file_name(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let name: String = name.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
    if name.trim_matches('.').is_empty() { "_".to_owned() } else { name }
}

/// A name in a URL.
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(byte.into());
        } else {
            write!(encoded, "%{byte:02X}").expect("a String grows");
        }
    }
    encoded
}

/// A path beside another one: two tools never write to one place.
pub(super) fn beside(path: &str) -> String {
    format!("{}-stillpoint", path.trim_end_matches('/'))
}

/// The URL of a cluster: hosts with their ports, or the directory of a socket.
pub(super) fn endpoint(
    hosts: &[(String, Option<u16>)],
    (user, database): (&str, &str),
    more: &[(&str, &str)],
) -> String {
    let mut query: Vec<(&str, String)> = Vec::new();
    let is_socket = |host: &str| host.is_empty() || host.starts_with('/');
    let mut named = Vec::new();
    for (host, port) in hosts {
        if is_socket(host) {
            query.extend((!host.is_empty()).then(|| ("host", host.clone())));
            query.extend(port.map(|port| ("port", port.to_string())));
        } else {
            let bare = host.trim_matches(['[', ']']);
            let is_address = bare.parse::<std::net::Ipv6Addr>().is_ok();
            let host = if is_address { format!("[{bare}]") } else { encoded(bare) };
            named.push(port.map_or_else(|| host.clone(), |port| format!("{host}:{port}")));
        }
    }
    if !named.is_empty() {
        // A socket is of one machine, and hosts are others.
        query.clear();
    }
    query.extend(more.iter().map(|(key, value)| (*key, (*value).to_owned())));
    let query: Vec<_> =
        query.iter().map(|(key, value)| format!("{key}={}", encoded(value))).collect();
    let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
    format!("postgres://{}@{}/{}{query}", encoded(user), named.join(","), encoded(database))
}

impl Draft {
    /// The place of a policy among those that there are.
    pub(super) fn policy(&mut self, policy: Policy) -> usize {
        let known = self.policies.iter().position(|known| *known == policy);
        known.unwrap_or_else(|| {
            self.policies.push(policy);
            self.policies.len() - 1
        })
    }

    /// Assumes something, and says so once.
    pub(super) fn assume(&mut self, what: impl Into<String>) {
        let what = what.into();
        if !self.assumed.contains(&what) {
            self.assumed.push(what);
        }
    }

    /// All of it as a text.
    pub(super) fn finish(mut self, from: &str, left: Vec<Left>) -> Imported {
        if self.repositories.is_empty() {
            self.assume(
                "no repository could be carried over: /srv/stillpoint is a place to change",
            );
            let (name, url) = ("primary".to_owned(), "/srv/stillpoint".to_owned());
            self.repositories.push(Repository { name, url, is_encrypted: false });
        }
        self.assume("the zone of the calendar is not in these files: UTC");
        self.assume(
            "schedules are not in these files: RPO, calendar and drills are those of the built-in \
             policy",
        );
        if self.policies.iter().any(|policy| policy.keeping == Keeping::Everything) {
            self.assume(format!(
                "what is kept is not in these files: everything is, for {FOR_EVER}, until you say \
                 otherwise"
            ));
        }
        let mut text =
            format!("# From the configuration of {from}, by `stillpoint config import`.\n");
        text.push_str("#\n# Assumed:\n");
        for what in &self.assumed {
            line(&mut text, &format!("#   {}", plain(what)));
        }
        if !left.is_empty() {
            text.push_str("#\n# Not carried over:\n");
        }
        for one in &left {
            let Left { file, line: number, section, key, why } = one;
            let section = if section.is_empty() { String::new() } else { format!("[{section}] ") };
            let place = format!("{file}:{number}: {section}{key}: {why}");
            line(&mut text, &format!("#   {}", plain(&place)));
        }
        text.push_str("\nversion = 1\ntimezone = \"UTC\"\n");
        self.repositories.iter().for_each(|one| one.write(&mut text));
        self.policies.iter().enumerate().for_each(|(place, one)| one.write(&mut text, place));
        self.databases.iter().for_each(|one| one.write(&mut text));
        Imported { text, left, assumed: self.assumed }
    }
}

fn line(text: &mut String, more: &str) {
    text.push_str(more);
    text.push('\n');
}

impl Repository {
    fn write(&self, text: &mut String) {
        line(text, &format!("\n[repository.{}]", quoted(&self.name)));
        line(text, &format!("url = {}", quoted(&self.url)));
        if self.is_encrypted {
            let path = format!("/etc/stillpoint/{}.key", file_name(&self.name));
            line(text, &format!("encryption = {{ key = {{ file = {} }} }}", quoted(&path)));
        }
    }
}

/// The name of a policy by its place.
fn policy_name(place: usize) -> String {
    if place == 0 { "imported".to_owned() } else { format!("imported-{}", place + 1) }
}

impl Keeping {
    fn keep(self) -> String {
        match self {
            Self::Everything => format!("keep = {{ for = \"{FOR_EVER}\" }}"),
            Self::Last(count) => format!("keep = {{ last = {count} }}"),
            Self::Days(days) => format!("keep = {{ for = \"{days}d\" }}"),
        }
    }
}

impl Policy {
    fn write(&self, text: &mut String, place: usize) {
        let name = policy_name(place);
        line(text, &format!("\n[policy.{name}]"));
        if let Keeping::Days(days) = self.keeping {
            line(text, &format!("pitr_window = \"{days}d\""));
        }
        line(text, &self.keeping.keep());
        if let Some(floor) = self.floor {
            line(text, &format!("floor = {floor}"));
        }
        for (to, keeping) in &self.copies {
            line(text, &format!("\n[[policy.{name}.copy]]"));
            line(text, &format!("name = {}\nto = {}", quoted(to), quoted(to)));
            line(text, &keeping.keep());
        }
    }
}

impl Database {
    fn write(&self, text: &mut String) {
        line(text, &format!("\n[database.{}]", quoted(&self.name)));
        line(text, &format!("endpoint = {}", quoted(&self.endpoint)));
        match self.password {
            None => {}
            Some(Password::Variable) => line(text, "password = { env = \"PGPASSWORD\" }"),
            Some(Password::File) => {
                let path = format!("/etc/stillpoint/secrets/{}", file_name(&self.name));
                line(text, &format!("password = {{ file = {} }}", quoted(&path)));
            }
        }
        line(text, &format!("policy = \"{}\"", policy_name(self.policy)));
    }
}
