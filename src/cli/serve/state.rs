//! The state database that a configuration names.

use std::{
    fs::{DirBuilder, File},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::PathBuf,
    sync::Arc,
};

use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::super::session::Session;
use crate::{
    config::Coordinator,
    coordinator::state::{SqliteState, State},
};
#[cfg(feature = "postgres")]
use crate::{coordinator::state::PostgresState, registry};

/// The file of a state database, in the directory of the user's or of the service's state.
const FILE: &str = "state.db";

/// Where it is.
enum Where {
    File(PathBuf),
    #[cfg(feature = "postgres")]
    Server(String),
}

/// Whether there is one, as far as that can be seen without asking it.
pub(crate) fn is_there(session: &Session, coordinator: &Coordinator) -> Result<bool> {
    Ok(match place(session, coordinator)? {
        Where::File(path) => path.exists(),
        #[cfg(feature = "postgres")]
        Where::Server(_) => true,
    })
}

fn place(session: &Session, coordinator: &Coordinator) -> Result<Where> {
    let Some(url) = coordinator.state.as_deref() else {
        return usual(session).map(Where::File);
    };
    match url.split_once(':') {
        None => Ok(Where::File(PathBuf::from(url))),
        Some(("sqlite", path)) => {
            let plain = path.strip_prefix("//").filter(|path| path.starts_with('/'));
            Ok(Where::File(PathBuf::from(plain.unwrap_or(path))))
        }
        #[cfg(feature = "postgres")]
        Some(("postgres" | "postgresql", _)) => Ok(Where::Server(url.to_owned())),
        Some((scheme, _)) => {
            Err(Error::new(ErrorKind::Config, code::STATE, "open the state database")
                .with("scheme", format!("{scheme}:"))
                .with("known", "sqlite:, postgres:"))
        }
    }
}

/// Opens it; it is made where there is none.
pub(crate) async fn open(session: &Session, coordinator: &Coordinator) -> Result<State> {
    let path = match place(session, coordinator)? {
        Where::File(path) => path,
        #[cfg(feature = "postgres")]
        Where::Server(url) => return shared(session, &url).await,
    };
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        // It holds what was configured, and with it, where secrets are.
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|cause| {
            Error::new(ErrorKind::Config, code::STATE, "make a directory for the state database")
                .with("directory", directory.display())
                .caused_by(cause)
                .next("[coordinator]\nstate = \"sqlite:///PATH\"")
        })?;
    }
    // The files beside it get its mode.
    drop(File::options().write(true).create_new(true).mode(0o600).open(&path));
    let database = SqliteState::open(&path, Arc::clone(&session.world.clock))?;
    State::open(Arc::new(database), Arc::clone(&session.world.entropy)).await
}

/// One that several coordinators share. Its password comes from where PostgreSQL's own programs
/// take it: a file, or the environment.
#[cfg(feature = "postgres")]
async fn shared(session: &Session, url: &str) -> Result<State> {
    let (_, endpoint) = session.endpoint(url)?;
    let sessions = registry::sessions(&endpoint, &session.world.clock)?;
    let database = PostgresState::new(Box::new(sessions));
    State::open(Arc::new(database), Arc::clone(&session.world.entropy)).await
}

/// Where it is if nobody says so. Source: systemd.exec(5), `StateDirectory=`.
fn usual(session: &Session) -> Result<PathBuf> {
    let of_service = session.environment.get("STATE_DIRECTORY");
    let of_service = of_service.and_then(|paths| paths.split(':').next()).map(PathBuf::from);
    let directory = of_service.or_else(|| session.environment.state_folder()).ok_or_else(|| {
        Error::new(ErrorKind::Config, code::STATE, "find a place for the state database")
            .why("neither HOME nor XDG_STATE_HOME is set, and nothing is configured")
            .next("[coordinator]\nstate = \"sqlite:///var/lib/stillpoint/state.db\"")
    })?;
    Ok(directory.join(FILE))
}
