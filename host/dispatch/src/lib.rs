//! The path of one event, one file per step.
//!
//! Read in this order: [`intake`] holds deliveries and hands them to workers, [`pipeline`] is the path itself,
//! [`decode`], [`admit`], [`dedup`], [`invoke`], [`release`] and [`settle`] are its steps, [`record`] writes what happened.
//! [`lease`], [`slots`] and [`supervise`] hold the state around it. Nothing here knows NATS or wasm: those stand behind
//! the traits of `busway_core::port`.

mod intake;
mod pipeline;

mod admit;
mod decode;
mod dedup;
mod invoke;
mod release;
mod settle;

mod record;

mod lane;
mod lease;
mod slots;
mod supervise;

pub use intake::Intake;
pub use lane::{Host, Lane, LaneParts};
pub use record::Recorder;
pub use supervise::{Drained, Supervisor};
