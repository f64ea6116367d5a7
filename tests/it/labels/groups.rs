//! Several databases are restored to the same time, all or none.

use std::{env, fs, thread::sleep, time::Duration};

use chrono::{DateTime, Utc};
use rusqlite::Connection;
use serde_json::Value;
use stillpoint::world::World;
use stillpoint_testcontainers::Postgres;

use super::shops::{database, shops};
use crate::{
    cli::golden::assert_shape,
    postgres::{Story, exact},
    serving::ward::{HEAD, Serving, Ward, rows},
};

/// Longer than a capture of SQLite takes to see a commit.
const PAUSE: Duration = Duration::from_millis(500);

/// Commits a row and returns an instant before it and one after, a while apart.
fn commit(world: &World, connection: &Connection) -> (DateTime<Utc>, DateTime<Utc>) {
    let before = world.clock.now();
    connection.execute("INSERT INTO t DEFAULT VALUES", []).unwrap();
    sleep(PAUSE);
    (before, world.clock.now())
}

/// Captures the log of a database, from when this returns on.
fn capture(ward: &Ward, file: &str, name: &str, count: usize) -> Serving {
    let url = format!("sqlite:{file}");
    let words = ["logs", "stream", &url, "--name", name, "--repo", "repo", "--flush", "1s"];
    let capture = ward.start(&words, &[]);
    ward.wait_until("a capture", || ward.said().matches("Capturing").count() == count);
    capture
}

/// What became of a database, by its name.
fn of<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let all = answer["databases"].as_array().unwrap();
    all.iter().find(|one| one["database"] == name).unwrap_or_else(|| panic!("{name}: {answer}"))
}

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap_or_else(|| panic!("{value}")).parse().unwrap()
}

/// Rows 42 and 56: two databases are restored to one time; the plan and the report show at which
/// commit each of them really stops.
#[test]
fn row_56_two_databases_are_restored_to_the_same_time() {
    let world = World::real(1);
    let ward = shops("");
    let open = |file| Connection::open(ward.path(file)).unwrap();
    let (orders, stock) = (open("orders.db"), open("stock.db"));
    ward.ok(&["backup", "-l", "team=shop"]);
    let captures = [
        capture(&ward, "orders.db", "shop/orders", 1),
        capture(&ward, "stock.db", "shop/stock", 2),
    ];
    let of_orders = commit(&world, &orders);
    let of_stock = commit(&world, &stock);
    let at = world.clock.now();
    sleep(PAUSE);
    commit(&world, &orders);
    commit(&world, &stock);
    sleep(3 * PAUSE);
    for capture in captures {
        capture.stop();
    }

    let at = exact(at);
    let to = ward.path("then");
    let words = ["restore", "-l", "team=shop", "--at", &at, "--to", "then"];
    let plan = ward.json(&[&words[..], &["--plan"]].concat());
    assert_shape("restore-group-plan", &plan);
    assert!(!to.exists(), "planning writes nothing");
    let told = ward.ok(&[&words[..], &["--plan"]].concat());
    assert!(told.contains("commit of") && told.contains("shop/stock: Time: not known"), "{told}");
    for name in ["shop/orders", "shop/stock"] {
        let lost = &of(&plan, name)["lost"];
        assert_eq!((&lost["transactions"], &lost["is_more"]), (&1.into(), &false.into()), "{lost}");
    }

    let restored = ward.json(&words);
    assert_shape("restore-group", &restored);
    for (name, (before, after)) in [("shop/orders", of_orders), ("shop/stock", of_stock)] {
        let done = of(&restored, name);
        let stop = &done["done"]["stop"];
        assert_eq!((&done["outcome"], &stop["after"]), (&"restored".into(), &"commit".into()));
        let stopped = time(&stop["at"]);
        assert!(before <= stopped && stopped <= after, "{before} {after} {done}");
        assert_eq!(&of(&plan, name)["stop"], stop, "the plan knew it");
        let file = done["target"].as_str().unwrap();
        assert_eq!(rows(&Connection::open(file).unwrap()), 2, "{done}");
    }
    assert!(to.join("shop%2Forders/database.sqlite").is_file());

    // What is there is not written over, and then nothing else is restored either.
    fs::remove_dir_all(to.join("shop%2Fstock")).unwrap();
    let (status, told) = ward.run(&words);
    assert!(status == 5 && told.contains("shop/orders"), "{status} {told}");
    assert!(!to.join("shop%2Fstock").exists());
    let told = ward.ok(&[&words[..], &["--force"]].concat());
    assert!(told.contains("Restored 2 of 2") && told.contains("commit of"), "{told}");
}

/// Row 56: where one database cannot reach the time, none is restored, each that cannot is named,
/// and so is a time that all can reach.
#[test]
fn row_56_all_are_restored_or_none() {
    let world = World::real(1);
    let ward = shops(&database("shop/never", "orders.db", "else"));
    let orders = Connection::open(ward.path("orders.db")).unwrap();
    ward.ok(&["backup", "shop/orders"]);
    let first = capture(&ward, "orders.db", "shop/orders", 1);
    commit(&world, &orders);
    let early = exact(world.clock.now());
    commit(&world, &orders);
    ward.ok(&["backup", "shop/stock"]);
    let second = capture(&ward, "stock.db", "shop/stock", 2);
    let stock = Connection::open(ward.path("stock.db")).unwrap();
    commit(&world, &orders);
    commit(&world, &stock);
    commit(&world, &orders);
    sleep(3 * PAUSE);
    first.stop();
    second.stop();

    let to = ward.path("then");
    let to = to.to_str().unwrap();
    let restore =
        |labels: &str, at: &str| ward.run(&["restore", "-l", labels, "--at", at, "--to", to]);
    // Before the first backup of one.
    let (status, told) = restore("team=shop", &early);
    assert_eq!(status, 6, "{told}");
    for said in ["shop/stock: SP", "before the first backup", "could", "nothing was restored"] {
        assert!(told.contains(said), "{said}\n{told}");
    }
    assert!(!told.contains("newest time that all reach"), "{told}");
    // After the newest commit of both; what is advised can be done.
    let late = exact(world.clock.now() + chrono::TimeDelta::hours(1));
    let (status, told) = restore("team=shop", &late);
    assert_eq!(status, 6, "{told}");
    let advised = told.lines().find_map(|line| line.split_once("--at ")).unwrap();
    let advised = advised.1.split(' ').next().unwrap();
    assert!(!ward.path("then").exists(), "nothing was written");
    let (status, told) = restore("team=shop", advised);
    assert!(status == 0 && told.contains("Restored 2 of 2"), "{advised}\n{told}");

    // One that was never backed up can be restored to no time.
    let (status, told) = restore("team=else", &early);
    assert!(status == 6 && told.contains("shop/never"), "{told}");
    // No time is the same for all of them but a time.
    let (status, told) = restore("team=shop", "latest");
    assert!(status == 2 && told.contains("only a time"), "{told}");
    let (status, told) = ward.run(&["restore", "-l", "team=shop", "--backup", "01", "--to", to]);
    assert!(status == 2 && told.contains("cannot be used with"), "{told}");
}

/// Row 56: a server and a file, in repositories of their own, at one time.
#[tokio::test(flavor = "multi_thread")]
async fn row_56_a_server_and_a_file_are_restored_to_the_same_time() {
    let Some(mut story) = Story::begin(15, "sql").await else { return };
    let (place, key) = (story.site.path("repo"), story.site.path("key"));
    let ward = Ward::new(&format!(
        "{HEAD}[repository.servers]\nurl = \"{}\"\n\
         encryption = {{ key = {{ exec = [\"cat\", \"{}\"] }} }}\n\
         [policy.default]\nlogs = \"never\"\n\
         [database.shop]\nendpoint = \"{}\"\nrepository = \"servers\"\n\
         labels = {{ app = \"shop\" }}\n\
         [database.cart]\nendpoint = \"sqlite:cart.db\"\nrepository = \"primary\"\n\
         labels = {{ app = \"shop\" }}\n",
        place.display(),
        key.display(),
        story.url,
    ));
    ward.ok(&["init", "--no-encryption", "--repo", "repo"]);
    let cart = ward.create("cart.db");
    let backed_up = ward.json(&["backup", "-l", "app=shop"]);
    assert_eq!(backed_up["databases"].as_array().unwrap().len(), 2, "{backed_up}");
    let of_cart = capture(&ward, "cart.db", "cart", 1);
    let of_shop = story.capture().await;
    story.write(2).await;
    let world = World::real(2);
    let (before, after) = commit(&world, &cart);
    let at = exact(world.clock.now());
    story.pause(500).await;
    story.write(1).await;
    commit(&world, &cart);
    story.end(of_shop).await;
    of_cart.stop();

    let mut places = vec![Postgres::programs(15).unwrap()];
    places.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    let path = env::join_paths(places).unwrap();
    let to = story.site.path("then");
    let words = ["restore", "-l", "app=shop", "--at", &at, "--to", to.to_str().unwrap()];
    let ran = |more: &[&str]| -> Value {
        let words = [&words[..], more, &["-o", "json"]].concat();
        let output = ward.command(&words).env("PATH", &path).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let (plan, restored) = (ran(&["--plan"]), ran(&[]));
    for name in ["cart", "shop"] {
        let stop = &of(&restored, name)["done"]["stop"];
        assert_eq!(stop["after"], "commit", "{restored}");
        assert_eq!(&of(&plan, name)["stop"]["at"], &stop["at"], "{plan}\n{restored}");
    }
    let stopped = time(&of(&restored, "cart")["done"]["stop"]["at"]);
    assert!(before <= stopped && stopped <= after, "{restored}");
    let stopped = time(&of(&restored, "shop")["done"]["stop"]["at"]);
    assert!(story.instants[0] < stopped && stopped <= story.instants[1], "{restored}");
    assert_eq!(rows(&Connection::open(to.join("cart/database.sqlite")).unwrap()), 2);
    assert_eq!(story.start(&to.join("shop")).await, [1, 2]);
}
