//! Two coordinators on one state database in a server.

use std::collections::{BTreeMap, BTreeSet};

use rustix::process::Signal;
use serde_json::Value;
use stillpoint_testcontainers::Postgres;

use super::ward::{HEAD, Ward, rows};
use crate::{postgres::connect, tap::Tap};

/// Something is due for one of them every few seconds.
const POLICY: &str = "[policy.default]\nlogs = \"never\"\nrpo = \"2d\"\nfull = \"0 0 1 1 *\"\n\
    incremental = { at = \"* * * * *\", spread = \"50s\" }\nkeep = { last = 10000 }\n\
    [policy.once]\nincremental = \"0 0 1 1 *\"\n";

const NAMES: [&str; 6] = ["app0", "app1", "app2", "app3", "app4", "app5"];

/// Who has begun to serve, in order.
fn workers(ward: &Ward) -> Vec<String> {
    let said = ward.said();
    let lines = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let started = lines.filter(|line| line["fields"]["event"] == "serve.started");
    started.map(|line| line["fields"]["worker"].as_str().unwrap().to_owned()).collect()
}

/// How many jobs each worker has brought to an end, by the audit log.
fn ended(ward: &Ward) -> BTreeMap<String, usize> {
    let audit = ward.json(&["audit", "log", "--count", "100000"]);
    let mut ended = BTreeMap::new();
    for line in audit["lines"].as_array().unwrap() {
        if line["action"] == "job.ended" {
            *ended.entry(line["who"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    ended
}

/// The jobs that made backups of a database.
fn made(ward: &Ward, name: &str) -> Vec<Value> {
    let is_backup = |job: &Value| job["kind"] == "full" || job["kind"] == "incremental";
    let jobs = ward.jobs(name).into_iter();
    jobs.filter(|job| is_backup(job) && job["outcome"] == "succeeded").collect()
}

/// For each due time there is one backup, and each backup that a job tells of is there.
fn assert_once(ward: &Ward, name: &str) {
    let made = made(ward, name);
    let dues: BTreeSet<String> =
        made.iter().map(|job| format!("{} {}", job["kind"], job["due"])).collect();
    assert_eq!(dues.len(), made.len(), "{made:#?}");
    let told = made.iter().map(|job| {
        let reason = job["reason"].as_str().unwrap();
        reason.split([' ', ',']).nth(1).unwrap().to_owned()
    });
    let told: BTreeSet<String> = told.collect();
    assert_eq!(told.len(), made.len(), "{made:#?}");
    let list = ward.json(&["list", name, "--repo", "repo"]);
    let listed = list["backups"].as_array().unwrap().iter();
    let listed: BTreeSet<String> =
        listed.map(|backup| backup["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(listed, told, "{name}");
}

/// Both take part in the work. Of one that is killed amid a backup the other takes over what it
/// had, and all that becomes due: no backup is lost, and none is made twice.
#[tokio::test(flavor = "multi_thread")]
async fn two_share_the_work_and_what_one_had_that_was_killed_the_other_does_once() {
    let Some(server) = Postgres::required(17) else { return };
    let fill = "CREATE TABLE bulk AS SELECT n, repeat(md5(n::text), 30) AS text
        FROM generate_series(1, 20000) AS n";
    connect(&server).await.batch_execute(fill).await.unwrap();
    let tap = Tap::before(server.port());
    tap.slow_down(32 << 10);
    let mut config = format!(
        "{HEAD}[coordinator]\nstate = \"postgres://postgres@127.0.0.1:{}/postgres\"\n{POLICY}\
         [database.slow]\npolicy = \"once\"\n\
         endpoint = \"postgres://postgres@127.0.0.1:{}/postgres?method=sql\"\n",
        server.port(),
        tap.port
    );
    for name in NAMES {
        config = format!("{config}[database.{name}]\nendpoint = \"sqlite:{name}.db\"\n");
    }
    let ward = Ward::new(&config);
    let applications = NAMES.map(|name| ward.create(&format!("{name}.db")));
    let serve = |count: usize| {
        let serving = ward.start(&["serve", "-o", "json"], &[]);
        ward.wait_until("one more that serves", || workers(&ward).len() == count);
        serving
    };
    let first = serve(1);
    let has_ended = |worker: &String| ended(&ward).contains_key(worker);
    ward.wait_until("the work of one", || has_ended(&workers(&ward)[0]));
    let second = serve(2);
    let [one, other] = <[String; 2]>::try_from(workers(&ward)).unwrap();
    // Who looks first after a due time has what is due. The first one sleeps for a while, and is
    // still taken for one that works.
    first.signal(Signal::STOP);
    ward.wait_until("the work of the other", || has_ended(&other));
    first.signal(Signal::CONT);

    ward.wait_until("the slow copy", || 2 << 20 < tap.sent());
    let running = ward.jobs("slow").remove(0);
    assert_eq!(running["state"], "running", "{running:#}");
    let is_first = running["worker"] == *one;
    let (victim, heir) = if is_first { (first, second) } else { (second, first) };
    victim.kill();
    tap.hurry();
    let before = NAMES.map(|name| made(&ward, name).len());
    for application in &applications {
        application.execute("INSERT INTO t DEFAULT VALUES", []).unwrap();
    }
    ward.wait_until("the slow backup", || made(&ward, "slow").len() == 1);
    let outcomes: Vec<Value> =
        ward.jobs("slow").into_iter().rev().map(|job| job["outcome"].clone()).collect();
    assert_eq!(outcomes, ["lost", "succeeded"], "{}", ward.said());
    for (name, before) in NAMES.iter().zip(before) {
        ward.wait_until(name, || made(&ward, name).len() >= before + 2);
    }
    assert_eq!(heir.stop(), 143);

    for name in NAMES.iter().chain(&["slow"]) {
        assert_once(&ward, name);
    }
    for (name, application) in NAMES.iter().zip(&applications) {
        assert_eq!(ward.restored_rows(name), rows(application));
    }
    ward.ok(&["audit", "verify"]);
    ward.ok(&["verify", "--repo", "repo"]);
}
