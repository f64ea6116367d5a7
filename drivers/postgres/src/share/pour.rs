//! What `pg_dump` writes, done on the live server: statement by statement, rows as they come.

use std::{borrow::Cow, collections::BTreeMap, pin::pin};

use bytes::Bytes;
use futures::SinkExt as _;
use stillpoint_contract::{Error, ErrorKind, Progress, Result, code};
use tokio_postgres::error::SqlState;

use super::{
    dump::Dump,
    statements::{Piece, Splitter},
};
use crate::{
    connect::{Cluster, Sql},
    error,
};

const STEP: &str = "make what is restored in the live server";

/// The most that is noted of what was left out.
const NOTES_MAX: usize = 50;

/// Statements that only say who may do what, or what happens later on; without them the rows are
/// there all the same.
const LESS_NEEDED: &[&str] = &[
    "GRANT ",
    "REVOKE ",
    "CREATE TRIGGER ",
    "CREATE CONSTRAINT TRIGGER ",
    "CREATE POLICY ",
    "CREATE RULE ",
    "COMMENT ON EXTENSION ",
    "COMMENT ON DATABASE ",
    "ALTER DEFAULT PRIVILEGES ",
    "ALTER DATABASE ",
    "ALTER ROLE ",
];

/// Statements that take everything from everybody but owners.
const GRANTED: &str = "
    SELECT DISTINCT pg_catalog.format('REVOKE ALL ON %s %s FROM %s CASCADE',
        CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.oid::pg_catalog.regclass,
        CASE a.grantee WHEN 0 THEN 'PUBLIC'
            ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END)
    FROM pg_catalog.unnest($1::text[]) name
        JOIN pg_catalog.pg_class c ON c.oid = name::pg_catalog.regclass
        CROSS JOIN pg_catalog.aclexplode(c.relacl) a
    WHERE a.grantee <> c.relowner";

/// Whether everything happens in one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// In the one that the session is in.
    One,
    /// In one for each statement; `\connect` leads into the database that was made.
    Each,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Poured {
    /// Rows by table, named as statements name it.
    pub(super) rows: BTreeMap<String, u64>,
    pub(super) notes: Vec<String>,
}

/// Where it goes.
pub(super) struct Target<'a> {
    pub(super) sql: Sql,
    pub(super) mode: Mode,
    pub(super) major: u32,
    /// Where `\connect` leads.
    pub(super) made: Option<&'a Cluster>,
    /// Tables and sequences that are made where others are, which may grant more by default than
    /// was granted at the point.
    pub(super) relations: &'a [String],
    /// What of progress each table is worth.
    pub(super) sizes: &'a BTreeMap<String, u64>,
    pub(super) progress: &'a dyn Progress,
    /// The session that made the database, once another one is in it.
    pub(super) maker: Option<Sql>,
}

impl Target<'_> {
    /// Does everything that a dump says.
    pub(super) async fn pour(&mut self, mut dump: Dump) -> Result<Poured> {
        let mut poured = Poured::default();
        let mut splitter = Splitter::default();
        let mut has_shed = false;
        while let Some(line) = dump.line().await? {
            for piece in splitter.line(&line)? {
                match piece {
                    Piece::Connect => self.enter().await?,
                    Piece::Statement(text) => {
                        if let Some(table) = table_of_copy(&text) {
                            let rows = self.copy(&text, table, &mut dump).await?;
                            *poured.rows.entry(table.to_owned()).or_default() += rows;
                            continue;
                        }
                        if is_about_rights(&text) && !std::mem::replace(&mut has_shed, true) {
                            self.shed().await?;
                        }
                        self.run(&text, &mut poured.notes).await?;
                    }
                }
            }
        }
        if !has_shed {
            self.shed().await?;
        }
        if !splitter.is_done() {
            return Err(Error::new(ErrorKind::Transient, code::SANDBOX_SERVER, STEP)
                .why("what pg_dump wrote ends amid a statement"));
        }
        dump.finish().await?;
        Ok(poured)
    }

    /// Does what a dump does not say.
    pub(super) async fn run_all(&self, texts: &[String], notes: &mut Vec<String>) -> Result<()> {
        for text in texts {
            self.run(text, notes).await?;
        }
        Ok(())
    }

    /// Takes back what default privileges of the live database granted. `pg_dump` writes what was
    /// granted behind everything else, and takes those that there are for those of the point.
    async fn shed(&self) -> Result<()> {
        let failed = |e| error::sql(e, STEP);
        let rows = self.sql.client.query(GRANTED, &[&self.relations]).await.map_err(failed)?;
        for row in rows {
            let revoke: &str = row.try_get(0).map_err(failed)?;
            self.sql.client.batch_execute(revoke).await.map_err(failed)?;
        }
        Ok(())
    }

    async fn enter(&mut self) -> Result<()> {
        let made = self.made.ok_or_else(|| Error::bug(STEP))?;
        let inside = made.sql_on(&self.sql.host).await?;
        // A database with settings of its own is entered twice.
        let before = std::mem::replace(&mut self.sql, inside);
        self.maker.get_or_insert(before);
        // Made durable by the last statement, which renames the database.
        let settings = "SET synchronous_commit = off; SET default_transaction_read_only = off; \
                        SET array_nulls = on";
        self.sql.client.batch_execute(settings).await.map_err(|e| error::sql(e, STEP))
    }

    async fn run(&self, text: &str, notes: &mut Vec<String>) -> Result<()> {
        if self.is_not_for_this_server(text) {
            return Ok(());
        }
        let text = &*self.as_this_server_says(text);
        let client = &self.sql.client;
        let is_less_needed = is_less_needed(text);
        let has_savepoint = is_less_needed && self.mode == Mode::One;
        if has_savepoint {
            let made = client.batch_execute("SAVEPOINT stillpoint").await;
            made.map_err(|e| error::sql(e, STEP))?;
        }
        match client.batch_execute(text).await {
            Ok(()) if has_savepoint => {
                let released = client.batch_execute("RELEASE SAVEPOINT stillpoint").await;
                released.map_err(|e| error::sql(e, STEP))
            }
            Ok(()) => Ok(()),
            Err(e) if is_less_needed && e.as_db_error().is_some() => {
                if has_savepoint {
                    let back = client.batch_execute("ROLLBACK TO SAVEPOINT stillpoint").await;
                    back.map_err(|e| error::sql(e, STEP))?;
                }
                note(notes, text, &e);
                Ok(())
            }
            Err(e) => Err(refused(e, text)),
        }
    }

    /// Settings that only newer servers have, and one that would let us wait for locks for ever.
    fn is_not_for_this_server(&self, text: &str) -> bool {
        let is_newer = text.starts_with("SET transaction_timeout") && self.major < 17;
        is_newer || text.starts_with("SET lock_timeout")
    }

    /// A `pg_dump` of 15 or newer says who provides a locale, also of a server that knows only one.
    fn as_this_server_says<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if self.major < 15 && text.starts_with("CREATE DATABASE ") {
            return Cow::Owned(text.replacen(" LOCALE_PROVIDER = libc", "", 1));
        }
        Cow::Borrowed(text)
    }

    /// Hands rows on; memory does not depend on how many or how long they are.
    async fn copy(&self, text: &str, table: &str, dump: &mut Dump) -> Result<u64> {
        let failed = |e| refused(e, text);
        let sink = self.sql.client.copy_in::<_, Bytes>(text).await.map_err(failed)?;
        let mut sink = pin!(sink);
        let size = self.sizes.get(table).copied().unwrap_or_default();
        let (mut is_start, mut told) = (true, 0);
        while let Some(rows) = dump.rows(&mut is_start).await? {
            let more = (rows.len() as u64).min(size - told);
            self.progress.advance(more);
            told += more;
            sink.send(rows).await.map_err(failed)?;
        }
        self.progress.advance(size - told);
        sink.finish().await.map_err(failed)
    }
}

/// The table that `COPY … FROM stdin` fills.
fn table_of_copy(text: &str) -> Option<&str> {
    let rest = text.strip_prefix("COPY ")?.strip_suffix(" FROM stdin")?.trim_end();
    // With every name in quotes, its columns begin behind a quote.
    Some(rest.find("\" (").map_or(rest, |end| &rest[..=end]))
}

fn is_about_rights(text: &str) -> bool {
    text.starts_with("GRANT ") || text.starts_with("REVOKE ")
}

fn is_less_needed(text: &str) -> bool {
    let words = unquoted(text);
    let is_alter = words.starts_with("ALTER ");
    let is_owner = is_alter && words.contains(" OWNER TO ");
    let is_trigger = is_alter && words.contains(" TRIGGER ");
    is_owner || is_trigger || LESS_NEEDED.iter().any(|begin| words.starts_with(begin))
}

/// The words of a statement, without what is in quotes.
fn unquoted(text: &str) -> String {
    let mut quote = None;
    let is_word = |c: &char| {
        if let Some(open) = quote {
            quote = quote.filter(|_| *c != open);
            return false;
        }
        quote = Some(*c).filter(|c| matches!(c, '"' | '\''));
        quote.is_none()
    };
    text.chars().filter(is_word).collect()
}

fn note(notes: &mut Vec<String>, text: &str, error: &tokio_postgres::Error) {
    let said = error.as_db_error().map_or_else(|| error.to_string(), |db| db.message().to_owned());
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let note = format!("left out, because {said}: {line}");
    if notes.len() < NOTES_MAX && !notes.contains(&note) {
        notes.push(note);
    }
}

/// What the live server lacks, or what it said.
fn refused(e: tokio_postgres::Error, text: &str) -> Error {
    let Some(said) = e.as_db_error() else { return error::sql(e, STEP) };
    let state = said.code();
    let statement = text.split_whitespace().take(12).collect::<Vec<_>>().join(" ");
    let lacking = [
        SqlState::UNDEFINED_OBJECT,
        SqlState::UNDEFINED_FUNCTION,
        SqlState::UNDEFINED_TABLE,
        SqlState::UNDEFINED_COLUMN,
        SqlState::UNDEFINED_FILE,
        SqlState::INVALID_SCHEMA_NAME,
        SqlState::FEATURE_NOT_SUPPORTED,
        // An older server does not know everything.
        SqlState::SYNTAX_ERROR,
    ];
    if *state == SqlState::DUPLICATE_TABLE || *state == SqlState::DUPLICATE_DATABASE {
        return Error::new(ErrorKind::Refused, code::TARGET_EXISTS, STEP)
            .with("server", said.message())
            .why("somebody took the name meanwhile; nothing was changed")
            .next("choose a name that is free: --as NAME");
    }
    if lacking.contains(state) {
        return Error::new(ErrorKind::Missing, code::LACKING_TARGET, STEP)
            .with("server", said.message())
            .with("statement", statement)
            .why("the live server lacks what the table or database needs; nothing was changed")
            .next("make there what is missing, as it was at the chosen point, and repeat")
            .next("or bring the whole database back, with all that is in it: --database NAME");
    }
    if *state == SqlState::INSUFFICIENT_PRIVILEGE {
        return Error::new(ErrorKind::Denied, code::UNSUITABLE_DATABASE, STEP)
            .with("server", said.message())
            .with("statement", statement)
            .why("the role may not do this in the live server; nothing was changed")
            .next("connect as a role that may create there: --into postgres://ROLE@…");
    }
    error::sql(e, STEP).with("statement", statement)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_belong_to_the_table_of_their_statement() {
        let copy = |text| table_of_copy(text);
        assert_eq!(copy("COPY \"a\".\"b (c)\" (\"d\") FROM stdin"), Some("\"a\".\"b (c)\""));
        assert_eq!(copy("COPY \"a\".\"b\" FROM stdin"), Some("\"a\".\"b\""));
        // One without columns.
        assert_eq!(copy("COPY \"a\".\"b\"  FROM stdin"), Some("\"a\".\"b\""));
        assert_eq!(copy("SELECT 1"), None);
    }

    #[test]
    fn only_what_rows_can_do_without_is_left_out() {
        for (text, is) in [
            ("ALTER TABLE \"a\".\"b\" OWNER TO \"c\"", true),
            ("GRANT SELECT ON TABLE \"a\" TO \"b\"", true),
            ("ALTER TABLE \"a\" ADD CHECK (\"b\" <> ' OWNER TO ')", false),
            ("ALTER TABLE \"a\" DISABLE TRIGGER \"b\"", true),
            ("ALTER TABLE \"a\" ENABLE ROW LEVEL SECURITY", false),
            ("ALTER TABLE \"a\" ADD CONSTRAINT \"b\" UNIQUE (\"c\")", false),
        ] {
            assert_eq!(is_less_needed(text), is, "{text}");
        }
    }
}
