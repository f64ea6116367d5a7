//! Bringing back points of the bank's history: by time, position, transaction, name and backup.
//!
//! Half of the targets are laid out anew and half rewrite one directory that an earlier target
//! left, which is quicker and proves `--delta` on the way: the states differ by anything that can
//! happen to a cluster.

use std::{fs, path::Path, process::Command};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::Value;
use stillpoint::repository::store::Dice;
use stillpoint_testcontainers::Postgres;
use tokio::task::block_in_place;
use tokio_postgres::Client;

use super::{
    branch::{Branch, NAME, connect},
    ledger::{Truth, lsn, number},
};

pub(super) struct Proof {
    branch: Branch,
    truth: Truth,
    dice: Dice,
    restored: usize,
}

/// A point to go to.
#[derive(Clone, Debug)]
enum Point {
    Latest,
    Backup { id: String, at: DateTime<Utc>, position: u64 },
    Time(DateTime<Utc>),
    Position(u64),
    Transaction { xid: String, n: i64 },
    Name { name: String, n: i64 },
}

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap_or_else(|| panic!("{value}")).parse().unwrap()
}

impl Proof {
    pub(super) fn new(branch: Branch, truth: Truth, dice: Dice) -> Self {
        Self { branch, truth, dice, restored: 0 }
    }

    pub(super) async fn prove(mut self, wanted: usize) {
        block_in_place(|| self.branch.server.stop()).unwrap();
        let timeline = self.branch.ok(&["timeline", NAME]);
        // The slot outlived everything, so there is no hole.
        assert_eq!(timeline["gaps"], Value::Array(Vec::new()), "{timeline}");
        self.branch.ok(&["verify"]);
        let mut points = self.points(wanted);
        points.insert(self.dice.below(points.len() + 1), Point::Latest);
        println!("{} targets", points.len());
        for point in points {
            self.restore(&point).await;
        }
        self.refuse();
    }

    fn points(&self, wanted: usize) -> Vec<Point> {
        let backups = self.branch.ok(&["list", NAME]);
        let backups = backups["backups"].as_array().unwrap().clone();
        println!("{} backups", backups.len());
        let told = &self.truth.book.told;
        let named = &self.truth.book.named;
        let kinds = 0..wanted.max(5);
        kinds
            .filter_map(|kind| {
                let one = &told[self.dice.below(told.len())];
                match kind % 5 {
                    0 => {
                        let backup = &backups[self.dice.below(backups.len())];
                        Some(Point::Backup {
                            id: backup["id"].as_str().unwrap().to_owned(),
                            at: time(&backup["at"]),
                            position: lsn(backup["engine_position"].as_str().unwrap()),
                        })
                    }
                    1 => {
                        let last = told[told.len() - 1].began;
                        let length = (last - self.truth.since).num_microseconds().unwrap();
                        let at = self.dice.below(length as usize) as i64;
                        Some(Point::Time(self.truth.since + TimeDelta::microseconds(at)))
                    }
                    2 => one.after.map(Point::Position),
                    3 => Some(Point::Transaction { xid: one.xid.clone(), n: one.n }),
                    _ => named
                        .get(self.dice.below(named.len()))
                        .map(|(name, n)| Point::Name { name: name.clone(), n: *n }),
                }
            })
            .collect()
    }

    async fn restore(&mut self, point: &Point) {
        self.restored += 1;
        let target = [format!("anew-{}", self.restored), "again".to_owned()];
        let target = &target[self.dice.below(2)];
        let at = match point {
            Point::Latest => "latest".to_owned(),
            Point::Backup { id, .. } => id.clone(),
            Point::Time(at) => at.to_rfc3339_opts(SecondsFormat::Micros, true),
            Point::Position(at) => format!("{:X}/{:X}", at >> 32, at & 0xffff_ffff),
            Point::Transaction { xid, .. } => format!("xid:{xid}"),
            Point::Name { name, .. } => format!("name:{name}"),
        };
        let option = if matches!(point, Point::Backup { .. }) { "--backup" } else { "--at" };
        let mut words = vec!["restore", NAME, option, &at, "--to", target];
        if target == "again" && self.branch.site.path(target).exists() {
            words.push("--delta");
        }
        println!("{point:?}: {}", words.join(" "));
        let answer = block_in_place(|| self.branch.ok(&words));
        let check = answer["check"].as_str().unwrap();
        assert!(check.contains("checksums of"), "{check}");
        let path = self.branch.site.path(target);
        let n = self.look(&path).await;
        match point {
            Point::Latest => assert_eq!(n, self.truth.len()),
            Point::Backup { at, position, .. } => {
                self.truth.check_position(n, *position);
                // Its instant is one after its state, so that nothing later is ever in it.
                self.truth.check_not_later(n, *at);
            }
            Point::Time(at) => self.truth.check_time(n, *at),
            Point::Position(at) => self.truth.check_position(n, *at),
            Point::Transaction { n: expected, .. } | Point::Name { n: expected, .. } => {
                assert_eq!(n, *expected, "{point:?}");
            }
        }
        if target != "again" {
            fs::remove_dir_all(&path).unwrap();
        }
    }

    /// Starts a server on what was restored; answers with the number of transfers that it has.
    async fn look(&self, path: &Path) -> i64 {
        let major = self.branch.server.major();
        let mut server = block_in_place(|| Postgres::start_on(major, path)).unwrap();
        let client = connect(&server.conninfo()).await.unwrap();
        assert_eq!(number(&client, "SELECT count(*) FROM fleeting").await, 0, "not emptied");
        self.verify(&client).await;
        let n = self.truth.check(&client, &server.conninfo()).await;
        // What was prepared and not committed then is still to be decided, and holds.
        let prepared = client.query("SELECT gid FROM pg_prepared_xacts", &[]).await.unwrap();
        assert!(prepared.len() <= 1);
        for row in prepared {
            let gid: String = row.get(0);
            assert!(gid.starts_with(&format!("t{}-", n + 1)), "{gid} after {n}");
            client.batch_execute(&format!("COMMIT PREPARED '{gid}'")).await.unwrap();
            assert_eq!(self.truth.check(&client, &server.conninfo()).await, n + 1);
        }
        drop(client);
        let port = server.port().to_string();
        let everything = ["--all", "--heapallindexed", "-h", "127.0.0.1", "-U", "postgres", "-p"];
        Self::ask_the_servers(major, "pg_amcheck", &[&everything[..], &[&port]].concat());
        block_in_place(|| server.stop()).unwrap();
        Self::ask_the_servers(major, "pg_checksums", &["--check", "-D", path.to_str().unwrap()]);
        n
    }

    /// Runs a program of the server's, of the versions for which all are installed.
    fn ask_the_servers(major: u32, program: &str, words: &[&str]) {
        if ![15, 17].contains(&major) {
            return;
        }
        let program = Postgres::program(major, program).unwrap();
        let output = block_in_place(|| Command::new(&program).args(words).output()).unwrap();
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        assert!(output.status.success(), "{} {words:?}: {}", program.display(), said.concat());
    }

    /// Lets the server compare every index with its table, and look at every row.
    async fn verify(&self, client: &Client) {
        client.batch_execute("CREATE EXTENSION amcheck").await.unwrap();
        // While a transaction is prepared, what it did is neither there nor not.
        let indexes = "SELECT count(bt_index_check(i.indexrelid, true)) FROM pg_index AS i \
                       JOIN pg_class AS c ON c.oid = i.indexrelid \
                       WHERE c.relam = 403 AND i.indisvalid AND i.indisready \
                       AND c.relpersistence = 'p'";
        assert!(number(client, indexes).await > 100);
        if self.branch.server.major() >= 14 {
            let heaps = "SELECT count(*) FROM pg_class AS c, verify_heapam(c.oid) \
                         WHERE c.relkind IN ('r', 't', 'm') AND c.relpersistence = 'p'";
            assert_eq!(number(client, heaps).await, 0, "heaps are damaged");
        }
    }

    /// What nobody can reach is refused with the status for that, and leaves nothing.
    fn refuse(&self) {
        let hour = TimeDelta::hours(1);
        for time in [self.truth.since - hour, self.branch.now() + hour] {
            let at = time.to_rfc3339();
            let words = ["restore", NAME, "--at", &at, "--to", "never"];
            self.branch.site.fails(&words, 6, &["SP0704", "nearest"]);
            assert!(!self.branch.site.path("never").exists());
        }
    }
}
