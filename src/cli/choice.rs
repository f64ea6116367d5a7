//! Which databases a command is about: the one that was named, those with some labels, or all.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use clap::Args;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{exit, session::Session};
use crate::{
    config::{Config, Database},
    coordinator::Member,
    policy::Selector,
};

/// By which labels databases are chosen, instead of by name.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Labels {
    /// Only databases of the configuration with these labels, such as team=shop. Also
    /// env!=test, tier (any value) and !legacy (no such label); apart by commas, all must fit.
    #[arg(short = 'l', long, value_name = "LABELS", conflicts_with = "database")]
    pub labels: Option<String>,
}

/// What has a name and labels.
pub(crate) trait Labelled {
    fn labels(&self) -> &BTreeMap<String, String>;
}

impl Labelled for Database {
    fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }
}

impl Labelled for &Database {
    fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }
}

impl Labelled for Arc<Member> {
    fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }
}

impl Labels {
    /// What was asked for.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) when it cannot be understood.
    pub(crate) fn selector(&self) -> Result<Option<Selector>> {
        let Some(text) = &self.labels else { return Ok(None) };
        Selector::new(text).map(Some).map_err(|why| {
            Error::new(ErrorKind::Invalid, code::USAGE, "understand the labels")
                .with("given", text)
                .with("forms", "team=shop, env!=test, tier, !legacy")
                .why(why)
        })
    }

    /// The databases that are meant: the one that was named, those with these labels, or all.
    ///
    /// # Errors
    ///
    /// [`Missing`](ErrorKind::Missing) when there is none: with the names, or labels, that there
    /// are.
    pub(crate) fn of<'a, T: Labelled>(
        &self,
        all: &'a BTreeMap<String, T>,
        name: Option<&str>,
    ) -> Result<Vec<&'a T>> {
        if let Some(name) = name {
            return all.get(name).map(|one| vec![one]).ok_or_else(|| {
                let known = all.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                Error::new(ErrorKind::Missing, code::CONFIG_NAME, "find the database")
                    .with("given", name)
                    .with("configured", known)
            });
        }
        let Some(selector) = self.selector()? else { return Ok(all.values().collect()) };
        let fitting: Vec<&T> = all.values().filter(|one| selector.fits(one.labels())).collect();
        if fitting.is_empty() {
            let labels = all.values().flat_map(Labelled::labels);
            let labels: BTreeSet<_> = labels.map(|(l, value)| format!("{l}={value}")).collect();
            let known: Vec<&str> = labels.iter().map(String::as_str).collect();
            let known = if known.is_empty() { "no labels".to_owned() } else { known.join(", ") };
            let step = "find databases with these labels";
            return Err(Error::new(ErrorKind::Missing, code::CONFIG_NAME, step)
                .with("given", self.labels.as_deref().unwrap_or_default())
                .with("configured", known)
                .next("[database.NAME]  labels = { team = \"shop\" }"));
        }
        Ok(fitting)
    }

    /// The names of those of a configuration that are meant, where labels were given.
    pub(crate) fn names(&self, config: &Config) -> Result<Vec<String>> {
        let chosen = self.of(&config.databases, None)?;
        Ok(chosen.into_iter().map(|database| database.name.clone()).collect())
    }
}

/// Does something for each of several databases. What becomes of one keeps no other from its turn;
/// the exit status is the worst.
pub(crate) async fn each(
    session: &Session,
    names: &[String],
    mut work: impl AsyncFnMut(&str) -> Result<u8>,
) -> u8 {
    let mut worst = exit::OK;
    for name in names {
        let status = work(name).await.unwrap_or_else(|error| {
            let status = exit::status(error.kind());
            session.report(&error.with("database", name), status)
        });
        worst = worst.max(status);
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::*;

    struct One(BTreeMap<String, String>);

    impl Labelled for One {
        fn labels(&self) -> &BTreeMap<String, String> {
            &self.0
        }
    }

    fn fleet() -> BTreeMap<String, One> {
        let one = |label: &str, value: &str| One([(label.to_owned(), value.to_owned())].into());
        [("a", one("team", "shop")), ("b", one("team", "bank")), ("c", one("tier", "1"))]
            .map(|(name, one)| (name.to_owned(), one))
            .into()
    }

    fn chosen(labels: Option<&str>, name: Option<&str>) -> Result<usize> {
        let labels = Labels { labels: labels.map(str::to_owned) };
        labels.of(&fleet(), name).map(|found| found.len())
    }

    fn told(error: &Error) -> Vec<String> {
        error.facts().into_iter().map(|(_, fact)| fact.to_owned()).collect()
    }

    /// Row 42: one way to choose, for every verb.
    #[test]
    fn row_42_databases_are_chosen_by_name_by_labels_or_all() {
        assert_eq!(chosen(None, None).unwrap(), 3);
        assert_eq!(chosen(None, Some("b")).unwrap(), 1);
        assert_eq!(chosen(Some("team=shop"), None).unwrap(), 1);
        assert_eq!(chosen(Some("team"), None).unwrap(), 2);
        assert_eq!(chosen(Some("team!=shop"), None).unwrap(), 2);
        let none = chosen(Some("team=x"), None).unwrap_err();
        assert_eq!(none.kind(), ErrorKind::Missing);
        assert_eq!(told(&none), ["team=x", "team=bank, team=shop, tier=1"]);
        assert_eq!(told(&chosen(None, Some("x")).unwrap_err()), ["x", "a, b, c"]);
        assert_eq!(chosen(Some("=x"), None).unwrap_err().kind(), ErrorKind::Invalid);
    }
}
