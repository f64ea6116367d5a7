//! Where each value of a policy comes from.

use super::{
    layers::Layers,
    load::Loaded,
    problem::line_of,
    secrets::LITERAL as SECRET,
    shapes::POLICY,
    tree::{Node, Value},
};

/// A key of a policy, what it was set to, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its name.
    pub key: &'static str,
    /// What it means.
    pub about: &'static str,
    /// Its value as it would be written into a file; nothing where nothing is said.
    pub value: Option<String>,
    /// The file and the line of it, or `(built in)`.
    pub from: Option<String>,
}

impl Loaded {
    /// Everything that a policy says, and what those say that it builds on.
    pub fn explain(&self, policy: &str) -> Vec<Setting> {
        let layers = Layers::of(policy, &self.main, &self.built_in);
        let settings = POLICY.iter().filter(|key| key.name != "extends");
        let setting = |key: &'static super::shape::Key| {
            let node = layers.get(key.name);
            let value = node.map(|node| written(&node.value));
            let from = node.map(|node| self.place(node));
            Setting { key: key.name, about: key.about, value, from }
        };
        settings.map(setting).collect()
    }

    /// Everything that holds, as one document of the same schema: policies say all that they leave
    /// to others. Secrets that were written down are left out.
    pub fn effective(&self) -> serde_json::Value {
        let mut document = document(&self.main.value);
        let policies = self.config.policies.keys().map(|name| {
            let layers = Layers::of(name, &self.main, &self.built_in);
            let settings = POLICY.iter().filter(|key| key.name != "extends");
            let setting = |key: &'static super::shape::Key| {
                Some((key.name.to_owned(), document_of(layers.get(key.name)?)))
            };
            (name.clone(), settings.filter_map(setting).collect())
        });
        document["policy"] = serde_json::Value::Object(policies.collect());
        document
    }

    /// Where a rule was written, by its number from 1.
    pub fn rule(&self, number: usize) -> String {
        let rules = self.main.get("rule").map_or(&[][..], Node::list);
        let node = rules.get(number.saturating_sub(1));
        let place = node.map(|node| format!(" ({})", self.place(node)));
        format!("[[rule]] {number}{}", place.unwrap_or_default())
    }

    fn place(&self, node: &Node) -> String {
        match self.sources.get(node.spot.file) {
            Some(source) if node.spot.file + 1 < self.sources.len() => {
                format!("{}:{}", source.path, line_of(&source.text, node.spot.bytes.start))
            }
            _ => "(built in)".to_owned(),
        }
    }
}

fn document_of(node: &Node) -> serde_json::Value {
    document(&node.value)
}

/// A value as JSON.
fn document(value: &Value) -> serde_json::Value {
    match value {
        Value::Text(text) => text.as_str().into(),
        Value::Whole(number) => (*number).into(),
        Value::Flag(flag) => (*flag).into(),
        Value::List(list) => list.iter().map(document_of).collect(),
        Value::Table(table) => {
            let shown = table.iter().filter(|(key, _)| *key != SECRET);
            let pair = |(key, (_, node)): (&String, &(_, Node))| (key.clone(), document_of(node));
            serde_json::Value::Object(shown.map(pair).collect())
        }
        Value::Other(_) => serde_json::Value::Null,
    }
}

/// A value in one line of TOML.
fn written(value: &Value) -> String {
    match value {
        Value::Text(text) => toml_text(text),
        Value::Whole(number) => number.to_string(),
        Value::Flag(flag) => flag.to_string(),
        Value::List(list) => {
            let list: Vec<_> = list.iter().map(|node| written(&node.value)).collect();
            format!("[{}]", list.join(", "))
        }
        Value::Table(table) => {
            let pair = |(key, (_, node)): (&String, &(_, Node))| {
                // What is secret stays so.
                let is_secret = key == SECRET;
                let value = if is_secret { "\"...\"".to_owned() } else { written(&node.value) };
                format!("{} = {value}", toml_key(key))
            };
            format!("{{ {} }}", table.iter().map(pair).collect::<Vec<_>>().join(", "))
        }
        Value::Other(kind) => (*kind).to_owned(),
    }
}

fn toml_key(key: &str) -> String {
    let is_bare = |letter: char| letter.is_ascii_alphanumeric() || "-_".contains(letter);
    if !key.is_empty() && key.chars().all(is_bare) { key.to_owned() } else { toml_text(key) }
}

fn toml_text(text: &str) -> String {
    // The escapes of JSON are among those of TOML.
    serde_json::Value::from(text).to_string()
}
