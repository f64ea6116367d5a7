//! What a configuration may look like, as data: it is checked against this, its JSON schema is
//! made of it, and so is what `config explain` says of each key.

use stillpoint_contract::code;

use super::{
    form::Form,
    problem::{Problem, nearest},
    tree::{Node, Spot, Table, Value},
};

/// What a value may be.
#[derive(Debug)]
pub(super) enum Shape {
    /// A text in some form.
    Text(&'static Form),
    /// One of some words.
    Word(&'static [&'static str]),
    /// A whole number.
    Whole { least: i64, most: i64 },
    /// Yes or no.
    Flag,
    /// Any number of values.
    List(&'static Self),
    /// Keys that are known.
    Table(&'static [Key]),
    /// Exactly one of some keys.
    Choice(&'static [Key]),
    /// Values under names that the file chooses.
    Named(&'static Self),
    /// Whatever fits, by its type.
    Either(&'static [Self]),
}

/// A key of a table.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    pub(super) must: bool,
    /// What it means, in one sentence.
    pub(super) about: &'static str,
    /// What others call it.
    pub(super) alike: &'static [&'static str],
}

impl Key {
    pub(super) const fn new(name: &'static str, shape: Shape, about: &'static str) -> Self {
        Self { name, shape, must: false, about, alike: &[] }
    }

    pub(super) const fn must(self) -> Self {
        Self { must: true, ..self }
    }

    pub(super) const fn alike(self, alike: &'static [&'static str]) -> Self {
        Self { alike, ..self }
    }
}

impl Shape {
    /// What belongs there, in a few words.
    pub(super) fn wanted(&self) -> String {
        match self {
            Self::Text(form) => format!("{}, such as \"{}\"", form.what, form.example),
            Self::Word(words) => format!("one of {}", quoted_list(words)),
            Self::Whole { least, most } => format!("a number from {least} to {most}"),
            Self::Flag => "true or false".to_owned(),
            Self::List(of) => format!("a list of {}", of.kind()),
            Self::Table(keys) => format!("a table with {}", names(keys)),
            Self::Choice(keys) => format!("a table with one of {}", names(keys)),
            Self::Named(_) => "a table of names".to_owned(),
            Self::Either(shapes) => {
                shapes.iter().map(Self::wanted).collect::<Vec<_>>().join("; or ")
            }
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) | Self::Word(_) => "texts",
            Self::Whole { .. } => "numbers",
            Self::Flag => "true or false",
            Self::List(_) => "lists",
            Self::Table(_) | Self::Choice(_) | Self::Named(_) => "tables",
            Self::Either(_) => "values",
        }
    }

    fn takes(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Text(_) | Self::Word(_), Value::Text(_))
            | (Self::Whole { .. }, Value::Whole(_))
            | (Self::Flag, Value::Flag(_))
            | (Self::List(_), Value::List(_))
            | (Self::Table(_) | Self::Choice(_) | Self::Named(_), Value::Table(_)) => true,
            (Self::Either(shapes), value) => shapes.iter().any(|shape| shape.takes(value)),
            _ => false,
        }
    }

    /// Notes everything about a value that is not as it should be.
    pub(super) fn check(&self, node: &Node, problems: &mut Vec<Problem>) {
        match (self, &node.value) {
            (Self::Either(shapes), value) if self.takes(value) => {
                if let Some(shape) = shapes.iter().find(|shape| shape.takes(value)) {
                    shape.check(node, problems);
                }
            }
            (Self::Text(form), Value::Text(text)) => {
                if let Err(why) = (form.check)(text) {
                    let what = format!("this is not {}", form.what);
                    let problem = Problem::error(code::CONFIG_VALUE, Spot::clone(&node.spot), what);
                    let help = format!("write it as \"{}\"", form.example);
                    problems.push(problem.label(why).help(help));
                }
            }
            (Self::Word(words), Value::Text(text)) if !words.contains(&text.as_str()) => {
                let what = format!("`{text}` is not known here");
                let problem = Problem::error(code::CONFIG_VALUE, Spot::clone(&node.spot), what);
                problems.push(problem.help(suggestion(text, words.iter().copied(), &[])));
            }
            (Self::Whole { least, most }, Value::Whole(number))
                if !(least..=most).contains(&number) =>
            {
                let what = format!("{number} is out of bounds");
                let problem = Problem::error(code::CONFIG_VALUE, Spot::clone(&node.spot), what);
                problems.push(problem.label(self.wanted()));
            }
            (Self::List(of), Value::List(list)) => {
                for node in list {
                    of.check(node, problems);
                }
            }
            (Self::Table(keys), Value::Table(table)) => {
                check_keys(keys, (table, &node.spot), problems);
            }
            (Self::Choice(keys), Value::Table(table)) => {
                check_keys(keys, (table, &node.spot), problems);
                if table.keys().filter(|key| keys.iter().any(|known| known.name == **key)).count()
                    != 1
                {
                    let what = "exactly one of these keys belongs here".to_owned();
                    let problem = Problem::error(code::CONFIG_VALUE, Spot::clone(&node.spot), what);
                    problems.push(problem.label(names(keys)));
                }
            }
            (Self::Named(of), Value::Table(table)) => {
                for (name, (spot, node)) in table {
                    if name.is_empty() || name.chars().any(char::is_control) {
                        let what = "a name cannot be empty, nor have control characters".to_owned();
                        problems.push(Problem::error(code::CONFIG_VALUE, Spot::clone(spot), what));
                    }
                    of.check(node, problems);
                }
            }
            (shape, value) if !shape.takes(value) => {
                let what = format!("{} does not belong here", value.kind());
                let problem = Problem::error(code::CONFIG_TYPE, Spot::clone(&node.spot), what);
                problems.push(problem.label(format!("wanted: {}", shape.wanted())));
            }
            _ => {}
        }
    }
}

fn check_keys(keys: &[Key], (table, spot): (&Table, &Spot), problems: &mut Vec<Problem>) {
    for (name, (at, node)) in table {
        if let Some(key) = keys.iter().find(|key| key.name == name) {
            key.shape.check(node, problems);
            continue;
        }
        let what = format!("unknown key `{name}`");
        let alike = keys.iter().flat_map(|key| key.alike.iter().map(|alike| (*alike, key.name)));
        let known = keys.iter().map(|key| key.name);
        let problem = Problem::error(code::CONFIG_KEY, Spot::clone(at), what);
        problems.push(problem.help(suggestion(name, known, &alike.collect::<Vec<_>>())));
    }
    for key in keys.iter().filter(|key| key.must && !table.contains_key(key.name)) {
        let what = format!("`{}` is not there", key.name);
        let problem = Problem::error(code::CONFIG_LACKS, Spot::clone(spot), what);
        problems.push(problem.help(format!("{}: {}", key.name, key.about)));
    }
}

/// What may have been meant.
pub(super) fn suggestion<'a>(
    word: &str,
    known: impl Iterator<Item = &'a str> + Clone,
    alike: &[(&'a str, &'a str)],
) -> String {
    let meant = alike.iter().find(|(other, _)| *other == word).map(|(_, name)| *name);
    let list = known.clone().collect::<Vec<_>>().join(", ");
    match meant.or_else(|| nearest(word, known)) {
        Some(near) => format!("did you mean `{near}`? known here: {list}"),
        None if list.is_empty() => "nothing of that kind is configured".to_owned(),
        None => format!("known here: {list}"),
    }
}

fn names(keys: &[Key]) -> String {
    keys.iter().map(|key| key.name).collect::<Vec<_>>().join(", ")
}

fn quoted_list(words: &[&str]) -> String {
    words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ")
}
