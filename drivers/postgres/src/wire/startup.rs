//! From a connected socket to a session that takes commands.

use std::io;

use bytes::{Buf as _, Bytes};
use postgres_protocol::{
    authentication::{md5_hash, sasl},
    message::frontend,
};
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    frame::{Channel, Frame},
    rows,
};
use crate::{
    config::{ChannelBinding, Secret},
    connect::{APPLICATION, Login, Socket},
    error,
};

const STEP: &str = "log in for replication";

/// The most messages between the login and the first command.
const GREETINGS_MAX: usize = 1000;

/// What a server says of itself when a session begins.
#[derive(Clone, Debug, Default)]
pub(super) struct Greeting {
    pub(super) server_version: String,
}

/// Logs in.
pub(super) async fn start(socket: Socket, login: &Login) -> Result<(Channel, Greeting)> {
    let mut channel = Channel::new(socket);
    let mut parameters = vec![
        ("user", login.user.as_str()),
        ("replication", "true"),
        ("client_encoding", "UTF8"),
        ("application_name", APPLICATION),
    ];
    if let Some(options) = &login.options {
        parameters.push(("options", options));
    }
    put(&mut channel, |out| frontend::startup_message(parameters, out)).await?;
    authenticate(&mut channel, login).await?;
    let mut greeting = Greeting::default();
    for _ in 0..GREETINGS_MAX {
        let Frame { tag, mut body } = receive(&mut channel).await?;
        match tag {
            b'S' => {
                if let (Some(name), Some(value)) = (rows::text(&mut body), rows::text(&mut body))
                    && name == "server_version"
                {
                    greeting.server_version = value;
                }
            }
            b'Z' => return Ok((channel, greeting)),
            b'K' | b'N' | b'v' => {}
            other => return Err(error::unexpected(other.escape_ascii(), STEP)),
        }
    }
    Err(error::unexpected("greetings without end", STEP))
}

async fn authenticate(channel: &mut Channel, login: &Login) -> Result<()> {
    let mut scram: Option<sasl::ScramSha256> = None;
    let requires_binding = login.channel_binding == ChannelBinding::Require;
    let mut is_bound = false;
    for _ in 0..GREETINGS_MAX {
        let Frame { tag, mut body } = receive(channel).await?;
        if tag == b'v' || tag == b'N' {
            continue;
        }
        if tag != b'R' {
            return Err(error::unexpected(tag.escape_ascii(), STEP));
        }
        let kind = body.try_get_i32().map_err(|_| error::unexpected("a short request", STEP))?;
        if requires_binding && !matches!(kind, 10..=12) && !is_bound {
            return Err(unbound());
        }
        match kind {
            0 => return Ok(()),
            3 => {
                let password = password(login)?;
                if !channel.socket.is_private() {
                    return Err(Error::new(ErrorKind::Refused, code::NO_DATABASE, STEP)
                        .why("the server asks for a clear password over an open network")
                        .next("sslmode=verify-full, or scram-sha-256 in pg_hba.conf"));
                }
                let bytes = password.expose().as_bytes();
                put(channel, |out| frontend::password_message(bytes, out)).await?;
            }
            5 => {
                let salt = body.first_chunk::<4>().copied();
                let salt = salt.ok_or_else(|| error::unexpected("a short salt", STEP))?;
                let secret = password(login)?;
                let hash = md5_hash(login.user.as_bytes(), secret.expose().as_bytes(), salt);
                put(channel, |out| frontend::password_message(hash.as_bytes(), out)).await?;
            }
            10 => {
                let (mechanism, binding) = mechanism(&body, channel, login)?;
                is_bound = mechanism.ends_with("-PLUS");
                let secret = password(login)?;
                let exchange = sasl::ScramSha256::new(secret.expose().as_bytes(), binding);
                put(channel, |out| {
                    frontend::sasl_initial_response(mechanism, exchange.message(), out)
                })
                .await?;
                scram = Some(exchange);
            }
            11 => {
                let exchange = scram.as_mut().ok_or_else(|| error::unexpected("SASL", STEP))?;
                exchange.update(&body).map_err(refused)?;
                let answer = exchange.message().to_vec();
                put(channel, |out| frontend::sasl_response(&answer, out)).await?;
            }
            12 => {
                let exchange = scram.as_mut().ok_or_else(|| error::unexpected("SASL", STEP))?;
                exchange.finish(&body).map_err(refused)?;
            }
            other => {
                return Err(Error::new(ErrorKind::Unsupported, code::NO_DATABASE, STEP)
                    .with("method", other)
                    .why("the server asks for a way of logging in that is not supported")
                    .next("scram-sha-256 in pg_hba.conf"));
            }
        }
    }
    Err(error::unexpected("questions without end", STEP))
}

/// Chooses the mechanism, bound to the TLS channel where both sides can.
fn mechanism(
    offered: &Bytes,
    channel: &Channel,
    login: &Login,
) -> Result<(&'static str, sasl::ChannelBinding)> {
    let has = |name: &[u8]| offered.split(|byte| *byte == 0).any(|offer| offer == name);
    let binding = channel.socket.binding.clone();
    let wants = login.channel_binding != ChannelBinding::Disable;
    match binding.filter(|_| wants) {
        Some(hash) if has(b"SCRAM-SHA-256-PLUS") => {
            Ok(("SCRAM-SHA-256-PLUS", sasl::ChannelBinding::tls_server_end_point(hash)))
        }
        _ if login.channel_binding == ChannelBinding::Require => Err(unbound()),
        Some(_) if has(b"SCRAM-SHA-256") => {
            Ok(("SCRAM-SHA-256", sasl::ChannelBinding::unrequested()))
        }
        None if has(b"SCRAM-SHA-256") => Ok(("SCRAM-SHA-256", sasl::ChannelBinding::unsupported())),
        _ => Err(error::unexpected(offered.escape_ascii(), STEP)),
    }
}

fn unbound() -> Error {
    Error::new(ErrorKind::Refused, code::NO_DATABASE, STEP)
        .why("channel_binding=require, and the server or its certificate cannot do that")
}

fn password(login: &Login) -> Result<&Secret> {
    login.password.as_ref().ok_or_else(|| {
        Error::new(ErrorKind::Denied, code::NO_DATABASE, STEP)
            .with("role", &login.user)
            .why("the server asks for a password and none is known")
            .next("put it into the password file: ~/.pgpass, or PGPASSFILE")
    })
}

fn refused(cause: io::Error) -> Error {
    Error::new(ErrorKind::Denied, code::NO_DATABASE, STEP).caused_by(cause)
}

async fn put(
    channel: &mut Channel,
    message: impl FnOnce(&mut bytes::BytesMut) -> io::Result<()>,
) -> Result<()> {
    message(channel.output()).map_err(|e| error::broken(e, STEP))?;
    channel.flush().await.map_err(|e| error::broken(e, STEP))
}

async fn receive(channel: &mut Channel) -> Result<Frame> {
    let frame = channel.receive().await.map_err(|e| error::broken(e, STEP))?;
    match frame.tag {
        b'E' => Err(error::server(rows::report(&frame.body), STEP)),
        _ => Ok(frame),
    }
}
