//! `.walg.json`, or a file of variables that WAL-G is started with.
//!
//! Source: <https://wal-g.readthedocs.io/>.

use stillpoint_contract::Result;

use super::{
    super::load::Source,
    Imported,
    draft::{Database, Draft, Keeping, Password, Policy, Repository, beside, endpoint},
    sheet::{Setting, Sheet},
    translate::bad,
};

/// Where backups are, and the scheme of the same place here.
const PLACES: [(&str, &str); 4] = [
    ("WALG_S3_PREFIX", "s3"),
    ("WALG_GS_PREFIX", "gs"),
    ("WALG_AZ_PREFIX", "az"),
    ("WALG_FILE_PREFIX", ""),
];

/// What tells that backups are encrypted.
const KEYS: [&str; 6] = [
    "WALG_LIBSODIUM_KEY",
    "WALG_LIBSODIUM_KEY_PATH",
    "WALG_PGP_KEY",
    "WALG_PGP_KEY_PATH",
    "WALG_GPG_KEY_ID",
    "WALG_CSE_KMS_ID",
];

/// Beginnings of keys, and why they are not carried over.
const REASONS: [(&str, &str); 16] = [
    ("AWS_", "it is taken from the environment of whoever serves, as it is"),
    ("GOOGLE_", "it is taken from the environment of whoever serves, as it is"),
    ("AZURE_", "it is taken from the environment of whoever serves, as it is"),
    ("WALG_COMPRESSION", "the level adapts to what holds a backup up"),
    ("WALG_DELTA", "only what changed is stored, and every backup can be restored by itself"),
    ("WALG_UPLOAD_", "parallel streams are chosen here"),
    ("WALG_DOWNLOAD_", "parallel streams are chosen here"),
    ("WALG_NETWORK_RATE_LIMIT", "only copies have a rate: limits = { upload = \"80MiB/s\" }"),
    ("WALG_DISK_RATE_LIMIT", "only copies have a rate: limits = { upload = \"80MiB/s\" }"),
    ("WALG_LOG", "what is logged is said by -v and -o json"),
    ("WALG_LIBSODIUM", "a key of its own opens the repository"),
    ("WALG_PGP", "a key of its own opens the repository"),
    ("WALG_FAILOVER", "a second place gets copies: [[policy.NAME.copy]]"),
    ("WALG_MYSQL", "this engine is not supported yet"),
    ("WALG_STREAM", "what is read is asked of the server, not of a program"),
    ("PGDATA", "where its files are, the server says itself"),
];

pub(super) fn import(sources: &[Source]) -> Result<Imported> {
    let mut settings = Vec::new();
    for (file, source) in sources.iter().enumerate() {
        let is_json = source.text.trim_start().starts_with('{');
        settings.extend(if is_json { json(file, source)? } else { variables(file, source)? });
    }
    let sheet = Sheet::new(settings);
    let of = |key: &str| sheet.take(&[""], key).filter(|value| !value.is_empty());
    let mut draft = Draft::default();
    let is_encrypted = KEYS.iter().any(|key| {
        let why = "a key of its own opens the repository, which is made by `stillpoint init`";
        sheet.leave(&[""], key, why).is_some_and(|value| !value.is_empty())
    });
    let place = PLACES.iter().find_map(|(key, scheme)| {
        let value = sheet.see(&[""], key).filter(|value| !value.is_empty())?;
        let url = match value.split_once("://") {
            _ if scheme.is_empty() => beside(value.trim_start_matches("file://localhost")),
            Some((_, rest)) if !rest.is_empty() => format!("{scheme}://{}", beside(rest)),
            _ => return None,
        };
        sheet.take(&[""], key);
        Some(url)
    });
    if let Some(url) = place {
        draft.assume("the repository is beside that of WAL-G, never in it: what is there stays so");
        let name = "primary".to_owned();
        draft.repositories.push(Repository { name, url, is_encrypted });
    }
    let is_ours = |one: &Setting| one.key.starts_with("PG");
    if sheet.settings.iter().any(is_ours) {
        let host = of("PGHOST").unwrap_or_default();
        let port = sheet.see(&[""], "PGPORT").and_then(|port| port.parse().ok());
        match port {
            Some(_) => drop(of("PGPORT")),
            None => drop(sheet.leave(&[""], "PGPORT", "this is no port")),
        }
        let user = of("PGUSER").unwrap_or("postgres");
        let database = of("PGDATABASE").unwrap_or("postgres");
        let alike = [("sslmode", "PGSSLMODE"), ("passfile", "PGPASSFILE")];
        let more: Vec<(&str, &str)> =
            alike.iter().filter_map(|(key, variable)| Some((*key, of(variable)?))).collect();
        let password = of("PGPASSWORD").map(|_| Password::Variable);
        let hosts = [(host.to_owned(), port)];
        let endpoint = endpoint(&hosts, (user, database), &more);
        let is_name = !host.is_empty() && !host.contains('/') && host.len() <= 200;
        let name = if is_name { host.to_owned() } else { "postgres".to_owned() };
        let policy = draft.policy(Policy { keeping: Keeping::Everything, ..Policy::default() });
        draft.databases.push(Database { name, endpoint, password, policy });
    }
    let left = sheet.left(sources, why);
    Ok(draft.finish("WAL-G", left))
}

/// The settings of an object of JSON.
fn json(file: usize, source: &Source) -> Result<Vec<Setting>> {
    // What the parser says may repeat what it read.
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&source.text)
        .map_err(|cause| {
            bad("understand the file")
                .with("file", &source.path)
                .with("line", cause.line())
                .with("problem", "this is no object of JSON")
        })?;
    let setting = |(key, value): (String, serde_json::Value)| {
        let written = serde_json::Value::from(key.as_str()).to_string();
        let before = source.text.find(&written).map_or("", |place| &source.text[..place]);
        let value = match value {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        };
        setting(file, before.matches('\n').count() + 1, key, value, source)
    };
    let mut settings = object.into_iter().map(setting).collect::<Result<Vec<_>>>()?;
    settings.sort_by_key(|one| one.line);
    Ok(settings)
}

/// The settings of lines such as `export KEY='value'`.
fn variables(file: usize, source: &Source) -> Result<Vec<Setting>> {
    let mut settings = Vec::new();
    for (number, line) in source.text.lines().enumerate() {
        let text = line.trim().trim_start_matches('\u{feff}');
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let text = text.strip_prefix("export ").unwrap_or(text).trim_start();
        let Some((key, value)) = text.split_once('=') else {
            return Err(bad("understand the file")
                .with("file", &source.path)
                .with("line", number + 1)
                .with("problem", "neither a comment nor KEY=VALUE"));
        };
        let value = value.trim();
        let bare = ['"', '\''].iter().find_map(|quote| {
            value.strip_prefix(*quote).and_then(|value| value.strip_suffix(*quote))
        });
        let (key, value) = (key.trim().to_owned(), bare.unwrap_or(value).to_owned());
        settings.push(setting(file, number + 1, key, value, source)?);
    }
    Ok(settings)
}

fn setting(
    file: usize,
    line: usize,
    key: String,
    value: String,
    source: &Source,
) -> Result<Setting> {
    let is_key = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if key.is_empty() || !key.chars().all(is_key) || value.contains(char::is_control) {
        return Err(bad("understand the file").with("file", &source.path).with("line", line).with(
            "problem",
            "this is no name of a variable, or its value has control characters",
        ));
    }
    Ok(Setting { file, line, section: String::new(), key, value })
}

/// Why a setting has no equivalent.
fn why(setting: &Setting) -> String {
    let known = REASONS.iter().find(|(begin, _)| setting.key.starts_with(begin));
    known.map_or("it has no equivalent", |(_, why)| why).to_owned()
}
