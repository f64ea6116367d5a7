//! What was typed, resolved: where the repository is, how answers look, whom to ask for secrets.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, NaiveDate, Utc};
use stillpoint_contract::{Endpoint, Engine, Error, ErrorKind, Result, code};
use tokio::sync::watch;

use super::{
    answer::{self, Answer, Format, complain},
    args::Global,
    environment::Environment,
    exit,
    moment::{self, Moment},
    native::Native,
    page::{Look, Tone},
    progress::{self, Display},
    report::{self, Run},
    terminal,
    zone::Zone,
};
use crate::{pipeline::Meter, registry, repository::store::Requests, world::World};

/// A signal that asks us to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// SIGINT: the user pressed Ctrl-C.
    Interrupt,
    /// SIGTERM: the system shuts down, or a supervisor stops us.
    Terminate,
    /// SIGHUP: the terminal was closed.
    HangUp,
}

impl Signal {
    /// The exit status that says so.
    pub(crate) const fn status(self) -> u8 {
        match self {
            Self::Interrupt => exit::INTERRUPTED,
            Self::Terminate => exit::TERMINATED,
            Self::HangUp => exit::HUNG_UP,
        }
    }

    /// Its name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
            Self::HangUp => "SIGHUP",
        }
    }
}

/// Everything a command needs besides its own options.
#[derive(Debug)]
pub(crate) struct Session {
    /// Time, randomness, threads.
    pub world: World,
    /// Every engine there is.
    pub engines: Vec<Arc<dyn Engine>>,
    /// The environment.
    pub environment: Environment,
    /// What was typed for every command.
    pub global: Global,
    /// The reader's zone.
    pub zone: Zone,
    /// How answers look.
    pub out: Look,
    /// How everything else looks.
    pub err: Look,
    /// Where progress is shown.
    pub display: Display,
    /// What stores were asked.
    pub requests: Arc<Requests>,
    /// After how long to give up.
    pub timeout: Option<Duration>,
    /// When that is, on the world's clock.
    pub ends_at: Option<Duration>,
    /// Which run of the program this is.
    pub run: Run,
    /// Becomes `Some` when a signal asks us to stop.
    pub stop: watch::Receiver<Option<Signal>>,
    /// What stays of work that was given up.
    left: Mutex<Vec<String>>,
}

/// Lets a session know at the end of some work what stays of it.
struct Left<'a>(&'a Session, &'a Meter);

impl Drop for Left<'_> {
    fn drop(&mut self) {
        let mut left = self.0.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.extend(self.1.take_left());
    }
}

impl Session {
    /// Resolves what was typed.
    pub(crate) fn resolve(
        world: World,
        environment: Environment,
        global: Global,
        run: Run,
        stop: watch::Receiver<Option<Signal>>,
    ) -> Result<Self> {
        let zone = match &global.timezone {
            Some(name) => Zone::named(name)?,
            None => environment.zone(),
        };
        let timeout = global.timeout.as_deref().map(length).transpose()?;
        let ends_at = timeout.map(|timeout| world.clock.elapsed() + timeout);
        let (out, err) = terminal::looks(&global, &environment, &zone);
        Ok(Self {
            engines: registry::engines(&world.clock),
            display: terminal::progress(&global, &environment),
            world,
            environment,
            global,
            zone,
            out,
            err,
            requests: Arc::default(),
            timeout,
            ends_at,
            run,
            stop,
            left: Mutex::default(),
        })
    }

    /// Prints the command's answer.
    pub(crate) fn answer<A: Answer>(&self, answer: &A) -> Result<()> {
        answer::print(&answer::render(answer, self.global.output, &self.out)?)
    }

    /// Tells what is worth knowing, beside the answer.
    pub(crate) fn note(&self, text: &str) {
        if !self.global.quiet && self.global.output == Format::Text {
            complain(&format!("{text}\n"));
        }
    }

    /// Tells what the user should look at. Answers in JSON carry warnings themselves.
    pub(crate) fn warn(&self, text: &str) {
        if !self.global.quiet && self.global.output == Format::Text {
            let label = self.err.paint(Tone::Warning, "warning:");
            complain(&format!("{label} {}\n", super::page::printable(text)));
        }
    }

    /// Tells of a failure; returns the exit status.
    pub(crate) fn report(&self, error: &Error, status: u8) -> u8 {
        complain(&report::render(error, status, self.global.output, &self.err, &self.run));
        status
    }

    /// Does `work`, showing what `meter` says of it.
    pub(crate) async fn watch<T>(
        &self,
        subject: &str,
        meter: &Meter,
        work: impl Future<Output = T>,
    ) -> T {
        let read = || meter.read();
        // Dropped after the work, also when that is given up.
        let _left = Left(self, meter);
        progress::watch(self.display, &*self.world.clock, subject, read, work).await
    }

    /// What stays of work that has ended or was given up.
    pub(crate) fn take_left(&self) -> Vec<String> {
        std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads a point in time, or one in the notation of any engine.
    pub(crate) fn moment(&self, text: &str) -> Result<Moment> {
        for engine in &self.engines {
            if engine.read_point(text)?.is_some() {
                return Ok(Moment::Native(text.to_owned()));
            }
        }
        let read = moment::parse(text, self.world.clock.now(), &self.zone);
        read.map_err(|error| {
            let forms = self.engines.iter().filter(|engine| !engine.point_forms().is_empty());
            forms.fold(error, |error, engine| error.with(engine.name(), engine.point_forms()))
        })
    }

    /// Reads an instant. A day is its midnight.
    pub(crate) fn instant(&self, text: &str) -> Result<DateTime<Utc>> {
        let is_day = text.parse::<NaiveDate>().is_ok();
        let begun = if is_day { format!("{text} 00:00") } else { text.to_owned() };
        match self.moment(&begun)? {
            Moment::Time(at) => Ok(at),
            _ => {
                Err(Error::new(ErrorKind::Invalid, code::BAD_POINT, "find a time")
                    .with("given", text))
            }
        }
    }

    /// Who uses the program, and where, for those who read the repository's log later.
    pub(crate) fn user(&self) -> String {
        let user = self.environment.get("USER").or_else(|| self.environment.get("LOGNAME"));
        let number = || format!("user {}", rustix::process::geteuid().as_raw());
        let user = user.map_or_else(number, str::to_owned);
        format!("{user} on {}", rustix::system::uname().nodename().to_string_lossy())
    }

    /// How engines print positions.
    pub(crate) fn native(&self) -> Native<'_> {
        Native(&self.engines)
    }

    /// Reads the URL of a database.
    pub(crate) fn endpoint(&self, url: &str) -> Result<(Arc<dyn Engine>, Endpoint)> {
        refuse_secrets(url)?;
        let (engine, mut endpoint) = registry::endpoint(&self.engines, url)?;
        let variable = |name: &str| self.environment.get(name).map(str::to_owned);
        endpoint.settings = registry::settings(&*engine, variable);
        Ok((engine, endpoint))
    }

    /// Whether the command line or the environment says where the repository is.
    pub(crate) fn names_place(&self) -> bool {
        let typed = self.global.repo.as_deref().filter(|place| !place.is_empty());
        typed.is_some() || self.environment.get("STILLPOINT_REPO").is_some()
    }

    /// Where the repository is, as the command line or the environment says.
    pub(crate) fn place(&self) -> Result<&str> {
        let typed = self.global.repo.as_deref().filter(|place| !place.is_empty());
        let place = typed.or_else(|| self.environment.get("STILLPOINT_REPO")).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, code::USAGE, "tell which repository is meant")
                .next("give --repo DIR, or set STILLPOINT_REPO")
        })?;
        refuse_secrets(place)?;
        Ok(place)
    }
}

/// Reads a length of time, such as `90s` or `2h`.
pub(crate) fn length(text: &str) -> Result<Duration> {
    moment::span(text).and_then(|span| span.to_std().ok()).ok_or_else(|| {
        Error::new(ErrorKind::Invalid, code::USAGE, "understand the length of time")
            .with("given", text)
            .with("forms", "90s, 10m, 1h30m, 2d")
    })
}

/// Refuses a URL that holds a password: everybody on the machine can read a command line.
fn refuse_secrets(url: &str) -> Result<()> {
    let authority = url.split_once("://").map(|(_, rest)| rest.split('/').next().unwrap_or(rest));
    let user = authority.and_then(|authority| authority.rsplit_once('@')).map(|(user, _)| user);
    if user.is_some_and(|user| user.contains(':')) {
        return Err(Error::new(ErrorKind::Refused, code::USAGE, "take a secret from a URL")
            .why("everybody on this machine can read command lines, and shells remember them")
            .next("leave user and password out; put credentials into the environment or a file"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_a_url_is_refused_and_not_repeated() {
        for url in ["s3://AKIA:hunter2@bucket/prefix", "postgres://u:hunter2@host"] {
            let error = refuse_secrets(url).unwrap_err();
            assert!(!format!("{error:?}").contains("hunter2"));
        }
        for url in ["s3://bucket/a:b@c", "sqlite:///srv/a:b@c.db", "sqlite:a:b@c", "/srv/x:y@z"] {
            refuse_secrets(url).unwrap();
        }
    }

    #[test]
    fn a_length_of_time_has_units() {
        assert_eq!(length("1h30m").unwrap(), Duration::from_mins(90));
        for text in ["", "90", "-5m", "m", "1.5h"] {
            assert!(length(text).is_err(), "{text}");
        }
    }
}
