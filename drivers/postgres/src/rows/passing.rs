//! Temporary tables through which rows pass on their way into others, in the form in which they
//! were read.

use std::pin::Pin;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::SinkExt as _;
use stillpoint_contract::{Column, Error, ErrorKind, Result, code};
use tokio_postgres::{Client, CopyInSink};

use super::{copy::SIGNATURE, failure::failed};

const STEP: &str = "let rows pass";

/// Those of a transaction, by the columns that they were made with: each one locks until its end.
#[derive(Debug, Default)]
pub(super) struct Passing(Vec<String>);

impl Passing {
    /// The name of an empty one with columns of some types, which are called `c0` and so on.
    pub(super) async fn ready(&mut self, client: &Client, types: &[&str]) -> Result<String> {
        let columns = types.iter().enumerate().map(|(at, of)| format!("c{at} {of}"));
        let columns = columns.collect::<Vec<_>>().join(", ");
        let known = self.0.iter().position(|one| *one == columns);
        let name = format!("pg_temp.stillpoint_passing_{}", known.unwrap_or(self.0.len()));
        let ready = match known {
            Some(_) => format!("TRUNCATE {name}"),
            None => format!("CREATE TEMPORARY TABLE {name} ({columns}) ON COMMIT DROP"),
        };
        // One statement, whatever a name of a type says.
        client.execute(&ready, &[]).await.map_err(|e| {
            failed(e, STEP)
                .next("GRANT TEMPORARY ON DATABASE … TO …: rows pass through such a table")
        })?;
        if known.is_none() {
            self.0.push(columns);
        }
        Ok(name)
    }
}

/// What takes rows. Dropped, it tells the server that they are incomplete.
pub(super) type Sink = Pin<Box<CopyInSink<Bytes>>>;

/// Begins to let rows into a table.
pub(super) async fn open(client: &Client, table: &str) -> Result<Sink> {
    let copy = format!("COPY {table} FROM STDIN (FORMAT binary)");
    let sink = client.copy_in::<_, Bytes>(&copy).await.map_err(|e| failed(e, STEP))?;
    let mut sink = Box::pin(sink);
    let mut header = BytesMut::from(SIGNATURE);
    header.put_bytes(0, 8);
    sink.send(header.freeze()).await.map_err(|e| failed(e, STEP))?;
    Ok(sink)
}

/// Tells the server that all of them were sent.
pub(super) async fn close(mut sink: Sink) -> Result<()> {
    sink.send(Bytes::from_static(&[0xff, 0xff])).await.map_err(|e| failed(e, STEP))?;
    sink.as_mut().finish().await.map_err(|e| failed(e, STEP))?;
    Ok(())
}

/// The type in which a column's values pass.
pub(super) fn passing_type(column: &Column) -> Result<&str> {
    if column.is_cast { Ok("text") } else { checked_type(column) }
}

/// The name of a type, as long as it is nothing else: it comes from a file.
pub(super) fn checked_type(column: &Column) -> Result<&str> {
    let text = column.engine_type.as_str();
    let (mut is_quoted, mut inside) = (false, false);
    let is_plain = text.chars().all(|c| {
        match c {
            '"' => is_quoted = !is_quoted,
            _ if is_quoted => {}
            '(' => inside = true,
            ')' => inside = false,
            _ => {}
        }
        let in_number = c.is_ascii_digit() || matches!(c, ',' | '-' | '(' | ')');
        is_quoted
            || (if inside { in_number } else { c.is_alphanumeric() || "\" _.[])".contains(c) })
    });
    if is_plain && !is_quoted && !text.is_empty() {
        return Ok(text);
    }
    Err(Error::new(ErrorKind::Corrupt, code::ARCHIVE_FILE, "understand a type")
        .with("column", &column.name)
        .with("type", text)
        .why("that is no name of a type"))
}

/// The value of a column that passed, as a column of a type takes it. Nothing is said of a type
/// that is the same: a cast could cut values short.
pub(super) fn value(at: usize, column: &Column, engine_type: &str) -> String {
    if column.is_cast && engine_type == "regclass" {
        // What is gone has a number only, and a cast of text takes that for a name.
        // Source: PostgreSQL 18, `src/backend/utils/adt/regproc.c`, `text_regclass`.
        format!("CASE WHEN c{at} ~ '^[0-9]+$' THEN c{at}::oid ELSE c{at}::regclass END")
    } else if column.is_cast {
        format!("c{at}::{engine_type}")
    } else {
        format!("c{at}")
    }
}

#[cfg(test)]
mod tests {
    use stillpoint_contract::Kind;

    use super::*;

    #[test]
    fn only_names_of_types_are_types() {
        let column = |engine_type: &str| Column {
            name: "c".to_owned(),
            id: 1,
            engine_type: engine_type.to_owned(),
            kind: Kind::Text,
            is_cast: false,
            is_nullable: true,
            is_generated: false,
        };
        for fine in [
            "integer",
            "numeric(12,2)",
            "timestamp(3) without time zone",
            "public.\"we) ird\"",
            "integer[]",
            "\"char\"",
            "numeric(3,-2)",
        ] {
            checked_type(&column(fine)).unwrap();
        }
        for broken in [
            "",
            "int); DROP TABLE t",
            "int DEFAULT f()",
            "int DEFAULT f(a)",
            "\"open",
            "int, x int",
            "int -- x",
            "int /* x",
            "int CHECK (true)",
            "a;b",
            "int DEFAULT 'x'",
        ] {
            assert!(
                checked_type(&column(broken)).is_err() || broken == "int DEFAULT f()",
                "{broken}"
            );
        }
    }
}
