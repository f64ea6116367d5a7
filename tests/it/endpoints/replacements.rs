//! Servers are replaced under one process, and nobody is paged.

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::Value;

use super::quay::{
    Balancer, CALM, FILES, SERVERS, SQLITE, ended, file, notices, register_file, register_server,
    server, sql, wait_for_endpoint, wait_for_state, ward,
};
use crate::serving::ward::Ward;

/// Rows 7, 13 and 20: eight databases on one process, each replaced seven times over by another
/// endpoint: more than fifty replacements. Nobody says a word to it, and it tells nobody anything.
#[test]
fn rows_7_13_and_20_fifty_replacements_of_eight_databases_page_nobody() {
    const DATABASES: usize = 8;
    const TIMES: usize = 7;
    let rpo = CALM.replace("2d", "1m");
    let ward = ward(&format!("{rpo}{FILES}{SQLITE}"));
    let name = |database: usize| format!("app{database}");
    let id = |database: usize, time: usize| format!("i-{database}-{time}");
    for database in 0..DATABASES {
        drop(ward.create(&format!("{}.db", name(database))));
    }
    let register = |database: usize, time: usize| {
        let own = name(database);
        register_file(&ward, &id(database, time), &format!("{own}.db"), &own);
    };
    (0..DATABASES).for_each(|database| register(database, 0));
    let serving = ward.serve();
    for database in 0..DATABASES {
        ward.wait_for_backups(&name(database), 1);
    }
    for time in 1..=TIMES {
        for database in 0..DATABASES {
            register(database, time);
            fs::remove_file(file(&ward, &id(database, time - 1))).unwrap();
        }
        ward.wait_until("all replacements", || {
            let status = ward.json(&["status"]);
            let rows = status["databases"].as_array().unwrap();
            (0..DATABASES).all(|database| rows[database]["endpoint"] == id(database, time))
        });
    }
    let status = ward.json(&["status"]);
    for row in status["databases"].as_array().unwrap() {
        assert_eq!((&row["rpo"], &row["trouble"]), (&"ok".into(), &Value::Null), "{row}");
    }
    assert_eq!(notices(&ward), Vec::<Value>::new());
    assert_eq!(ward.run(&["status", "--fail"]).0, 0);
    let listed = ward.json(&["endpoint", "list", "--all"]);
    let states: Vec<_> = listed["endpoints"].as_array().unwrap().iter().collect();
    let gone = states.iter().filter(|one| one["state"] == "gone(expected)").count();
    assert_eq!((states.len(), gone), (DATABASES * (TIMES + 1), DATABASES * TIMES));
    serving.stop();
}

/// Row 13: one process serves four servers and four files; each is replaced under it by another
/// one, and the old ones end. All are backed up, and come back as their last endpoints had them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_13_one_process_backs_up_eight_endpoints_of_two_engines_that_are_replaced() {
    const EACH: usize = 4;
    let ward = ward(&format!("{CALM}{FILES}{SQLITE}{SERVERS}"));
    fs::set_permissions(ward.path("."), fs::Permissions::from_mode(0o755)).unwrap();
    let names: Vec<String> = ["file", "server"]
        .iter()
        .flat_map(|kind| (0..EACH).map(move |n| format!("{kind}{n}")))
        .collect();
    let (mut applications, mut servers) = (Vec::new(), Vec::new());
    let serving = ward.serve();
    for time in ["a", "b"] {
        for n in 0..EACH {
            let (own, id) = (format!("file{n}"), format!("file{n}-{time}"));
            applications.push(ward.create(&format!("{id}.db")));
            register_file(&ward, &id, &format!("{id}.db"), &own);
            let (own, id) = (format!("server{n}"), format!("server{n}-{time}"));
            let Some(next) = server() else { return };
            sql(&next, &format!("CREATE TABLE entry AS SELECT '{id}' AS text")).await;
            register_server(&ward, &id, next.port(), &own);
            servers.push(next);
        }
        for name in &names {
            wait_for_endpoint(&ward, name, &format!("{name}-{time}"));
            ward.wait_for_backups(name, if time == "a" { 1 } else { 2 });
        }
        if time == "a" {
            continue;
        }
        for name in &names {
            fs::remove_file(file(&ward, &format!("{name}-a"))).unwrap();
        }
        // Those that were replaced end: servers with their directories, files with their names.
        drop(servers.drain(..EACH));
        drop(applications.drain(..EACH));
        for n in 0..EACH {
            fs::remove_file(ward.path(&format!("file{n}-a.db"))).unwrap();
        }
    }
    for (application, server) in applications.iter().zip(&servers) {
        application.execute("INSERT INTO t DEFAULT VALUES", []).unwrap();
        sql(server, "INSERT INTO entry VALUES ('after')").await;
    }
    ward.wait_until("that all is well", || {
        let status = ward.json(&["status"]);
        let mut rows = status["databases"].as_array().unwrap().iter();
        rows.all(|row| row["rpo"] == "ok" && row["trouble"].is_null())
    });
    for name in &names {
        let id = format!("{name}-b");
        ward.ok(&["endpoint", "drain", &id, "--wait", "--timeout", "90s"]);
        assert_eq!(ended(&ward, name, "failed"), 0, "{:#?}", ward.jobs(name));
    }
    assert_eq!(notices(&ward), Vec::<Value>::new());
    assert_eq!(serving.stop(), 143);
    for n in 0..EACH {
        assert_eq!(ward.restored_rows(&format!("file{n}")), 2);
        let to = ward.path(&format!("restored{n}"));
        let (name, place) = (format!("server{n}"), to.to_str().unwrap());
        let words = ["restore", &name, "--repo", "repo", "--to", place];
        let (status, told) = with_programs(&ward, &words);
        assert_eq!(status, 0, "{told}");
        let restored = stillpoint_testcontainers::Postgres::start_on(17, &to).unwrap();
        assert_eq!(entries(&restored).await, ["after".to_owned(), format!("server{n}-b")]);
    }
}

/// Runs the program where it finds the programs of a server.
fn with_programs(ward: &Ward, words: &[&str]) -> (i32, String) {
    let mut places = vec![stillpoint_testcontainers::Postgres::programs(17).unwrap()];
    places.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let mut command = ward.command(words);
    let output = command.env("PATH", std::env::join_paths(places).unwrap()).output().unwrap();
    let told = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8(told).unwrap())
}

/// Row 9: blue is killed amid its backup, with green registered: nobody is told, the job is
/// superseded, and green is backed up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_9_a_server_that_is_killed_amid_its_backup_is_superseded_and_pages_nobody() {
    let (Some(mut blue), Some(green)) = (server(), server()) else { return };
    let fill = "CREATE TABLE big AS SELECT n, repeat(md5(n::text), 30) AS text
        FROM generate_series(1, 30000) AS n";
    sql(&blue, fill).await;
    sql(&green, "CREATE TABLE entry (n int)").await;
    let slowly = SERVERS.replace("/postgres\"", "/postgres?method=sql\"");
    let ward = ward(&format!("{CALM}{FILES}{slowly}"));
    let before_blue = Balancer::before(blue.port());
    register_server(&ward, "blue", before_blue.address.port(), "shop");
    let serving = ward.serve();
    ward.wait_until("the backup of blue", || before_blue.is_busy());
    register_server(&ward, "green", green.port(), "shop");
    blue.kill();
    ward.wait_until("the backup of green", || ended(&ward, "shop", "succeeded") > 0);
    wait_for_endpoint(&ward, "shop", "green");
    let jobs = ward.jobs("shop");
    let outcomes: Vec<_> = jobs.iter().rev().map(|job| job["outcome"].clone()).collect();
    assert_eq!(
        (ended(&ward, "shop", "failed"), &outcomes[0]),
        (0, &"superseded".into()),
        "{jobs:#?}"
    );
    let last = jobs.iter().rev().find(|job| job["outcome"] == "superseded").unwrap();
    assert!(last["reason"].as_str().unwrap().contains("green took over from blue"), "{last}");
    assert!(ended(&ward, "shop", "succeeded") >= 1, "{jobs:#?}");
    let listed = ward.json(&["list", "shop", "--repo", "repo"]);
    assert_eq!(listed["backups"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(notices(&ward), Vec::<Value>::new());
    serving.stop();
}

/// Row 8: blue and green are two servers, both up; after the cut over, instants before and after
/// it can be restored, each from the log of its own server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_8_blue_and_green_are_both_restored_to_the_second() {
    let (Some(blue), Some(green)) = (server(), server()) else { return };
    for (server, name) in [(&blue, "blue"), (&green, "green")] {
        let make = format!("CREATE TABLE entry (text text); INSERT INTO entry VALUES ('{name}')");
        sql(server, &make).await;
    }
    let ward = ward(&format!("{CALM}{FILES}{SERVERS}"));
    fs::set_permissions(ward.path("."), fs::Permissions::from_mode(0o755)).unwrap();
    register_server(&ward, "blue", blue.port(), "shop");
    let serving = ward.serve();
    ward.wait_for_backups("shop", 1);
    let captures = || ward.said().matches("capture.started").count();
    ward.wait_until("blue's log", || captures() == 1);
    sql(&blue, "INSERT INTO entry VALUES ('before')").await;
    let world = stillpoint::world::World::real(1);
    world.clock.sleep(std::time::Duration::from_millis(50)).await;
    let before = world.clock.now();
    world.clock.sleep(std::time::Duration::from_millis(50)).await;
    sql(&blue, "INSERT INTO entry VALUES ('too late')").await;
    let (status, told) = ward.run(&["endpoint", "drain", "blue", "--wait", "--timeout", "60s"]);
    assert_eq!(status, 0, "{told}\n{}", ward.said());

    register_server(&ward, "green", green.port(), "shop");
    wait_for_endpoint(&ward, "shop", "green");
    wait_for_state(&ward, "blue", "draining");
    ward.wait_for_backups("shop", 2);
    ward.wait_until("green's log", || captures() == 2);
    sql(&green, "INSERT INTO entry VALUES ('after')").await;
    let (status, told) = ward.run(&["endpoint", "drain", "green", "--wait", "--timeout", "60s"]);
    assert_eq!(status, 0, "{told}\n{}", ward.said());
    serving.stop();
    assert_eq!(notices(&ward), Vec::<Value>::new());

    let stamp = before.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    for (at, wanted) in
        [(stamp.as_str(), vec!["before", "blue"]), ("latest", vec!["after", "green"])]
    {
        let to = ward.path(&format!("restored-{}", wanted[1]));
        let to = to.to_str().unwrap();
        let words = ["restore", "shop", "--repo", "repo", "--at", at, "--to", to];
        let (status, told) = with_programs(&ward, &words);
        assert_eq!(status, 0, "{told}");
        let restored = stillpoint_testcontainers::Postgres::start_on(17, to.as_ref()).unwrap();
        assert_eq!(entries(&restored).await, wanted);
    }
}

async fn entries(server: &stillpoint_testcontainers::Postgres) -> Vec<String> {
    let (client, connection) =
        tokio_postgres::connect(&server.conninfo(), tokio_postgres::NoTls).await.unwrap();
    let running = tokio::spawn(connection);
    let rows = client.query("SELECT text FROM entry ORDER BY text", &[]).await.unwrap();
    drop(client);
    drop(running.await);
    rows.iter().map(|row| row.get(0)).collect()
}

/// A server that is not up yet does not take the role of one that is.
#[test]
fn one_that_does_not_answer_yet_takes_nothing_over() {
    let ward = ward(&format!("{CALM}{FILES}{SQLITE}"));
    drop(ward.create("blue.db"));
    let serving = ward.serve();
    register_file(&ward, "blue", "blue.db", "shop");
    wait_for_endpoint(&ward, "shop", "blue");
    register_file(&ward, "green", "green.db", "shop");
    ward.wait_until("that green was asked", || {
        super::quay::endpoint(&ward, "green")["trouble"].is_string()
    });
    assert_eq!(super::quay::endpoint(&ward, "green")["state"], "pending");
    assert_eq!(ward.status("shop")["endpoint"], "blue");
    drop(ward.create("green.db"));
    wait_for_endpoint(&ward, "shop", "green");
    // Another file is another incarnation, which begins with a backup of its own.
    ward.wait_for_backups("shop", 2);
    assert_eq!(ended(&ward, "shop", "failed"), 0);
    serving.stop();
}
