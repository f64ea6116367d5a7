//! A ward whose databases are registered by files, and somebody who is told of alerts.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use stillpoint_testcontainers::{POSTGRES_USER, Postgres, PostgresOptions};

use crate::serving::ward::{HEAD, Ward};

/// Which endpoints there are is looked up in a directory, once a second.
pub(super) const FILES: &str =
    "[[discover]]\nkind = \"files\"\npath = \"targets.d\"\nevery = \"1s\"\n";

/// SQLite databases by the label `app`.
pub(super) const SQLITE: &str = "[[rule]]\nselect = \"engine=sqlite, app\"\n\
    database = \"{app}\"\nendpoint = \"sqlite:{target}\"\nhandoff = \"1s\"\n";

/// Servers by the same.
pub(super) const SERVERS: &str = "[[rule]]\nselect = \"engine=postgres, app\"\n\
    database = \"{app}\"\nendpoint = \"postgres://postgres@{target}/postgres\"\n\
    handoff = \"15m\"\n";

/// Nothing is promised that a slow machine could not keep.
pub(super) const CALM: &str =
    "[policy.default]\nrpo = \"2d\"\nfull = \"0 0 1 1 *\"\nincremental = \"0 0 1 1 *\"\n";

/// A ward with the configuration, where somebody is told of every alert.
pub(super) fn ward(configuration: &str) -> Ward {
    let ward = Ward::new("");
    let program = ward.path("pager");
    let notices = ward.path("notices").display().to_string();
    fs::write(&program, format!("#!/bin/sh\ncat >> {notices}\necho >> {notices}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let alert =
        format!("[[alert]]\nname = \"here\"\nto = [{{ exec = [\"{}\"] }}]\n", program.display());
    fs::create_dir(ward.path("targets.d")).unwrap();
    ward.configure(&format!("{HEAD}{configuration}{alert}"));
    ward
}

/// What somebody was told, one notice in a line.
pub(super) fn notices(ward: &Ward) -> Vec<Value> {
    let text = fs::read_to_string(ward.path("notices")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Registers an endpoint as deployments do: under a passing name first.
pub(super) fn register(ward: &Ward, id: &str, target: &str, labels: &Value, more: &Value) {
    let mut group = json!({ "id": id, "targets": [target], "labels": labels });
    for (key, value) in more.as_object().unwrap() {
        group[key] = value.clone();
    }
    let passing = ward.path("targets.d").join(format!(".{id}.tmp"));
    fs::write(&passing, serde_json::to_vec(&json!([group])).unwrap()).unwrap();
    fs::rename(passing, file(ward, id)).unwrap();
}

/// The file of an endpoint.
pub(super) fn file(ward: &Ward, id: &str) -> std::path::PathBuf {
    ward.path("targets.d").join(format!("{id}.json"))
}

/// Registers a SQLite database.
pub(super) fn register_file(ward: &Ward, id: &str, target: &str, app: &str) {
    register(ward, id, target, &json!({ "engine": "sqlite", "app": app }), &json!({}));
}

/// Registers a server.
pub(super) fn register_server(ward: &Ward, id: &str, port: u16, app: &str) {
    let target = format!("127.0.0.1:{port}");
    register(ward, id, &target, &json!({ "engine": "postgres", "app": app }), &json!({}));
}

/// What `endpoint list` says of one, also when it is gone.
pub(super) fn endpoint(ward: &Ward, id: &str) -> Value {
    let listed = ward.json(&["endpoint", "list", "--all"]);
    let listed = listed["endpoints"].as_array().unwrap().clone();
    listed.into_iter().find(|one| one["id"] == id).unwrap_or(Value::Null)
}

/// Waits until an endpoint has come so far.
pub(super) fn wait_for_state(ward: &Ward, id: &str, state: &str) {
    ward.wait_until(&format!("{id} to be {state}"), || endpoint(ward, id)["state"] == state);
}

/// Waits until an endpoint is the one that is backed up.
pub(super) fn wait_for_endpoint(ward: &Ward, database: &str, id: &str) {
    ward.wait_until(&format!("{id} to have the role"), || {
        let (status, told) = ward.run(&["status", database, "-o", "json"]);
        let told: Value = serde_json::from_str(&told).unwrap_or_default();
        status == 0 && told["databases"][0]["endpoint"] == id
    });
}

/// How many jobs of a database ended in some way.
pub(super) fn ended(ward: &Ward, database: &str, outcome: &str) -> usize {
    ward.jobs(database).iter().filter(|job| job["outcome"] == outcome).count()
}

/// A small server, if its programs are installed.
pub(super) fn server() -> Option<Postgres> {
    let settings = ["autovacuum = off", "wal_sender_timeout = 5s"].map(str::to_owned).to_vec();
    Postgres::required_with(17, &PostgresOptions { settings, ..PostgresOptions::default() })
}

/// Runs statements on a server.
pub(super) async fn sql(server: &Postgres, statements: &str) {
    let (client, connection) =
        tokio_postgres::connect(&server.conninfo(), tokio_postgres::NoTls).await.unwrap();
    let running = tokio::spawn(connection);
    client.batch_execute(statements).await.unwrap();
    drop(client);
    drop(running.await);
    assert_eq!(POSTGRES_USER, "postgres");
}

/// A proxy before one of several servers.
pub(super) struct Balancer {
    pub(super) address: SocketAddr,
    backend: Arc<AtomicU16>,
    passed: Arc<AtomicUsize>,
}

impl Balancer {
    pub(super) fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let backend = Arc::new(AtomicU16::new(port));
        let passed = Arc::new(AtomicUsize::new(0));
        let (chosen, count) = (Arc::clone(&backend), Arc::clone(&passed));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let to = ("127.0.0.1", chosen.load(Ordering::SeqCst));
                let Ok(server) = TcpStream::connect(to) else { continue };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let (chosen, count) = (Arc::clone(&chosen), Arc::clone(&count));
                    let note = move |length| {
                        count.fetch_add(length, Ordering::SeqCst);
                        chosen.load(Ordering::SeqCst) == port
                    };
                    thread::spawn(move || pass_on(from, to, note));
                }
            }
        });
        Self { address, backend, passed }
    }

    /// Whether somebody is amid a copy.
    pub(super) fn is_busy(&self) -> bool {
        2 << 20 < self.passed.load(Ordering::SeqCst)
    }

    pub(super) fn flip(&self, port: u16) {
        self.backend.store(port, Ordering::SeqCst);
    }
}

/// So slowly that a backup takes seconds, as long as the first server has the connections.
fn pass_on(mut from: TcpStream, mut to: TcpStream, note: impl Fn(usize) -> bool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
        if note(length) {
            thread::sleep(Duration::from_micros(length as u64 / 2));
        }
    }
    drop(to.shutdown(std::net::Shutdown::Both));
}
