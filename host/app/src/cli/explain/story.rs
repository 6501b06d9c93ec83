//! What is known of one event, plugin by plugin.

use anyhow::bail;
use busway_core::{EventId, HistoryEntry, Position, trace};
use busway_transport::{
    Nats,
    nats::{
        Account, ConsumerView, FailedRunsOf, HistoryError, LetterOf, StoredEvent, Whereabouts,
        WhereaboutsError,
    },
};
use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

/// What is known of one event.
#[derive(Debug)]
pub struct Story {
    /// Its id.
    pub id: EventId,
    /// Its place; none for an event that no stream holds.
    pub place: Option<Position>,
    /// What is stored at its place.
    pub stored: Option<StoredEvent>,
    /// Plugin by plugin.
    pub plugins: BTreeMap<String, PluginStory>,
    /// Whether a history is kept at this broker.
    pub kept: Kept,
    /// What a reader should know besides.
    pub notes: Vec<String>,
}

/// What one plugin did with it.
#[derive(Debug, Default)]
pub struct PluginStory {
    /// Its attempts, oldest first.
    pub attempts: Vec<HistoryEntry>,
    /// How its consumers stand to the event.
    pub consumers: Vec<ConsumerView>,
    /// The failed runs that the host keeps for its own work.
    pub failed: Vec<FailedRunsOf>,
    /// Its dead letters.
    pub letters: Vec<u64>,
}

/// Whether there is a history at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// There is a stream of records.
    Kept,
    /// There is none.
    Never,
}

impl Story {
    /// The story of the event at this place.
    ///
    /// # Errors
    /// No such stream, a sequence that it has not reached, a broker that does not answer.
    pub async fn of_place(nats: &Nats, stream: &str, sequence: u64) -> anyhow::Result<Self> {
        let here = nats.whereabouts(stream, sequence).await?;
        let id = EventId::of(&here.position);
        let (kept, account) = told(nats.history().of_position(&here.position).await)?;
        let mut story = Self::new(nats, id, Some(here.position.clone()), kept, account).await?;
        story.seen_by_broker(here);
        Ok(story)
    }

    /// The story of the event with this id.
    ///
    /// # Errors
    /// Nothing is known of it, or a broker that does not answer.
    pub async fn of_id(nats: &Nats, id: &EventId) -> anyhow::Result<Self> {
        let history = nats.history();
        let place = history.place_of(id).await?;
        let (kept, account) = told(match &place {
            Some(position) => history.of_position(position).await,
            None => history.of_plain(id).await,
        })?;
        let mut story = Self::new(nats, id.clone(), place.clone(), kept, account).await?;
        match place {
            Some(place) => story.look_for(nats, &place).await?,
            None if story.plugins.is_empty() => {
                bail!(
                    "nothing is known of event {id}: no record, no dead letter, and no stream that could hold it"
                )
            }
            None => {}
        }
        Ok(story)
    }

    async fn new(
        nats: &Nats,
        id: EventId,
        place: Option<Position>,
        kept: Kept,
        account: Account,
    ) -> anyhow::Result<Self> {
        let mut story =
            Self { id, place, stored: None, plugins: BTreeMap::new(), kept, notes: account.unreadable };
        let (own, others) = account.entries.into_iter().partition(|entry| entry.event_id == story.id);
        story.tell_of_others(others);
        for entry in own {
            let name = entry.runner.plugin.to_string();
            story.plugins.entry(name).or_default().attempts.push(entry);
        }
        for LetterOf { plugin, sequence } in nats.letters_of(&story.id).await? {
            story.plugins.entry(plugin).or_default().letters.push(sequence);
        }
        for failed in nats.failed_runs_of(&story.id).await? {
            story.plugins.entry(failed.plugin.clone()).or_default().failed.push(failed);
        }
        Ok(story)
    }

    /// A stream that was made anew counts from 1 again: what an earlier one had at this place is another event.
    fn tell_of_others(&mut self, others: Vec<HistoryEntry>) {
        let mut ids: Vec<_> = others.into_iter().map(|entry| entry.event_id).collect();
        ids.dedup();
        self.notes.extend(ids.into_iter().map(|id| {
            format!("an earlier stream of this name had another event here: `busway explain {id}`")
        }));
    }

    /// Looks for an event whose place is told by its records alone.
    async fn look_for(&mut self, nats: &Nats, place: &Position) -> anyhow::Result<()> {
        match nats.whereabouts(&place.stream, place.sequence).await {
            Ok(here) if here.position == *place => self.seen_by_broker(here),
            Ok(_) | Err(WhereaboutsError::Beyond { .. }) => {
                self.notes.push(format!("stream {} was deleted and made anew since", place.stream));
            }
            Err(WhereaboutsError::NoStream(stream)) => {
                self.notes.push(format!("stream {stream} was deleted since"));
            }
            Err(why) => return Err(why.into()),
        }
        Ok(())
    }

    fn seen_by_broker(&mut self, here: Whereabouts) {
        self.stored = here.stored;
        for view in here.consumers {
            self.plugins.entry(view.plugin.clone()).or_default().consumers.push(view);
        }
    }

    fn attempts(&self) -> impl Iterator<Item = &HistoryEntry> {
        self.plugins.values().flat_map(|plugin| &plugin.attempts)
    }

    /// What it was published on, where anybody knows.
    pub fn subject(&self) -> Option<&str> {
        let stored = self.stored.as_ref().map(|stored| stored.subject.as_str());
        stored.or_else(|| self.attempts().next().map(|entry| entry.subject.as_str()))
    }

    /// The trace that it belongs to.
    pub fn trace_id(&self) -> String {
        let stored = self.stored.as_ref().and_then(|stored| stored.headers.get(trace::TRACEPARENT));
        let brought = stored
            .and_then(trace::trace_id)
            .or_else(|| self.attempts().find_map(|entry| entry.trace_id.as_deref()));
        brought.map_or_else(|| trace::derived_trace_id(&self.id), str::to_owned)
    }
}

/// An account that was never kept is an empty one.
fn told(read: Result<Account, HistoryError>) -> anyhow::Result<(Kept, Account)> {
    match read {
        Ok(account) => Ok((Kept::Kept, account)),
        Err(HistoryError::NoStream) => Ok((Kept::Never, Account::default())),
        Err(why) => Err(why.into()),
    }
}

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
