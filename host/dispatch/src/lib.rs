//! The path of one event, one file per step.
//!
//! Read in this order: [`intake`] holds deliveries and hands them to workers, [`order`] says when where order is kept,
//! [`pipeline`] is the path itself, [`decode`], [`admit`], [`dedup`], [`invoke`], [`release`], [`send`] and [`settle`]
//! with [`park`] are its steps, [`record`] writes what
//! happened, and [`history`] keeps it for those who ask later. [`gate`] says whether a plugin's events run at the moment,
//! [`flow`] what that means for the intake, [`journal`] which events were in guests when a host died,
//! [`guard`] keeps the host's own faults from ending what lives as long as it. [`lease`], [`slots`]
//! and [`supervise`] hold the state around it. Nothing here knows NATS or wasm: those stand behind
//! the traits of `busway_core::port`.

mod intake;
mod order;
mod pipeline;

mod admit;
mod decode;
mod dedup;
mod invoke;
mod park;
mod release;
mod send;
mod settle;

mod history;
mod record;

mod flow;
mod gate;
mod gate_metrics;
mod guard;
mod journal;

mod clock;
mod lane;
mod lease;
mod slots;
mod supervise;

pub use clock::Clock;
pub use gate::{Gates, OpenBreaker, Pause};
pub use history::History;
pub use intake::Intake;
pub use journal::{Convicted, Journal, JournalError, Opened};
pub use lane::{Host, Lane, LaneParts};
pub use lease::SETTLED_MAX;
pub use record::Recorder;
pub use supervise::{Drained, Supervisor};
