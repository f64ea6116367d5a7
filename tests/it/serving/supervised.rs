//! Whoever supervises it is told when it works, that it lives, and when it ends.

use std::{os::unix::net::UnixDatagram, path::Path, time::Duration};

use super::ward::{HEAD, Ward};

const REST: &str = "[policy.default]\nlogs = \"never\"\nrpo = \"2d\"\n\
    [database.app]\nendpoint = \"sqlite:app.db\"\n";

/// Nothing that is waited for here takes so long.
const PATIENCE: Duration = Duration::from_mins(2);

/// Waits until this is said; returns what was said before.
fn heard(socket: &UnixDatagram, wanted: &str) -> Vec<String> {
    let mut before = Vec::new();
    loop {
        let mut bytes = [0; 4096];
        let length = socket.recv(&mut bytes).unwrap_or_else(|e| panic!("no {wanted}: {e}"));
        let said = std::str::from_utf8(&bytes[..length]).unwrap();
        for line in said.lines() {
            if line == wanted {
                return before;
            }
            before.push(line.to_owned());
        }
    }
}

#[test]
fn a_supervisor_is_told_when_it_works_that_it_lives_and_when_it_ends() {
    let ward = Ward::new(&format!("{HEAD}{REST}"));
    drop(ward.create("app.db"));
    let socket = UnixDatagram::bind(ward.path("notify")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let path = ward.path("notify").display().to_string();
    let serving = ward.serve_with(&[("NOTIFY_SOCKET", &path)]);
    assert_eq!(heard(&socket, "READY=1"), Vec::<String>::new());
    heard(&socket, "WATCHDOG=1");
    serving.terminate();
    let before = heard(&socket, "STOPPING=1");
    assert!(before.iter().all(|line| line == "WATCHDOG=1"), "{before:?}");
    assert_eq!(serving.wait(), 143);
}

/// What the unit says of the program holds: how it ends, and how long that may take.
#[test]
fn the_unit_knows_how_it_ends() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/systemd/stillpoint.service");
    let unit = std::fs::read_to_string(file).unwrap();
    let has = |line: &str| assert!(unit.lines().any(|one| one == line), "{line}");
    has("Type=notify");
    has("SuccessExitStatus=143");
    let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let words: Vec<_> = command.split(' ').collect();
    assert_eq!(words[1..3], ["serve", "-c"]);
}
