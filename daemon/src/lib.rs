//! Ayni daemon.
