//! Lists as PostgreSQL sends arrays.
//!
//! Source: PostgreSQL 18, `src/backend/utils/adt/arrayfuncs.c`, `array_send`.

use stillpoint_contract::{Kind, ROW_BYTES_MAX};

use super::cell::{self, Cell};

/// Number of dimensions, whether there are NULLs, type of the elements.
const HEADER_BYTES: usize = 12;
/// Length and lowest index.
const DIMENSION_BYTES: usize = 8;

const NULL: i32 = -1;

/// The bytes end before a value does.
struct CutOff;

/// The elements of a list that was looked through.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Elements<'a> {
    kind: &'a Kind,
    bytes: &'a [u8],
}

impl<'a> Elements<'a> {
    /// Looks a list through; `None` when it has not exactly one dimension that begins with 1, and
    /// is not empty, or when an element does not fit.
    pub(super) fn take(kind: &'a Kind, element_type: u32, bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes;
        let dimensions = take_word(&mut rest)?;
        let said_null = take_word(&mut rest)?;
        if take_word(&mut rest)?.cast_unsigned() != element_type {
            return None;
        }
        let mut left = 0;
        if dimensions == 1 {
            left = take_word(&mut rest)?;
            if left <= 0 || take_word(&mut rest)? != 1 {
                return None;
            }
        } else if dimensions != 0 {
            return None;
        }
        let elements = rest;
        let mut has_null = false;
        while left > 0 {
            match take_value(&mut rest).ok()? {
                None => has_null = true,
                Some(value) => drop(cell::take(kind, value)?),
            }
            left -= 1;
        }
        let is_whole = rest.is_empty() && said_null == i32::from(has_null);
        is_whole.then_some(Self { kind, bytes: elements })
    }

    /// One after the other, `None` for NULL.
    pub(super) fn iter(&self) -> impl Iterator<Item = Option<Cell<'a>>> {
        let (kind, mut rest) = (self.kind, self.bytes);
        std::iter::from_fn(move || {
            let value = take_value(&mut rest).ok()?;
            Some(value.and_then(|value| cell::take(kind, value)))
        })
    }
}

fn take_word(rest: &mut &[u8]) -> Option<i32> {
    let (word, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(i32::from_be_bytes(*word))
}

/// A value, or that it is NULL; `Err` when it is cut off.
fn take_value<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, CutOff> {
    let length = take_word(rest).ok_or(CutOff)?;
    if length == NULL {
        return Ok(None);
    }
    let length = usize::try_from(length).map_err(|_| CutOff)?;
    let (value, behind) = rest.split_at_checked(length).ok_or(CutOff)?;
    *rest = behind;
    Ok(Some(value))
}

/// A list as it is being written behind other bytes.
#[derive(Debug)]
pub(super) struct ListWriter<'a> {
    out: &'a mut Vec<u8>,
    begin: usize,
    count: i32,
    has_null: bool,
}

impl<'a> ListWriter<'a> {
    pub(super) fn begin(element_type: u32, out: &'a mut Vec<u8>) -> Self {
        let begin = out.len();
        // Dimensions and NULLs are known at the end.
        for word in [0, 0, element_type, 0, 1] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        Self { out, begin, count: 0, has_null: false }
    }

    pub(super) fn null(&mut self) {
        self.out.extend_from_slice(&NULL.to_be_bytes());
        self.has_null = true;
        self.count = self.count.saturating_add(1);
    }

    /// Adds what is written by `write`; `None` when that is `None`, or when the list becomes too
    /// long.
    pub(super) fn value(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Option<()>) -> Option<()> {
        let begin = self.out.len();
        self.out.extend_from_slice(&[0; 4]);
        write(self.out)?;
        if self.out.len() > ROW_BYTES_MAX {
            return None;
        }
        let length = i32::try_from(self.out.len() - begin - 4).ok()?;
        self.out[begin..begin + 4].copy_from_slice(&length.to_be_bytes());
        self.count = self.count.saturating_add(1);
        Some(())
    }

    /// Ends it; `None` when it became too long.
    pub(super) fn end(self) -> Option<()> {
        let Self { out, begin, count, has_null } = self;
        if count == 0 {
            out.truncate(begin + HEADER_BYTES);
            return Some(());
        }
        let mut set = |at: usize, word: i32| {
            out[begin + at..begin + at + 4].copy_from_slice(&word.to_be_bytes());
        };
        set(0, 1);
        set(4, i32::from(has_null));
        set(HEADER_BYTES, count);
        (out.len() - begin <= ROW_BYTES_MAX).then_some(())
    }
}

const _: () = assert!(HEADER_BYTES + DIMENSION_BYTES == 5 * 4);
