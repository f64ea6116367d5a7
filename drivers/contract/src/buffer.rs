//! Buffers that are used again: fresh memory of such a size costs more than what is done with it.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;

/// Shorter buffers are left to the allocator.
const POOLED_BYTES_MIN: usize = 32 << 10;

/// How many buffers wait to be used again.
const POOLED_MAX: usize = 32;

/// Buffers that wait to be used again. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct BufferPool(Arc<Mutex<Vec<Vec<u8>>>>);

impl BufferPool {
    /// A buffer of `length` bytes. What they are is left over from earlier uses: write all of them.
    pub fn take(&self, length: usize) -> Buffer {
        let mut buffer = Buffer { bytes: Vec::new(), length, home: None };
        if length >= POOLED_BYTES_MIN {
            let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            buffer.bytes = waiting.pop().unwrap_or_default();
            buffer.home = Some(self.clone());
        }
        if buffer.bytes.len() < length {
            buffer.bytes.resize(length, 0);
        }
        buffer
    }
}

/// Bytes that go back to where they came from when nobody needs them any more.
#[derive(Debug)]
pub struct Buffer {
    /// At least `length` of them; what lies behind is another's.
    bytes: Vec<u8>,
    length: usize,
    home: Option<BufferPool>,
}

impl Buffer {
    /// Shortens it.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }
}

/// Bytes that come from elsewhere, and go nowhere.
impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        Self { length: bytes.len(), bytes, home: None }
    }
}

impl From<Buffer> for Bytes {
    fn from(mut buffer: Buffer) -> Self {
        if buffer.home.is_some() {
            return Self::from_owner(buffer);
        }
        let mut bytes = std::mem::take(&mut buffer.bytes);
        bytes.truncate(buffer.length);
        bytes.into()
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(BufferPool(home)) = self.home.take() else { return };
        let mut waiting = home.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < POOLED_MAX {
            waiting.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_only_when_nobody_needs_its_bytes() {
        let pool = BufferPool::default();
        let waiting = || pool.0.lock().unwrap().len();
        let mut first = pool.take(64 << 10);
        first.fill(1);
        first.truncate(50_000);
        let bytes = Bytes::from(first);
        let slice = bytes.slice(10..20);
        drop(bytes);
        assert_eq!((waiting(), slice.as_ref()), (0, [1; 10].as_slice()));
        drop(slice);
        assert_eq!(waiting(), 1);
        assert_eq!(pool.take(70 << 10).len(), 70 << 10);
        assert_eq!(pool.take(40 << 10).len(), 40 << 10);
        assert_eq!(waiting(), 1);
        assert_eq!(Bytes::from(pool.take(10)).len(), 10);
        assert_eq!(waiting(), 1, "a short one is not kept");
        assert_eq!(Bytes::from(Buffer::from(vec![5; 3])), [5; 3].as_slice());
    }
}
