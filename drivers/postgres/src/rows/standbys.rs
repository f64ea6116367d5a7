//! Which standbys a server is told to wait for.

/// The names in `synchronous_standby_names`, in small letters, since they are compared so; nothing
/// for those that mean any standby.
/// Source: PostgreSQL 18 documentation, 19.6.2, "Primary Server".
pub(super) fn named(setting: &str) -> Vec<String> {
    // FIRST 2 (one, "other"), ANY 1 (one, other), 1 (one), or names alone.
    let list = match setting.split_once('(') {
        Some((head, tail)) if !head.contains('"') => {
            tail.rsplit_once(')').map_or(tail, |(list, _)| list)
        }
        _ => setting,
    };
    let (mut names, mut name) = (Vec::new(), String::new());
    let (mut is_quoted, mut was_quoted) = (false, false);
    for letter in list.chars().chain(Some(',')) {
        match letter {
            '"' => {
                is_quoted = !is_quoted;
                was_quoted = true;
            }
            ',' if !is_quoted => {
                let found = std::mem::take(&mut name);
                if !found.is_empty() && (found != "*" || was_quoted) {
                    names.push(found);
                }
                was_quoted = false;
            }
            letter if letter.is_whitespace() && !is_quoted => {}
            letter => name.extend(letter.to_lowercase()),
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standbys_are_named_in_all_forms() {
        for (setting, names) in [
            ("", &[] as &[&str]),
            ("*", &[]),
            ("FIRST 1 (*)", &[]),
            ("one", &["one"]),
            (" One , other ", &["one", "other"]),
            ("2 (one, other, *)", &["one", "other"]),
            ("ANY 1 (\"Node (a), b\", two)", &["node (a), b", "two"]),
            ("\"a (b)\"", &["a (b)"]),
        ] {
            assert_eq!(named(setting), names, "{setting}");
        }
    }
}
