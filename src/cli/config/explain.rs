//! `stillpoint config explain` and `show`: what a configuration means, and why.

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;
use serde_json::Value;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    super::{
        answer::Answer,
        choice::{Labels, each},
        exit,
        page::{Page, Table},
        serve,
        session::Session,
    },
    files,
};
use crate::config::{Loaded, Setting};

/// What `config explain` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The database; or with --policy, a policy.
    #[arg(id = "database", value_name = "NAME", required_unless_present = "labels")]
    name: Option<String>,
    #[command(flatten)]
    labels: Labels,
    /// The name is that of a policy.
    #[arg(long, conflicts_with = "labels")]
    policy: bool,
}

#[derive(Debug, Serialize)]
struct ExplainAnswer {
    database: Option<String>,
    endpoint: Option<String>,
    repository: Option<String>,
    /// The rule that gives it endpoints.
    rule: Option<String>,
    policy: String,
    settings: Vec<Told>,
}

/// A setting on the wire: its value as it would be written.
#[derive(Debug, Serialize)]
struct Told {
    key: &'static str,
    value: Option<String>,
    from: Option<String>,
    about: &'static str,
}

impl From<Setting> for Told {
    fn from(setting: Setting) -> Self {
        let Setting { key, about, value, from } = setting;
        Self { key, value, from, about }
    }
}

impl Answer for ExplainAnswer {
    const SCHEMA: &'static str = "config-explain/1";

    fn write(&self, page: &mut Page<'_>) {
        let facts = [
            ("database", &self.database),
            ("endpoint", &self.endpoint),
            ("repository", &self.repository),
            ("rule", &self.rule),
        ];
        let facts = facts.into_iter().filter_map(|(label, value)| Some((label, value.as_deref()?)));
        let facts: Vec<_> = facts.chain([("policy", self.policy.as_str())]).collect();
        page.facts(0, &facts);
        page.blank();
        let mut table = Table::new(&["SETTING", "VALUE", "FROM"]);
        for setting in &self.settings {
            let said = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
            table.row(vec![setting.key.to_owned(), said(&setting.value), said(&setting.from)]);
        }
        page.table(&table);
    }
}

#[derive(Debug, Serialize)]
struct ShowAnswer {
    configuration: Value,
    #[serde(skip)]
    text: String,
}

impl Answer for ShowAnswer {
    const SCHEMA: &'static str = "config/1";

    fn write(&self, page: &mut Page<'_>) {
        page.line(self.text.trim_end());
    }
}

/// Explains one database or several, or one policy.
pub(super) async fn run(session: &Session, options: Options) -> Result<u8> {
    let loaded = serve::found(session).await?;
    let Some(name) = options.name else {
        let names = options.labels.names(&loaded.config)?;
        return Ok(each(session, &names, async |name: &str| explain(session, &loaded, name)).await);
    };
    if !options.policy {
        return explain(session, &loaded, &name);
    }
    known("policy", &name, &loaded.config.policies)?;
    session.answer(&ExplainAnswer {
        database: None,
        endpoint: None,
        repository: None,
        rule: None,
        settings: settings(&loaded, &name),
        policy: name,
    })?;
    Ok(exit::OK)
}

fn explain(session: &Session, loaded: &Loaded, name: &str) -> Result<u8> {
    let database = known("database", name, &loaded.config.databases)?;
    session.answer(&ExplainAnswer {
        database: Some(database.name.clone()),
        endpoint: Some(database.endpoint.clone()),
        repository: Some(database.repository.clone()),
        rule: database.found.as_ref().map(|found| loaded.rule(found.rule)),
        policy: database.policy.clone(),
        settings: settings(loaded, &database.policy),
    })?;
    Ok(exit::OK)
}

/// Shows everything.
pub(super) fn show(session: &Session) -> Result<()> {
    let loaded = files::sound(session)?;
    let configuration = loaded.effective();
    let text = toml::to_string(&configuration);
    let text = text.map_err(|cause| Error::bug("write the configuration").caused_by(cause))?;
    session.answer(&ShowAnswer { configuration, text })
}

fn settings(loaded: &Loaded, policy: &str) -> Vec<Told> {
    loaded.explain(policy).into_iter().map(Told::from).collect()
}

fn known<'a, T>(what: &str, name: &str, all: &'a BTreeMap<String, T>) -> Result<&'a T> {
    all.get(name).ok_or_else(|| {
        let known = all.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        Error::new(ErrorKind::Missing, code::CONFIG_NAME, format!("find the {what} `{name}`"))
            .with("configured", known)
    })
}
