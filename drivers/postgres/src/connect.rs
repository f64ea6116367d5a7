//! Connections: sockets, TLS, SQL sessions, replication sessions.

use std::{
    fmt,
    future::{Ready, ready},
    io,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use stillpoint_contract::{Clock, Error, ErrorKind, Result, code};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::{TcpStream, UnixStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_postgres::{
    config::{SslMode as SqlSslMode, SslNegotiation},
    tls::{ChannelBinding as SqlBinding, TlsConnect, TlsStream as SqlTlsStream},
};
use tokio_rustls::client::TlsStream;

use crate::{
    config::{ChannelBinding, Config, Host, Place, SslMode, TargetSession},
    error, tls,
    wire::Session,
};

/// The name of our sessions in the server's views.
pub(crate) const APPLICATION: &str = "stillpoint";

const CONNECT: &str = "connect to PostgreSQL";

/// A cluster that can be connected to. Cloning is cheap.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(crate) config: Arc<Config>,
    pub(crate) clock: Arc<dyn Clock>,
}

/// What kind of session is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sql,
    Replication,
}

/// A session of either kind.
enum Opened {
    Sql(Sql),
    Replication(Session),
}

impl Cluster {
    /// Looks whether certificates can be read; connects to nothing.
    pub(crate) fn new(config: Config, clock: Arc<dyn Clock>) -> Result<Self> {
        tls::Settings::new(&config)?;
        Ok(Self { config: Arc::new(config), clock })
    }

    /// Opens a replication session on a host that another session found.
    pub(crate) async fn replication_on(&self, host: &Host) -> Result<Session> {
        match self.first_of(std::slice::from_ref(host), Kind::Replication).await? {
            Opened::Replication(session) => Ok(session),
            Opened::Sql(_) => Err(Error::bug(CONNECT)),
        }
    }

    /// Opens a SQL session on the first host that will do.
    pub(crate) async fn sql(&self) -> Result<Sql> {
        if self.config.target == TargetSession::PreferStandby {
            let config = Config { target: TargetSession::Standby, ..(*self.config).clone() };
            let standbys = Self { config: Arc::new(config), ..self.clone() };
            // Where none of them is a standby, the first that answers will do.
            if let Ok(Opened::Sql(sql)) = standbys.first_of(&self.config.hosts, Kind::Sql).await {
                return Ok(sql);
            }
        }
        match self.first_of(&self.config.hosts, Kind::Sql).await? {
            Opened::Sql(sql) => Ok(sql),
            Opened::Replication(_) => Err(Error::bug(CONNECT)),
        }
    }

    /// Opens another SQL session on a host that did before.
    pub(crate) async fn sql_on(&self, host: &Host) -> Result<Sql> {
        match self.first_of(std::slice::from_ref(host), Kind::Sql).await? {
            Opened::Sql(sql) => Ok(sql),
            Opened::Replication(_) => Err(Error::bug(CONNECT)),
        }
    }

    /// The same cluster, with sessions in another database.
    pub(crate) fn in_database(&self, database: &str) -> Self {
        let config = Config { database: database.to_owned(), ..(*self.config).clone() };
        Self { config: Arc::new(config), ..self.clone() }
    }

    /// Whether it is certain that none of its servers comes back: the directories of their sockets
    /// are gone. A network does not tell a server that is gone from one that restarts.
    pub(crate) fn is_gone(&self) -> bool {
        let is_gone = |host: &Host| match &host.place {
            Place::Unix(directory) => matches!(directory.try_exists(), Ok(false)),
            Place::Tcp { .. } => false,
        };
        self.config.hosts.iter().all(is_gone)
    }

    fn login(&self, host: &Host, database: &str) -> Result<Login> {
        Ok(Login {
            user: self.config.user.clone(),
            password: self.config.password_for(host, database)?,
            options: self.config.options.clone(),
            channel_binding: self.config.channel_binding,
        })
    }

    async fn first_of(&self, hosts: &[Host], kind: Kind) -> Result<Opened> {
        let mut last = None;
        for host in hosts {
            for mode in modes(self.config.protection(host)) {
                let limit = self.config.connect_timeout;
                let outcome = match timeout(limit, self.open(host, *mode, kind)).await {
                    Ok(outcome) => outcome,
                    Err(_) => Err(Error::new(ErrorKind::Transient, code::NO_DATABASE, CONNECT)
                        .why("it did not answer in time")
                        .with("limit", format!("{} s", limit.as_secs()))),
                };
                match outcome {
                    Ok(session) => return Ok(session),
                    Err(error) => {
                        let is_foreign = error.kind() == ErrorKind::Unsupported;
                        last = Some(error.during(CONNECT).with("host", host));
                        if is_foreign {
                            break;
                        }
                    }
                }
            }
        }
        let last = last.unwrap_or_else(|| Error::bug("connect to no host"));
        Err(tls::explained(last, &self.config, self.clock.now()))
    }

    async fn open(&self, host: &Host, mode: SslMode, kind: Kind) -> Result<Opened> {
        match kind {
            Kind::Sql => {
                let sql = self.sql_at(host, mode).await?;
                self.check_target(&sql).await?;
                Ok(Opened::Sql(sql))
            }
            Kind::Replication => {
                let socket = self.socket(host, mode).await?;
                let session = Session::start(socket, &self.login(host, "replication")?).await?;
                Ok(Opened::Replication(session))
            }
        }
    }

    async fn socket(&self, host: &Host, mode: SslMode) -> Result<Socket> {
        let unreachable = |cause: io::Error| {
            let kind = match cause.kind() {
                io::ErrorKind::NotFound => ErrorKind::Missing,
                io::ErrorKind::PermissionDenied => ErrorKind::Denied,
                _ => ErrorKind::Transient,
            };
            Error::new(kind, code::NO_DATABASE, "reach the server")
                .caused_by(cause)
                .next("is the server running, and does it listen there?")
        };
        let (name, address) = match &host.place {
            Place::Unix(directory) => {
                let path = directory.join(format!(".s.PGSQL.{}", host.port));
                let stream = UnixStream::connect(path).await.map_err(unreachable)?;
                return Ok(Socket::plain(Stream::Unix(stream)));
            }
            Place::Tcp { name, address } => (name, address.as_ref().unwrap_or(name)),
        };
        let stream =
            TcpStream::connect((address.as_str(), host.port)).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        keep_alive(&stream).map_err(unreachable)?;
        if mode == SslMode::Disable {
            return Ok(Socket::plain(Stream::Tcp(stream)));
        }
        self.negotiate(stream, name, mode).await
    }

    /// Asks for TLS, in the server's own way.
    async fn negotiate(&self, mut stream: TcpStream, name: &str, mode: SslMode) -> Result<Socket> {
        let failed = |cause| error::broken(cause, "negotiate TLS");
        let mut request = BytesMut::new();
        frontend::ssl_request(&mut request);
        stream.write_all(&request).await.map_err(failed)?;
        let mut answer = [0];
        stream.read_exact(&mut answer).await.map_err(failed)?;
        match answer[0] {
            b'S' => {}
            b'N' if mode == SslMode::Prefer => return Ok(Socket::plain(Stream::Tcp(stream))),
            b'N' => {
                return Err(Error::new(ErrorKind::Refused, code::NO_DATABASE, "negotiate TLS")
                    .why("the server offers no TLS, and sslmode asks for it")
                    .next("set `ssl = on` in the server")
                    .next("or trust the network: sslmode=disable"));
            }
            other => return Err(error::unexpected(other.escape_ascii(), "negotiate TLS")),
        }
        let settings = tls::Settings::new(&self.config)?;
        let (stream, binding) = settings.connect(stream, name, mode).await?;
        Ok(Socket { stream: Stream::Tls(Box::new(stream)), binding })
    }

    async fn sql_at(&self, host: &Host, mode: SslMode) -> Result<Sql> {
        let socket = self.socket(host, mode).await?;
        let login = self.login(host, &self.config.database)?;
        let mut config = tokio_postgres::Config::new();
        config.user(&login.user).dbname(&self.config.database).application_name(APPLICATION);
        if let Some(password) = &login.password {
            config.password(password.expose());
        }
        if let Some(options) = &login.options {
            config.options(options);
        }
        config.channel_binding(match login.channel_binding {
            ChannelBinding::Disable => tokio_postgres::config::ChannelBinding::Disable,
            ChannelBinding::Prefer => tokio_postgres::config::ChannelBinding::Prefer,
            ChannelBinding::Require => tokio_postgres::config::ChannelBinding::Require,
        });
        // TLS has been negotiated already; `Established` hands the socket on as it is.
        config.ssl_mode(SqlSslMode::Require).ssl_negotiation(SslNegotiation::Direct);
        let (client, connection) =
            config.connect_raw(socket, Established).await.map_err(|e| error::sql(e, "log in"))?;
        let task = tokio::spawn(async move {
            // The error also reaches whoever waits for an answer.
            let _ = connection.await;
        });
        Ok(Sql { client, task: Ending(Some(task)), host: host.clone() })
    }

    async fn check_target(&self, sql: &Sql) -> Result<()> {
        let target = self.config.target;
        if matches!(target, TargetSession::Any | TargetSession::PreferStandby) {
            return Ok(());
        }
        let step = "choose a server by target_session_attrs";
        let query = "SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only')";
        let row = sql.client.query_one(query, &[]).await.map_err(|e| error::sql(e, step))?;
        let in_recovery: bool = row.try_get(0).map_err(|e| error::sql(e, step))?;
        let read_only: &str = row.try_get(1).map_err(|e| error::sql(e, step))?;
        let is_read_only = in_recovery || read_only == "on";
        let fits = match target {
            TargetSession::ReadWrite => !is_read_only,
            TargetSession::ReadOnly => is_read_only,
            TargetSession::Primary => !in_recovery,
            TargetSession::Standby => in_recovery,
            TargetSession::Any | TargetSession::PreferStandby => true,
        };
        if fits {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Transient, code::NO_DATABASE, step)
            .why("the server is not what target_session_attrs asks for")
            .with("in recovery", in_recovery))
    }
}

/// In which order the modes that `sslmode` allows are tried.
fn modes(mode: SslMode) -> &'static [SslMode] {
    match mode {
        SslMode::Disable => &[SslMode::Disable],
        SslMode::Allow => &[SslMode::Disable, SslMode::Require],
        SslMode::Prefer => &[SslMode::Prefer, SslMode::Disable],
        SslMode::Require => &[SslMode::Require],
        SslMode::VerifyCa => &[SslMode::VerifyCa],
        SslMode::VerifyFull => &[SslMode::VerifyFull],
    }
}

/// What a session logs in with.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: Option<crate::config::Secret>,
    pub(crate) options: Option<String>,
    pub(crate) channel_binding: ChannelBinding,
}

/// A SQL session. Dropping it ends the session, and with it a backup mode that it began.
pub(crate) struct Sql {
    pub(crate) client: tokio_postgres::Client,
    /// Where it is connected to.
    pub(crate) host: Host,
    task: Ending,
}

impl fmt::Debug for Sql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sql").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Sql {
    /// The session without its task, which ends by itself when the client is gone.
    pub(crate) fn into_client(mut self) -> tokio_postgres::Client {
        self.task.0 = None;
        self.client
    }
}

/// Ends a task when it is dropped: the socket closes, whatever the server is doing.
struct Ending(Option<JoinHandle<()>>);

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// Notices a peer that is gone without a word.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(30))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(10))?;
    sockopt::set_tcp_keepcnt(stream, 6)?;
    Ok(())
}

/// A connected socket, encrypted or not.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: Stream,
    /// The hash of the server's certificate, for `tls-server-end-point`.
    pub(crate) binding: Option<Vec<u8>>,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
    #[cfg(test)]
    Memory(tokio::io::DuplexStream),
}

impl Socket {
    fn plain(stream: Stream) -> Self {
        Self { stream, binding: None }
    }

    /// One end of a pipe, for tests of the protocol.
    #[cfg(test)]
    pub(crate) fn memory(stream: tokio::io::DuplexStream) -> Self {
        Self::plain(Stream::Memory(stream))
    }

    /// Whether others on the network cannot read what is sent.
    pub(crate) fn is_private(&self) -> bool {
        !matches!(self.stream, Stream::Tcp(_))
    }
}

/// Calls the same method of whatever stream it is.
macro_rules! either {
    ($self:expr, $stream:ident => $call:expr) => {
        match &mut $self.get_mut().stream {
            Stream::Tcp($stream) => $call,
            Stream::Unix($stream) => $call,
            Stream::Tls($stream) => $call,
            #[cfg(test)]
            Stream::Memory($stream) => $call,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

impl SqlTlsStream for Socket {
    fn channel_binding(&self) -> SqlBinding {
        self.binding.clone().map_or_else(SqlBinding::none, SqlBinding::tls_server_end_point)
    }
}

/// Hands a socket on whose TLS is established, if it has any.
struct Established;

impl TlsConnect<Socket> for Established {
    type Stream = Socket;
    type Error = io::Error;
    type Future = Ready<io::Result<Socket>>;

    fn connect(self, stream: Socket) -> Self::Future {
        ready(Ok(stream))
    }
}

/// The directory of a socket as a path, for reports.
pub(crate) fn location(host: &Host, data_directory: &Path) -> String {
    format!("{host} {}", data_directory.display())
}
