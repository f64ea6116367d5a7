//! One backup from its start to its stop: which way, and what surrounds it.

use std::{
    path::Path,
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::future::{Either, try_join};
use stillpoint_contract::{
    BackupRequest, Base, Error, ErrorKind, Evidence, LogRange, Result, Sink, code,
};
use tokio::sync::{mpsc, watch};

use crate::{
    captured::Search,
    config::Method,
    connect::{Cluster, Sql},
    copy::{
        control,
        crew::{BaseFiles, Copied, Crew, attributes, write_file},
        local::LocalFiles,
        reader::Files,
        sql::{self, SqlFiles},
        stream,
        wal::{Commits, WalParts, capture_stream, collect_files},
    },
    earlier::Earlier,
    error,
    facts::{Facts, quieten},
    layout::{FileOutside, Layout, OUTSIDE_PREFIX, Tablespace, write_part},
    summaries, tally,
    wire::{BackupOptions, Session, lsn_from, lsn_text},
};

/// How many listed files wait for a worker.
const ENTRIES_QUEUED_MAX: usize = 1024;

/// Directories of `pg_wal` that a server expects.
const WAL_DIRECTORIES: [&str; 2] = ["pg_wal/archive_status", "pg_wal/summaries"];

/// How often it is noted how far a server is that makes a base backup.
const LOOK_PERIOD: Duration = Duration::from_millis(250);

/// Tells our temporary slots apart.
static SLOTS: AtomicU32 = AtomicU32::new(0);

/// Copies the cluster into `sink`.
pub(crate) async fn backup(
    cluster: &Cluster,
    request: BackupRequest<'_>,
    sink: &dyn Sink,
) -> Result<Evidence> {
    run(cluster, request, sink).await.map_err(|cause| {
        // A session that broke has lost its backup mode: what was copied is worth nothing.
        if cause.kind() == ErrorKind::Transient && cause.code() == code::SOURCE_VANISHED {
            return Error::new(ErrorKind::Departed, code::SOURCE_VANISHED, "copy the cluster")
                .caused_by(cause)
                .next("run the backup again");
        }
        cause
    })
}

async fn run(cluster: &Cluster, request: BackupRequest<'_>, sink: &dyn Sink) -> Result<Evidence> {
    let sql = cluster.sql().await?;
    let facts = Facts::ask(&sql).await?;
    let (method, local) = facts.choose(cluster, &sql)?;
    let earlier = match &request.base {
        Some(base) => Some(Earlier::read(base.evidence, base.parts, &facts).await?),
        None => None,
    };
    let streams = request.streams_max.get();
    let run = Run { cluster, facts: &facts, sink, sql: &sql, streams };
    if let Some(Ok(earlier)) = &earlier {
        run.refuse_what_was_left(earlier.timeline).await?;
    }
    match method {
        Method::BaseBackup => run.streamed(earlier).await,
        Method::Sql | Method::Local => {
            let earlier = request.base.zip(earlier);
            run.file_by_file(method, local.as_deref(), earlier).await
        }
    }
}

/// What one backup works with.
struct Run<'a> {
    cluster: &'a Cluster,
    facts: &'a Facts,
    sink: &'a dyn Sink,
    sql: &'a Sql,
    streams: usize,
}

/// How far the log reached at an instant.
#[derive(Clone, Copy, Debug)]
struct Moment {
    lsn: u64,
    at: DateTime<Utc>,
}

impl Moment {
    /// Not before anything that is part of the copy was committed.
    fn with(self, commits: &Commits) -> Self {
        Self { at: commits.last_before(self.lsn).map_or(self.at, |last| last.max(self.at)), ..self }
    }
}

/// What was copied, for the layout.
#[derive(Debug)]
struct Contents {
    timeline: u32,
    start: u64,
    stop: Moment,
    directories: Vec<String>,
    tablespaces: Vec<Tablespace>,
    copied: Copied,
}

impl Run<'_> {
    /// Copies files by reading them, through SQL or from the disk.
    async fn file_by_file(
        &self,
        method: Method,
        local: Option<&Path>,
        earlier: Option<(Base<'_>, Result<Earlier, &'static str>)>,
    ) -> Result<Evidence> {
        let workers = self.streams.saturating_sub(1).max(1);
        let files = match local.filter(|_| method == Method::Local) {
            Some(directory) => Files::Local(LocalFiles::new(directory)),
            None => Files::Sql(self.readers(workers).await?),
        };
        let wal = self.wal_session().await?;
        let start = self.begin().await?;
        if let Files::Local(_) = &files {
            self.check_local(&files, start).await?;
        }
        let timeline = self.timeline().await?;
        let (base, how) = self.base_files(earlier, &files, start, timeline).await?;
        let (file_mode, wal_bytes) = (self.facts.modes().1, self.facts.wal_segment_bytes()?);
        let shape = (wal_bytes, self.facts.version.major());
        let wal_parts = WalParts::new(self.sink, (timeline, start), shape, file_mode);
        let (stopped, stop) = watch::channel(None);
        let copy = self.copy_files(&files, workers, base.as_ref(), &stopped);
        let clock = &self.cluster.clock;
        let keep = if let Some(session) = wal {
            Either::Left(capture_stream(session, wal_parts, stop, clock))
        } else {
            let (asking, files) = (self.asking().await?, self.wal_files(local).await?);
            Either::Right(
                async move { collect_files((&files, &asking), wal_parts, stop, clock).await },
            )
        };
        let ((directories, copied, stop), commits) = if self.streams > 1 {
            try_join(copy, keep).await?
        } else {
            // One part at a time: the slot keeps the WAL until then.
            (copy.await?, keep.await?)
        };
        let stop = stop.with(&commits);
        let tablespaces = self.facts.tablespaces.clone();
        let contents = Contents { timeline, start, stop, directories, tablespaces, copied };
        let way = match method {
            Method::Local => "files beside the server".to_owned(),
            _ => format!("files read over SQL by {workers} sessions"),
        };
        self.finish(contents, base.is_some(), format!("{way}; {how}")).await
    }

    /// Lists, copies, and ends the backup mode.
    async fn copy_files(
        &self,
        files: &Files,
        workers: usize,
        base: Option<&BaseFiles>,
        stopped: &watch::Sender<Option<u64>>,
    ) -> Result<(Vec<String>, Copied, Moment)> {
        let file_mode = self.facts.modes().1;
        let crew = Crew {
            files,
            sink: self.sink,
            clock: &self.cluster.clock,
            workers,
            page_bytes: self.facts.page_bytes(),
            segment_pages: self.facts.segment_pages(),
            verifies: self.facts.is_on("data_checksums"),
            file_mode,
            base,
        };
        let (sender, entries) = mpsc::channel(ENTRIES_QUEUED_MAX);
        let (major, inside) = (self.facts.version.major(), self.facts.tablespaces_inside());
        let list = async {
            match files {
                Files::Sql(_) => sql::list(self.sql, major, &inside, sender).await,
                Files::Local(local) => local.list(major, inside.clone(), sender).await,
            }
        };
        let (mut directories, copied) = try_join(list, crew.copy(entries)).await?;
        let last = if major >= 17 { 2 } else { 1 };
        directories.extend(WAL_DIRECTORIES.iter().take(last).map(|d| (*d).to_owned()));
        let control = control::read(files, &self.cluster.clock).await?;
        write_file(self.sink, control::CONTROL_FILE, control.into(), file_mode).await?;
        let stop = self.end(file_mode).await?;
        stopped.send_replace(Some(stop.lsn));
        Ok((directories, copied, stop))
    }

    /// Receives what the server's own base backup sends.
    async fn streamed(&self, earlier: Option<Result<Earlier, &'static str>>) -> Result<Evidence> {
        let cluster = self.cluster;
        let wal = self.wal_session().await?.ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, code::UNSUITABLE_DATABASE, "stream WAL as well")
                .why("a base backup needs two replication connections")
                .next("raise max_wal_senders")
        })?;
        let mut session = cluster.replication_on(&self.sql.host).await?;
        let (incremental, how) = self.upload(&mut session, earlier).await?;
        let options = BackupOptions { label: label(), incremental: incremental.is_some() };
        // A small one may be over before anybody looks again.
        let mut looks = vec![self.look().await?];
        let mut how = how;
        let mut pages = incremental.unwrap_or_default();
        let mut second;
        let mut backup = match session.base_backup(&options).await {
            Err(cause) if options.incremental && cause.kind() == ErrorKind::Config => {
                // Summaries of WAL are gone: then everything is sent.
                how = format!("every block ({cause})");
                pages.clear();
                second = cluster.replication_on(&self.sql.host).await?;
                second.base_backup(&BackupOptions { incremental: false, ..options }).await?
            }
            outcome => outcome?,
        };
        let is_incremental = !pages.is_empty();
        let start = backup.start;
        let named = |oid: &u32| self.facts.tablespaces.iter().find(|space| space.oid == *oid);
        let tablespaces = backup.tablespaces.iter().map(|(oid, place)| Tablespace {
            oid: *oid,
            name: named(oid).and_then(|space| space.name.clone()),
            location: Some(place.clone()).filter(|place| place.starts_with('/')),
        });
        let tablespaces = tablespaces.collect();
        let (file_mode, wal_bytes) = (self.facts.modes().1, self.facts.wal_segment_bytes()?);
        let shape = (wal_bytes, self.facts.version.major());
        let wal_parts = WalParts::new(self.sink, (start.timeline, start.lsn), shape, file_mode);
        let (stopped, stop) = watch::channel(None);
        let copy = async {
            let page_bytes = self.facts.page_bytes();
            let receive = stream::receive(&mut backup, self.sink, page_bytes, &pages);
            let received = tokio::select! {
                received = receive => received?,
                failed = self.watch_the_clock(&mut looks) => return Err(failed),
            };
            stopped.send_replace(Some(received.stop.lsn));
            Ok((received, looks))
        };
        let keep = capture_stream(wal, wal_parts, stop, &cluster.clock);
        let ((received, looks), commits) =
            if self.streams > 1 { try_join(copy, keep).await? } else { (copy.await?, keep.await?) };
        let lsn = received.stop.lsn;
        // A standby may end it before where its replay was when it began.
        let last = looks.iter().rfind(|look| look.lsn <= lsn).or(looks.first());
        let at = last.ok_or_else(|| Error::bug("tell when a base backup ended"))?.at;
        let stop = Moment { lsn, at }.with(&commits);
        let contents = Contents {
            timeline: start.timeline,
            start: start.lsn,
            stop,
            directories: received.directories,
            tablespaces,
            copied: Copied::default(),
        };
        self.finish(contents, is_incremental, format!("BASE_BACKUP stream; {how}")).await
    }

    /// Tells the server what the earlier backup has. Returns the lengths of its parts.
    async fn upload(
        &self,
        session: &mut Session,
        earlier: Option<Result<Earlier, &'static str>>,
    ) -> Result<(Option<std::collections::HashMap<String, u32>>, String)> {
        let earlier = match earlier {
            None => return Ok((None, "every block".to_owned())),
            Some(Err(why)) => return Ok((None, format!("every block ({why})"))),
            Some(Ok(earlier)) => earlier,
        };
        if let Some(why) = summaries::missing(self.facts) {
            return Ok((None, format!("every block ({why})")));
        }
        if !earlier.corrupt.is_empty() {
            return Ok((None, "every block (the base has corrupt pages)".to_owned()));
        }
        session.upload_manifest(earlier.manifest(&self.facts.system_identifier)).await?;
        Ok((Some(earlier.pages), "changed blocks as the server finds them".to_owned()))
    }

    /// What need not be read again, and why or why not.
    async fn base_files(
        &self,
        earlier: Option<(Base<'_>, Result<Earlier, &'static str>)>,
        files: &Files,
        start: u64,
        timeline: u32,
    ) -> Result<(Option<BaseFiles>, String)> {
        let whole = |why: &str| Ok((None, format!("every block ({why})")));
        let (base, earlier) = match earlier {
            None => return whole("first backup"),
            Some((_, Err(why))) => return whole(why),
            Some((base, Ok(earlier))) => (base, earlier),
        };
        let Earlier { timeline: base_timeline, pages, corrupt, start: since, stop } = earlier;
        let (clock, facts) = (&self.cluster.clock, self.facts);
        let summarised = match summaries::missing(facts) {
            Some(why) => Err(why),
            None if base_timeline != timeline => Err("the base is of another timeline"),
            None => summaries::changes(self.sql, timeline, since..start, clock).await?,
        };
        let why = match summarised {
            Ok(changes) => {
                let how = "blocks that changed by WAL summaries".to_owned();
                return Ok((Some(BaseFiles { pages, changes, corrupt }), how));
            }
            Err(why) => why,
        };
        let base_range = since..stop;
        let search =
            Search { facts, files, timeline, base: base_range, base_timeline, until: start };
        match search.changes(base).await? {
            Ok(changes) => {
                let how = "blocks that changed by captured WAL".to_owned();
                Ok((Some(BaseFiles { pages, changes, corrupt }), how))
            }
            Err(unknown) => whole(&format!("{why}; {unknown}")),
        }
    }

    /// Begins the backup mode, which ends with the session at the latest.
    async fn begin(&self) -> Result<u64> {
        let step = "begin a backup";
        let query = self.facts.version.start_backup();
        let row = self.sql.client.query_one(query, &[&label()]).await;
        let row = row.map_err(|e| error::sql(e, step))?;
        let text: &str = row.try_get(0).map_err(|e| error::sql(e, step))?;
        lsn_from(text).ok_or_else(|| error::unexpected(text, step))
    }

    /// Ends the backup mode and writes the two files that say what was copied, byte for byte.
    async fn end(&self, file_mode: u32) -> Result<Moment> {
        let step = "end a backup";
        let failed = |e| error::sql(e, step);
        let query = self.facts.version.stop_backup();
        let row = self.sql.client.query_one(query, &[]).await.map_err(failed)?;
        let text: &str = row.try_get(0).map_err(failed)?;
        let lsn = lsn_from(text).ok_or_else(|| error::unexpected(text, step))?;
        let label: String = row.try_get(1).map_err(failed)?;
        let map: Option<String> = row.try_get(2).map_err(failed)?;
        let at: i64 = row.try_get(3).map_err(failed)?;
        let at = DateTime::from_timestamp_micros(at).unwrap_or(DateTime::UNIX_EPOCH);
        write_file(self.sink, "backup_label", label.into(), file_mode).await?;
        if let Some(map) = map.filter(|map| !map.is_empty()) {
            write_file(self.sink, "tablespace_map", map.into(), file_mode).await?;
        }
        Ok(Moment { lsn, at })
    }

    /// A primary that was replaced has a lower timeline than what took its place.
    async fn refuse_what_was_left(&self, known: u32) -> Result<()> {
        let step = "ask for the timeline";
        let query = "SELECT CASE WHEN pg_is_in_recovery() THEN NULL \
                     ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END";
        let row = self.sql.client.query_one(query, &[]).await.map_err(|e| error::sql(e, step))?;
        let name: Option<&str> = row.try_get(0).map_err(|e| error::sql(e, step))?;
        // A standby follows, sooner or later.
        let Some(name) = name else { return Ok(()) };
        match u32::from_str_radix(name, 16) {
            Ok(timeline) if timeline < known => Err(error::left_behind(timeline, known)),
            Ok(_) => Ok(()),
            Err(_) => Err(error::unexpected(name, step)),
        }
    }

    async fn timeline(&self) -> Result<u32> {
        let step = "ask for the timeline";
        let query = "SELECT timeline_id FROM pg_control_checkpoint()";
        let row = self.sql.client.query_one(query, &[]).await.map_err(|e| error::sql(e, step))?;
        let timeline: i32 = row.try_get(0).map_err(|e| error::sql(e, step))?;
        u32::try_from(timeline).map_err(|_| error::unexpected(timeline, step))
    }

    /// Notes when the server was how far, again and again: a base backup tells where its end is,
    /// and not when that was.
    async fn watch_the_clock(&self, looks: &mut Vec<Moment>) -> Error {
        loop {
            match self.look().await {
                Ok(look) => looks.push(look),
                Err(error) => return error,
            }
            self.cluster.clock.sleep(LOOK_PERIOD).await;
        }
    }

    async fn look(&self) -> Result<Moment> {
        let step = "ask for the time";
        let query = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8, \
                     (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
                     ELSE pg_current_wal_insert_lsn() END)::text";
        let failed = |e| error::sql(e, step);
        let row = self.sql.client.query_one(query, &[]).await.map_err(failed)?;
        let (at, lsn): (i64, &str) =
            (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        let at = DateTime::from_timestamp_micros(at).ok_or_else(|| error::unexpected(at, step))?;
        Ok(Moment { lsn: lsn_from(lsn).ok_or_else(|| error::unexpected(lsn, step))?, at })
    }

    /// The checkpoint that began the backup must be on the disk that we read: otherwise it is the
    /// disk of another server of the same cluster.
    async fn check_local(&self, files: &Files, start: u64) -> Result<()> {
        let bytes = control::read(files, &self.cluster.clock).await?;
        let redo = control::decode(&bytes).map_or(0, |control| control.redo);
        if redo >= start {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Refused, code::FOREIGN_DATABASE, "recognise the data directory")
            .with("checkpoint there", lsn_text(redo))
            .with("checkpoint of the server", lsn_text(start))
            .why("the directory on this machine belongs to another server of the same cluster")
            .next("method=sql"))
    }

    async fn readers(&self, count: usize) -> Result<SqlFiles> {
        let mut sessions = Vec::with_capacity(count);
        for _ in 0..count {
            sessions.push(self.asking().await?);
        }
        SqlFiles::new(sessions).await
    }

    /// Another session of the same server.
    async fn asking(&self) -> Result<Sql> {
        let sql = self.cluster.sql_on(&self.sql.host).await?;
        quieten(&sql, self.facts.version).await?;
        Ok(sql)
    }

    async fn wal_files(&self, local: Option<&Path>) -> Result<Files> {
        Ok(match local {
            Some(directory) => Files::Local(LocalFiles::new(directory)),
            None => Files::Sql(self.readers(1).await?),
        })
    }

    /// A replication session whose temporary slot keeps WAL from before the backup on, where the
    /// role may have one.
    async fn wal_session(&self) -> Result<Option<(Session, Option<String>)>> {
        if !self.facts.may_replicate {
            return Ok(None);
        }
        let mut session = match self.cluster.replication_on(&self.sql.host).await {
            Ok(session) => session,
            // The server says that it has no place for us, or none for this role.
            Err(error) if is_unwelcome(&error) => {
                tracing::info!(%error, "WAL is read from files instead");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let found = session.identify_system().await?.system_identifier.to_string();
        if found != self.facts.system_identifier {
            return Err(Error::new(ErrorKind::Departed, code::SOURCE_VANISHED, "stream WAL")
                .with("expected", &self.facts.system_identifier)
                .with("found", found)
                .why("another cluster answers at the same address"));
        }
        let number = SLOTS.fetch_add(1, Ordering::Relaxed);
        let name = format!("stillpoint_backup_{}_{number}", process::id());
        match session.create_slot(&name, true).await {
            Ok(()) => Ok(Some((session, Some(name)))),
            Err(error) => {
                tracing::info!(%error, "WAL is streamed without a slot");
                Ok(Some((session, None)))
            }
        }
    }

    /// Writes what a restore must know, and says what was done.
    async fn finish(
        &self,
        contents: Contents,
        incremental: bool,
        mut method: String,
    ) -> Result<Evidence> {
        let Contents { timeline, start, stop, mut directories, tablespaces, copied } = contents;
        let facts = self.facts;
        directories.sort();
        directories.dedup();
        if copied.corrupt_count > 0 {
            method = format!("{method}; {} CORRUPT PAGES", copied.corrupt_count);
            tracing::error!(pages = copied.corrupt_count, first = ?copied.corrupt.first(),
                "pages of the cluster have wrong checksums; the backup holds them as they are");
        }
        let damage = copied.damage();
        let (directory_mode, file_mode) = facts.modes();
        let (tallies, extensions) = tally::recorded(self.cluster, self.sql).await;
        let layout = Layout {
            version: Layout::version(),
            server_version: facts.version_text.clone(),
            server_version_num: facts.version.0,
            system_identifier: facts.system_identifier.clone(),
            timeline,
            start_lsn: lsn_text(start),
            stop_lsn: lsn_text(stop.lsn),
            wal_segment_bytes: facts.wal_segment_bytes()?,
            page_bytes: facts.page_bytes(),
            data_checksums: facts.is_on("data_checksums"),
            directory_mode,
            file_mode,
            directories,
            tablespaces,
            corrupt_pages: copied.corrupt,
            corrupt_pages_count: copied.corrupt_count,
            files_outside: self.files_outside(file_mode).await?,
            extensions: extensions.clone(),
            settings: facts.probe().settings,
        };
        layout.write(self.sink).await?;
        let (from, to) = (facts.position(timeline, start)?, facts.position(timeline, stop.lsn)?);
        Ok(Evidence {
            consistent_at: Some(to.clone()),
            consistent_time: stop.at,
            cursor: Bytes::new(),
            replay: LogRange::new(from, to),
            incremental,
            method,
            tallies,
            extensions,
            damage,
        })
    }

    /// Copies configuration files that lie elsewhere, where the role may read them.
    async fn files_outside(&self, file_mode: u32) -> Result<Vec<FileOutside>> {
        let mut found = Vec::new();
        let directory = self.facts.settings.get("data_directory").map_or("", String::as_str);
        for setting in ["config_file", "hba_file", "ident_file"] {
            let Some(path) = self.facts.settings.get(setting).filter(|path| !path.is_empty())
            else {
                continue;
            };
            if !directory.is_empty() && Path::new(path).starts_with(directory) {
                continue;
            }
            let query = "SELECT pg_read_binary_file($1)";
            let row = self.sql.client.query_one(query, &[path]).await.ok();
            let bytes = row.and_then(|row| row.try_get::<_, Vec<u8>>(0).ok());
            let mut part = None;
            if let Some(bytes) = bytes {
                let name = format!("{OUTSIDE_PREFIX}{setting}");
                write_part(self.sink, &name, attributes(file_mode), bytes.into()).await?;
                part = Some(name);
            }
            found.push(FileOutside { setting: setting.to_owned(), path: path.clone(), part });
        }
        Ok(found)
    }
}

/// What the server calls the backup.
fn label() -> String {
    "stillpoint".to_owned()
}

fn is_unwelcome(error: &Error) -> bool {
    error.kind() == ErrorKind::Denied || error.code() == code::DATABASE_BUSY
}
