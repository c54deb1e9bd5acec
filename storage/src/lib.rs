//! Ayni storage.
