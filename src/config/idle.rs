//! What is well-formed and changes nothing, or lets nothing happen at all.

use std::iter::successors;

use chrono::{DateTime, TimeDelta, Utc};
use stillpoint_contract::code;

use super::{
    build::named,
    model::Config,
    problem::Problem,
    tree::{Node, Spot},
};

/// What is closed for so long never opens: windows are those of a week.
const NEVER: TimeDelta = TimeDelta::days(9);

/// Ends of windows that are followed. Each look goes on for many windows, as they are chained.
const LOOKS_MAX: usize = 64;

/// What a site is for.
const BIND: &str = "run_on = \"site=NAME\", of a copy or a drill, has its workers do that";

/// Notes what somebody may rely on in vain.
pub(super) fn judge(main: &Node, config: &Config, now: DateTime<Utc>, problems: &mut Vec<Problem>) {
    let mut warn = |at: &Spot, what: String, help: &str| {
        let problem = Problem::warning(code::BROKEN_PROMISE, Spot::clone(at), what);
        problems.push(problem.help(help));
    };
    let in_use = config.sites_in_use();
    let is_idle = |site: &&Node| site.text().is_some_and(|site| !in_use.contains(site));
    for (name, _, node) in named(main, "repository") {
        if let Some(quota) = node.get("quota").filter(|_| !config.is_handoff(name)) {
            let what = format!("`quota` does nothing for `{name}`: only a handoff has one");
            warn(&quota.spot, what, "let the file system or the bucket limit what it may hold");
        }
        if let Some(site) = node.get("site").filter(|site| is_idle(site)) {
            let what = format!("`site` does nothing for `{name}`: nothing is bound to it");
            warn(&site.spot, what, BIND);
        }
    }
    let coordinator = main.get("coordinator");
    let sites = coordinator.and_then(|node| node.get("sites")).map_or(&[][..], Node::list);
    for site in sites.iter().filter(|site| is_idle(site)) {
        let name = site.text().unwrap_or_default();
        let what = format!("`sites` does nothing for `{name}`: nothing is bound to it");
        warn(&site.spot, what, BIND);
    }
    if let Some(host) = coordinator.and_then(|node| node.get("running_per_host"))
        && let Some(count) = config.coordinator.running_per_host
        && count > config.coordinator.running
    {
        let running = config.coordinator.running;
        let what = format!("{count} on one host are never reached: {running} run at once");
        warn(&host.spot, what, "running_per_host: less than `running`");
    }
    for (name, _, node) in named(main, "policy") {
        let own = ["blackout", "blackout_hard"].into_iter().find_map(|key| node.get(key));
        let Some((own, policy)) = own.zip(config.policies.get(name)) else { continue };
        let ends = successors(Some(now), |at| policy.closed_until(*at)).take(LOOKS_MAX);
        if ends.last().is_some_and(|end| now + NEVER <= end) {
            let what = format!("the blackout of `{name}` never ends: nothing is ever backed up");
            warn(&own.spot, what, "leave hours of the week in which backups may run");
        }
    }
}
