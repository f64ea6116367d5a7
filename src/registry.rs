//! The one place that names engines.

use std::{collections::BTreeMap, sync::Arc};

#[cfg(feature = "postgres")]
use futures::{FutureExt as _, future::BoxFuture};
use stillpoint_contract::{Clock, Endpoint, Engine, Error, ErrorKind, Result, code};

/// Every engine compiled into this program.
pub fn engines(clock: &Arc<dyn Clock>) -> Vec<Arc<dyn Engine>> {
    Vec::from([
        Arc::new(stillpoint_sqlite::SqliteEngine::new(Arc::clone(clock))) as Arc<dyn Engine>,
        #[cfg(feature = "postgres")]
        Arc::new(stillpoint_postgres::PostgresEngine::new(Arc::clone(clock))),
    ])
}

/// What the environment says to an engine about its connections, as its own tools understand it.
pub fn settings(
    engine: &dyn Engine,
    variable: impl Fn(&str) -> Option<String>,
) -> BTreeMap<String, String> {
    match engine.name() {
        #[cfg(feature = "postgres")]
        "postgres" => stillpoint_postgres::settings_from(variable),
        _ => {
            drop(variable);
            BTreeMap::new()
        }
    }
}

/// How sessions are opened in a PostgreSQL database, in which coordinators share their state.
#[cfg(feature = "postgres")]
pub fn sessions(
    endpoint: &Endpoint,
    clock: &Arc<dyn Clock>,
) -> Result<impl Fn() -> BoxFuture<'static, Result<tokio_postgres::Client>> + Send + Sync + use<>> {
    let sessions = stillpoint_postgres::Sessions::new(endpoint, Arc::clone(clock))?;
    Ok(move || {
        let sessions = sessions.clone();
        async move { sessions.open().await }.boxed()
    })
}

/// Reads the URL of a database: a scheme, a colon, and what its engine makes of the rest.
pub fn endpoint(engines: &[Arc<dyn Engine>], url: &str) -> Result<(Arc<dyn Engine>, Endpoint)> {
    let known = || {
        let schemes = engines.iter().flat_map(|engine| engine.schemes());
        schemes.map(|scheme| format!("{scheme}:")).collect::<Vec<_>>().join(", ")
    };
    let Some((scheme, address)) = url.split_once(':') else {
        return Err(Error::new(
            ErrorKind::Invalid,
            code::UNKNOWN_SCHEME,
            "read the database's URL",
        )
        .with("given", url)
        .with("known", known())
        .next(format!("if it is a SQLite file: sqlite:{url}")));
    };
    let engine = engines.iter().find(|engine| engine.schemes().contains(&scheme));
    let engine = engine.ok_or_else(|| {
        Error::new(ErrorKind::Invalid, code::UNKNOWN_SCHEME, "read the database's URL")
            .with("scheme", format!("{scheme}:"))
            .with("known", known())
            .next("write the database's URL with a scheme that is known: sqlite:PATH")
            .next("if it is the name of a SQLite file: sqlite:./NAME")
    })?;
    let settings = BTreeMap::new();
    let (scheme, address) = (scheme.to_owned(), address.to_owned());
    Ok((Arc::clone(engine), Endpoint { scheme, address, settings }))
}
