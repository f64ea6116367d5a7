//! Stars over secrets, so that no error shows them with the line that it is about.

use std::ops::Range;

use super::{
    load::Source,
    tree::{Node, Table, Value},
};

/// The key of a secret that is written into a file.
pub(super) const LITERAL: &str = "insecure_literal";

/// The key of a URL, which may have a password in it.
const ENDPOINT: &str = "endpoint";

/// The key of another one.
const SERVER: &str = "server";

/// Puts stars over every secret in the text of the files; nothing moves.
pub(super) fn mask(table: &Table, sources: &mut [Source]) {
    for (key, (_, node)) in table {
        if let Some(hidden) = hidden(key, node, sources) {
            let text = &mut sources[node.spot.file].text;
            text.replace_range(hidden.clone(), &"*".repeat(hidden.len()));
        }
        below(node, sources);
    }
}

fn below(node: &Node, sources: &mut [Source]) {
    match &node.value {
        Value::Table(table) => mask(table, sources),
        Value::List(list) => list.iter().for_each(|node| below(node, sources)),
        _ => {}
    }
}

/// The bytes of a value that nobody should see.
fn hidden(key: &str, node: &Node, sources: &[Source]) -> Option<Range<usize>> {
    let value = node.text()?;
    let bytes = node.spot.bytes.clone();
    let written = sources.get(node.spot.file)?.text.get(bytes.clone())?;
    match key {
        LITERAL => Some(bytes),
        ENDPOINT | SERVER if has_password(value) => {
            let found = password(written);
            let within = found.map(|found| bytes.start + found.start..bytes.start + found.end);
            Some(within.unwrap_or(bytes))
        }
        _ => None,
    }
}

/// Whether a URL names a password.
pub(super) fn has_password(url: &str) -> bool {
    let query = url.split_once('?').map(|(_, query)| query).unwrap_or_default();
    password(url).is_some() || query.split('&').any(|pair| pair.starts_with("password="))
}

/// Where the password of its user is in a URL.
fn password(url: &str) -> Option<Range<usize>> {
    let start = url.find("://")? + 3;
    let place = url[start..].split(['/', '?', '#']).next()?;
    let user = place.rsplit_once('@')?.0;
    let colon = user.find(':')?;
    Some(start + colon + 1..start + user.len())
}
