//! `pgbackrest.conf`.
//!
//! Source: <https://pgbackrest.org/configuration.html>.

use stillpoint_contract::Result;

use super::{
    super::load::Source,
    Imported,
    draft::{Database, Draft, Keeping, Policy, Repository, beside, endpoint},
    ini,
    sheet::{Setting, Sheet},
};

const GLOBAL: &str = "global";

/// How many repositories and clusters of a stanza are looked for, as there.
const NUMBER_MAX: usize = 256;

/// Where a repository is that says nothing.
const USUAL_PATH: &str = "/var/lib/pgbackrest";

/// The longest window, in days.
pub(super) const DAYS_MAX: u32 = 36_500;

/// As many as one may keep.
pub(super) const COUNT_MAX: u32 = 10_000;

/// Credentials of stores, and where they come from here.
const CREDENTIALS: [(&str, &str); 9] = [
    ("-s3-key-secret", "AWS_SECRET_ACCESS_KEY"),
    ("-s3-key", "AWS_ACCESS_KEY_ID"),
    ("-s3-token", "AWS_SESSION_TOKEN"),
    ("-s3-region", "AWS_REGION"),
    ("-s3-endpoint", "AWS_ENDPOINT_URL"),
    ("-azure-account", "AZURE_STORAGE_ACCOUNT_NAME"),
    ("-azure-key", "AZURE_STORAGE_ACCOUNT_KEY"),
    ("-gcs-key", "GOOGLE_SERVICE_ACCOUNT"),
    ("-storage-host", "AWS_ENDPOINT_URL"),
];

/// Beginnings of keys, and why they are not carried over.
const REASONS: [(&str, &str); 20] = [
    ("log-", "what is logged is said by -v and -o json"),
    ("compress", "the level adapts to what holds a backup up"),
    ("process-max", "parallel streams are chosen here"),
    ("archive-", "log is streamed; `stillpoint wal-push %p` serves archive_command as well"),
    ("spool-path", "log is streamed; `stillpoint wal-push %p` serves archive_command as well"),
    ("lock-path", "nothing is locked by files"),
    ("buffer-size", "buffers are bounded by the program"),
    ("io-timeout", "every wait has a limit of its own"),
    ("db-timeout", "every wait has a limit of its own"),
    ("protocol-timeout", "every wait has a limit of its own"),
    ("tls-", "nothing listens beside the database: it is reached over SQL"),
    ("cmd", "nothing is started on other hosts"),
    ("start-fast", "a backup always asks for its checkpoint at once"),
    ("stop-auto", "what a killed backup leaves is removed by itself"),
    ("checksum-page", "page checksums are always verified"),
    ("resume", "what a killed backup stored is found again by its hash"),
    ("delta", "`restore --delta` says so for each restore"),
    ("recovery-option", "recovery is set up by the restore itself"),
    ("link-", "`restore --tablespace` says so for each restore"),
    ("backup-standby", "name the standby's host first in the endpoint"),
];

pub(super) fn import(sources: &[Source]) -> Result<Imported> {
    let sheet = Sheet::new(ini::read(sources, false)?);
    let mut draft = Draft::default();
    let is_stanza = |name: &&str| *name != GLOBAL && !name.contains(':');
    let stanzas: Vec<&str> = sheet.sections().into_iter().filter(is_stanza).collect();
    let repositories = repositories(&sheet, &stanzas, &mut draft);
    for stanza in stanzas {
        let mut keepings =
            repositories.iter().map(|number| (*number, keeping(&sheet, stanza, *number)));
        let (_, first) = keepings.next().unwrap_or_default();
        let copies = keepings.map(|(number, keeping)| (name(number), keeping)).collect();
        let floor = match first {
            Keeping::Last(count) => Some(count.clamp(1, 2)),
            _ => None,
        };
        if floor.is_some() {
            draft.assume("a count of full backups counts all: each can be restored by itself");
        }
        let policy = draft.policy(Policy { keeping: first, floor, copies });
        let endpoint = cluster(&sheet, stanza, &mut draft);
        let name = stanza.to_owned();
        draft.databases.push(Database { name, endpoint, password: None, policy });
    }
    let left = sheet.left(sources, why);
    Ok(draft.finish("pgBackRest", left))
}

fn name(number: usize) -> String {
    if number == 1 { "primary".to_owned() } else { format!("repo{number}") }
}

fn in_order<'a>(stanzas: &[&'a str]) -> Vec<&'a str> {
    [GLOBAL].into_iter().chain(stanzas.iter().copied()).collect()
}

/// Carries repositories over; returns their numbers.
fn repositories(sheet: &Sheet, stanzas: &[&str], draft: &mut Draft) -> Vec<usize> {
    let sections = in_order(stanzas);
    let mut numbers = Vec::new();
    for number in 1..=NUMBER_MAX {
        let prefix = format!("repo{number}-");
        let is_there = sheet.settings.iter().any(|one| one.key.starts_with(&prefix));
        // The first one is there although nothing is said of it.
        let is_implied = number == 1 && !stanzas.is_empty();
        if !is_there && !is_implied {
            continue;
        }
        let key = |name: &str| format!("{prefix}{name}");
        let kind = sheet.see(&sections, &key("type")).unwrap_or("posix").to_owned();
        let path = sheet.see(&sections, &key("path")).unwrap_or(USUAL_PATH).to_owned();
        let bucket = |name: &str| sheet.take(&sections, &key(name)).map(str::to_owned);
        let in_bucket = |scheme: &str, bucket: Option<String>| {
            let path = beside(&path);
            bucket.map(|bucket| format!("{scheme}://{bucket}/{}", path.trim_start_matches('/')))
        };
        let url = match kind.as_str() {
            "posix" | "cifs" => Some(beside(&path)),
            "s3" => in_bucket("s3", bucket("s3-bucket")),
            "azure" => in_bucket("az", bucket("azure-container")),
            "gcs" => in_bucket("gs", bucket("gcs-bucket")),
            _ => None,
        };
        let Some(url) = url else {
            let why = "there are no repositories of this kind, or it does not say its bucket";
            sheet.leave(&sections, &key("type"), why);
            continue;
        };
        sheet.take(&sections, &key("type"));
        sheet.take(&sections, &key("path"));
        for host in ["host", "host-user", "host-config", "host-port", "host-type", "host-cmd"] {
            let why =
                "no repository host: `stillpoint serve`, or an agent, runs where the place is";
            sheet.leave(&sections, &key(host), why);
        }
        let cipher = sheet.take(&sections, &key("cipher-type"));
        let is_encrypted = cipher.is_some_and(|cipher| cipher != "none");
        let why = "a key of its own opens it, which is made by `stillpoint init`";
        sheet.leave(&sections, &key("cipher-pass"), why);
        draft.assume(format!(
            "{} is beside that of pgBackRest, never in it: what is there stays readable there",
            name(number)
        ));
        draft.repositories.push(Repository { name: name(number), url, is_encrypted });
        numbers.push(number);
    }
    numbers
}

/// What is kept in a repository.
fn keeping(sheet: &Sheet, stanza: &str, number: usize) -> Keeping {
    let sections = [stanza, GLOBAL];
    let full = format!("repo{number}-retention-full");
    let kind = format!("repo{number}-retention-full-type");
    let count = sheet.see(&sections, &full).and_then(|text| text.parse::<u32>().ok());
    let is_time = sheet.see(&sections, &kind) == Some("time");
    let most = if is_time { DAYS_MAX } else { COUNT_MAX };
    let Some(count) = count.filter(|count| (1..=most).contains(count)) else {
        sheet.leave(&sections, &full, "this is no number of backups or days");
        return Keeping::Everything;
    };
    sheet.take(&sections, &full);
    sheet.take(&sections, &kind);
    let why = "every backup can be restored by itself, and counts as a full one";
    sheet.leave(&sections, &format!("repo{number}-retention-diff"), why);
    let why = "log is kept for the whole window (`pitr_window`)";
    sheet.leave(&sections, &format!("repo{number}-retention-archive"), why);
    sheet.leave(&sections, &format!("repo{number}-retention-archive-type"), why);
    sheet.leave(&sections, &format!("repo{number}-retention-history"), "nothing is kept of it");
    if is_time { Keeping::Days(count) } else { Keeping::Last(count) }
}

/// How the clusters of a stanza are reached.
fn cluster(sheet: &Sheet, stanza: &str, draft: &mut Draft) -> String {
    let sections = [stanza, GLOBAL];
    let (mut hosts, mut user, mut database) = (Vec::new(), None, None);
    for number in 1..=NUMBER_MAX {
        let key = |name: &str| format!("pg{number}-{name}");
        let prefix = key("");
        let is_own = |one: &&Setting| sections.contains(&one.section.as_str());
        if !sheet.settings.iter().filter(is_own).any(|one| one.key.starts_with(&prefix)) {
            continue;
        }
        let port = sheet.see(&sections, &key("port")).and_then(|port| port.parse().ok());
        if port.is_some() {
            sheet.take(&sections, &key("port"));
        }
        let socket = sheet.take(&sections, &key("socket-path")).unwrap_or_default();
        let host = sheet.take(&sections, &key("host")).unwrap_or(socket);
        hosts.push((host.to_owned(), port));
        sheet.leave(&sections, &key("path"), "where its files are, the server says itself");
        user = user.or(sheet.take(&sections, &key("user")));
        database = database.or(sheet.take(&sections, &key("database")));
    }
    if user.is_none() {
        draft.assume(
            "the role is `stillpoint`: `stillpoint grants postgres --role stillpoint` makes it",
        );
    }
    if hosts.len() > 1 && hosts.iter().any(|(host, _)| host.is_empty() || host.starts_with('/')) {
        draft.assume(format!("of {stanza}, hosts are reached and not the socket"));
    }
    draft.assume("passwords come from PGPASSFILE, as they do there");
    let (user, database) = (user.unwrap_or("stillpoint"), database.unwrap_or("postgres"));
    endpoint(&hosts, (user, database), &[])
}

/// Why a setting has no equivalent.
fn why(setting: &Setting) -> String {
    let Setting { section, key, .. } = setting;
    if section.contains(':') {
        return "settings of single commands have no equivalent".to_owned();
    }
    if let Some((_, variable)) = CREDENTIALS.iter().find(|(end, _)| key.ends_with(end)) {
        return format!("it is taken from {variable} in the environment of whoever serves");
    }
    if key.starts_with("pg") && key.contains("-host-") {
        return "nothing runs beside the database: it is reached over SQL".to_owned();
    }
    let known = REASONS.iter().find(|(begin, _)| key.starts_with(begin));
    known.map_or("it has no equivalent", |(_, why)| why).to_owned()
}
