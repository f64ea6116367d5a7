//! Told to end, it lets what runs come to its end, and begins nothing.

use std::{thread::sleep, time::Duration};

use serde_json::Value;
use stillpoint_testcontainers::Postgres;

use super::ward::{HEAD, Ward};
use crate::{postgres::connect, tap::Tap};

/// One job after the other.
const POLICY: &str = "[coordinator]\nrunning = 1\n\
    [policy.default]\nlogs = \"never\"\nrpo = \"2d\"\n";

const LATER: &str = "[database.later]\nendpoint = \"sqlite:later.db\"\n";

/// Row 26: after SIGTERM the backup that runs is completed and proven; the one that waits for its
/// turn is left to whoever serves next.
#[tokio::test(flavor = "multi_thread")]
async fn row_26_told_to_end_a_running_job_ends_and_nothing_begins() {
    let Some(server) = Postgres::required(17) else { return };
    let fill = "CREATE TABLE bulk AS SELECT n, repeat(md5(n::text), 30) AS text
        FROM generate_series(1, 20000) AS n";
    connect(&server).await.batch_execute(fill).await.unwrap();
    let tap = Tap::before(server.port());
    tap.slow_down(256 << 10);
    let slow = format!(
        "[database.slow]\nendpoint = \"postgres://postgres@127.0.0.1:{}/postgres?method=sql\"\n",
        tap.port
    );
    let ward = Ward::new(&format!("{HEAD}{POLICY}{slow}"));
    drop(ward.create("later.db"));
    let newest = |name: &str| ward.jobs(name).into_iter().next().unwrap_or_default();
    let serving = ward.serve();
    ward.wait_until("the copy", || 2 << 20 < tap.sent());
    ward.configure(&format!("{HEAD}{POLICY}{slow}{LATER}"));
    ward.ok(&["apply"]);
    ward.wait_until("what waits", || newest("later")["state"] == "waiting");
    assert_eq!(newest("slow")["state"], "running", "{}", ward.said());

    serving.terminate();
    ward.wait_until("the drain", || ward.said().contains("serve.draining"));
    sleep(Duration::from_secs(3));
    assert_eq!(newest("slow")["state"], "running", "{}", ward.said());
    tap.hurry();
    assert_eq!(serving.wait(), 143);
    assert_eq!(newest("slow")["outcome"], "succeeded", "{}", ward.said());
    let waits = newest("later");
    assert_eq!((&waits["state"], &waits["started_at"]), (&"waiting".into(), &Value::Null));
    let listed = ward.json(&["list", "--repo", "repo"]);
    let backups = listed["backups"].as_array().unwrap();
    assert_eq!((backups.len(), &backups[0]["proof"]), (1, &"verified".into()), "{listed:#}");

    let serving = ward.serve();
    ward.wait_for_backups("later", 1);
    assert_eq!(serving.stop(), 143);
    assert_eq!(ward.jobs("slow").len(), 1, "it is not done again");
}
