//! Several writers in one repository at the same time.

use crate::site::{Running, Site, add, rows};

/// Backups at once, two of them of the same database.
const DATABASES: [&str; 5] = ["a.db", "b.db", "c.db", "d.db", "a.db"];
const ROUNDS: usize = 3;

#[test]
fn backups_of_many_databases_and_of_the_same_one_all_succeed_at_once() {
    let site = Site::new();
    let open: Vec<_> =
        (200..).zip(&DATABASES[..4]).map(|(count, name)| site.create(name, count)).collect();
    for round in 1..=ROUNDS {
        let start = |name: &&str| site.spawn(&["backup", &format!("sqlite:{name}")], "backup");
        let all: Vec<_> = DATABASES.iter().map(start).collect();
        let statuses: Vec<i32> = all.into_iter().map(Running::end).collect();
        let said = std::fs::read_to_string(site.path("backup.log")).unwrap();
        assert_eq!(statuses, [0; DATABASES.len()], "{said}");
        let listed = site.json(&["list"])["backups"].as_array().unwrap().len();
        assert_eq!(listed, round * DATABASES.len());
        for connection in &open {
            add(connection, 100);
        }
    }
    site.ok(&["verify"]);
    for (count, name) in (200..).zip(&DATABASES[..4]) {
        let target = format!("back-{name}");
        site.ok(&["restore", name, "--to", &target]);
        // The last rows came after the last backup.
        assert_eq!(rows(&site.path(&target)), count + 100 * (ROUNDS as u32 - 1));
    }
}
