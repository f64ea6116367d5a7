//! What people type after `--at`, and what it means.

use proptest::prelude::*;

use super::*;

/// Saturday afternoon in Berlin.
const NOW: &str = "2026-11-21T14:02:07Z";

fn read_at(text: &str, now: &str, zone: &str) -> Result<Moment> {
    parse(text, now.parse().unwrap(), &Zone::named(zone).unwrap())
}

fn read(text: &str) -> Result<Moment> {
    read_at(text, NOW, "Europe/Berlin")
}

fn facts(error: &Error) -> String {
    let facts = error.facts().iter().map(|(k, v)| format!("{k}: {v}\n")).collect::<String>();
    format!("{facts}{}", error.advice().join("\n"))
}

#[test]
fn times_are_read_as_people_write_them() {
    for (text, expected) in [
        ("2026-11-21T12:20:05Z", "2026-11-21T12:20:05Z"),
        ("2026-11-21t12:20:05z", "2026-11-21T12:20:05Z"),
        ("2026-11-21T13:20:05.123456789+01:00", "2026-11-21T12:20:05.123456789Z"),
        ("2026-11-21 13:20:05+01:00", "2026-11-21T12:20:05Z"),
        ("2026-11-21 13:20:05-0530", "2026-11-21T18:50:05Z"),
        ("2026-11-21 13:20:05 +02:00", "2026-11-21T11:20:05Z"),
        ("2026-11-21 13:20:05 +02", "2026-11-21T11:20:05Z"),
        ("2026-11-21 13:20:05", "2026-11-21T12:20:05Z"),
        ("2026-11-21T13:20:05", "2026-11-21T12:20:05Z"),
        ("2026-11-21 13:20", "2026-11-21T12:20:00Z"),
        ("2026-11-21 13:20:05.5", "2026-11-21T12:20:05.5Z"),
        ("2026-07-21 13:20:05", "2026-07-21T11:20:05Z"),
        ("2026-11-21 13:20:05 Europe/London", "2026-11-21T13:20:05Z"),
        ("2026-11-21 13:20:05 america/new_york", "2026-11-21T18:20:05Z"),
        ("2026-11-21 13:20:05 UTC", "2026-11-21T13:20:05Z"),
        ("2026-11-21 13:20:05 Z", "2026-11-21T13:20:05Z"),
        ("today 13:20", "2026-11-21T12:20:00Z"),
        ("Today 13:20 UTC", "2026-11-21T13:20:00Z"),
        ("today 23:59", "2026-11-21T22:59:00Z"),
        ("yesterday 13:20:05", "2026-11-20T12:20:05Z"),
        ("13:20", "2026-11-21T12:20:00Z"),
        ("9:05", "2026-11-21T08:05:00Z"),
        ("  13:20:05.000001 ", "2026-11-21T12:20:05.000001Z"),
        ("-10m", "2026-11-21T13:52:07Z"),
        ("-1h30m", "2026-11-21T12:32:07Z"),
        ("-2d", "2026-11-19T14:02:07Z"),
        ("-1w2d3h4m5s", "2026-11-12T10:58:02Z"),
        ("-90s", "2026-11-21T14:00:37Z"),
    ] {
        let expected = Moment::Time(expected.parse().unwrap());
        assert_eq!(
            read(text).unwrap_or_else(|e| panic!("{text}: {}", facts(&e))),
            expected,
            "{text}"
        );
    }
    assert_eq!(read("latest").unwrap(), Moment::Latest);
}

#[test]
fn today_is_the_day_in_the_zone_that_was_meant() {
    // It is still Friday in New York and already Saturday in Tokyo.
    let now = "2026-11-21T02:00:00Z";
    let time = |text: &str| Moment::Time(text.parse().unwrap());
    assert_eq!(
        read_at("today 12:00", now, "America/New_York").unwrap(),
        time("2026-11-20T17:00:00Z")
    );
    assert_eq!(
        read_at("today 09:00 Asia/Tokyo", now, "America/New_York").unwrap(),
        time("2026-11-21T00:00:00Z")
    );
}

#[test]
fn positions_are_read_whole_or_by_the_beginning_of_their_lineage() {
    for (text, lineage, offset) in [
        ("0a1b2c3d4e5f-0123456789abcdef:42", "0a1b2c3d4e5f-0123456789abcdef", 42),
        ("0a1b:7", "0a1b", 7),
        (
            "7388120011467391044/2:340282366920938463463374607431768211455",
            "7388120011467391044/2",
            u128::MAX,
        ),
    ] {
        let expected = Moment::Position { lineage: lineage.to_owned(), offset };
        assert_eq!(read(text).unwrap(), expected, "{text}");
    }
}

#[test]
fn what_cannot_be_meant_is_refused() {
    for text in [
        "",
        "-",
        "-10",
        "-m",
        "-10x",
        "-5m1h",
        "-99999999999999999999d",
        "-9223372036854775807d",
        "tomorrow 13:20",
        "now",
        "2026-11-21",
        "today",
        "2026-02-30 10:00",
        "2026-13-01 10:00",
        "24:00",
        "13:60",
        "13:20:60",
        "13:2",
        "13",
        "13:20:05.",
        "13:20.5",
        "13:20:05:06",
        "13:20:05.1234567890",
        "2026-11-21 13:20:05 Europe/Atlantis",
        "2026-11-21 13:20:05Z Europe/Berlin",
        "2026-11-21 13:20:05 +2",
        "2026-11-21 13:20:05 +25:00",
        "2026-11-21 13:20:05 +01:60",
        "2026-11-21X13:20:05",
        "21.11.2026 13:20",
        "11/21/2026 13:20",
        "abc:7",
        "abcd:",
        "abcd:x",
        "a b c d:7",
        "2026-11-21 13:20 UTC extra",
        "2026-11-2é 10:00",
        "13:20:é",
        "+1é:00",
        "13:20 +1é:0",
    ] {
        let error = read(text).expect_err(text);
        assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
        assert_eq!(error.code(), code::BAD_POINT, "{text}");
    }
}

#[test]
fn an_hour_that_clocks_skipped_is_refused_by_name() {
    let error = read("2026-03-29 02:30").unwrap_err();
    assert_eq!(
        facts(&error),
        "given: 2026-03-29 02:30\n\
         because: clocks in Europe/Berlin went from 2026-03-29 02:00 straight to 2026-03-29 03:00\n\
         give a time outside of that, or one in UTC"
    );
}

#[test]
fn an_hour_that_came_twice_asks_for_the_offset_and_names_both() {
    let error = read("2026-10-25 02:30:05.25").unwrap_err();
    assert_eq!(
        facts(&error),
        "given: 2026-10-25 02:30:05.25\n\
         because: clocks in Europe/Berlin showed this time twice\n\
         first: 2026-10-25 02:30:05.250 +02:00\n\
         second: 2026-10-25 02:30:05.250 +01:00\n\
         --at \"2026-10-25 02:30:05.250 +02:00\"\n\
         --at \"2026-10-25 02:30:05.250 +01:00\""
    );
    for (text, expected) in [
        ("2026-10-25 02:30:05.250 +02:00", "2026-10-25T00:30:05.25Z"),
        ("2026-10-25 02:30:05.250 +01:00", "2026-10-25T01:30:05.25Z"),
    ] {
        assert_eq!(read(text).unwrap(), Moment::Time(expected.parse().unwrap()));
    }
}

#[test]
fn a_time_alone_that_is_still_to_come_is_not_taken_for_today_s() {
    let error = read("16:20").unwrap_err();
    assert_eq!(error.advice(), ["--at \"yesterday 16:20\""]);
}

#[test]
fn without_a_known_zone_only_times_that_name_one_are_read() {
    let system = super::super::zone::SystemZone {
        variable: Some("CET-1CEST".to_owned()),
        ..Default::default()
    };
    let zone = Zone::of_system(&system);
    let read = |text: &str| parse(text, NOW.parse().unwrap(), &zone);
    assert!(read("today 13:20").is_err());
    assert!(read("13:20").is_err());
    assert!(read("today 13:20 UTC").is_ok());
    assert!(read("-10m").is_ok());
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,40}") {
        drop(read(&text));
    }

    #[test]
    fn no_text_that_resembles_a_time_makes_it_panic(text in "[-+:0-9TZ ./adhmsw]{0,30}") {
        drop(read(&text));
    }

    #[test]
    fn a_time_that_we_print_is_read_as_the_same_second(seconds in 0_i64..4_000_000_000) {
        let instant = DateTime::from_timestamp(seconds, 0).unwrap();
        for name in ["Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "UTC"] {
            let zone = Zone::named(name).unwrap();
            let read = parse(&zone.show(instant), DateTime::UNIX_EPOCH, &zone).unwrap();
            prop_assert_eq!(read, Moment::Time(instant));
        }
    }
}
