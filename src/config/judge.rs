//! What is wrong although each part of it is well-formed: names of nothing, circles, promises that
//! contradict each other.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use stillpoint_contract::code;

use super::{
    archives,
    build::named,
    form, handoffs, idle,
    layers::{BUILT_IN, LAYERS_MAX, layer},
    model::Config,
    problem::Problem,
    secrets::has_password,
    shape::suggestion,
    tree::{Node, Spot},
};
use crate::policy::{Keep, Logs, Policy, UnevenDay, uneven_days};

/// How far ahead uneven days are looked for: every change of clocks of a year, and some.
const DAYS_LOOKED_AT: u32 = 400;

/// The hours of a usual day.
const HOURS: usize = 24;

/// Notes everything that contradicts something else.
pub(super) fn judge(main: &Node, config: &Config, now: DateTime<Utc>, problems: &mut Vec<Problem>) {
    let judge = &mut Judge { main, config, now, problems };
    judge.databases();
    judge.discovery();
    for (name, spot, node) in named(main, "policy") {
        judge.parents(name, node);
        if let Some(policy) = config.policies.get(name) {
            judge.copies(policy, node);
            judge.promises(policy, spot, node);
            judge.calendars(policy, node);
        }
    }
    judge.second_places();
    judge.fed();
    judge.alerts();
    handoffs::judge(main, config, problems);
    idle::judge(main, config, now, problems);
    archives::judge(main, config, problems);
}

struct Judge<'a, 'p> {
    main: &'a Node,
    config: &'a Config,
    now: DateTime<Utc>,
    problems: &'p mut Vec<Problem>,
}

impl Judge<'_, '_> {
    fn unknown<'k>(
        &mut self,
        (node, what): (&Node, &str),
        known: impl Iterator<Item = &'k str> + Clone,
    ) {
        let Some(name) = node.text() else { return };
        if known.clone().any(|known| known == name) {
            return;
        }
        let spot = Spot::clone(&node.spot);
        let problem = Problem::error(code::CONFIG_NAME, spot, format!("no {what} is `{name}`"));
        self.problems.push(problem.help(suggestion(name, known, &[])));
    }

    fn databases(&mut self) {
        let config = self.config;
        for (name, spot, node) in named(self.main, "database") {
            if let Some(policy) = node.get("policy") {
                self.unknown((policy, "policy"), config.policies.keys().map(String::as_str));
            }
            if let Some(repository) = node.get("repository") {
                let known = config.repositories.keys().map(String::as_str);
                self.unknown((repository, "repository"), known);
            }
            self.endpoint(node);
            if let Some(agent) = node.get("agent").filter(|_| node.get("endpoint").is_none()) {
                let what = format!("an agent cannot be told where `{name}` is");
                let problem = Problem::error(code::CONFIG_LACKS, Spot::clone(&agent.spot), what);
                let help = "endpoint = \"...\": agents do not look for discovered ones";
                self.problems.push(problem.help(help));
            } else if node.get("endpoint").is_none() && config.rules.is_empty() {
                let what = format!("`{name}` does not say where it is");
                let problem = Problem::error(code::CONFIG_LACKS, Spot::clone(spot), what);
                let help = "endpoint = \"...\", or a [[rule]] that gives it discovered ones";
                self.problems.push(problem.help(help));
            }
        }
        if config.repositories.is_empty() {
            let what = "no repository is configured: backups would be kept nowhere".to_owned();
            let problem = Problem::lacking(code::CONFIG_LACKS, what);
            self.problems.push(problem.help("[repository.primary]\nurl = \"/srv/backups\""));
        }
    }

    fn endpoint(&mut self, node: &Node) {
        if let Some(endpoint) = node.get("endpoint")
            && endpoint.text().is_some_and(has_password)
        {
            let what = "a password does not belong into an endpoint".to_owned();
            let problem = Problem::error(code::CONFIG_VALUE, Spot::clone(&endpoint.spot), what);
            let help = "password = { file = \"/run/secrets/NAME\" }, beside it";
            self.problems.push(problem.label("everybody who reads this knows it").help(help));
        }
    }

    /// Who is asked for endpoints, and what becomes of them.
    fn discovery(&mut self) {
        let config = self.config;
        let main = self.main;
        let rules = main.get("rule").map_or(&[][..], Node::list);
        for node in rules {
            if let Some(policy) = node.get("policy") {
                self.unknown((policy, "policy"), config.policies.keys().map(String::as_str));
            }
            if let Some(repository) = node.get("repository") {
                let known = config.repositories.keys().map(String::as_str);
                self.unknown((repository, "repository"), known);
            }
            self.endpoint(node);
        }
        let all = main.get("discover").map_or(&[][..], Node::list);
        for node in all {
            self.source(node);
        }
        if let Some(first) = all.first().filter(|_| rules.is_empty()) {
            let what = "endpoints are discovered, and no rule says what is done with them";
            let spot = Spot::clone(&first.spot);
            let problem = Problem::warning(code::BROKEN_PROMISE, spot, what.to_owned());
            let help = "[[rule]]\nselect = \"app\"\ndatabase = \"{app}\"";
            self.problems.push(problem.help(help));
        }
    }

    fn source(&mut self, node: &Node) {
        const OWN: [(&str, &str, &[&str]); 3] = [
            ("files", "path", &["path"]),
            ("exec", "command", &["command"]),
            ("dns", "name", &["name", "record", "port", "server"]),
        ];
        let Some(kind) = node.get("kind").and_then(Node::text) else { return };
        let lacks = OWN.iter().find(|(own, ..)| *own == kind);
        if let Some((_, key, _)) = lacks.filter(|(_, key, _)| node.get(key).is_none()) {
            let what = format!("`{key}` is not there: {kind} cannot be asked without it");
            let spot = Spot::clone(&node.spot);
            self.problems.push(Problem::error(code::CONFIG_LACKS, spot, what));
        }
        let foreign = OWN.iter().filter(|(own, ..)| *own != kind);
        for key in foreign.flat_map(|(.., keys)| keys.iter()) {
            if let Some(node) = node.get(key) {
                let what = format!("`{key}` says nothing to `{kind}`");
                let spot = Spot::clone(&node.spot);
                self.problems.push(Problem::error(code::CONFIG_KEY, spot, what));
            }
        }
        if kind == "dns" && cfg!(not(feature = "dns")) {
            let what = "this program was built without what asks for names".to_owned();
            let spot = Spot::clone(&node.spot);
            self.problems.push(Problem::error(code::CONFIG_VALUE, spot, what));
        }
        let is_empty = |node: &Node| node.list().is_empty();
        if let Some(command) = node.get("command").filter(|node| is_empty(node)) {
            let what = "no program is named".to_owned();
            let spot = Spot::clone(&command.spot);
            self.problems.push(Problem::error(code::CONFIG_VALUE, spot, what));
        }
    }

    fn parents(&mut self, name: &str, node: &Node) {
        let Some(extends) = node.get("extends") else { return };
        self.unknown((extends, "policy"), self.config.policies.keys().map(String::as_str));
        let mut seen = BTreeSet::from([name]);
        let mut at = extends.text();
        while let Some(parent) = at {
            if !seen.insert(parent) {
                let what = format!("policies that build on each other: {name} -> {parent}");
                let spot = Spot::clone(&extends.spot);
                self.problems.push(Problem::error(code::COPY_CYCLE, spot, what));
                return;
            }
            if seen.len() > LAYERS_MAX {
                let what = format!("more than {LAYERS_MAX} policies build on each other");
                let spot = Spot::clone(&extends.spot);
                self.problems.push(Problem::error(code::CONFIG_VALUE, spot, what));
                return;
            }
            let above = layer(self.main, parent).and_then(|(_, node)| node.get("extends"));
            at = above.and_then(Node::text);
        }
    }

    fn copies(&mut self, policy: &Policy, node: &Node) {
        let config = self.config;
        let nodes = node.get("copy").map_or(&[][..], Node::list);
        let copies = policy.copies.iter().map(|copy| copy.name.as_str());
        let (mut names, mut places) = (BTreeSet::new(), BTreeSet::new());
        for node in nodes {
            // Each would give up what the other keeps.
            if let Some(to) = node.get("to")
                && !places.insert(to.text())
            {
                let what = "two copies of a policy go to one repository".to_owned();
                let spot = Spot::clone(&to.spot);
                self.problems.push(Problem::error(code::CONFIG_TWICE, spot, what));
            }
            if let Some(to) = node.get("to") {
                self.unknown((to, "repository"), config.repositories.keys().map(String::as_str));
            }
            if let Some(from) = node.get("from") {
                self.unknown((from, "copy of this policy"), copies.clone());
            }
            if let Some(run_on) = node.get("run_on") {
                self.site(run_on);
            }
            if let Some(name) = node.get("name")
                && !names.insert(name.text())
            {
                let what = "two copies of a policy have one name".to_owned();
                let spot = Spot::clone(&name.spot);
                self.problems.push(Problem::error(code::CONFIG_TWICE, spot, what));
            }
        }
        let of_drill = |key: &str| node.get("drill").and_then(|drill| drill.get(key));
        if let Some(from) = of_drill("from") {
            self.unknown((from, "copy of this policy"), copies);
        }
        if let Some(run_on) = of_drill("run_on") {
            self.site(run_on);
        }
        self.circles(policy, nodes);
    }

    /// Nobody would ever do what is bound to a site that nobody is at.
    fn site(&mut self, node: &Node) {
        let Some(site) = node.text().and_then(|text| form::site(text).ok()) else { return };
        let config = self.config;
        let known = config.sites();
        if known.contains(site.as_str()) {
            return;
        }
        let spot = Spot::clone(&node.spot);
        let problem = Problem::error(code::CONFIG_NAME, spot, format!("no site is `{site}`"));
        let help = if known.is_empty() {
            format!("[repository.NAME]\nsite = \"{site}\", or [coordinator]\nsites = [\"{site}\"]")
        } else {
            suggestion(&site, known.iter().copied(), &[])
        };
        self.problems.push(problem.help(help));
    }

    fn circles(&mut self, policy: &Policy, nodes: &[Node]) {
        let source = |name: &str| {
            policy
                .copies
                .iter()
                .find(|copy| copy.name == name)
                .and_then(|copy| copy.from.as_deref())
        };
        let mut told = BTreeSet::new();
        for (copy, node) in policy.copies.iter().zip(nodes) {
            let mut way = vec![copy.name.as_str()];
            while let Some(from) = source(way[way.len() - 1]) {
                if let Some(first) = way.iter().position(|name| *name == from) {
                    let circle = &mut way[first..];
                    circle.sort_unstable();
                    if told.insert(circle.join(" ")) {
                        let what =
                            format!("copies that are made of each other: {}", circle.join(", "));
                        let at = node.get("from").unwrap_or(node);
                        let spot = Spot::clone(&at.spot);
                        self.problems.push(Problem::error(code::COPY_CYCLE, spot, what));
                    }
                    break;
                }
                way.push(from);
            }
        }
    }

    fn promises(&mut self, policy: &Policy, spot: &Spot, node: &Node) {
        let mut warn = |key: &str, what: String, help: String| {
            let at = node.get(key).map_or(spot, |node| &node.spot);
            let problem = Problem::warning(code::BROKEN_PROMISE, Spot::clone(at), what);
            self.problems.push(problem.help(help));
        };
        match policy.logs {
            Logs::Every(every) if every >= policy.rpo => warn(
                "logs",
                "log is captured more seldom than the RPO allows".to_owned(),
                format!("every: less than the RPO of {} s", policy.rpo.as_secs()),
            ),
            Logs::Never if policy.full.is_some() || policy.incremental.is_some() => warn(
                "logs",
                "without log, only backups can be restored: the RPO must be longer than the time \
                 between them"
                    .to_owned(),
                "logs = \"stream\"".to_owned(),
            ),
            _ => {}
        }
        if policy.keep == Keep::default() && policy.pitr_window.is_zero() && policy.floor == 0 {
            warn(
                "keep",
                "nothing is kept: every backup could be removed at once".to_owned(),
                "keep = { last = 3 }".to_owned(),
            );
        }
    }

    /// Dates on which clocks change, and a schedule with them.
    fn calendars(&mut self, policy: &Policy, node: &Node) {
        for key in ["full", "incremental"] {
            let Some(timing) = node.get(key) else { continue };
            let at = timing.get("at").unwrap_or(timing);
            let Some(pattern) = at.text() else { continue };
            let uneven = uneven_days(pattern, policy.zone, self.now, DAYS_LOOKED_AT);
            let uneven = uneven.unwrap_or_default().into_iter();
            // What fires every hour loses or gains one, and nobody misses it.
            for UnevenDay { date, fires, usual } in uneven.filter(|day| day.usual < HOURS) {
                let what = format!("this schedule is uneven on {date}, when clocks change");
                let spot = Spot::clone(&at.spot);
                let problem = Problem::warning(code::UNEVEN_SCHEDULE, spot, what);
                let label = format!("{fires} times instead of {usual} in {}", policy.zone);
                let help = "choose other hours, or timezone = \"UTC\"";
                self.problems.push(problem.label(label).help(help));
            }
        }
    }

    /// Mail needs a server; and silence has to mean that all is well.
    fn alerts(&mut self) {
        let nodes = self.main.get("alert").map_or(&[][..], Node::list);
        let has_mail = self.config.coordinator.mail.is_some();
        let addresses = nodes.iter().flat_map(|node| node.get("to").map_or(&[][..], Node::list));
        for address in addresses.filter_map(|node| node.get("email")).filter(|_| !has_mail) {
            let what = "mail is to be sent, and no server for it is configured".to_owned();
            let spot = Spot::clone(&address.spot);
            let help = "[coordinator.mail]\nserver = \"smtp://HOST:25\"\nfrom = \"...\"";
            self.problems.push(Problem::error(code::CONFIG_LACKS, spot, what).help(help));
        }
        let server = self.main.get("coordinator").and_then(|node| node.get("mail")?.get("server"));
        if let Some(server) = server.filter(|node| node.text().is_some_and(has_password)) {
            let what = "a password does not belong into the URL of a server".to_owned();
            let problem = Problem::error(code::CONFIG_VALUE, Spot::clone(&server.spot), what);
            self.problems.push(problem.help("user = \"...\", password = { file = \"...\" }"));
        }
        let is_heard = self.config.alerts.iter().any(|alert| alert.heartbeat.is_some());
        if let Some(first) = nodes.first().filter(|_| !is_heard) {
            let what = "nobody would notice that nobody sends alerts any more".to_owned();
            let spot = Spot::clone(&first.spot);
            let help = "heartbeat = { url = \"https://...\" }, of a service that misses it";
            self.problems.push(Problem::warning(code::BROKEN_PROMISE, spot, what).help(help));
        }
    }

    /// A copy has the id and the keys of what it is made of: it is made of one original, and
    /// nothing else is stored there.
    fn fed(&mut self) {
        let config = self.config;
        let mut origins: BTreeMap<&str, &str> = BTreeMap::new();
        let mut told = BTreeSet::new();
        let of = |name: &str| format!("`{name}`");
        let databases = config.databases.values();
        let databases = databases.map(|one| (of(&one.name), &one.policy, &one.repository));
        let found = config.rules.iter();
        let found = found.map(|one| ("what a rule finds".to_owned(), &one.policy, &one.repository));
        let stored: Vec<_> = databases.chain(found).collect();
        for (_, policy, repository) in &stored {
            let Some(policy) = config.policies.get(*policy) else { continue };
            let layer = layer(self.main, &policy.name).and_then(|(_, node)| node.get("copy"));
            let nodes = layer.map_or(&[][..], Node::list);
            let copies = policy.copies.iter().enumerate();
            // What is left for others may come from anywhere.
            for (place, copy) in copies.filter(|(_, copy)| !config.is_handoff(&copy.to)) {
                let to = copy.to.as_str();
                let user = stored.iter().find(|(_, _, other)| *other == to);
                let first = *origins.entry(to).or_insert(repository);
                let problem = match user {
                    Some((user, ..)) => format!(
                        "`{to}` gets copies, and backups of {user}: a copy holds nothing else"
                    ),
                    None if first != *repository => format!(
                        "`{to}` gets copies from `{first}` and from `{repository}`: it is made of \
                         one"
                    ),
                    None => continue,
                };
                // The policy may have it from another one.
                let node = nodes.get(place).and_then(|node| node.get("to"));
                let spot = node.map(|node| Spot::clone(&node.spot));
                if told.insert(to) {
                    let problem = match spot {
                        Some(spot) => Problem::error(code::CONFIG_VALUE, spot, problem),
                        None => Problem::lacking(code::CONFIG_VALUE, problem),
                    };
                    let help = format!("[repository.{to}2]  url = \"...\", a place of its own");
                    self.problems.push(problem.help(help));
                }
            }
        }
    }

    /// A backup beside its database, or on one disk, ends with it.
    fn second_places(&mut self) {
        for (name, spot, node) in named(self.main, "database") {
            let Some(database) = self.config.databases.get(name) else { continue };
            let policy = self.config.policies.get(&database.policy);
            if policy.is_some_and(|policy| policy.copies.is_empty()) {
                let what = format!("the backups of `{name}` are kept in one place only");
                let at = node.get("policy").map_or(spot, |node| &node.spot);
                let name = if database.policy == BUILT_IN { BUILT_IN } else { &database.policy };
                let problem = Problem::warning(code::BROKEN_PROMISE, Spot::clone(at), what);
                let help = format!("[[policy.{name}.copy]] keeps them in a second repository");
                self.problems.push(problem.help(help));
            }
        }
    }
}
