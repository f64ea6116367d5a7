//! From names in a configuration to open repositories and endpoints, secrets included.

use std::{path::PathBuf, sync::Arc};

use stillpoint_contract::{Endpoint, Engine, Error, ErrorKind, Result, code};

use super::{
    super::{
        init,
        open::{self, Need, Opened},
        serve,
        session::Session,
    },
    secret,
};
use crate::{
    config::{Config, Database, Encryption},
    coordinator::PICKUP_SCHEME,
    repository::{Repository, keys::Secret},
};

/// Opens a repository as it is configured. Nobody is asked for anything.
pub(crate) async fn repository(session: &Session, config: &Config, name: &str) -> Result<Opened> {
    let opened = repository_or_locked(session, config, name).await?;
    if !opened.is_unlocked() {
        let step = format!("open repository {name} without its key");
        return Err(Error::new(ErrorKind::Config, code::NO_KEY, step)
            .with("place", opened.location())
            .why("it is encrypted, and the configuration says nothing of that")
            .next(format!("[repository.{name}]  encryption = {{ key = {{ file = \"FILE\" }} }}")));
    }
    Ok(opened)
}

/// The same; one that is encrypted without its key where the configuration says nothing of that.
pub(crate) async fn repository_or_locked(
    session: &Session,
    config: &Config,
    name: &str,
) -> Result<Opened> {
    let (place, key) = place(session, config, name).await?;
    open::at(session, &place, key).await
}

/// Where a repository is that is configured, and what opens it.
pub(crate) async fn place(
    session: &Session,
    config: &Config,
    name: &str,
) -> Result<(String, Option<Secret>)> {
    let Some(repository) = config.repositories.get(name) else {
        let known: Vec<&str> = config.repositories.keys().map(String::as_str).collect();
        return Err(Error::new(ErrorKind::Config, code::CONFIG_NAME, "find the repository")
            .with("given", name)
            .with("configured", known.join(", ")));
    };
    if repository.is_handoff {
        let step = "open what is handed over as a repository";
        return Err(Error::new(ErrorKind::Refused, code::NO_REPOSITORY, step)
            .with("repository", name)
            .with("place", &repository.url)
            .why("native files lie there, for others to take: its manifests say how to use them"));
    }
    let with = (&*session.world.clock, &session.environment);
    let of = format!("of repository {name}");
    // A copy has the keys of what it is copied from, and may have others.
    let origin = config.origin_of(name).and_then(|origin| config.repositories.get(origin));
    let inherited = origin.and_then(|origin| origin.encryption.as_ref());
    let key = match repository.encryption.as_ref().or(inherited) {
        None => None,
        Some(Encryption::Passphrase(passphrase)) => {
            Some(Secret::passphrase(&secret::fetch(with, passphrase, &of).await?)?)
        }
        Some(Encryption::Key(key)) => {
            Some(Secret::from_key_file(&secret::fetch(with, key, &of).await?)?)
        }
    };
    Ok((repository.url.clone(), key))
}

/// Opens a copy of a repository as it is configured, or creates it where there is nothing, and
/// never was as far as this user knows.
pub(crate) async fn replica(
    session: &Session,
    config: &Config,
    name: &str,
    source: &Repository,
) -> Result<Opened> {
    match repository(session, config, name).await {
        Err(error) if error.code() == code::NO_REPOSITORY => {
            let (place, key) = place(session, config, name).await?;
            let has_own = config.repositories.get(name).is_some_and(|r| r.encryption.is_some());
            let made = init::create_replica(session, &place, source, key.filter(|_| has_own));
            made.await?;
            repository(session, config, name).await
        }
        opened => opened,
    }
}

/// The folder in which files of a database are left, where that is its endpoint.
pub(crate) fn drop_folder(database: &Database) -> Option<PathBuf> {
    database.endpoint.strip_prefix(PICKUP_SCHEME).map(PathBuf::from)
}

/// The engine of files that are left, where nobody says it.
const LEFT_ENGINE: &str = "sqlite";

/// The database's engine and endpoint, with the password of its user.
pub(crate) async fn endpoint(
    session: &Session,
    database: &Database,
) -> Result<(Arc<dyn Engine>, Endpoint)> {
    if let Some(folder) = database.endpoint.strip_prefix(PICKUP_SCHEME) {
        let engine = database.engine.as_deref().unwrap_or(LEFT_ENGINE);
        return session.endpoint(&format!("{engine}:{folder}"));
    }
    let mut schemes = session.engines.iter().flat_map(|engine| engine.schemes());
    let has_scheme = schemes.any(|scheme| {
        let rest = database.endpoint.strip_prefix(scheme);
        rest.is_some_and(|rest| rest.starts_with(':'))
    });
    let url = match &database.engine {
        Some(engine) if !has_scheme => format!("{engine}:{}", database.endpoint),
        _ => database.endpoint.clone(),
    };
    let (engine, mut endpoint) = session.endpoint(&url)?;
    let is_meant = |name: &String| engine.name() == name || engine.schemes().contains(&&**name);
    if let Some(other) = database.engine.as_ref().filter(|name| !is_meant(name)) {
        return Err(Error::new(ErrorKind::Config, code::CONFIG_VALUE, "reach the database")
            .with("database", &database.name)
            .with("its engine", other)
            .with("its endpoint is one of", engine.name())
            .why("another engine would be backed up under its name")
            .next("correct `engine`, or `endpoint`"));
    }
    if let Some(password) = &database.password {
        let with = (&*session.world.clock, &session.environment);
        let of = format!("the password of {}", database.name);
        let password = secret::fetch(with, password, &of).await?;
        endpoint.settings.insert("password".to_owned(), password.to_string());
    }
    Ok((engine, endpoint))
}

/// Opens the repository that the command line or the environment names, or else the one that is
/// configured for a database, or else the only one that is configured and gets no copies.
pub(crate) async fn either(session: &Session, database: Option<&str>) -> Result<Opened> {
    if session.names_place() {
        return open::repository(session, Need::Content).await;
    }
    let config = serve::found(session).await?.config;
    let own = database.and_then(|name| config.databases.get(name));
    let mut names = config.restorable().filter(|name| config.origin_of(name).is_none());
    let name = match (own, names.next(), names.next()) {
        (Some(database), ..) => &database.repository,
        (None, Some(only), None) => only,
        _ => {
            return Err(Error::new(
                ErrorKind::Invalid,
                code::USAGE,
                "tell which repository is meant",
            )
            .with("configured", config.repositories.len())
            .next("give --repo DIR, or set STILLPOINT_REPO"));
        }
    };
    repository(session, &config, name).await
}

/// The machine that an endpoint burdens: that of its URL, or this one.
pub(crate) fn host(endpoint: &Endpoint) -> String {
    let authority = endpoint.address.strip_prefix("//").unwrap_or_default();
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let bare = match host.rsplit_once(':') {
        Some((bare, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => bare,
        _ => host,
    };
    if bare.is_empty() { "localhost".to_owned() } else { bare.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_host_of_an_endpoint_is_what_jobs_burden() {
        let of = |address: &str| {
            let address = address.to_owned();
            host(&Endpoint { scheme: "x".to_owned(), address, settings: BTreeMap::new() })
        };
        assert_eq!(of("//user@db.internal:5432/app?x=y"), "db.internal");
        assert_eq!(of("//db.internal"), "db.internal");
        assert_eq!(of("//[::1]:5432/app"), "[::1]");
        assert_eq!(of("/srv/app.db"), "localhost");
        assert_eq!(of("///app"), "localhost");
    }
}
