//! The form of answers, compared with files that scripts may rely on.

use std::path::PathBuf;

use serde_json::{Map, Value};

/// Compares the shape of an answer with `tests/golden/<name>.json`. What differs from run to run
/// is replaced by its type. With `STILLPOINT_BLESS=1` in the environment the file is written.
pub(crate) fn assert_shape(name: &str, answer: &Value) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.json"));
    let shape = serde_json::to_string_pretty(&shape_of("", answer)).unwrap() + "\n";
    if std::env::var_os("STILLPOINT_BLESS").is_some() {
        std::fs::write(&path, &shape).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(golden, shape, "{} differs; scripts rely on it", path.display());
}

/// Compares a text for people with `tests/golden/<name>.txt`, times, ids and sizes aside.
pub(crate) fn assert_text(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.txt"));
    let shape: String = text.lines().map(|line| form_of(line) + "\n").collect();
    if std::env::var_os("STILLPOINT_BLESS").is_some() {
        std::fs::write(&path, &shape).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(golden, shape, "{} differs", path.display());
}

fn form_of(line: &str) -> String {
    let is_day = |word: &str| word.len() == 10 && word.chars().filter(|c| *c == '-').count() == 2;
    let is_clock =
        |word: &str| word.contains(':') && word.starts_with(|c: char| c.is_ascii_digit());
    let is_id = |word: &str| word.len() == 26 && word.bytes().all(|b| b.is_ascii_alphanumeric());
    let words: Vec<&str> = line.split(' ').collect();
    let mut formed: Vec<String> = Vec::new();
    for (place, word) in words.iter().enumerate() {
        let before = place.checked_sub(1).map_or("", |before| words[before]);
        let bare = word.trim_end_matches([',', ':']);
        if is_id(bare) {
            formed.push(word.replace(bare, "<id>"));
        } else if (is_day(before) && is_clock(word)) || matches!(bare, "B" | "KiB" | "MiB") {
            formed.pop();
            let what = if is_clock(word) { "<time>" } else { "<size>" };
            formed.push(format!("{what}{}", word.trim_start_matches(|c| c != ',')));
        } else {
            formed.push((*word).to_owned());
        }
    }
    formed.join(" ")
}

fn shape_of(field: &str, value: &Value) -> Value {
    match value {
        // Whether backups can be mounted is the machine's affair.
        _ if matches!(field, "mounted" | "why_not") => format!("<{field}>").into(),
        Value::Object(fields) => {
            let shape = |(name, value): (&String, &Value)| (name.clone(), shape_of(name, value));
            Value::Object(fields.iter().map(shape).collect::<Map<_, _>>())
        }
        // Lists are as long as they are: their first element shows their form.
        Value::Array(items) => {
            Value::Array(items.iter().take(1).map(|v| shape_of(field, v)).collect())
        }
        Value::Number(_) => "<number>".into(),
        Value::String(text) => stable(field, text).into(),
        Value::Bool(_) | Value::Null => value.clone(),
    }
}

fn stable(field: &str, text: &str) -> String {
    let hex = |text: &str| text.len() >= 12 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let is_time = text.len() == 27 && text.ends_with('Z') && text.as_bytes()[10] == b'T';
    let is_ulid = text.len() == 26 && text.bytes().all(|b| b.is_ascii_alphanumeric());
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let is_position = |text: &str| {
        text.rsplit_once(':').is_some_and(|(lineage, offset)| {
            let is_sqlite = lineage.split('-').all(|part| part == "rest" || hex(part));
            let is_postgres = lineage.split_once('/').is_some_and(|(s, t)| digits(s) && digits(t));
            (is_sqlite || is_postgres) && digits(offset)
        })
    };
    if field == "recovery_key" {
        "<secret>".to_owned()
    } else if matches!(
        field,
        "by" | "into"
            | "made_by"
            | "month"
            | "sandbox"
            | "source"
            | "started_by"
            | "suffix"
            | "teardown"
    ) {
        format!("<{field}>")
    } else if field == "engine_version" {
        "<version>".to_owned()
    } else if field == "command" || field == "next" {
        // Commands name backups by their ids, and points by their times.
        let words = text.split(' ').map(|word| match word.len() {
            26 => "<id>",
            27 if word.ends_with('Z') => "<time>",
            _ if is_position(word) => "<position>",
            _ => word,
        });
        words.collect::<Vec<_>>().join(" ")
    } else if text.contains(env!("CARGO_PKG_VERSION")) {
        text.replace(env!("CARGO_PKG_VERSION"), "<version>")
    } else if field != "schema" && is_time {
        "<time>".to_owned()
    } else if is_ulid {
        "<id>".to_owned()
    } else if field.ends_with("engine_position") || is_position(text) {
        "<position>".to_owned()
    } else if hex(text) {
        "<hex>".to_owned()
    } else if text.starts_with("drills/") || text.starts_with("reports/") {
        "<object>".to_owned()
    } else if text.starts_with('/') {
        "<path>".to_owned()
    } else {
        text.to_owned()
    }
}
