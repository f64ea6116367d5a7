//! Which endpoints belong to which database: rules about labels, the first that fits decides.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

/// What says where an endpoint is, among the labels that templates may name.
pub const TARGET: &str = "target";

/// The longest name that a template may make, in bytes: that of a database.
const NAME_BYTES_MAX: usize = 200;

/// A rule about endpoints that are discovered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Which endpoints it is about.
    pub select: Selector,
    /// The name of their database.
    pub database: Template,
    /// How to reach one.
    pub endpoint: Template,
    /// Whether another identity is another incarnation, or a question.
    pub lifecycle: Lifecycle,
    /// How long a database may be without an endpoint before anybody is told.
    pub handoff: Duration,
    /// What follows when there is none for longer.
    pub on_absence: Absence,
}

/// What it means when a server says that it is another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lifecycle {
    /// Servers come and go, the database does not: another one begins another incarnation.
    #[default]
    Ephemeral,
    /// The server stays: another one is refused until somebody says that it is right.
    Fixed,
}

/// What follows when a database has no endpoint any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Absence {
    /// Somebody is told when its promise is broken.
    #[default]
    Alert,
    /// It is retired.
    Retire,
}

/// Which labels an endpoint must have: `engine=postgres, env!=test, app, !retired`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(Vec<Term>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Term {
    Has(String),
    Lacks(String),
    Is(String, String),
    IsNot(String, String),
}

/// A text with labels in it, such as `{app}/{cluster}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Label(String),
}

/// Which database an endpoint belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Belongs {
    /// To this one.
    To {
        /// Which rule says so, from 0.
        rule: usize,
        /// The database.
        database: String,
        /// How to reach the endpoint.
        url: String,
    },
    /// To none: nothing is backed up there.
    ToNone {
        /// Why, for people.
        why: String,
    },
}

impl Lifecycle {
    /// In configurations.
    pub const NAMES: [&str; 2] = ["ephemeral", "fixed"];
}

impl Absence {
    /// In configurations.
    pub const NAMES: [&str; 2] = ["alert", "retire"];
}

impl Selector {
    /// Reads one.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Self, String> {
        let term = |text: &str| {
            let text = text.trim();
            let term = if let Some((label, value)) = text.split_once("!=") {
                Term::IsNot(label_of(label)?, value.trim().to_owned())
            } else if let Some((label, value)) = text.split_once('=') {
                Term::Is(label_of(label)?, value.trim().to_owned())
            } else if let Some(label) = text.strip_prefix('!') {
                Term::Lacks(label_of(label)?)
            } else {
                Term::Has(label_of(text)?)
            };
            Ok(term)
        };
        text.split(',').map(term).collect::<Result<_, String>>().map(Self)
    }

    /// Whether labels are as it asks.
    pub fn fits(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|term| match term {
            Term::Has(label) => labels.contains_key(label),
            Term::Lacks(label) => !labels.contains_key(label),
            Term::Is(label, value) => labels.get(label) == Some(value),
            Term::IsNot(label, value) => labels.get(label) != Some(value),
        })
    }
}

fn label_of(text: &str) -> Result<String, String> {
    let label = text.trim();
    let is_fine = |letter: char| letter.is_alphanumeric() || "_-./".contains(letter);
    if !label.is_empty() && label.chars().all(is_fine) {
        Ok(label.to_owned())
    } else {
        Err(format!("`{label}` is no label"))
    }
}

impl Template {
    /// Reads one.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, after) = rest.split_at(at);
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            let end = after.find('}').filter(|end| *end > 0);
            let end = end.ok_or("a brace is open, or closed without being opened")?;
            pieces.push(Piece::Label(label_of(&after[1..end])?));
            rest = &after[end + 1..];
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        if pieces.is_empty() { Err("it is empty".to_owned()) } else { Ok(Self(pieces)) }
    }

    /// Puts labels in.
    ///
    /// # Errors
    ///
    /// The label that is not there.
    pub fn fill(&self, target: &str, labels: &BTreeMap<String, String>) -> Result<String, &str> {
        self.fill_with(target, labels, |_| true)
    }

    /// The same for a URL: what is put into one that has text of its own may not go on in it, such
    /// as with other settings.
    ///
    /// # Errors
    ///
    /// The label that is not there, or that cannot be part of a URL.
    pub fn fill_url(
        &self,
        target: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<String, &str> {
        let has_text = self.0.iter().any(|piece| matches!(piece, Piece::Text(_)));
        let is_plain = |value: &str| !value.contains(['?', '#', '@', '&', '%', '\\']);
        // A path is put behind a scheme as it is; a place in a URL has none.
        let is_place = self.0.iter().any(|piece| match piece {
            Piece::Text(text) => text.contains("//"),
            Piece::Label(_) => false,
        });
        self.fill_with(target, labels, |value| {
            !has_text || is_plain(value) && !(is_place && value.contains('/'))
        })
    }

    fn fill_with(
        &self,
        target: &str,
        labels: &BTreeMap<String, String>,
        may_be: impl Fn(&str) -> bool,
    ) -> Result<String, &str> {
        let mut text = String::new();
        for piece in &self.0 {
            text += match piece {
                Piece::Text(text) => text,
                Piece::Label(label) if label == TARGET && may_be(target) => target,
                Piece::Label(label) => {
                    let value = labels.get(label).filter(|value| !value.is_empty());
                    value.map(String::as_str).filter(|value| may_be(value)).ok_or(&**label)?
                }
            };
        }
        Ok(text)
    }
}

/// Says which database an endpoint belongs to. Only its labels decide, never where it is.
pub fn belongs<'a>(
    rules: impl IntoIterator<Item = &'a Rule>,
    target: &str,
    labels: &BTreeMap<String, String>,
) -> Belongs {
    let found = rules.into_iter().enumerate().find(|(_, rule)| rule.select.fits(labels));
    let none = |why| Belongs::ToNone { why };
    let Some((number, rule)) = found else {
        return none(format!("no [[rule]] matches {}", told(labels)));
    };
    let database = match rule.database.fill("", labels) {
        Ok(name) => name,
        Err(label) => {
            return none(format!(
                "[[rule]] {} names its database by `{label}`, and {} has no such label",
                number + 1,
                told(labels)
            ));
        }
    };
    if NAME_BYTES_MAX < database.len() || database.chars().any(char::is_control) {
        return none(format!("[[rule]] {} makes a name of it that none can have", number + 1));
    }
    match rule.endpoint.fill_url(target, labels) {
        Ok(url) => Belongs::To { rule: number, database, url },
        Err(label) => none(format!(
            "[[rule]] {} says by `{label}` how to reach it, and it has none that a URL can have",
            number + 1
        )),
    }
}

/// Labels in one line.
fn told(labels: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    for (label, value) in labels {
        let comma = if text.is_empty() { "" } else { "," };
        let _ = write!(text, "{comma}{label}={value}");
    }
    if text.is_empty() { "what has no labels".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned())).collect()
    }

    fn rule(select: &str, database: &str, endpoint: &str) -> Rule {
        Rule {
            select: Selector::new(select).unwrap(),
            database: Template::new(database).unwrap(),
            endpoint: Template::new(endpoint).unwrap(),
            lifecycle: Lifecycle::Ephemeral,
            handoff: Duration::from_mins(15),
            on_absence: Absence::Alert,
        }
    }

    #[test]
    fn a_selector_asks_for_labels_and_values() {
        let shop = labels(&[("engine", "postgres"), ("env", "prod"), ("app", "shop")]);
        for text in ["engine=postgres, env=prod, app", "env!=test", "!gone", "gone!=x", "app"] {
            assert!(Selector::new(text).unwrap().fits(&shop), "{text}");
        }
        for text in ["engine=mysql", "env!=prod", "!app", "cluster", "engine=postgres,x"] {
            assert!(!Selector::new(text).unwrap().fits(&shop), "{text}");
        }
        for text in ["", "a,,b", "=x", "!", "a b=c"] {
            assert!(Selector::new(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_template_is_filled_with_labels_or_says_which_lacks() {
        let template = Template::new("{app}/{cluster}-x").unwrap();
        let all = labels(&[("app", "shop"), ("cluster", "orders")]);
        assert_eq!(template.fill("", &all), Ok("shop/orders-x".to_owned()));
        assert_eq!(template.fill("", &labels(&[("app", "shop")])), Err("cluster"));
        assert_eq!(template.fill("", &labels(&[("app", "shop"), ("cluster", "")])), Err("cluster"));
        for text in ["", "{", "}", "{}", "a{b", "{a b}", "{a}}"] {
            assert!(Template::new(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_put_into_a_url_does_not_go_on_in_it() {
        let none = BTreeMap::new();
        let template = Template::new("postgres://b@{target}/db?sslmode=verify-full").unwrap();
        let plain = "postgres://b@[::1]:5432,h:1/db?sslmode=verify-full".to_owned();
        assert_eq!(template.fill_url("[::1]:5432,h:1", &none), Ok(plain));
        for evil in
            ["evil:1/x?y=", "evil:1/x", "a@evil", "h#", "h&x=y", "h%2f", "h?sslmode=disable"]
        {
            assert_eq!(template.fill_url(evil, &none), Err("target"), "{evil}");
        }
        let path = Template::new("sqlite:{target}").unwrap();
        assert_eq!(path.fill_url("/srv/a.db", &none), Ok("sqlite:/srv/a.db".to_owned()));
        assert_eq!(path.fill_url("/srv/a.db?mode=x", &none), Err("target"));
        let whole = Template::new("{target}").unwrap();
        let url = "postgres://b@h/db?sslmode=require";
        assert_eq!(whole.fill_url(url, &none), Ok(url.to_owned()), "it says all of it itself");
    }

    /// Row 60: what no rule is about is not left out without a word.
    #[test]
    fn row_60_the_first_rule_that_fits_decides_and_none_is_said() {
        let rules = [
            rule("engine=postgres,app", "{app}/{cluster}", "postgres://b@{target}/postgres"),
            rule("engine", "other/{app}", "{target}"),
        ];
        let shop = labels(&[("engine", "postgres"), ("app", "shop"), ("cluster", "orders")]);
        let (database, url) = ("shop/orders".to_owned(), "postgres://b@h:1/postgres".to_owned());
        assert_eq!(belongs(&rules, "h:1", &shop), Belongs::To { rule: 0, database, url });
        let why = |pairs: &[_]| match belongs(&rules, "h:1", &labels(pairs)) {
            Belongs::ToNone { why } => why,
            Belongs::To { database, .. } => panic!("{database}"),
        };
        assert_eq!(
            why(&[("app", "billing"), ("env", "prod")]),
            "no [[rule]] matches app=billing,env=prod"
        );
        assert!(why(&[("engine", "postgres"), ("app", "shop")]).contains("`cluster`"));
        assert!(why(&[("engine", "x"), ("app", "a\nb")]).contains("none can have"));
    }

    proptest! {
        /// Row 11: no host and no address decides what an endpoint belongs to.
        #[test]
        fn row_11_41_where_an_endpoint_is_changes_nothing_of_its_database(
            one in "[a-z0-9.:\\[\\]-]{1,40}",
            other in "[a-z0-9.:\\[\\]-]{1,40}",
            app in "[a-z]{1,8}",
        ) {
            let rules = [rule("app", "{app}/main", "postgres://b@{target}/postgres")];
            let own = labels(&[("app", &app)]);
            let name = |target: &str| match belongs(&rules, target, &own) {
                Belongs::To { rule, database, .. } => (rule, database),
                Belongs::ToNone { why } => panic!("{why}"),
            };
            prop_assert_eq!(name(&one), name(&other));
        }
    }
}
