//! Tests of the program as a whole and of the repository.

mod evil_relay;
mod lockfile;
mod program;
