//! What is to be done: by arguments; where things are: by the environment, which `cargo xtask chaos` sets.

use std::{env, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};

/// How it runs.
#[derive(Debug)]
pub struct Settings {
    /// The `busway` program; for a sweep the one with fail points.
    pub busway: PathBuf,
    /// The guest, a component.
    pub guest: PathBuf,
    /// The program's own folder: emptied at the start.
    pub folder: PathBuf,
    /// What everything random follows from.
    pub seed: u64,
    /// Where the report is written as JSON.
    pub json: Option<PathBuf>,
    /// Where the history is written.
    pub history: Option<PathBuf>,
    /// Only the fail points whose names begin so.
    pub only: String,
    /// What is done to the evidence.
    pub sabotage: Sabotage,
    /// What is run.
    pub what: What,
}

/// What is run.
#[derive(Debug)]
pub enum What {
    /// Kill loops.
    Loops(Plan),
    /// Fail points.
    Sweep(Selection),
}

/// Which fail points are swept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selection {
    /// A few.
    Short,
    /// All of them, with every action.
    All,
}

/// How often what is hit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Hosts killed.
    pub host_kills: u32,
    /// Brokers killed.
    pub broker_kills: u32,
    /// Brokers stopped for a while.
    pub pauses: u32,
    /// For how long.
    pub pause: Duration,
    /// Events published meanwhile.
    pub events: u64,
}

/// What is done to the evidence, to show that the account would notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// Nothing.
    None,
    /// One output is deleted before the streams are read back.
    DropOne,
    /// One output is stored once more.
    DoubleOne,
}

const USAGE: &str = "cargo xtask chaos [--short | --failpoints [--short] [--only POINT]] [--seed N] [--json FILE] [--history FILE] \
    [--sabotage drop-one|double-one] [--host-kills N] [--broker-kills N] [--pauses N] [--pause SECONDS] [--events N]";

impl Plan {
    /// The whole of it.
    pub fn full() -> Self {
        let pause = Duration::from_secs(10);
        Self { host_kills: 50, broker_kills: 20, pauses: 10, pause, events: 10_000 }
    }

    /// For every change.
    pub fn short() -> Self {
        let pause = Duration::from_secs(5);
        Self { host_kills: 5, broker_kills: 3, pauses: 1, pause, events: 1_500 }
    }
}

impl Settings {
    /// Reads arguments and environment.
    ///
    /// # Errors
    /// An unknown argument, a variable that is not set.
    pub fn read() -> anyhow::Result<Self> {
        let mut settings = Self {
            busway: place("BUSWAY_BIN")?,
            guest: place("BUSWAY_GUESTS")?.join("chaos.wasm"),
            folder: place("BUSWAY_CHAOS_DIR")?,
            seed: 1,
            json: None,
            history: None,
            only: String::new(),
            sabotage: Sabotage::None,
            what: What::Loops(Plan::full()),
        };
        settings.apply(env::args().skip(1).collect())?;
        Ok(settings)
    }

    fn apply(&mut self, arguments: Vec<String>) -> anyhow::Result<()> {
        let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
        let selection = if has("--short") { Selection::Short } else { Selection::All };
        let mut plan = if has("--short") { Plan::short() } else { Plan::full() };
        let mut rest = arguments.iter().map(String::as_str);
        while let Some(argument) = rest.next() {
            if ["--short", "--failpoints"].contains(&argument) {
                continue;
            }
            let value = rest.next().with_context(|| format!("{argument}: {USAGE}"))?;
            let number = || value.parse().with_context(|| format!("{argument} {value}: a number is wanted"));
            match argument {
                "--seed" => self.seed = number()?,
                "--json" => self.json = Some(value.into()),
                "--history" => self.history = Some(value.into()),
                "--only" => self.only = value.to_owned(),
                "--sabotage" => self.sabotage = sabotage(value)?,
                "--host-kills" => plan.host_kills = number()? as u32,
                "--broker-kills" => plan.broker_kills = number()? as u32,
                "--pauses" => plan.pauses = number()? as u32,
                "--pause" => plan.pause = Duration::from_secs(number()?),
                "--events" => plan.events = number()?,
                _ => bail!("{argument}: {USAGE}"),
            }
        }
        self.what = if has("--failpoints") { What::Sweep(selection) } else { What::Loops(plan) };
        Ok(())
    }
}

fn sabotage(name: &str) -> anyhow::Result<Sabotage> {
    match name {
        "drop-one" => Ok(Sabotage::DropOne),
        "double-one" => Ok(Sabotage::DoubleOne),
        _ => bail!("--sabotage {name}: {USAGE}"),
    }
}

fn place(variable: &str) -> anyhow::Result<PathBuf> {
    let place = env::var_os(variable);
    place
        .map(PathBuf::from)
        .with_context(|| format!("{variable} is not set: run this as `cargo xtask chaos`"))
}
