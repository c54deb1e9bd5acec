//! The `ayni` program as people and scripts meet it: files, exit codes, messages.

mod daemon;
mod data;
mod files;
mod proof;
mod support;
