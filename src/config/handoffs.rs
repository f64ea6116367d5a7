//! What can be said of a folder in which files are left for others, and what cannot.

use stillpoint_contract::code;

use super::{
    build::named,
    model::Config,
    problem::Problem,
    tree::{Node, Spot, Value},
};

/// Notes what contradicts that nothing is restored from there, and that nobody acknowledges
/// anything elsewhere.
pub(super) fn judge(main: &Node, config: &Config, problems: &mut Vec<Problem>) {
    let judge = &mut Handoffs { config, problems };
    for (name, spot, node) in named(main, "repository") {
        judge.place(name, spot, node);
    }
    let rules = main.get("rule").map_or(&[][..], Node::list).iter();
    for node in named(main, "database").map(|(_, _, node)| node).chain(rules) {
        judge.original(node);
    }
    for (name, _, node) in named(main, "policy") {
        judge.keep(node.get("keep"), None);
        let copies = node.get("copy").map_or(&[][..], Node::list);
        for copy in copies {
            judge.copy(copy);
        }
        let drill = node.get("drill").and_then(|drill| drill.get("from"));
        for from in copies.iter().filter_map(|copy| copy.get("from")).chain(drill) {
            judge.source(name, from);
        }
    }
}

struct Handoffs<'a, 'p> {
    config: &'a Config,
    problems: &'p mut Vec<Problem>,
}

impl Handoffs<'_, '_> {
    fn error(&mut self, code: stillpoint_contract::Code, at: &Spot, what: String, help: &str) {
        self.problems.push(Problem::error(code, Spot::clone(at), what).help(help));
    }

    /// A repository has a URL, and a folder for others a path.
    fn place(&mut self, name: &str, spot: &Spot, node: &Node) {
        let is_handoff = self.config.is_handoff(name);
        let (own, foreign) =
            if is_handoff { ("path", &["url", "encryption"][..]) } else { ("url", &["path"][..]) };
        if node.get(own).is_none() {
            let what = format!("`{own}` is not there");
            let help = if is_handoff {
                "path = \"/mnt/outbox\", a folder that whoever fetches the files sees as well"
            } else {
                "url: a directory, or s3://, az:// or gs:// and a bucket"
            };
            self.error(code::CONFIG_LACKS, spot, what, help);
        }
        for key in foreign {
            let Some(node) = node.get(key) else { continue };
            let (what, help) = if is_handoff {
                let what = format!("`{key}` says nothing to a handoff: its files are native ones");
                (what, "known here: kind, path, quota, site, limits")
            } else {
                (format!("unknown key `{key}`"), "did you mean `url`? or kind = \"handoff\"")
            };
            self.error(code::CONFIG_KEY, &node.spot, what, help);
        }
    }

    /// Backups are kept where they can be restored from.
    fn original(&mut self, node: &Node) {
        let Some(repository) = node.get("repository") else { return };
        if repository.text().is_some_and(|name| self.config.is_handoff(name)) {
            let what = "backups are not kept in a handoff: others take what lies there".to_owned();
            let help = "[[policy.NAME.copy]]  to = \"...\", to hand them over";
            self.error(code::CONFIG_VALUE, &repository.spot, what, help);
        }
    }

    fn copy(&mut self, node: &Node) {
        let to = node.get("to").and_then(Node::text);
        self.keep(node.get("keep"), to);
        let classes = node.get("class").map_or(&[][..], Node::list);
        let log = classes.iter().find(|class| class.text() == Some("logs"));
        if let Some(log) = log
            && to.is_some_and(|to| self.config.is_handoff(to))
        {
            let what = "a handoff gets complete files, and no log".to_owned();
            self.error(code::CONFIG_VALUE, &log.spot, what, "class = [\"full\"]");
        }
    }

    /// Elsewhere nobody acknowledges anything, and everything would be kept for ever.
    fn keep(&mut self, keep: Option<&Node>, to: Option<&str>) {
        let Some(node) = keep.and_then(|keep| keep.get("until_ack")) else { return };
        let is_handoff = to.is_some_and(|to| self.config.is_handoff(to));
        if matches!(node.value, Value::Flag(true)) && !is_handoff {
            let what = "only what was handed over is acknowledged".to_owned();
            let help = "of a copy whose repository has kind = \"handoff\"";
            self.error(code::CONFIG_VALUE, &node.spot, what, help);
        }
    }

    /// Nothing is read back from there: others may take it at any time.
    fn source(&mut self, policy: &str, from: &Node) {
        let policy = self.config.policies.get(policy);
        let copies = policy.map(|policy| policy.copies.as_slice()).unwrap_or_default();
        let copy = copies.iter().find(|copy| from.text() == Some(&copy.name));
        if copy.is_some_and(|copy| self.config.is_handoff(&copy.to)) {
            let what = "what was handed over is not restored from".to_owned();
            let help = "from = the name of a copy that is a repository";
            self.error(code::CONFIG_VALUE, &from.spot, what, help);
        }
    }
}
