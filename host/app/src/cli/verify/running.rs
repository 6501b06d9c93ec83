//! The history of a running broker.
//!
//! The order of reading is what keeps an audit of a working host from crying wolf: how far the consumer has come first,
//! then what it was to give, then what waits outside, and what came of it last. An event that moves on meanwhile is found
//! where it goes to, and one that was settled at the first look has left its outputs or its letter before the last.

use super::Reading;
use anyhow::Context as _;
use busway_core::{
    Binding, EventId, PluginName,
    audit::{Accepted, Custody, History, LetterSeen, OutputSeen},
    binding::Subscription,
    dead_letter as letter,
};
use busway_transport::{
    KeptError, KeptMessage, KeptReader, KeptStream,
    nats::{DEAD_LETTER_STREAM, KeptConsumer},
};
use std::collections::HashSet;

/// Where parked and redriven events wait.
const AGAIN_STREAM: &str = "BUSWAY_AGAIN";

/// What is looked at.
pub struct Wanted<'a> {
    /// The source.
    pub stream: &'a str,
    /// Who handles it.
    pub plugin: &'a PluginName,
    /// By which subscription.
    pub name: Option<&'a str>,
    /// Where its outputs are.
    pub outputs: &'a [String],
    /// How many of them a handled event leaves at least.
    pub outputs_min: u32,
}

/// Reads everything.
///
/// # Errors
/// A stream or consumer that is not there, a broker that does not answer.
pub async fn read(kept: &KeptReader, wanted: &Wanted<'_>) -> anyhow::Result<Reading> {
    let name = wanted.name.map(str::to_owned);
    let binding = Binding { name, ..Binding::new(wanted.plugin.clone(), Subscription::Returned) };
    let consumer = kept.consumer(wanted.stream, &binding.durable()).await?;
    let source = kept.stream(wanted.stream).await?;
    let parked = ids_in(optional(kept.stream(AGAIN_STREAM).await)?);
    let letters = optional(kept.stream(DEAD_LETTER_STREAM).await)?;
    let mut outputs = Vec::new();
    for stream in wanted.outputs {
        let stream = kept.stream(stream).await.context("--outputs")?;
        outputs.extend(stream.messages.iter().filter_map(|message| output(&stream.name, message)));
    }
    let positions = source.messages.iter().filter(|message| is_meant(&consumer, message));
    let positions = positions.map(|message| message.position(&source)).collect();
    let history = History {
        plugin: wanted.plugin.to_string(),
        outputs_min: wanted.outputs_min,
        accepted: accepted(&source, &consumer, &parked),
        outputs,
        letters: letters
            .iter()
            .flat_map(|stream| &stream.messages)
            .filter_map(|message| seen(message, wanted))
            .collect(),
        ack_pending: consumer.ack_pending,
    };
    Ok(Reading { history, positions, notes: notes(&source) })
}

/// What an audit of this source can't know.
fn notes(source: &KeptStream) -> Vec<String> {
    let KeptStream { name, keeps_acknowledged, deleted, .. } = source;
    if !keeps_acknowledged {
        return vec![format!(
            "{name} forgets what is acknowledged: only what it still holds counts as accepted; a recorded history knows more"
        )];
    }
    let note = format!("{name} does not hold {deleted} of its events any more: they are not accounted for");
    if *deleted > 0 { vec![note] } else { Vec::new() }
}

fn optional(stream: Result<KeptStream, KeptError>) -> Result<Option<KeptStream>, KeptError> {
    match stream {
        Ok(stream) => Ok(Some(stream)),
        Err(KeptError::NoStream(_)) => Ok(None),
        Err(why) => Err(why),
    }
}

fn ids_in(stream: Option<KeptStream>) -> HashSet<EventId> {
    stream.iter().flat_map(|stream| &stream.messages).filter_map(event_of).collect()
}

fn event_of(message: &KeptMessage) -> Option<EventId> {
    message.headers.get(letter::EVENT_ID)?.parse().ok()
}

fn accepted(source: &KeptStream, consumer: &KeptConsumer, parked: &HashSet<EventId>) -> Vec<Accepted> {
    let one = |message: &KeptMessage| {
        let event = EventId::of(&message.position(source));
        let custody = match message.sequence {
            given if given > consumer.delivered => Custody::Pending,
            _ if parked.contains(&event) => Custody::Parked,
            settled if settled <= consumer.ack_floor || consumer.ack_pending == 0 => Custody::Settled,
            _ => Custody::Unclear,
        };
        Accepted {
            event,
            sequence: message.sequence,
            payload: message.payload,
            custody,
            output_payloads: None,
        }
    };
    source.messages.iter().filter(|message| is_meant(consumer, message)).map(one).collect()
}

/// Whether the consumer is for this message.
fn is_meant(consumer: &KeptConsumer, message: &KeptMessage) -> bool {
    consumer.filters.is_empty() || consumer.filters.iter().any(|filter| filter.matches(&message.subject))
}

/// The output that a message is; none where no plugin published it.
fn output(stream: &str, message: &KeptMessage) -> Option<OutputSeen> {
    Some(OutputSeen {
        event: event_of(message)?,
        message_id: message.headers.get("Nats-Msg-Id")?.to_owned(),
        stored_in: format!("{stream}, {}", message.sequence),
        payload: message.payload,
    })
}

/// The letter that a message is, where it is one of the wanted plugin and stream.
fn seen(message: &KeptMessage, wanted: &Wanted<'_>) -> Option<LetterSeen> {
    let field = |name| message.headers.get(name);
    let is_wanted =
        field(letter::PLUGIN) == Some(wanted.plugin.as_str()) && field(letter::STREAM) == Some(wanted.stream);
    is_wanted.then_some(LetterSeen {
        event: event_of(message)?,
        round: field(letter::ROUND).and_then(|round| round.parse().ok()).unwrap_or_default(),
        payload: message.payload,
    })
}
