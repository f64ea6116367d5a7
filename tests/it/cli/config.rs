//! Policies as code, from the command line.

use super::{bench::Bench, golden::assert_shape};

#[test]
fn the_front_page_shows_the_shortest_configuration_and_it_is_sound() {
    let bench = Bench::new();
    bench.ok(&["config", "init", "--out", "stillpoint.toml"]);
    let written = std::fs::read_to_string(bench.path("stillpoint.toml")).unwrap();
    assert!(include_str!("../../../README.md").contains(&format!("```toml\n{written}```\n")));
    assert_eq!(written.lines().count(), 6);
    let again = bench.run(&["config", "init", "--out", "stillpoint.toml"]);
    assert_eq!(again.status, 5, "it must not be overwritten");
    let options = ["-c", "stillpoint.toml"];
    let json = |words: &[&str]| bench.json(&[words, &options[..]].concat());
    assert_shape("config-init", &json(&["config", "init"]));
    assert_shape("config-check", &json(&["config", "check"]));
    assert_shape("config-explain", &json(&["config", "explain", "shop/orders"]));
    assert_shape("config-explain-policy", &json(&["config", "explain", "--policy", "default"]));
    assert_shape("config", &json(&["config", "show"]));
    let schema = bench.ok(&["config", "schema"]).out;
    let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
    assert_eq!(schema["required"], serde_json::json!(["version", "timezone"]));
}

#[test]
fn what_is_shown_is_a_configuration_that_means_the_same() {
    let bench = Bench::new();
    bench.ok(&["config", "init", "--out", "stillpoint.toml"]);
    let shown = bench.ok(&["config", "show", "-c", "stillpoint.toml"]).out;
    std::fs::write(bench.path("shown.toml"), &shown).unwrap();
    assert_eq!(bench.ok(&["config", "show", "-c", "shown.toml"]).out, shown);
}

#[test]
fn everything_wrong_is_told_at_once_in_all_files() {
    let bench = Bench::new();
    bench.ok(&["config", "init", "--out", "stillpoint.toml"]);
    std::fs::create_dir(bench.path("conf.d")).unwrap();
    let wrong = "[policy.tier1]\nrpo = \"5 min\"\n[database.crm]\nendpoint = \"sqlite:/crm.db\"\n\
                 policy = \"teir1\"\n";
    std::fs::write(bench.path("conf.d/a.toml"), wrong).unwrap();
    std::fs::write(bench.path("conf.d/b.json"), "{ \"version\": 1 }").unwrap();
    std::fs::write(bench.path("conf.d/note.txt"), "nothing").unwrap();
    let checked = bench.run(&["config", "check", "-c", "stillpoint.toml"]);
    assert_eq!(checked.status, 3);
    let text = checked.out;
    for told in ["SP0109", "conf.d/a.toml:2:7", "did you mean `tier1`?", "SP0111", "3 errors"] {
        assert!(text.contains(told), "{told} is missing in\n{text}");
    }
    let shown = bench.run(&["config", "show", "-c", "stillpoint.toml"]);
    assert_eq!((shown.status, &*shown.out), (3, ""));
    let told = shown.err;
    assert!(told.contains("next: stillpoint config check -c stillpoint.toml"), "{told}");
    let absent = bench.run(&["config", "check", "-c", "absent.toml"]);
    assert_eq!(absent.status, 3);
}

#[test]
fn due_times_are_shown_before_they_come() {
    let bench = Bench::new();
    bench.ok(&["config", "init", "--out", "stillpoint.toml"]);
    let words = ["schedule", "next", "-c", "stillpoint.toml", "--around", "2027-03-28 00:00 UTC"];
    let next = bench.json(&[&words[..], &["--count", "3"]].concat());
    assert_shape("schedule-next", &next);
    let due = next["due"].as_array().unwrap();
    let of = |kind| due.iter().filter(|due| due["kind"] == kind).collect::<Vec<_>>();
    assert_eq!((of("incremental").len(), of("full").len(), of("drill").len()), (3, 3, 3));
    // Once a day, also on the day on which clocks are set forward, always at the same place.
    let local: Vec<_> =
        of("incremental").iter().map(|due| due["local"].as_str().unwrap()).collect();
    let days: Vec<_> = local.iter().map(|local| &local[..15]).collect();
    assert_eq!(days, ["Sun 28 Mar 2027", "Mon 29 Mar 2027", "Tue 30 Mar 2027"]);
    assert!(local.iter().all(|local| local[16..].cmp("06:00:00").is_lt()), "{local:?}");
    let all = bench.json(&[&words[..], &["--count", "3", "shop/orders"]].concat());
    assert_eq!(all, next);
    let day = ["schedule", "next", "-c", "stillpoint.toml", "--timezone", "UTC", "--count", "3"];
    let day = bench.json(&[&day[..], &["--around", "2027-03-28"]].concat());
    assert_eq!(day["due"], next["due"]);
    bench.refused(&[&words[..], &["shop/nothing"]].concat(), "SP0112", 6);
    bench.refused(&["schedule", "next", "-c", "absent.toml"], "SP0303", 3);
}
