//! Write-ahead log, decoded.
