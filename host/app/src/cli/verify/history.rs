//! A recorded history: JSON lines, described in `docs/history.md`.
//!
//! The first line says which format it is and whose history. The others may come in any order, so that one can be written
//! while things happen and put together from several files.

use anyhow::{Context as _, bail, ensure};
use busway_core::{
    Digest, EventId, Position,
    audit::{Accepted, Custody, History, LetterSeen, OutputSeen},
};
use serde::{Deserialize, Serialize};
use std::{
    io::{BufRead, Write},
    str::FromStr,
};

/// The format that is read and written.
const FORMAT: u32 = 1;

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
enum Line {
    History {
        format: u32,
        plugin: String,
        #[serde(default)]
        outputs_min: u32,
    },
    Accepted {
        stream: String,
        stream_created_ns: i64,
        sequence: u64,
        payload: String,
        #[serde(default)]
        custody: Word,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output_payloads: Option<Vec<String>>,
    },
    Output {
        event: String,
        message_id: String,
        stored_in: String,
        payload: String,
    },
    Letter {
        event: String,
        #[serde(default)]
        round: u32,
        payload: String,
    },
    AckPending {
        events: u64,
    },
    /// For people; ignored.
    Note {},
}

/// What the broker says of an event.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Word {
    Pending,
    Unclear,
    Parked,
    #[default]
    Settled,
}

/// Reads a history.
///
/// # Errors
/// The first line that is none, by its number.
pub fn read(lines: impl BufRead) -> anyhow::Result<History> {
    let mut history = None;
    for (number, line) in lines.lines().enumerate() {
        let line = line?;
        let at = || format!("line {}", number + 1);
        if line.trim().is_empty() {
            continue;
        }
        let line: Line = serde_json::from_str(&line).with_context(at)?;
        enter(&mut history, line).with_context(at)?;
    }
    history.context("it is empty")
}

fn enter(history: &mut Option<History>, line: Line) -> anyhow::Result<()> {
    let Some(known) = history else {
        let Line::History { format, plugin, outputs_min } = line else {
            bail!("a history begins with {{\"record\":\"history\",\"format\":{FORMAT},\"plugin\":…}}");
        };
        ensure!(format == FORMAT, "format {format} is not known here, only {FORMAT}: use a newer busway");
        *history = Some(History { plugin, outputs_min, ..History::default() });
        return Ok(());
    };
    match line {
        Line::History { plugin, .. } => {
            ensure!(plugin == known.plugin, "the history of another plugin, {plugin}, begins");
        }
        Line::Accepted { stream, stream_created_ns, sequence, payload, custody, output_payloads } => {
            let created = i128::from(stream_created_ns);
            let position = Position { stream: stream.into(), stream_created_ns: created, sequence };
            let expected = output_payloads.map(|digests| digests.iter().map(|text| digest(text)).collect());
            known.accepted.push(Accepted {
                event: EventId::of(&position),
                sequence,
                payload: digest(&payload)?,
                custody: custody.into(),
                output_payloads: expected.transpose()?,
            });
        }
        Line::Output { event, message_id, stored_in, payload } => {
            let (event, payload) = (event.parse()?, digest(&payload)?);
            known.outputs.push(OutputSeen { event, message_id, stored_in, payload });
        }
        Line::Letter { event, round, payload } => {
            known.letters.push(LetterSeen { event: event.parse()?, round, payload: digest(&payload)? });
        }
        Line::AckPending { events } => known.ack_pending += events,
        Line::Note {} => {}
    }
    Ok(())
}

/// Writes a history. `positions` are those of the accepted events, in their order.
///
/// # Errors
/// What the writer says.
pub fn write(history: &History, positions: &[Position], to: &mut impl Write) -> anyhow::Result<()> {
    let mut say = |line: &Line| -> anyhow::Result<()> {
        serde_json::to_writer(&mut *to, line)?;
        Ok(to.write_all(b"\n")?)
    };
    let History { plugin, outputs_min, .. } = history;
    say(&Line::History { format: FORMAT, plugin: plugin.clone(), outputs_min: *outputs_min })?;
    for (accepted, position) in history.accepted.iter().zip(positions) {
        say(&Line::Accepted {
            stream: position.stream.to_string(),
            stream_created_ns: i64::try_from(position.stream_created_ns)?,
            sequence: position.sequence,
            payload: accepted.payload.to_string(),
            custody: accepted.custody.into(),
            output_payloads: None,
        })?;
    }
    for OutputSeen { event, message_id, stored_in, payload } in &history.outputs {
        let (event, payload) = (event.to_string(), payload.to_string());
        let (message_id, stored_in) = (message_id.clone(), stored_in.clone());
        say(&Line::Output { event, message_id, stored_in, payload })?;
    }
    for LetterSeen { event, round, payload } in &history.letters {
        say(&Line::Letter { event: event.to_string(), round: *round, payload: payload.to_string() })?;
    }
    say(&Line::AckPending { events: history.ack_pending })
}

fn digest(text: &str) -> anyhow::Result<Digest> {
    Digest::from_str(text)
        .ok()
        .with_context(|| format!("{text:?} is no digest; write sha256:<64 hexadecimal digits>"))
}

impl From<Word> for Custody {
    fn from(word: Word) -> Self {
        match word {
            Word::Pending => Self::Pending,
            Word::Unclear => Self::Unclear,
            Word::Parked => Self::Parked,
            Word::Settled => Self::Settled,
        }
    }
}

impl From<Custody> for Word {
    fn from(custody: Custody) -> Self {
        match custody {
            Custody::Pending => Self::Pending,
            Custody::Unclear => Self::Unclear,
            Custody::Parked => Self::Parked,
            Custody::Settled => Self::Settled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use busway_core::audit::{Account, ViolationKind};

    const HEAD: &str = r#"{"record":"history","format":1,"plugin":"p","outputs_min":1}"#;

    fn position() -> Position {
        Position { stream: "IN".into(), stream_created_ns: 7, sequence: 1 }
    }

    fn accepted() -> String {
        let payload = Digest::of(b"x");
        format!(
            r#"{{"record":"accepted","stream":"IN","stream_created_ns":7,"sequence":1,"payload":"{payload}","output_payloads":["{payload}"]}}"#
        )
    }

    fn output() -> String {
        let (event, payload) = (EventId::of(&position()), Digest::of(b"x"));
        let id = event.output_id("p", 0);
        format!(
            r#"{{"record":"output","event":"{event}","message_id":"{id}","stored_in":"OUT, 1","payload":"{payload}"}}"#
        )
    }

    fn account(lines: &[&str]) -> Account {
        Account::of(&read(lines.join("\n").as_bytes()).unwrap())
    }

    #[test]
    fn a_recorded_history_is_accounted_for() {
        let note = r#"{"record":"note","at":"12:00","what":"the host was killed"}"#;
        let account = account(&[HEAD, &output(), note, "", &accepted()]);
        assert_eq!((account.accepted, account.done, account.is_balanced()), (1, 1, true));
    }

    #[test]
    fn a_line_that_is_missing_or_doubled_in_a_history_is_found() {
        let kinds = |lines: &[&str]| -> Vec<_> {
            account(lines).violations.iter().map(|violation| violation.kind).collect()
        };
        assert_eq!(kinds(&[HEAD, &accepted()]), [ViolationKind::Lost]);
        assert_eq!(kinds(&[HEAD, &accepted(), &output(), &output()]), [ViolationKind::DuplicateOutput]);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let history = read([HEAD, &accepted(), &output()].join("\n").as_bytes()).unwrap();
        let mut written = Vec::new();
        write(&history, &[position()], &mut written).unwrap();
        let again = read(&*written).unwrap();
        assert_eq!(again.outputs, history.outputs);
        assert_eq!(Account::of(&again), Account::of(&history));
    }

    #[test]
    fn a_line_that_is_none_is_told_by_its_number() {
        for (lines, told) in [
            (vec![], "it is empty"),
            (vec![r#"{"record":"ack-pending","events":0}"#], "a history begins with"),
            (vec![r#"{"record":"history","format":2,"plugin":"p"}"#], "format 2 is not known here"),
            (vec![HEAD, "{}"], "line 2"),
            (
                vec![HEAD, r#"{"record":"letter","event":"short","payload":"x"}"#],
                "an event id has 52 characters",
            ),
        ] {
            let why = format!("{:#}", read(lines.join("\n").as_bytes()).unwrap_err());
            assert!(why.contains(told), "{why}");
        }
    }
}
