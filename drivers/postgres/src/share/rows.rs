//! Rows of two servers in one order, as both write them, one at a time.

use std::{borrow::Cow, cmp::Ordering, pin::Pin};

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt as _;
use stillpoint_contract::{Error, Result};
use tokio_postgres::CopyOutStream;

use crate::{connect::Sql, error};

const STEP: &str = "read the rows of a table";

/// How both servers write values, so that equal ones are equal texts, and sort them.
pub(super) const FORMS: &str = "
    SET search_path = ''; SET client_encoding = 'UTF8'; SET DateStyle = 'ISO, YMD';
    SET TimeZone = 'UTC'; SET IntervalStyle = 'postgres'; SET extra_float_digits = 3;
    SET bytea_output = 'hex'; SET lc_monetary = 'C'; SET quote_all_identifiers = off;
    SET statement_timeout = 0; SET row_security = off";

/// How a value of a key is sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// As a whole number.
    Number,
    /// By its bytes.
    Bytes,
}

/// A row: what it is sorted by, and its columns, as `COPY` writes them.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) sort: Vec<Bytes>,
    pub(super) values: Vec<Bytes>,
    pub(super) length: u64,
}

/// Rows of one server.
pub(super) struct Rows {
    stream: Pin<Box<CopyOutStream>>,
    buffer: BytesMut,
    keys: usize,
}

impl Rows {
    /// Begins to read what a query answers, of which the first columns are what it is sorted by.
    pub(super) async fn open(sql: &Sql, query: &str, keys: usize) -> Result<Self> {
        let copy = format!("COPY ({query}) TO STDOUT");
        let stream = sql.client.copy_out(&copy).await.map_err(|e| error::sql(e, STEP))?;
        Ok(Self { stream: Box::pin(stream), buffer: BytesMut::new(), keys })
    }

    pub(super) async fn next(&mut self) -> Result<Option<Row>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1).freeze();
                return Ok(Some(self.row(&line.slice(..end))));
            }
            match self.stream.try_next().await.map_err(|e| error::sql(e, STEP))? {
                Some(more) => self.buffer.extend_from_slice(&more),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Error::bug(STEP)),
            }
        }
    }

    fn row(&self, line: &Bytes) -> Row {
        let length = line.len() as u64;
        let mut fields = line.split(|byte| *byte == b'\t').map(|field| line.slice_ref(field));
        let sort = fields.by_ref().take(self.keys).collect();
        Row { sort, values: fields.collect(), length }
    }
}

/// Which of two rows comes first.
pub(super) fn compare(one: &Row, other: &Row, orders: &[Order]) -> Ordering {
    let pairs = one.sort.iter().zip(&other.sort).zip(orders);
    let compared = pairs.map(|((one, other), order)| match order {
        Order::Number => number(one).cmp(&number(other)),
        Order::Bytes => plain(one).cmp(&plain(other)),
    });
    compared.fold(Ordering::Equal, Ordering::then)
}

fn number(field: &[u8]) -> Option<i128> {
    str::from_utf8(field).ok()?.parse().ok()
}

/// The value that a field stands for; that of NULL is `\N`, which no value has.
pub(super) fn plain(field: &[u8]) -> Cow<'_, [u8]> {
    if !field.contains(&b'\\') || is_null(field) {
        return Cow::Borrowed(field);
    }
    let mut value = Vec::with_capacity(field.len());
    let mut bytes = field.iter().copied();
    while let Some(byte) = bytes.next() {
        value.push(match byte {
            b'\\' => match bytes.next() {
                Some(b'b') => 0x08,
                Some(b'f') => 0x0c,
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b't') => b'\t',
                Some(b'v') => 0x0b,
                Some(other) => other,
                None => b'\\',
            },
            byte => byte,
        });
    }
    Cow::Owned(value)
}

/// Whether a field is NULL.
pub(super) fn is_null(field: &[u8]) -> bool {
    field == b"\\N"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(keys: &[&'static str]) -> Row {
        let sort = keys.iter().map(|key| Bytes::from_static(key.as_bytes())).collect();
        Row { sort, values: Vec::new(), length: 0 }
    }

    #[test]
    fn rows_are_in_the_order_of_the_servers() {
        let orders = [Order::Number, Order::Bytes];
        let sorted = [["-5", "z"], ["9", "a"], ["10", "\\n"], ["10", " "], ["10", "a"]];
        for pair in sorted.windows(2) {
            assert_eq!(compare(&row(&pair[0]), &row(&pair[1]), &orders), Ordering::Less);
        }
        assert_eq!(plain(b"a\\\\b\\tc\\r"), b"a\\b\tc\r".as_slice());
        assert_eq!(plain(b"\\N"), b"\\N".as_slice());
    }
}
