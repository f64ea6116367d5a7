//! The protocol against scripts of bytes.

use bytes::{BufMut as _, BytesMut};
use stillpoint_contract::{ErrorKind, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::{
    BackupEvent, BackupOptions, Boundary, NextTimeline, Session, WalEvent, lsn_from, lsn_text,
};
use crate::{
    config::{ChannelBinding, Secret},
    connect::{Login, Socket},
};

/// A message of a server.
fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes
}

fn row(fields: &[Option<&str>]) -> Vec<u8> {
    let mut body = BytesMut::new();
    body.put_u16(u16::try_from(fields.len()).unwrap());
    for field in fields {
        match field {
            None => body.put_i32(-1),
            Some(text) => {
                body.put_i32(i32::try_from(text.len()).unwrap());
                body.put_slice(text.as_bytes());
            }
        }
    }
    message(b'D', &body)
}

fn answer(rows: &[&[Option<&str>]]) -> Vec<u8> {
    let mut bytes = message(b'T', &[0, 0]);
    for fields in rows {
        bytes.extend(row(fields));
    }
    bytes.extend(message(b'C', b"SELECT\0"));
    bytes
}

fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

fn failure(state: &str) -> Vec<u8> {
    message(b'E', format!("SERROR\0C{state}\0Mit failed\0\0").as_bytes())
}

fn greeting(version: &str) -> Vec<u8> {
    let version = format!("server_version\0{version}\0");
    [message(b'R', &[0, 0, 0, 0]), message(b'S', version.as_bytes()), ready()].concat()
}

fn login(password: Option<&str>) -> Login {
    Login {
        user: "u".into(),
        password: password.map(Secret::new),
        options: None,
        channel_binding: ChannelBinding::Prefer,
    }
}

/// A session with a server that sends `script`, whatever it is asked.
async fn session(version: &str, script: Vec<u8>) -> (Session, DuplexStream) {
    let (ours, mut theirs) = duplex(1 << 20);
    theirs.write_all(&greeting(version)).await.unwrap();
    theirs.write_all(&script).await.unwrap();
    (Session::start(Socket::memory(ours), &login(None)).await.unwrap(), theirs)
}

async fn backup(version: &str, script: Vec<u8>) -> Result<Vec<BackupEvent>> {
    let (mut session, _server) = session(version, script).await;
    let mut backup = session.base_backup(&BackupOptions::default()).await?;
    assert_eq!(backup.start, Boundary { lsn: 0x200_0028, timeline: 1 });
    assert_eq!(backup.tablespaces, [(16400, "/spc".to_owned())]);
    let mut events = Vec::new();
    loop {
        let event = backup.next().await?;
        events.push(event.clone());
        if matches!(event, BackupEvent::End(_)) {
            return Ok(events);
        }
    }
}

fn begin() -> Vec<u8> {
    let start = answer(&[&[Some("0/2000028"), Some("1")]]);
    let spaces = answer(&[&[Some("16400"), Some("/spc"), None], &[None, None, None]]);
    [start, spaces].concat()
}

fn typed() -> Vec<u8> {
    [
        begin(),
        message(b'H', &[0, 0, 0]),
        message(b'd', b"n16400.tar\0/spc\0"),
        message(b'd', b"dabc"),
        message(b'd', b"nbase.tar\0\0"),
        message(b'N', b"SWARNING\0C01000\0Mchecksum\0\0"),
        message(b'd', b"ddef"),
        message(b'd', &[b'p', 0, 0, 0, 0, 0, 0, 0, 1]),
        message(b'd', b"m"),
        message(b'd', b"d{}"),
        message(b'c', b""),
        answer(&[&[Some("0/2000138"), Some("1")]]),
    ]
    .concat()
}

fn expected() -> Vec<BackupEvent> {
    vec![
        BackupEvent::Archive(Some(16400)),
        BackupEvent::Bytes("abc".into()),
        BackupEvent::Archive(None),
        BackupEvent::Bytes("def".into()),
        BackupEvent::End(Boundary { lsn: 0x200_0138, timeline: 1 }),
    ]
}

#[tokio::test]
async fn a_base_backup_arrives_in_both_framings() {
    let end = [message(b'C', b"BASE_BACKUP\0"), ready()].concat();
    assert_eq!(backup("15.18", [typed(), end.clone()].concat()).await.unwrap(), expected());
    let plain = [
        begin(),
        message(b'H', &[0, 0, 0]),
        message(b'd', b"abc"),
        message(b'c', b""),
        message(b'H', &[0, 0, 0]),
        message(b'd', b"def"),
        message(b'c', b""),
        message(b'H', &[0, 0, 0]),
        message(b'd', b"{}"),
        message(b'c', b""),
        answer(&[&[Some("0/2000138"), Some("1")]]),
        end,
    ];
    assert_eq!(backup("13.23", plain.concat()).await.unwrap(), expected());
}

#[tokio::test]
async fn an_error_after_the_last_byte_fails_the_backup() {
    let script = [typed(), failure("XX001"), ready()].concat();
    assert_eq!(backup("15.18", script).await.unwrap_err().kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn a_backup_that_breaks_off_anywhere_is_an_error() {
    let script = [typed(), message(b'C', b"BASE_BACKUP\0"), ready()].concat();
    for end in begin().len()..script.len() {
        let (mut session, server) = session("18.4", script[..end].to_vec()).await;
        drop(server);
        let Ok(mut backup) = session.base_backup(&BackupOptions::default()).await else {
            continue;
        };
        let outcome = loop {
            match backup.next().await {
                Ok(BackupEvent::End(_)) => break Ok(()),
                Ok(_) => {}
                Err(error) => break Err(error),
            }
        };
        assert!(outcome.is_err(), "{end} of {} bytes are enough", script.len());
    }
}

#[tokio::test]
async fn a_failed_command_leaves_a_session_that_can_go_on() {
    let identity = answer(&[&[Some("7388120011467391044"), Some("3"), Some("1/A0"), None]]);
    let script = [failure("42601"), ready(), identity, ready()].concat();
    let (mut session, _server) = session("15.18", script).await;
    assert_eq!(session.drop_slot("x").await.unwrap_err().kind(), ErrorKind::Bug);
    let identity = session.identify_system().await.unwrap();
    assert_eq!((identity.timeline, identity.flush_lsn), (3, 0x1_0000_00a0));
}

#[tokio::test]
async fn wal_arrives_and_a_timeline_ends() {
    let mut bytes = vec![b'w'];
    bytes.extend(0x300_0000_u64.to_be_bytes());
    bytes.extend([0; 16]);
    bytes.extend(b"wal");
    let mut alive = vec![b'k'];
    alive.extend(0x300_0003_u64.to_be_bytes());
    alive.extend([0; 8]);
    alive.push(1);
    let script = [
        message(b'W', &[0, 0, 0]),
        message(b'd', &bytes),
        message(b'd', &alive),
        message(b'c', b""),
        answer(&[&[Some("2"), Some("0/3000060")]]),
        message(b'C', b"START_REPLICATION\0"),
        ready(),
    ];
    let (session, mut server) = session("15.18", script.concat()).await;
    let mut stream = session.start_physical(Some("s"), 0x300_0000, 1).await.unwrap();
    let first = stream.receive().await.unwrap();
    assert_eq!(first, WalEvent::Bytes { start: 0x300_0000, bytes: "wal".into() });
    let second = stream.receive().await.unwrap();
    assert!(
        matches!(second, WalEvent::KeepAlive { end: 0x300_0003, reply_now: true, at: Some(at) }
        if at.timestamp() == 946_684_800)
    );
    stream.send_status(3, 2, chrono::DateTime::UNIX_EPOCH).await.unwrap();
    assert_eq!(stream.receive().await.unwrap(), WalEvent::End);
    let (session, next) = stream.finish().await.unwrap();
    assert_eq!(next, Some(NextTimeline { timeline: 2, begins_at: 0x300_0060 }));
    drop(session);
    let mut sent = Vec::new();
    server.read_to_end(&mut sent).await.unwrap();
    let status: Vec<u8> = [&b"r"[..], &3_u64.to_be_bytes(), &2_u64.to_be_bytes(), &[0; 8]].concat();
    assert!(sent.windows(status.len()).any(|window| window == status));
    assert!(sent.ends_with(&[b'c', 0, 0, 0, 4]));
}

#[tokio::test]
async fn the_end_of_an_old_timeline_is_told_without_a_copy() {
    let next = answer(&[&[Some("2"), Some("0/3000060")]]);
    let script = [next, message(b'C', b"START_REPLICATION\0"), ready()].concat();
    let (session, _server) = session("15.18", script).await;
    let mut stream = session.start_physical(None, 0x300_0060, 1).await.unwrap();
    assert_eq!(stream.receive().await.unwrap(), WalEvent::End);
    let (_, next) = stream.finish().await.unwrap();
    assert_eq!(next, Some(NextTimeline { timeline: 2, begins_at: 0x300_0060 }));
}

/// It says that the command is done in the middle of it, and is gone.
#[tokio::test]
async fn a_server_that_shuts_down_ends_the_stream() {
    let script = [message(b'W', &[0, 0, 0]), message(b'C', b"COPY 0\0")].concat();
    let (session, _server) = session("15.18", script).await;
    let mut stream = session.start_physical(Some("s"), 0x300_0000, 1).await.unwrap();
    assert_eq!(stream.receive().await.unwrap(), WalEvent::End);
    assert_eq!(stream.read_next().await.unwrap(), None);
}

#[tokio::test]
async fn messages_of_any_damage_end_in_errors() {
    for script in [
        vec![b'D', 0xff, 0xff, 0xff, 0xff],
        vec![b'D', 0, 0, 0, 3],
        message(b'D', &[0]),
        message(b'D', &[0, 2, 0, 0, 0, 9, 1]),
        message(b'D', &[0xff; 40]),
        message(b'?', &[]),
        message(b'C', &[]),
    ] {
        let (mut session, server) = session("15.18", script).await;
        drop(server);
        assert!(session.identify_system().await.is_err());
    }
}

#[tokio::test]
async fn md5_answers_as_the_manual_says_and_a_missing_password_is_named() {
    let request = message(b'R', &[0, 0, 0, 5, 1, 2, 3, 4]);
    for password in [Some("secret"), None] {
        let (ours, mut theirs) = duplex(1 << 16);
        theirs.write_all(&[request.clone(), greeting("15.18")].concat()).await.unwrap();
        let started = Session::start(Socket::memory(ours), &login(password)).await;
        if password.is_none() {
            assert_eq!(started.unwrap_err().kind(), ErrorKind::Denied);
            continue;
        }
        drop(started.unwrap());
        let mut sent = Vec::new();
        theirs.read_to_end(&mut sent).await.unwrap();
        let hash = postgres_protocol::authentication::md5_hash(b"u", b"secret", [1, 2, 3, 4]);
        assert!(sent.windows(hash.len()).any(|window| window == hash.as_bytes()));
    }
}

#[test]
fn positions_survive_their_text() {
    for (text, lsn) in [("0/16B3748", 0x16B_3748), ("FF/00000001", 0xff_0000_0001)] {
        assert_eq!(lsn_from(text), Some(lsn));
        assert_eq!(lsn_from(&lsn_text(lsn)), Some(lsn));
    }
    for text in ["", "/", "0/", "x/1", "0/123456789", "+1/1", "1/-1"] {
        assert_eq!(lsn_from(text), None, "{text}");
    }
}
