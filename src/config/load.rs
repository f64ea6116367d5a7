//! From texts to a configuration.

use chrono::{DateTime, Utc};
use stillpoint_contract::code;

use super::{
    build, judge,
    model::Config,
    problem::Problem,
    secrets,
    shapes::{CONFIGURATION, SHARED},
    tree::{Node, Spot, Table, Value, parse},
};

/// What is true of every database that says nothing else.
const BUILT_IN: &str = include_str!("default.toml");

/// The shortest configuration that makes a scheduled backup.
pub const EXAMPLE: &str = "\
version = 1
timezone = \"Europe/London\"
repository.primary.url = \"/srv/stillpoint\"
[database.\"shop/orders\"]
endpoint = \"sqlite:/var/lib/shop/orders.db\"
policy = \"default\"
";

/// A file, as it was read.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its path, as people are told.
    pub path: String,
    /// What it holds.
    pub text: String,
}

/// Files that were read together.
#[derive(Debug)]
pub struct Loaded {
    /// What they mean, as far as they could be understood. Only without errors may it be used.
    pub config: Config,
    /// Everything that is wrong, in the order of the files.
    pub problems: Vec<Problem>,
    /// The files, the main one first, with stars for secrets; the last one is what is true where
    /// they say nothing.
    pub sources: Vec<Source>,
    pub(super) main: Node,
    pub(super) built_in: Node,
}

impl Loaded {
    /// Whether it may be used: nothing is an error.
    pub fn is_sound(&self) -> bool {
        self.problems.iter().all(|problem| problem.is_warning)
    }
}

/// Reads the main file, and those that add to it. Dates that a schedule treats unlike others are
/// looked for in the thirteen months after `now`.
pub fn load(mut sources: Vec<Source>, now: DateTime<Utc>) -> Loaded {
    let mut problems = Vec::new();
    let mut main = Table::new();
    for (file, source) in sources.iter().enumerate() {
        let is_json = source.path.to_ascii_lowercase().ends_with(".json");
        if let Some(table) = parse(file, &source.text, is_json, &mut problems) {
            merge(&mut main, table, &mut problems);
        }
    }
    let is_broken = problems.iter().any(|problem| problem.code == code::CONFIG_SYNTAX);
    secrets::mask(&main, &mut sources);
    let file = sources.len();
    sources.push(Source { path: "(built in)".to_owned(), text: BUILT_IN.to_owned() });
    let built_in = parse(file, BUILT_IN, false, &mut problems).unwrap_or_default();
    let node = |file, table| Node { spot: Spot { file, bytes: 0..0 }, value: Value::Table(table) };
    let (main, built_in) = (node(0, main), node(file, built_in));
    // What is lacking may be in the part that could not be read.
    if !is_broken {
        CONFIGURATION.check(&main, &mut problems);
    }
    let config = build::build(&main, &built_in, &mut problems);
    if !is_broken {
        judge::judge(&main, &config, now, &mut problems);
    }
    problems.sort_by_key(Problem::order);
    Loaded { config, problems, sources, main, built_in }
}

/// Adds what another file says: more names, never another word about the same thing.
fn merge(main: &mut Table, more: Table, problems: &mut Vec<Problem>) {
    let twice = |key: &str, first: &Spot, second: Spot| {
        let what = format!("`{key}` is configured twice");
        Problem::error(code::CONFIG_TWICE, second, what).beside(Spot::clone(first), "first here")
    };
    for (key, (spot, node)) in more {
        let Some((first, known)) = main.get_mut(&key) else {
            main.insert(key, (spot, node));
            continue;
        };
        match (&mut known.value, node.value) {
            (Value::Table(known), Value::Table(added)) if SHARED.contains(&key.as_str()) => {
                for (name, (spot, node)) in added {
                    match known.get(&name) {
                        Some((first, _)) => {
                            problems.push(twice(&format!("{key}.{name}"), first, spot));
                        }
                        None => drop(known.insert(name, (spot, node))),
                    }
                }
            }
            _ => problems.push(twice(&key, first, spot)),
        }
    }
}
