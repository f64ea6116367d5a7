//! `barman.conf`, and the files of servers beside it.
//!
//! Source: <https://docs.pgbarman.org/release/latest/user_guide/configuration.html>.

use std::collections::BTreeMap;

use stillpoint_contract::Result;

use super::{
    super::load::Source,
    Imported,
    draft::{Database, Draft, Keeping, Password, Policy, Repository, beside, endpoint},
    ini,
    pgbackrest::{COUNT_MAX, DAYS_MAX},
    sheet::{Setting, Sheet},
};

const GLOBAL: &str = "barman";

/// Settings of a connection that mean the same here.
const ALIKE: [&str; 6] =
    ["sslmode", "sslrootcert", "sslcert", "sslkey", "passfile", "connect_timeout"];

/// Beginnings of keys, and why they are not carried over.
const REASONS: [(&str, &str); 16] = [
    ("log_", "what is logged is said by -v and -o json"),
    ("compression", "the level adapts to what holds a backup up"),
    ("barman_user", "it runs as whoever starts it"),
    ("barman_lock", "nothing is locked by files"),
    ("ssh_command", "nothing runs beside the database: it is reached over SQL"),
    ("backup_method", "the best way that the server offers is chosen: `stillpoint check` tells"),
    ("backup_compression", "the level adapts to what holds a backup up"),
    ("backup_", "it has no equivalent"),
    ("reuse_backup", "only what changed is stored, whatever the method"),
    ("streaming_", "log is streamed over the connection of the endpoint"),
    ("archiver", "log is streamed; `stillpoint wal-push %p` serves archive_command as well"),
    ("slot_name", "a replication slot of its own, `stillpoint`, is used"),
    ("create_slot", "a replication slot of its own, `stillpoint`, is made"),
    ("wal_retention_policy", "log is kept for the whole window (`pitr_window`)"),
    ("retention_policy_mode", "policies act by themselves: `stillpoint expire`, or serve"),
    ("parallel_jobs", "parallel streams are chosen here"),
];

/// The directory that the main file names.
pub(super) fn directory(source: &Source) -> Result<Option<String>> {
    let sheet = Sheet::new(ini::read(std::slice::from_ref(source), true)?);
    Ok(sheet.see(&[GLOBAL], "configuration_files_directory").map(str::to_owned))
}

pub(super) fn import(sources: &[Source]) -> Result<Imported> {
    let sheet = Sheet::new(ini::read(sources, true)?);
    let mut draft = Draft::default();
    sheet.take(&[GLOBAL], "configuration_files_directory");
    let home = sheet.take(&[GLOBAL], "barman_home").unwrap_or("/var/lib/barman");
    let encryption = sheet.leave(&[GLOBAL], "encryption", "a key of its own opens the repository");
    let is_encrypted = encryption.is_some_and(|encryption| encryption != "none");
    draft.assume("the repository is beside that of Barman, never in it: what is there stays so");
    let (name, url) = ("primary".to_owned(), beside(home));
    draft.repositories.push(Repository { name, url, is_encrypted });
    for server in sheet.sections() {
        // Models are settings that are laid over a server by hand.
        let is_model = sheet.see(&[server], "model").is_some_and(is_true);
        let conninfo = sheet.see(&[server], "conninfo").filter(|_| !is_model);
        let Some(conninfo) = conninfo.filter(|_| server != GLOBAL) else { continue };
        let is_off = sheet.see(&[server], "active").is_some_and(|text| !is_true(text));
        if is_off {
            sheet.leave(&[server], "active", "the server is not active, and is left out");
            sheet.leave(&[server], "conninfo", "the server is not active, and is left out");
            continue;
        }
        sheet.take(&[server], "active");
        let Some(said) = keywords(conninfo) else {
            sheet.leave(&[server], "conninfo", "this is no list of keywords and values");
            continue;
        };
        sheet.take(&[server], "conninfo");
        let policy = policy(&sheet, server, &mut draft);
        let policy = draft.policy(policy);
        let of = |key: &str| said.get(key).map_or("", String::as_str);
        let hosts: Vec<(String, Option<u16>)> = {
            let ports: Vec<&str> = of("port").split(',').collect();
            let names = if of("host").is_empty() { of("hostaddr") } else { of("host") };
            let port = |place: usize| ports.get(place).or(ports.first())?.trim().parse().ok();
            let named = names.split(',').enumerate();
            named.map(|(place, host)| (host.trim().to_owned(), port(place))).collect()
        };
        let or = |text: &'_ str, usual: &'static str| {
            if text.is_empty() { usual.to_owned() } else { text.to_owned() }
        };
        let (user, database) = (or(of("user"), "barman"), or(of("dbname"), "postgres"));
        let more: Vec<(&str, &str)> =
            ALIKE.iter().filter_map(|key| Some((*key, said.get(*key)?.as_str()))).collect();
        let password = said.contains_key("password").then_some(Password::File);
        if password.is_some() {
            draft.assume(format!(
                "the password of {server} is to be put into the file that is named"
            ));
        }
        let endpoint = endpoint(&hosts, (&user, &database), &more);
        let name = server.to_owned();
        draft.databases.push(Database { name, endpoint, password, policy });
    }
    let left = sheet.left(sources, why);
    Ok(draft.finish("Barman", left))
}

fn is_true(text: &str) -> bool {
    matches!(text.to_ascii_lowercase().as_str(), "true" | "on" | "yes" | "1")
}

fn policy(sheet: &Sheet, server: &str, draft: &mut Draft) -> Policy {
    let sections = [server, GLOBAL];
    let keeping = match sheet.see(&sections, "retention_policy").map(retention) {
        None => Keeping::Everything,
        Some(None) => {
            sheet.leave(
                &sections,
                "retention_policy",
                "neither a recovery window nor a redundancy",
            );
            Keeping::Everything
        }
        Some(Some((keeping, is_exact))) => {
            if !is_exact {
                draft.assume("a month of a recovery window is 31 days");
            }
            sheet.take(&sections, "retention_policy");
            keeping
        }
    };
    let floor = sheet.see(&sections, "minimum_redundancy").and_then(|text| text.parse().ok());
    let floor = floor.filter(|floor| *floor <= COUNT_MAX);
    match floor {
        Some(_) => sheet.take(&sections, "minimum_redundancy"),
        None => sheet.leave(&sections, "minimum_redundancy", "this is no number of backups"),
    };
    // The last one never goes.
    Policy { keeping, floor: floor.map(|floor: u32| floor.max(1)), copies: Vec::new() }
}

/// What a policy of retention says, and whether it can be said here exactly.
fn retention(text: &str) -> Option<(Keeping, bool)> {
    let text = text.to_ascii_uppercase();
    let words: Vec<&str> = text.split_whitespace().collect();
    match words.as_slice() {
        ["REDUNDANCY", count] => {
            let count = count.parse().ok().filter(|count| (1..=COUNT_MAX).contains(count))?;
            Some((Keeping::Last(count), true))
        }
        ["RECOVERY", "WINDOW", "OF", count, unit] => {
            let count: u32 = count.parse().ok()?;
            let days = match unit.trim_end_matches('S') {
                "DAY" => 1,
                "WEEK" => 7,
                "MONTH" => 31,
                _ => return None,
            };
            let whole = count.checked_mul(days).filter(|all| (1..=DAYS_MAX).contains(all))?;
            Some((Keeping::Days(whole), days != 31))
        }
        _ => None,
    }
}

/// Keywords and values as libpq takes them.
///
/// Source: <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING>.
fn keywords(text: &str) -> Option<BTreeMap<String, String>> {
    let mut said = BTreeMap::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        let key = key.trim();
        if key.is_empty() || key.contains(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            return None;
        }
        let mut chars = after.trim_start().chars();
        let mut value = String::new();
        let is_quoted = chars.as_str().starts_with('\'');
        if is_quoted {
            chars.next();
        }
        let mut is_closed = !is_quoted;
        while let Some(c) = chars.next() {
            match c {
                '\\' => value.push(chars.next()?),
                '\'' if is_quoted => {
                    is_closed = true;
                    break;
                }
                c if !is_quoted && c.is_whitespace() => break,
                c => value.push(c),
            }
        }
        if !is_closed || value.contains(char::is_control) {
            return None;
        }
        said.insert(key.to_owned(), value);
        rest = chars.as_str().trim_start();
    }
    Some(said)
}

/// Why a setting has no equivalent.
fn why(setting: &Setting) -> String {
    let Setting { section, key, .. } = setting;
    if key == "description" {
        return format!("write it as a label: [database.\"{section}\"] labels = {{ ... }}");
    }
    let known = REASONS.iter().find(|(begin, _)| key.starts_with(begin));
    known.map_or("it has no equivalent", |(_, why)| why).to_owned()
}
