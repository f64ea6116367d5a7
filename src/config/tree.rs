//! A configuration file as a tree of values, each of which knows where it was written; the same
//! for TOML and for JSON.

use std::{collections::BTreeMap, ops::Range};

use jsonc_parser::{ParseOptions, ast};
use stillpoint_contract::code;
use toml::de::{DeTable, DeValue};

use super::problem::Problem;

/// Where something was written: bytes of one of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) file: usize,
    pub(super) bytes: Range<usize>,
}

/// A value, and where it was written.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) spot: Spot,
    pub(super) value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Whole(i64),
    Flag(bool),
    List(Vec<Node>),
    Table(Table),
    /// What no configuration has: numbers with a point, dates without quotes, null.
    Other(&'static str),
}

/// Values by their keys, and where each key was written.
pub(super) type Table = BTreeMap<String, (Spot, Node)>;

impl Value {
    /// What it is, in a few words.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Whole(_) => "a number",
            Self::Flag(_) => "true or false",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(kind) => kind,
        }
    }
}

impl Node {
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn table(&self) -> Option<&Table> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    pub(super) fn list(&self) -> &[Self] {
        match &self.value {
            Value::List(list) => list,
            _ => &[],
        }
    }

    /// What is at a key of it, if it is a table and has it.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.table()?.get(key).map(|(_, node)| node)
    }
}

/// Reads one file. What can be read of a broken TOML file is read, so that all errors are told.
pub(super) fn parse(
    file: usize,
    text: &str,
    is_json: bool,
    problems: &mut Vec<Problem>,
) -> Option<Table> {
    if is_json { json(file, text, problems) } else { Some(toml(file, text, problems)) }
}

fn toml(file: usize, text: &str, problems: &mut Vec<Problem>) -> Table {
    let (document, errors) = DeTable::parse_recoverable(text);
    problems.extend(errors.into_iter().map(|error| {
        let bytes = error.span().unwrap_or(0..0);
        Problem::error(code::CONFIG_SYNTAX, Spot { file, bytes }, error.message().to_owned())
    }));
    of_toml(file, document.into_inner())
}

fn of_toml(file: usize, table: DeTable<'_>) -> Table {
    let entry = |(key, value): (toml::Spanned<_>, toml::Spanned<DeValue<'_>>)| {
        let (key_spot, spot) =
            (Spot { file, bytes: key.span() }, Spot { file, bytes: value.span() });
        let key: std::borrow::Cow<'_, str> = key.into_inner();
        let node = Node { spot, value: of_toml_value(file, value.into_inner()) };
        (key.into_owned(), (key_spot, node))
    };
    table.into_iter().map(entry).collect()
}

fn of_toml_value(file: usize, value: DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Value::Other("a number that is too large"), Value::Whole),
        DeValue::Float(_) => Value::Other("a number with a point"),
        DeValue::Boolean(flag) => Value::Flag(flag),
        DeValue::Datetime(_) => Value::Other("a date without quotes"),
        DeValue::Array(list) => {
            let node = |value: toml::Spanned<DeValue<'_>>| {
                let spot = Spot { file, bytes: value.span() };
                Node { spot, value: of_toml_value(file, value.into_inner()) }
            };
            Value::List(list.into_iter().map(node).collect())
        }
        DeValue::Table(table) => Value::Table(of_toml(file, table)),
    }
}

/// JSON, and nothing looser.
const STRICT: ParseOptions = ParseOptions {
    allow_comments: false,
    allow_loose_object_property_names: false,
    allow_trailing_commas: false,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

fn json(file: usize, text: &str, problems: &mut Vec<Problem>) -> Option<Table> {
    let spot = |range: jsonc_parser::common::Range| Spot { file, bytes: range.start..range.end };
    let parsed =
        jsonc_parser::parse_to_ast(text, &jsonc_parser::CollectOptions::default(), &STRICT);
    match parsed {
        Err(error) => {
            let (at, what) = (spot(error.range()), error.kind().to_string());
            problems.push(Problem::error(code::CONFIG_SYNTAX, at, what));
            None
        }
        Ok(parsed) => match parsed.value {
            Some(ast::Value::Object(object)) => Some(of_json(file, object, problems)),
            other => {
                let at = other.map_or(Spot { file, bytes: 0..0 }, |value| {
                    spot(jsonc_parser::common::Ranged::range(&value))
                });
                let what = "a configuration is one object: { \"version\": 1, ... }";
                problems.push(Problem::error(code::CONFIG_SYNTAX, at, what.to_owned()));
                None
            }
        },
    }
}

fn of_json(file: usize, object: ast::Object<'_>, problems: &mut Vec<Problem>) -> Table {
    let spot = |range: jsonc_parser::common::Range| Spot { file, bytes: range.start..range.end };
    let mut table = Table::new();
    for property in object.properties {
        let at = spot(jsonc_parser::common::Ranged::range(&property.name));
        let key = property.name.into_string();
        let node = of_json_value(file, property.value, problems);
        if let Some((first, _)) = table.get(&key) {
            let what = format!("`{key}` is written twice");
            let problem = Problem::error(code::CONFIG_TWICE, at, what);
            problems.push(problem.beside(Spot::clone(first), "first here"));
            continue;
        }
        table.insert(key, (at, node));
    }
    table
}

fn of_json_value(file: usize, value: ast::Value<'_>, problems: &mut Vec<Problem>) -> Node {
    let range = jsonc_parser::common::Ranged::range(&value);
    let spot = Spot { file, bytes: range.start..range.end };
    let value = match value {
        ast::Value::StringLit(text) => Value::Text(text.value.into_owned()),
        ast::Value::NumberLit(number) => {
            number.value.parse().map_or(Value::Other("a number that is not whole"), Value::Whole)
        }
        ast::Value::BooleanLit(flag) => Value::Flag(flag.value),
        ast::Value::NullKeyword(_) => Value::Other("null"),
        ast::Value::Array(list) => {
            let nodes = list.elements.into_iter();
            Value::List(nodes.map(|value| of_json_value(file, value, problems)).collect())
        }
        ast::Value::Object(object) => Value::Table(of_json(file, object, problems)),
    };
    Node { spot, value }
}
