//! Ayni cli.
