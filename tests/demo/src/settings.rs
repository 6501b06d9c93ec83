//! What the demo is told: where things are, by its environment; what to do differently, by its arguments.

use std::{env, path::PathBuf};

use anyhow::{Context as _, bail};

/// How the demo runs.
#[derive(Debug)]
pub struct Settings {
    /// The `busway` program.
    pub busway: PathBuf,
    /// The folder of built plugins.
    pub guests: PathBuf,
    /// The recorded payloads, one JSON file.
    pub recorded: PathBuf,
    /// The demo's own folder: emptied at the start.
    pub folder: PathBuf,
    /// What becomes of the host.
    pub afterwards: Afterwards,
    /// What is done to the evidence.
    pub sabotage: Sabotage,
}

/// What becomes of the host at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    /// It is stopped.
    Stop,
    /// It stays, to be looked at.
    Stay,
}

/// What is done to the evidence, to show that the account would notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// Nothing.
    None,
    /// One routed event is deleted before the streams are read back.
    DropOne,
}

impl Settings {
    /// Reads arguments and environment.
    ///
    /// # Errors
    /// An unknown argument, a variable that is not set.
    pub fn read() -> anyhow::Result<Self> {
        let (mut afterwards, mut sabotage) = (Afterwards::Stop, Sabotage::None);
        let mut arguments = env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--keep" => afterwards = Afterwards::Stay,
                "--sabotage" if arguments.next().as_deref() == Some("drop-one") => {
                    sabotage = Sabotage::DropOne;
                }
                _ => bail!("usage: cargo xtask demo [--keep] [--sabotage drop-one]"),
            }
        }
        Ok(Self {
            busway: place("BUSWAY_BIN")?,
            guests: place("BUSWAY_GUESTS")?,
            recorded: place("BUSWAY_DEMO_DATA")?,
            folder: place("BUSWAY_DEMO_DIR")?,
            afterwards,
            sabotage,
        })
    }
}

fn place(variable: &str) -> anyhow::Result<PathBuf> {
    let place = env::var_os(variable);
    place.map(PathBuf::from).with_context(|| format!("{variable} is not set: run this as `cargo xtask demo`"))
}
