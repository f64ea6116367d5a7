//! The JSON schema of a configuration, for editors and generators.

use serde_json::{Map, Value, json};

use super::{
    shape::{Key, Shape},
    shapes::CONFIGURATION,
};

/// The schema, as a JSON document.
pub fn schema() -> Value {
    let mut schema = of(&CONFIGURATION);
    if let Value::Object(schema) = &mut schema {
        schema.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
        schema.insert("title".into(), "Stillpoint configuration".into());
    }
    schema
}

fn of(shape: &Shape) -> Value {
    match shape {
        Shape::Text(form) => {
            let mut text = json!({ "type": "string", "examples": [form.example] });
            if !form.pattern.is_empty() {
                text["pattern"] = form.pattern.into();
            }
            text
        }
        Shape::Word(words) => json!({ "enum": words }),
        Shape::Whole { least, most } => {
            json!({ "type": "integer", "minimum": least, "maximum": most })
        }
        Shape::Flag => json!({ "type": "boolean" }),
        Shape::List(of_each) => json!({ "type": "array", "items": of(of_each) }),
        Shape::Table(keys) => table(keys),
        Shape::Choice(keys) => {
            let mut table = table(keys);
            table["minProperties"] = 1.into();
            table["maxProperties"] = 1.into();
            table
        }
        Shape::Named(of_each) => json!({
            "type": "object",
            "propertyNames": { "minLength": 1 },
            "additionalProperties": of(of_each),
        }),
        Shape::Either(shapes) => {
            json!({ "anyOf": shapes.iter().map(of).collect::<Vec<_>>() })
        }
    }
}

fn table(keys: &[Key]) -> Value {
    let property = |key: &Key| {
        let mut schema = of(&key.shape);
        schema["description"] = key.about.into();
        (key.name.to_owned(), schema)
    };
    let properties: Map<_, _> = keys.iter().map(property).collect();
    let required: Vec<_> = keys.iter().filter(|key| key.must).map(|key| key.name).collect();
    let mut table = json!({
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    });
    if !required.is_empty() {
        table["required"] = required.into();
    }
    table
}
