//! This crate against a real nats-server.
//!
//! One program, so that it is linked once. [`support`] starts a server per test; see `busway_testkit::nats` for where the
//! program comes from.

mod support;

mod access;
mod batches;
mod embedded;
mod history;
mod keys;
mod malformed;
mod ordering;
mod pausing;
mod plain;
mod pulling;
mod returning;
mod settling;
mod storing;
