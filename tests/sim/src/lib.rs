//! The real path of an event on a broker in memory that fails by a seed, and a checker of what became of every event.
//!
//! [`scenario`] says what a seed stands for, [`run`] plays it and gives the [`history`], [`check`] compares that with what
//! was promised. [`world`], [`port`], [`source`], [`copies`], [`active`] and [`life`] are the broker as hosts see it, with everything that goes
//! wrong; [`handler`] and [`host`] are what runs on it; [`plant`] are mistakes that have to be found.

pub mod active;
pub mod check;
pub mod copies;
pub mod handler;
pub mod history;
pub mod host;
pub mod life;
pub mod plant;
pub mod port;
pub mod run;
pub mod scenario;
pub mod source;
pub mod world;

/// The plugin of every run.
pub const PLUGIN: &str = "p";
