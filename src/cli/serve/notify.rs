//! How notices reach people: by requests to URLs, by mail, by programs; and who hears that all is
//! well.

use std::{
    collections::BTreeMap,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use stillpoint_contract::{Error, ErrorKind, Result, code};
use tokio::{io::AsyncWriteExt as _, process::Command};

use super::super::{config::secret, environment::Environment};
use crate::{
    config::{Alerting, Channel, Config, Mail, Secret},
    coordinator::{Notice, Notifier},
    world::World,
};

/// How long one delivery may take.
const SEND_MAX: Duration = Duration::from_secs(20);

/// The header that carries the signature of a request's body.
#[cfg(feature = "notify")]
const SIGNATURE: &str = "X-Stillpoint-Signature";

/// Who is told, and how.
#[derive(Debug)]
struct Told {
    alerts: Vec<Alerting>,
    mail: Option<Mail>,
}

impl Told {
    fn of(config: &Config) -> Arc<Self> {
        Arc::new(Self { alerts: config.alerts.clone(), mail: config.coordinator.mail.clone() })
    }

    /// A channel by its route, which is the name of its alert and its place there.
    fn channel(&self, route: &str) -> Option<(&Alerting, &Channel)> {
        let (name, place) = route.rsplit_once('/')?;
        let alert = self.alerts.iter().find(|alert| alert.name == name)?;
        Some((alert, alert.to.get(place.parse::<usize>().ok()?)?))
    }
}

/// Sends notices as a configuration says.
#[derive(Debug)]
pub(super) struct Channels {
    world: World,
    environment: Environment,
    told: RwLock<Arc<Told>>,
    /// When each heartbeat was last sent, by the name of its alert.
    beats: Mutex<BTreeMap<String, Duration>>,
}

impl Channels {
    /// Those of a configuration.
    pub(super) fn of(config: &Config, world: &World, environment: &Environment) -> Self {
        Self {
            world: world.clone(),
            environment: environment.clone(),
            told: RwLock::new(Told::of(config)),
            beats: Mutex::default(),
        }
    }

    async fn reveal(&self, secret: &Secret) -> Result<String> {
        let fetched =
            secret::fetch((&*self.world.clock, &self.environment), secret, "of an alert").await?;
        Ok(fetched.to_string())
    }

    /// Goes by another configuration from now on.
    pub(super) fn change(&self, config: &Config) {
        *self.told.write().unwrap_or_else(PoisonError::into_inner) = Told::of(config);
    }

    fn told(&self) -> Arc<Told> {
        Arc::clone(&self.told.read().unwrap_or_else(PoisonError::into_inner))
    }

    async fn deliver(
        &self,
        told: &Told,
        (alert, channel): (&Alerting, &Channel),
        notice: &Notice,
    ) -> Result<()> {
        let body = serde_json::to_string(notice)
            .map_err(|cause| Error::bug("write a notice").caused_by(cause))?;
        match channel {
            Channel::Webhook(url) => {
                let url = self.reveal(url).await?;
                let key = match &alert.sign {
                    Some(key) => Some(self.reveal(key).await?),
                    None => None,
                };
                post(&url, body, key.as_deref(), &notice.id).await
            }
            Channel::Email(address) => self.mail(told.mail.as_ref(), address, notice).await,
            Channel::Program(words) => run(words, body).await,
        }
    }

    #[cfg(feature = "notify")]
    async fn mail(&self, mail: Option<&Mail>, address: &str, notice: &Notice) -> Result<()> {
        use lettre::{
            AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor,
            transport::smtp::authentication::Credentials,
        };

        let step = || Error::new(ErrorKind::Transient, code::NOTIFY, "send mail");
        let mail = mail.ok_or_else(|| step().why("no server is configured"))?;
        let bad = |what: &'static str, cause: String| step().with(what, cause);
        let from = mail.from.parse().map_err(|e| bad("from", format!("{e}")))?;
        let to = address.parse().map_err(|e| bad("to", format!("{e}")))?;
        let message = Message::builder()
            .from(from)
            .to(to)
            .message_id(Some(format!("<{}@stillpoint>", notice.id)))
            .subject(notice.title())
            .body(notice.text())
            .map_err(|cause| step().caused_by(cause))?;
        // What is said in the clear is seen by all on the way: only without a password, and where
        // the server offers nothing better.
        let is_plain = mail.server.starts_with("smtp://") && !mail.server.contains("tls=");
        let tls = if mail.password.is_some() { "required" } else { "opportunistic" };
        let server =
            if is_plain { format!("{}?tls={tls}", mail.server) } else { mail.server.clone() };
        let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(&server);
        let mut transport = transport.map_err(|cause| step().caused_by(cause))?;
        if let Some((user, password)) = mail.user.as_ref().zip(mail.password.as_ref()) {
            let password = self.reveal(password).await?;
            transport = transport.credentials(Credentials::new(user.clone(), password));
        }
        let sent = transport.build().send(message).await;
        sent.map(drop).map_err(|cause| step().with("server", &mail.server).caused_by(cause))
    }

    #[cfg(not(feature = "notify"))]
    async fn mail(&self, _: Option<&Mail>, _: &str, _: &Notice) -> Result<()> {
        Err(left_out("send mail"))
    }
}

#[async_trait]
impl Notifier for Channels {
    fn routes(&self, notice: &Notice) -> Vec<(String, Notice)> {
        let mut routes = Vec::new();
        for alert in &self.told().alerts {
            let Some(notice) = notice.only(&alert.when) else { continue };
            let places = 0..alert.to.len();
            routes.extend(places.map(|at| (format!("{}/{at}", alert.name), notice.clone())));
        }
        routes
    }

    async fn send(&self, route: &str, notice: &Notice) -> Result<()> {
        // Whoever was taken out of the configuration is not told any more.
        let told = self.told();
        let Some(channel) = told.channel(route) else { return Ok(()) };
        tokio::select! {
            sent = self.deliver(&told, channel, notice) => sent,
            () = self.world.clock.sleep(SEND_MAX) => {
                Err(Error::new(ErrorKind::TimedOut, code::NOTIFY, "send a notice")
                    .with("route", route)
                    .with("seconds", SEND_MAX.as_secs()))
            }
        }
    }

    async fn live(&self) {
        let now = self.world.clock.elapsed();
        for alert in &self.told().alerts {
            let Some(heartbeat) = &alert.heartbeat else { continue };
            let is_due = {
                let mut beats = self.beats.lock().unwrap_or_else(PoisonError::into_inner);
                let is_due =
                    beats.get(&alert.name).is_none_or(|last| *last + heartbeat.every <= now);
                if is_due {
                    beats.insert(alert.name.clone(), now);
                }
                is_due
            };
            if !is_due {
                continue;
            }
            let sent = async { get(&self.reveal(&heartbeat.url).await?).await };
            let sent = tokio::select! {
                sent = sent => sent,
                () = self.world.clock.sleep(SEND_MAX) => continue,
            };
            if let Err(error) = sent {
                tracing::warn!(event = "heartbeat.failed", alert = alert.name, "{error}");
            }
        }
    }
}

/// Runs a program with the notice as its input.
async fn run(words: &[String], body: String) -> Result<()> {
    let step = || Error::new(ErrorKind::Transient, code::NOTIFY, "run the program of an alert");
    let Some((program, words)) = words.split_first() else {
        return Err(step().why("it has no name"));
    };
    let failed = |cause: std::io::Error| step().with("program", program).caused_by(cause);
    let mut child = Command::new(program)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        // One that ends before it has read everything has read enough.
        drop(input.write_all(body.as_bytes()).await);
    }
    let status = child.wait().await.map_err(failed)?;
    if status.success() {
        return Ok(());
    }
    Err(step().with("program", program).with("status", status))
}

#[cfg(feature = "notify")]
async fn post(url: &str, body: String, key: Option<&str>, id: &str) -> Result<()> {
    let mut request = client()?
        .post(url)
        .header("Content-Type", "application/json")
        .header("Idempotency-Key", id);
    if let Some(key) = key {
        request = request.header(SIGNATURE, signature(key, body.as_bytes()));
    }
    answered(request.body(body).send().await)
}

#[cfg(feature = "notify")]
async fn get(url: &str) -> Result<()> {
    answered(client()?.get(url).send().await)
}

#[cfg(feature = "notify")]
fn client() -> Result<reqwest::Client> {
    let client = reqwest::Client::builder().timeout(SEND_MAX).build();
    client.map_err(|cause| Error::bug("make a client").caused_by(cause))
}

/// An error names no URL: it may be a secret.
#[cfg(feature = "notify")]
fn answered(answer: reqwest::Result<reqwest::Response>) -> Result<()> {
    let step = || Error::new(ErrorKind::Transient, code::NOTIFY, "call a URL");
    let answer = answer.map_err(|cause| step().caused_by(cause.without_url()))?;
    let status = answer.status();
    if status.is_success() { Ok(()) } else { Err(step().with("status", status)) }
}

/// HMAC-SHA256 of a body, as others that sign webhooks write it.
#[cfg(feature = "notify")]
fn signature(key: &str, body: &[u8]) -> String {
    use aws_lc_rs::hmac;

    let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
    format!("sha256={}", data_encoding::HEXLOWER.encode(hmac::sign(&key, body).as_ref()))
}

#[cfg(not(feature = "notify"))]
async fn post(_: &str, _: String, _: Option<&str>, _: &str) -> Result<()> {
    Err(left_out("call a URL"))
}

#[cfg(not(feature = "notify"))]
async fn get(_: &str) -> Result<()> {
    Err(left_out("call a URL"))
}

#[cfg(not(feature = "notify"))]
fn left_out(step: &'static str) -> Error {
    Error::new(ErrorKind::Unsupported, code::NOTIFY, step)
        .why("this program was built without the feature `notify`")
}

#[cfg(all(test, feature = "notify"))]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_the_one_that_others_compute() {
        // RFC 4231, test case 2.
        let expected = "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(signature("Jefe", b"what do ya want for nothing?"), expected);
    }
}
