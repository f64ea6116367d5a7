//! Log capture: WAL streamed through a physical slot.
