//! Bytes in, sealed blobs out. No input or output of its own.
