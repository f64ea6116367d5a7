//! Page headers and page checksums.
