//! Key slots: the right secret opens, nothing else does, and nothing in a slot can be changed.

use chrono::DateTime;
use proptest::prelude::{prop_assert, proptest};
use stillpoint_contract::ErrorKind;

use super::{KeySlot, Method, NewSlot, PassphraseCost, Secret, unwrap};
use crate::pipeline::{id::RepositoryId, keys::RepositoryKey, testing::Seeded};

const REPOSITORY: RepositoryId = RepositoryId::new([1; 16]);
/// Cheap enough for a test that tries a thousand times.
const COST: PassphraseCost = PassphraseCost { memory_kib: 8, passes: 1, lanes: 1 };

fn about(label: &str) -> NewSlot<'_> {
    let created_at = DateTime::from_timestamp(1_790_000_000, 5).unwrap();
    NewSlot { repository: REPOSITORY, epoch: 1, label, created_at, cost: COST }
}

fn master() -> RepositoryKey {
    RepositoryKey::generate(&Seeded::new(1))
}

fn slot(secret: &Secret, seed: u64) -> KeySlot {
    KeySlot::wrap(&master(), secret, &about("mine"), &Seeded::new(seed)).unwrap()
}

fn secrets() -> [Secret; 3] {
    let random = Seeded::new(2);
    [
        Secret::passphrase("correct horse\n").unwrap(),
        Secret::new_key_file(&random),
        Secret::new_recovery(&random),
    ]
}

#[test]
fn every_kind_of_secret_opens_its_own_slot_among_others() {
    let slots: Vec<_> = secrets().iter().zip(10..).map(|(s, seed)| slot(s, seed)).collect();
    let stored: Vec<_> =
        slots.iter().map(|slot| KeySlot::decode(&slot.encode().unwrap()).unwrap()).collect();
    assert_eq!(stored, slots);
    for (secret, slot) in secrets().iter().zip(&slots) {
        let (key, opened) = unwrap(&stored, REPOSITORY, secret).unwrap();
        assert_eq!(key.expose(), master().expose());
        assert_eq!(opened, slot.id());
        assert_eq!(slot.fingerprint(), master().fingerprint());
    }
    assert!(matches!(slots[0].method(), Method::Passphrase { argon2id: COST }));
}

#[test]
fn a_wrong_secret_is_denied_and_says_what_was_tried() {
    let slots: Vec<_> = secrets().iter().zip(10..).map(|(s, seed)| slot(s, seed)).collect();
    let wrong = Secret::passphrase("Correct horse").unwrap();
    let error = unwrap(&slots, REPOSITORY, &wrong).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert_eq!(error.code().to_string(), "SP0210");
    assert_eq!(error.to_string(), "open with this passphrase");
    assert_eq!(error.facts(), [("tried", "1 of 3 key slots")]);

    let none = unwrap(&slots[..1], REPOSITORY, &secrets()[1]).unwrap_err();
    assert_eq!(none.reason(), Some("no key slot of this repository is made for a key file"));
    let elsewhere = unwrap(&slots, RepositoryId::new([2; 16]), &secrets()[1]).unwrap_err();
    assert_eq!(elsewhere.kind(), ErrorKind::Denied);
}

/// Any change of a stored slot either changes nothing that matters or keeps it shut.
#[test]
fn no_byte_of_a_slot_can_be_changed() {
    for (secret, seed) in secrets().iter().zip(10..) {
        let original = slot(secret, seed);
        let bytes = original.encode().unwrap();
        for place in 0..bytes.len() * 8 {
            let mut changed = bytes.to_vec();
            changed[place / 8] ^= 1 << (place % 8);
            let Ok(decoded) = KeySlot::decode(&changed) else { continue };
            if decoded == original {
                continue;
            }
            let opened = unwrap(&[decoded], REPOSITORY, secret);
            assert!(opened.is_err(), "bit {place} of {}", String::from_utf8_lossy(&changed));
        }
    }
}

#[test]
fn the_inside_of_one_slot_does_not_fit_into_another() {
    let secret = &secrets()[1];
    let as_json = |seed| -> serde_json::Value {
        serde_json::from_slice(&slot(secret, seed).encode().unwrap()).unwrap()
    };
    let (mut one, other) = (as_json(1), as_json(2));
    one["wrapped"] = other["wrapped"].clone();
    one["salt"] = other["salt"].clone();
    let mixed = KeySlot::decode(&serde_json::to_vec(&one).unwrap()).unwrap();
    assert!(unwrap(&[mixed], REPOSITORY, secret).is_err());
}

#[test]
fn absurd_work_is_refused_before_it_is_done() {
    let json = String::from_utf8(slot(&secrets()[0], 1).encode().unwrap().to_vec()).unwrap();
    for (field, value) in [("memory_kib", "8"), ("passes", "1"), ("lanes", "1")] {
        for absurd in ["4294967295", "0"] {
            let from = format!("\"{field}\": {value}");
            assert!(json.contains(&from), "{json}");
            let absurd = json.replace(&from, &format!("\"{field}\": {absurd}"));
            assert_eq!(KeySlot::decode(absurd.as_bytes()).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }
    let cost = PassphraseCost { memory_kib: u32::MAX, ..COST };
    let about = NewSlot { cost, ..about("x") };
    let error = KeySlot::wrap(&master(), &secrets()[0], &about, &Seeded::new(1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(KeySlot::decode(&vec![b' '; 1 << 20]).is_err());
    let newer = json.replace("\"format\": 1", "\"format\": 2");
    assert_eq!(KeySlot::decode(newer.as_bytes()).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn secrets_read_back_from_their_text() {
    for secret in &secrets()[1..] {
        let text = secret.text();
        let again = match secret {
            Secret::KeyFile(_) => Secret::from_key_file(&text).unwrap(),
            _ => Secret::from_recovery(&text).unwrap(),
        };
        assert_eq!(again.text(), text);
    }
    let text = secrets()[1].text().replace('\n', "\r\n").to_uppercase().replacen(
        "STILLPOINT KEY FILE",
        "stillpoint key file",
        1,
    );
    assert_eq!(Secret::from_key_file(&text).unwrap().text(), secrets()[1].text());
    for bad in ["", "stillpoint key file 1\n", "stillpoint key file 2\n00", &"0".repeat(5000)] {
        assert!(Secret::from_key_file(bad).is_err());
    }
    for empty in ["", "\n", "\r\n"] {
        assert_eq!(Secret::passphrase(empty).unwrap_err().kind(), ErrorKind::Invalid);
    }
}

#[test]
fn a_recovery_key_forgives_look_alikes_and_notices_every_typing_error() {
    let key = &secrets()[2];
    let text = key.text();
    assert_eq!(text.len(), 8 * 5 + 7, "{}", &*text);
    let sloppy = text.to_lowercase().replace('-', " ").replace('0', "o").replace('1', "L");
    assert_eq!(Secret::from_recovery(&sloppy).unwrap().text(), text);

    for (place, original) in text.char_indices().filter(|(_, c)| *c != '-') {
        for typed in "0123456789ABCDEFGHJKMNPQRSTVWXYZ".chars().filter(|c| *c != original) {
            let mut typo = text.to_string();
            typo.replace_range(place..=place, &typed.to_string());
            assert!(Secret::from_recovery(&typo).is_err(), "{place} {typed}");
        }
    }
    let why = |text: &str| {
        Secret::from_recovery(text).unwrap_err().reason().map(str::to_owned).unwrap_or_default()
    };
    assert!(why(&text.replacen(&text[6..7], "U", 1)).contains("group"), "{}", &*text);
    assert!(why(&text[1..]).contains("39 characters"));
    assert!(why("ä").contains("group 1"));
}

#[test]
fn secrets_are_never_printed() {
    for secret in secrets() {
        let shown = format!("{secret:?} {:?}", slot(&secret, 1));
        let text = secret.text();
        for word in text.split(['\n', '-']).filter(|w| w.len() > 4 && !w.starts_with("still")) {
            assert!(!shown.contains(word), "{shown}");
        }
    }
}

/// The layout is for ever: a slot written by the first version opens in every later one.
#[test]
fn the_first_slots_still_open() {
    let slots: Vec<_> = secrets().iter().zip(10..).map(|(s, seed)| slot(s, seed)).collect();
    let wrapped: Vec<_> = slots
        .iter()
        .map(|slot| {
            let json: serde_json::Value = serde_json::from_slice(&slot.encode().unwrap()).unwrap();
            json["wrapped"].as_str().map(|hex| hex[..32].to_owned()).unwrap()
        })
        .collect();
    assert_eq!(
        wrapped,
        [
            "05cec5e523b825df30b6a2f96a28df38",
            "3fd72d101cedd172eea62c1dac91f579",
            "e7290da9b8dc1efd089b3b328fae4f58",
        ]
    );
}

proptest! {
    #[test]
    fn foreign_bytes_are_no_slot_and_no_secret(bytes: Vec<u8>, text: String) {
        prop_assert!(KeySlot::decode(&bytes).is_err());
        prop_assert!(Secret::from_key_file(&text).is_err());
        prop_assert!(Secret::from_recovery(&text).is_err());
    }
}
