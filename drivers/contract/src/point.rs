//! Points of history as the users of one engine write them.

/// A point in an engine's own notation, taken apart. Where it lies, whoever holds the log finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NativePoint {
    /// The state after everything before this offset, of the newest lineage that has it.
    Offset(u128),
    /// The newest point to which somebody gave this name.
    Named(String),
    /// The state right after the commit of this transaction, as the engine numbers it.
    Transaction(String),
}
