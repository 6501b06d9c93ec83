//! The history: what was accepted and what is there, as `docs/history.md` describes it.
//!
//! What was accepted is what the broker confirmed to the publisher, not what the stream holds at the end: an event that a
//! stream forgot would be lost too.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::Path,
};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    broker::{Accepted, Broker, Stored},
    host::Names,
    settings::Sabotage,
};

/// What is there at the end.
#[derive(Debug)]
pub struct Evidence {
    created_ns: i64,
    outputs: Vec<Stored>,
    letters: Vec<Stored>,
}

impl Evidence {
    /// Reads it, when nothing is pending any more.
    ///
    /// # Errors
    /// A stream that can't be read.
    pub async fn read(broker: &Broker, names: &Names, sabotage: Sabotage) -> anyhow::Result<Self> {
        let outputs = broker.read(&names.outputs).await?;
        match (sabotage, outputs.get(outputs.len() / 2)) {
            (Sabotage::DropOne, Some(one)) => broker.delete(&names.outputs, one.sequence).await?,
            (Sabotage::DoubleOne, Some(one)) => broker.double(&names.outputs, one).await?,
            (Sabotage::None, _) | (_, None) => {}
        }
        let letters = broker.read("BUSWAY_DLQ").await?;
        let of_plugin = |letter: &Stored| letter.header("Busway-Plugin") == names.plugin;
        Ok(Self {
            created_ns: broker.created_ns(&names.source).await?,
            outputs: if sabotage == Sabotage::None { outputs } else { broker.read(&names.outputs).await? },
            letters: letters.into_iter().filter(of_plugin).collect(),
        })
    }

    /// Letters of events that should not have died, or died after another number of failed runs than they should have.
    pub fn wrong_letters(&self, accepted: &[Accepted]) -> Vec<String> {
        let mut wrong = Vec::new();
        for letter in &self.letters {
            let told: Option<u64> = letter.header("Busway-Sequence").parse().ok();
            let event = accepted.iter().find(|accepted| Some(accepted.sequence) == told);
            let meant = event.and_then(|accepted| accepted.event.failed_runs());
            let runs = letter.header("Busway-Attempts").parse().ok();
            if meant.is_none() || meant != runs {
                let class = letter.header("Busway-Class");
                wrong.push(format!(
                    "the letter of {told:?} ({class}) tells {runs:?} failed runs, not {meant:?}"
                ));
            }
        }
        wrong
    }

    /// Writes the history of a plugin's events.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn write(
        &self,
        file: &Path,
        names: &Names,
        accepted: &[Accepted],
        notes: &[Value],
    ) -> anyhow::Result<()> {
        let failed = || format!("{} can't be written", file.display());
        let mut to = BufWriter::new(File::create(file).with_context(failed)?);
        let mut say = |line: Value| -> anyhow::Result<()> { Ok(writeln!(to, "{line}")?) };
        say(json!({ "record": "history", "format": 1, "plugin": names.plugin, "outputs_min": 1 }))?;
        for note in notes {
            say(note.clone())?;
        }
        for Accepted { event, sequence } in accepted {
            let payload = digest(&event.payload());
            say(json!({
                "record": "accepted", "stream": names.source, "stream_created_ns": self.created_ns,
                "sequence": sequence, "payload": payload, "output_payloads": [payload],
            }))?;
        }
        for stored in &self.outputs {
            say(json!({
                "record": "output", "event": stored.header("Busway-Event-Id"),
                "message_id": stored.header("Nats-Msg-Id"), "payload": digest(&stored.payload),
                "stored_in": format!("{}, {}", names.outputs, stored.sequence),
            }))?;
        }
        for letter in &self.letters {
            let round: u64 = letter.header("Busway-Round").parse().unwrap_or_default();
            say(json!({
                "record": "letter", "event": letter.header("Busway-Event-Id"), "round": round,
                "payload": digest(&letter.payload),
            }))?;
        }
        to.flush().with_context(failed)
    }
}

/// Whether an account is what these events must come to; else what is wrong.
///
/// # Errors
/// The account has not the numbers that it must have.
pub fn check(account: &Value, accepted: &[Accepted]) -> anyhow::Result<Vec<String>> {
    let number = |name: &str| {
        account.get(name).and_then(Value::as_u64).with_context(|| format!("no {name}: {account}"))
    };
    let dead = accepted.iter().filter(|accepted| accepted.event.failed_runs().is_some()).count() as u64;
    let outputs = accepted.iter().map(|accepted| accepted.event.outputs()).sum();
    let all = accepted.len() as u64;
    let mut wrong = Vec::new();
    for (name, meant) in [
        ("accepted", all),
        ("done", all - dead),
        ("dead", dead),
        ("pending", 0),
        ("lost", 0),
        ("duplicate_outputs", 0),
        ("outputs", outputs),
        ("strangers", 0),
    ] {
        let is = number(name)?;
        if is != meant {
            wrong.push(format!("{name} {is}, not {meant}"));
        }
    }
    ensure!(account.get("balanced").is_some(), "no word about the balance: {account}");
    let violations = account.get("violations").and_then(Value::as_array).into_iter().flatten();
    wrong.extend(violations.take(5).map(ToString::to_string));
    Ok(wrong)
}

fn digest(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
