//! Buffers that are used again: fresh memory of such a size costs more than what is done with it.

use std::{
    ops::{Deref, DerefMut, RangeInclusive},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;

/// Shorter and longer buffers are left to the allocator.
const POOLED_BYTES: RangeInclusive<usize> = 32 << 10..=16 << 20;

/// How much waits to be used again, in bytes.
const WAITING_BYTES_MAX: usize = 24 << 20;

/// Buffers that wait to be used again. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct BufferPool(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

impl Waiting {
    fn pop(&mut self) -> Option<Vec<u8>> {
        let buffer = self.buffers.pop()?;
        self.bytes -= buffer.len();
        Some(buffer)
    }

    fn push(&mut self, buffer: Vec<u8>) {
        if self.bytes + buffer.len() <= WAITING_BYTES_MAX {
            self.bytes += buffer.len();
            self.buffers.push(buffer);
        }
    }
}

impl BufferPool {
    /// A buffer of `length` bytes. What they are is left over from earlier uses: write all of them.
    pub fn take(&self, length: usize) -> Buffer {
        let mut buffer = Buffer { bytes: Vec::new(), length, home: None };
        if POOLED_BYTES.contains(&length) {
            let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            buffer.bytes = waiting.pop().unwrap_or_default();
            buffer.home = Some(self.clone());
        }
        if buffer.bytes.len() < length {
            // Unlike one that grows, a new one need not be cleared.
            buffer.bytes = vec![0; length];
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
    fn from(buffer: Buffer) -> Self {
        if buffer.home.is_some() { Self::from_owner(buffer) } else { Vec::from(buffer).into() }
    }
}

/// Copies what belongs to a pool.
impl From<Buffer> for Vec<u8> {
    fn from(mut buffer: Buffer) -> Self {
        if buffer.home.is_some() {
            return buffer.to_vec();
        }
        let mut bytes = std::mem::take(&mut buffer.bytes);
        bytes.truncate(buffer.length);
        bytes
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
        waiting.push(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_only_when_nobody_needs_its_bytes() {
        let pool = BufferPool::default();
        let waiting = || pool.0.lock().unwrap().buffers.len();
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
