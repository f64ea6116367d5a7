//! The settings of one cluster: where it is and how to log in.
//!
//! Keywords, their meaning and the two notations are those of libpq.
//!
//! Source: <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING>.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use stillpoint_contract::{Endpoint, Error, ErrorKind, Result, code};

use crate::passfile;

/// Where servers of Debian and of PostgreSQL itself put their sockets.
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

const PORT: u16 = 5432;

/// The replication slot that holds WAL for us, unless the user names one.
const SLOT: &str = "stillpoint";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The most hosts that one address may name.
const HOSTS_MAX: usize = 32;

/// One cluster's settings, as resolved from its [`Endpoint`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// Servers to try, in order.
    pub(crate) hosts: Vec<Host>,
    /// The role.
    pub(crate) user: String,
    /// Its password, if given; otherwise the password file may know it.
    pub(crate) password: Option<Secret>,
    /// The file that knows passwords.
    pub(crate) passfile: Option<PathBuf>,
    /// The database that SQL sessions connect to.
    pub(crate) database: String,
    /// How the connection is protected; `None` lets the host decide.
    pub(crate) ssl_mode: Option<SslMode>,
    /// Whom to trust instead of the system's authorities.
    pub(crate) ssl_root: Option<PathBuf>,
    /// Our certificate.
    pub(crate) ssl_cert: Option<PathBuf>,
    /// Its key.
    pub(crate) ssl_key: Option<PathBuf>,
    /// Whether the login must be bound to the TLS channel.
    pub(crate) channel_binding: ChannelBinding,
    /// Which of the hosts will do.
    pub(crate) target: TargetSession,
    /// How long one host may take to answer.
    pub(crate) connect_timeout: Duration,
    /// Server settings of each session, as `-c name=value`.
    pub(crate) options: Option<String>,
    /// Setting `method`: the way in which backups are taken, if it is forced.
    pub(crate) method: Option<Method>,
    /// Setting `pg_bindir`: where the server's programs are, for restores.
    pub(crate) program_directory: Option<PathBuf>,
    /// Setting `slot`: the replication slot that holds WAL for us.
    pub(crate) slot: String,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    /// A name, an address, or the directory of a socket.
    pub(crate) place: Place,
    /// Its port.
    pub(crate) port: u16,
}

/// How a server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Over the network: the name that certificates must bear, and the address if it was given.
    Tcp { name: String, address: Option<String> },
    /// Through a socket in this directory.
    Unix(PathBuf),
}

impl Place {
    /// Whether bytes to this place stay on this machine.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp { name, address } => {
                let name = address.as_ref().unwrap_or(name);
                let address = name.parse::<std::net::IpAddr>();
                name == "localhost" || address.is_ok_and(|address| address.is_loopback())
            }
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Tcp { name, .. } if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            Place::Tcp { name, .. } => write!(f, "{name}:{}", self.port),
            Place::Unix(directory) => write!(f, "{}:{}", directory.display(), self.port),
        }
    }
}

/// Text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// What `sslmode` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// What `channel_binding` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChannelBinding {
    Disable,
    Prefer,
    Require,
}

/// What `target_session_attrs` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TargetSession {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

/// The ways in which a backup can be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// Ordinary connections read files.
    Sql,
    /// The replication protocol's `BASE_BACKUP`.
    BaseBackup,
    /// We read files ourselves, beside the server.
    Local,
}

impl Method {
    const NAMES: [(&'static str, Self); 3] =
        [("sql", Self::Sql), ("base_backup", Self::BaseBackup), ("local", Self::Local)];

    /// What it is called in settings and reports.
    pub(crate) fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, method)| *method == self).map_or("", |(name, _)| name)
    }
}

/// The keywords that are understood. Others of libpq are refused rather than ignored.
const KEYWORDS: &[&str] = &[
    "host",
    "hostaddr",
    "port",
    "user",
    "password",
    "passfile",
    "dbname",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "channel_binding",
    "target_session_attrs",
    "connect_timeout",
    "options",
    "application_name",
    "gssencmode",
    "method",
    "pg_bindir",
    "slot",
];

/// Variables of the environment that libpq knows, and the settings that they stand for.
const VARIABLES: &[(&str, &str)] = &[
    ("PGHOST", "host"),
    ("PGHOSTADDR", "hostaddr"),
    ("PGPORT", "port"),
    ("PGUSER", "user"),
    ("PGPASSWORD", "password"),
    ("PGPASSFILE", "passfile"),
    ("PGDATABASE", "dbname"),
    ("PGSSLMODE", "sslmode"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGSSLCERT", "sslcert"),
    ("PGSSLKEY", "sslkey"),
    ("PGCHANNELBINDING", "channel_binding"),
    ("PGTARGETSESSIONATTRS", "target_session_attrs"),
    ("PGCONNECT_TIMEOUT", "connect_timeout"),
    ("PGOPTIONS", "options"),
];

/// What the environment says about connections, as settings of an [`Endpoint`]. What an address
/// says itself goes first.
pub fn settings_from(variable: impl Fn(&str) -> Option<String>) -> BTreeMap<String, String> {
    let mut settings: BTreeMap<_, _> = VARIABLES
        .iter()
        .filter_map(|(name, keyword)| Some(((*keyword).to_owned(), variable(name)?)))
        .collect();
    if let Some(user) = variable("USER").or_else(|| variable("LOGNAME")) {
        settings.entry("user".to_owned()).or_insert(user);
    }
    if let Some(home) = variable("HOME") {
        let file = Path::new(&home).join(".pgpass").display().to_string();
        settings.entry("passfile".to_owned()).or_insert(file);
    }
    settings
}

impl Config {
    /// Reads an endpoint: `postgres://user@host:port/dbname?keyword=value`, or
    /// `postgres:keyword=value keyword=value`.
    pub(crate) fn new(endpoint: &Endpoint) -> Result<Self> {
        let said = if let Some(rest) = endpoint.address.strip_prefix("//") {
            read_url(rest)?
        } else {
            read_conninfo(&endpoint.address)?
        };
        let mut all = endpoint.settings.clone();
        // An address that names a host is not combined with an address from elsewhere.
        if said.contains_key("host") || said.contains_key("hostaddr") {
            for keyword in ["host", "hostaddr", "port"] {
                all.remove(keyword);
            }
        }
        all.extend(said);
        if let Some(unknown) = all.keys().find(|key| !KEYWORDS.contains(&key.as_str())) {
            return Err(invalid("read the address of a PostgreSQL cluster")
                .with("keyword", unknown)
                .with("known", KEYWORDS.join(", ")));
        }
        Self::resolve(&all)
    }

    fn resolve(all: &BTreeMap<String, String>) -> Result<Self> {
        let get = |keyword: &str| all.get(keyword).map(String::as_str).filter(|v| !v.is_empty());
        let path = |keyword| get(keyword).map(PathBuf::from);
        let seconds = |text: &str| text.parse().ok().filter(|s| (1..=3600).contains(s));
        let connect_timeout = match get("connect_timeout") {
            None => CONNECT_TIMEOUT,
            Some(text) => seconds(text)
                .map(Duration::from_secs)
                .ok_or_else(|| bad("connect_timeout", text))?,
        };
        let user = get("user").unwrap_or("postgres").to_owned();
        Ok(Self {
            hosts: read_hosts(get("host"), get("hostaddr"), get("port"))?,
            password: get("password").map(Secret::new),
            passfile: path("passfile"),
            database: get("dbname").unwrap_or("postgres").to_owned(),
            ssl_mode: word(get("sslmode"), "sslmode", SSL_MODES)?,
            ssl_root: path("sslrootcert").filter(|path| path != Path::new("system")),
            ssl_cert: path("sslcert"),
            ssl_key: path("sslkey"),
            channel_binding: word(get("channel_binding"), "channel_binding", CHANNEL_BINDINGS)?
                .unwrap_or(ChannelBinding::Prefer),
            target: word(get("target_session_attrs"), "target_session_attrs", TARGETS)?
                .unwrap_or(TargetSession::Any),
            connect_timeout,
            options: get("options").map(str::to_owned),
            method: word(get("method"), "method", &Method::NAMES)?,
            program_directory: path("pg_bindir"),
            slot: get("slot").unwrap_or(SLOT).to_owned(),
            user,
        })
    }

    /// The cluster's name unless the user gives one: that of its first host.
    pub(crate) fn default_name(&self) -> String {
        let host = self.hosts.first();
        let name = match host.map(|host| &host.place) {
            Some(Place::Tcp { name, .. }) => name.replace(':', "-"),
            Some(Place::Unix(_)) | None => "localhost".to_owned(),
        };
        match host.map(|host| host.port) {
            Some(port) if port != PORT => format!("{name}-{port}"),
            _ => name,
        }
    }

    /// How connections to `host` are protected: what `sslmode` says, else verified over a network
    /// and as the server likes on this machine.
    pub(crate) fn protection(&self, host: &Host) -> SslMode {
        match (&host.place, self.ssl_mode) {
            (Place::Unix(_), _) => SslMode::Disable,
            (_, Some(mode)) => mode,
            (place, None) if place.is_local() => SslMode::Prefer,
            (_, None) => SslMode::VerifyFull,
        }
    }

    /// The password for `host`, as given or from the password file.
    pub(crate) fn password_for(&self, host: &Host, database: &str) -> Result<Option<Secret>> {
        if self.password.is_some() {
            return Ok(self.password.clone());
        }
        let Some(file) = &self.passfile else { return Ok(None) };
        let name = match &host.place {
            Place::Tcp { name, .. } => name.clone(),
            Place::Unix(directory) => {
                let is_usual = SOCKET_DIRECTORIES.iter().any(|usual| directory == Path::new(usual));
                if is_usual { "localhost".to_owned() } else { directory.display().to_string() }
            }
        };
        passfile::look_up(file, [&name, &host.port.to_string(), database, &self.user])
    }
}

const SSL_MODES: &[(&str, SslMode)] = &[
    ("disable", SslMode::Disable),
    ("allow", SslMode::Allow),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];

const CHANNEL_BINDINGS: &[(&str, ChannelBinding)] = &[
    ("disable", ChannelBinding::Disable),
    ("prefer", ChannelBinding::Prefer),
    ("require", ChannelBinding::Require),
];

const TARGETS: &[(&str, TargetSession)] = &[
    ("any", TargetSession::Any),
    ("read-write", TargetSession::ReadWrite),
    ("read-only", TargetSession::ReadOnly),
    ("primary", TargetSession::Primary),
    ("standby", TargetSession::Standby),
    ("prefer-standby", TargetSession::PreferStandby),
];

/// Looks a word up.
fn word<T: Copy>(
    said: Option<&str>,
    keyword: &'static str,
    known: &[(&'static str, T)],
) -> Result<Option<T>> {
    let Some(said) = said else { return Ok(None) };
    let found = known.iter().find(|(name, _)| *name == said);
    found.map(|(_, value)| Some(*value)).ok_or_else(|| {
        let known: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        bad(keyword, said).with("known", known.join(", "))
    })
}

fn read_hosts(
    hosts: Option<&str>,
    addresses: Option<&str>,
    ports: Option<&str>,
) -> Result<Vec<Host>> {
    let list = |text: Option<&str>| -> Vec<String> {
        text.map_or_else(Vec::new, |text| text.split(',').map(|s| s.trim().to_owned()).collect())
    };
    let (hosts, addresses, ports) = (list(hosts), list(addresses), list(ports));
    let count = hosts.len().max(addresses.len()).max(1);
    let fits = |list: &[String]| list.is_empty() || list.len() == count;
    if count > HOSTS_MAX || !fits(&hosts) || !fits(&addresses) || ports.len() > count.max(1) {
        return Err(invalid("read the hosts of a PostgreSQL cluster")
            .why("host, hostaddr and port must list equally many"));
    }
    let at = |list: &[String], index: usize| list.get(index).filter(|s| !s.is_empty()).cloned();
    (0..count)
        .map(|index| {
            let port = if ports.len() == 1 { at(&ports, 0) } else { at(&ports, index) };
            let port = port.map_or(Ok(PORT), |text| {
                text.parse().ok().filter(|port| *port > 0).ok_or_else(|| bad("port", &text))
            })?;
            let address = at(&addresses, index);
            let name = at(&hosts, index).or_else(|| address.clone());
            let place = match name {
                None => Place::Unix(default_socket_directory(port)),
                Some(name) if name.starts_with('/') => Place::Unix(name.into()),
                Some(name) => Place::Tcp { name, address },
            };
            Ok(Host { place, port })
        })
        .collect()
}

fn default_socket_directory(port: u16) -> PathBuf {
    let mut directories = SOCKET_DIRECTORIES.iter().map(PathBuf::from);
    let found = directories.find(|directory| directory.join(format!(".s.PGSQL.{port}")).exists());
    found.unwrap_or_else(|| SOCKET_DIRECTORIES[0].into())
}

/// Reads what follows `//`: `[user[:password]@][host][:port][,...][/dbname][?keyword=value[&...]]`.
fn read_url(rest: &str) -> Result<BTreeMap<String, String>> {
    let mut said = BTreeMap::new();
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(a, b)| (a, Some(b)));
    let (authority, database) = rest.split_once('/').map_or((rest, None), |(a, b)| (a, Some(b)));
    let (login, hosts) =
        authority.rsplit_once('@').map_or((None, authority), |(a, b)| (Some(a), b));
    let mut put = |keyword: &str, text: &str| -> Result<()> {
        if !text.is_empty() {
            said.insert(keyword.to_owned(), unescape(text)?);
        }
        Ok(())
    };
    if let Some(login) = login {
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        put("user", user)?;
        put("password", password)?;
    }
    put("dbname", database.unwrap_or_default())?;
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in hosts.split(',') {
        let (name, port) = split_port(host)?;
        names.push(name);
        ports.push(port);
    }
    put("host", &names.join(","))?;
    if ports.iter().any(|port| !port.is_empty()) {
        put("port", &ports.join(","))?;
    }
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (keyword, value) = pair.split_once('=').ok_or_else(|| bad("query", pair))?;
        put(&unescape(keyword)?, value)?;
    }
    Ok(said)
}

fn split_port(host: &str) -> Result<(&str, &str)> {
    if let Some(rest) = host.strip_prefix('[') {
        let (name, port) = rest.split_once(']').ok_or_else(|| bad("host", host))?;
        return Ok((name, port.strip_prefix(':').unwrap_or(port)));
    }
    Ok(host.split_once(':').unwrap_or((host, "")))
}

fn unescape(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.ok_or_else(|| invalid("read a `%` escape in an address"))?);
        rest = tail.get(2..).unwrap_or_default();
    }
    String::from_utf8(bytes).map_err(|_| invalid("read an address as UTF-8"))
}

/// Reads `keyword = value` pairs; values may be in single quotes, with `\` escapes.
fn read_conninfo(text: &str) -> Result<BTreeMap<String, String>> {
    let mut said = BTreeMap::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (keyword, value) = rest.split_once('=').ok_or_else(|| {
            invalid("read the address of a PostgreSQL cluster")
                .next("postgres://user@host:5432/dbname")
                .next("postgres:host=/var/run/postgresql user=postgres")
        })?;
        let (value, after) = read_value(value.trim_start())?;
        said.insert(keyword.trim().to_owned(), value);
        rest = after.trim_start();
    }
    Ok(said)
}

fn read_value(text: &str) -> Result<(String, &str)> {
    let (quoted, body) = text.strip_prefix('\'').map_or((false, text), |body| (true, body));
    let (mut value, mut escaped) = (String::new(), false);
    for (at, c) in body.char_indices() {
        let rest = body.get(at + c.len_utf8()..).unwrap_or_default();
        match c {
            _ if std::mem::take(&mut escaped) => value.push(c),
            '\\' => escaped = true,
            '\'' if quoted => return Ok((value, rest)),
            c if !quoted && c.is_whitespace() => return Ok((value, rest)),
            c => value.push(c),
        }
    }
    if quoted { Err(invalid("find the closing quote in an address")) } else { Ok((value, "")) }
}

fn invalid(step: &'static str) -> Error {
    Error::new(ErrorKind::Invalid, code::USAGE, step)
}

/// A setting that cannot be understood. Passwords never come here.
fn bad(keyword: &'static str, value: &str) -> Error {
    invalid("read the address of a PostgreSQL cluster").with(keyword, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(address: &str) -> Result<Config> {
        let (scheme, address) = address.split_once(':').unwrap();
        let (scheme, address) = (scheme.to_owned(), address.to_owned());
        Config::new(&Endpoint { scheme, address, settings: BTreeMap::new() })
    }

    fn hosts(address: &str) -> Vec<String> {
        read(address).unwrap().hosts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn both_notations_say_the_same() {
        let url = read("postgres://al%20ice:s%40crt@db1:6000,[::1]/shop?sslmode=require").unwrap();
        let pairs = read(
            "postgresql:host=db1,::1 port='6000,' user='al ice' password=s@crt \
             dbname=shop sslmode=require",
        );
        assert_eq!(url, pairs.unwrap());
        assert_eq!(url.hosts[0].to_string(), "db1:6000");
        assert_eq!(url.hosts[1].to_string(), "[::1]:5432");
        assert_eq!((url.user.as_str(), url.database.as_str()), ("al ice", "shop"));
        assert_eq!(url.password.as_ref().map(Secret::expose), Some("s@crt"));
    }

    #[test]
    fn sockets_names_and_defaults() {
        assert_eq!(hosts("postgres:host=/run/pg port=5433"), ["/run/pg:5433"]);
        assert_eq!(hosts("postgres://%2Frun%2Fpg:5433/x"), ["/run/pg:5433"]);
        assert_eq!(hosts("postgres://a,b:1,c"), ["a:5432", "b:1", "c:5432"]);
        assert_eq!(hosts("postgres:host=a,b port=7"), ["a:7", "b:7"]);
        assert_eq!(read("postgres://db.example:5433/").unwrap().default_name(), "db.example-5433");
        assert_eq!(read("postgres:").unwrap().default_name(), "localhost");
    }

    #[test]
    fn networks_are_verified_and_loopback_is_not() {
        for (address, mode) in [
            ("postgres://db1/", SslMode::VerifyFull),
            ("postgres://127.0.0.1/", SslMode::Prefer),
            ("postgres://localhost/", SslMode::Prefer),
            ("postgres:host=/tmp sslmode=require", SslMode::Disable),
            ("postgres://db1/?sslmode=disable", SslMode::Disable),
        ] {
            let config = read(address).unwrap();
            assert_eq!(config.protection(&config.hosts[0]), mode, "{address}");
        }
    }

    #[test]
    fn what_cannot_be_understood_is_refused_and_secrets_stay_secret() {
        for address in [
            "postgres://h/?sslmode=maybe",
            "postgres://h/?colour=red",
            "postgres://h:70000/",
            "postgres://h:0/",
            "postgres:host",
            "postgres:host='x",
            "postgres://%zz/",
            "postgres:host=a,b hostaddr=1",
            "postgres://h/?method=magic",
            "postgres://h/?connect_timeout=0",
        ] {
            assert_eq!(read(address).unwrap_err().kind(), ErrorKind::Invalid, "{address}");
        }
        let config = read("postgres://u:hunter2@h/").unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn the_environment_fills_what_the_address_leaves_open() {
        let variables = [("PGHOST", "other"), ("PGPORT", "6"), ("USER", "me"), ("HOME", "/h")];
        let settings = settings_from(|name| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
        });
        let read = |address: &str| {
            let (scheme, address) = ("postgres".to_owned(), address.to_owned());
            Config::new(&Endpoint { scheme, address, settings: settings.clone() }).unwrap()
        };
        let config = read("");
        assert_eq!(config.hosts[0].to_string(), "other:6");
        assert_eq!((config.user.as_str(), config.passfile), ("me", Some("/h/.pgpass".into())));
        assert_eq!(read("//mine/").hosts[0].to_string(), "mine:5432");
    }
}
