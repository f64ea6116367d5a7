//! Endpoints that a program prints.

use stillpoint_contract::{Clock, Error, ErrorKind, Result, code};

use super::shape::BYTES_MAX;
use crate::coordinator::program::printed;

/// What a program prints, if it ends well.
pub(super) async fn print(words: &[String], clock: &dyn Clock) -> Result<Vec<u8>> {
    let bytes = printed(words, BYTES_MAX, clock).await.map_err(|unprinted| {
        let (why, cause) = unprinted.told();
        let error = Error::new(ErrorKind::Transient, code::FILE, "have a program print endpoints")
            .with("program", words.first().cloned().unwrap_or_default())
            .with("problem", why);
        match cause {
            Some(cause) => error.caused_by(cause),
            None => error,
        }
    })?;
    Ok(bytes.to_vec())
}
