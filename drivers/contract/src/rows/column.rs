//! What the columns of a table hold, and how their values look in a row's bytes.

use serde::{Deserialize, Serialize};

/// One column, as it stands in rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// A number that it keeps when it is renamed, and that no other column of the table gets.
    pub id: i32,
    /// Its type as the engine's users write it, such as `numeric(12,2)`.
    pub engine_type: String,
    /// How its values look.
    pub kind: Kind,
    /// Whether the engine is to turn values into their exact text, and text back into values:
    /// `kind` is that of the text then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_cast: bool,
    /// Whether NULL can stand there.
    pub is_nullable: bool,
    /// Whether the engine computes it, so that it cannot be put back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_generated: bool,
}

/// How the values of a column look in a row's bytes. Numbers are big-endian.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// One byte, 0 or 1.
    Bool,
    /// An `i16`.
    Int16,
    /// An `i32`.
    Int32,
    /// An `i64`.
    Int64,
    /// The bits of an `f32`.
    Float32,
    /// The bits of an `f64`.
    Float64,
    /// A decimal number in PostgreSQL's form: number of digits, weight of the first one, sign and
    /// scale (each 16 bits), and digits to the base 10,000 (each 16 bits). Source: PostgreSQL,
    /// `src/backend/utils/adt/numeric.c`, `numeric_send`.
    Decimal {
        /// How many decimal digits it has at most, 1 to 38.
        precision: u8,
        /// How many of them are behind the point.
        scale: u8,
    },
    /// UTF-8, unless the engine lets other bytes stand there.
    Text,
    /// Text that is one of a list.
    Enum {
        /// That list, as it was when the table was looked at.
        labels: Vec<String>,
    },
    /// The text of a JSON document, with every space in it.
    Json,
    /// One byte 1, and the text of a JSON document.
    Jsonb,
    /// Any bytes.
    Bytes,
    /// 16 bytes.
    Uuid,
    /// Days since 2000-01-01 as an `i32`; the least and the largest one are infinite.
    Date,
    /// Microseconds since midnight as an `i64`, up to and including 24:00.
    Time,
    /// Microseconds since midnight as an `i64`, and how many seconds west of Greenwich as an
    /// `i32`.
    TimeTz,
    /// Microseconds since 2000-01-01 as an `i64`, in a zone that is not said; the least and the
    /// largest one are infinite.
    Timestamp,
    /// Microseconds since 2000-01-01 00:00 UTC as an `i64`; the least and the largest one are
    /// infinite.
    TimestampTz,
    /// Microseconds as an `i64`, days as an `i32`, months as an `i32`.
    Interval,
    /// Several values of one kind, in PostgreSQL's form of arrays: number of dimensions, whether
    /// it may hold NULLs, type of the elements (each an `i32`); for each dimension its length and
    /// its lowest index (each an `i32`); for each element its length (an `i32`, -1 for NULL) and
    /// its bytes. Source: PostgreSQL, `src/backend/utils/adt/arrayfuncs.c`, `array_send`.
    List {
        /// The kind of an element, which is no list.
        element: Box<Self>,
        /// The engine's number for the type of the elements.
        element_type: u32,
    },
    /// One byte that says what it is, and the value: see [`Class`].
    Dynamic {
        /// What the column is declared for; any value can be of another class.
        declared: Class,
    },
}

/// What a value is where each value says so itself, and the byte that says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Class {
    /// An `i64`.
    Integer = b'i',
    /// The bits of an `f64`.
    Real = b'r',
    /// Text, UTF-8 unless somebody put other bytes there.
    Text = b't',
    /// Any bytes.
    Blob = b'b',
    /// Of no class in particular; no value is.
    Any = b'?',
}

impl Class {
    /// The class that a byte says; [`Class::Any`] is none.
    pub const fn of(byte: u8) -> Option<Self> {
        match byte {
            b'i' => Some(Self::Integer),
            b'r' => Some(Self::Real),
            b't' => Some(Self::Text),
            b'b' => Some(Self::Blob),
            _ => None,
        }
    }
}

impl Column {
    /// The same column in a form that holds every value of it, after one did not fit into the
    /// file: its exact text, or its bytes. `None` when it has that form already.
    pub fn promoted(&self) -> Option<Self> {
        let (kind, is_cast) = match &self.kind {
            Kind::Bytes | Kind::Dynamic { declared: Class::Any } => return None,
            Kind::Dynamic { .. } => (Kind::Dynamic { declared: Class::Any }, false),
            // Bytes that are no UTF-8: their bytes are the same.
            Kind::Text | Kind::Enum { .. } | Kind::Json => (Kind::Bytes, self.is_cast),
            _ => (Kind::Text, true),
        };
        Some(Self { kind, is_cast, ..self.clone() })
    }
}
