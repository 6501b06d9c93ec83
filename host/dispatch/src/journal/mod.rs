//! The in-flight journal: which events were in guests when the host died.
//!
//! A guest can't end the host unless the sandbox itself has a fault; but if one can, its event is given again and again and
//! ends the host each time. So each event is noted in a file before its guest runs and the note is taken away after. The
//! file is never flushed to disk: it outlives the process, which is all that is asked of it; a machine that dies proves
//! nothing about an event.
//!
//! Notes that are found at a start are of *suspects*: one of them may have ended the host. A suspect runs alone, with every
//! slot of the host held for it. If the host dies again then, that event did it: it is *convicted*, becomes a dead letter
//! without another run, and its version of the plugin is quarantined. A first death counts no attempt.
//!
//! Whoever kills the host from outside makes suspects, and would convict one by doing it again while that one runs alone. So
//! a host that is known to be killed from outside wants more proof. It is known by a death after which every suspect has run
//! alone and ended, or while nothing ran at all: for an hour after that an event is convicted only when the host died
//! twice while it ran alone.
//!
//! A host that is stopped leaves no notes, however it is stopped; only what was a suspect before stays one until it has run.

mod open;
mod slot;

pub use open::{JournalError, Opened};

use busway_core::{Digest, EventId, Failure, FailureClass, PluginName};
use slot::{BYTES, Head, Record, State};
use std::{
    collections::HashMap,
    fs::File,
    os::unix::fs::FileExt as _,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};
use tracing::{info, warn};

/// The journal of one host. Clones are not made; lanes share it.
#[derive(Debug)]
pub struct Journal {
    file: File,
    // Guard plain data; never held across an await. A write of one slot takes about a microsecond.
    free: Mutex<Vec<u32>>,
    marked: Mutex<HashMap<Key, Mark>>,
    /// How many are marked, so that the usual case takes no lock.
    marks: AtomicUsize,
    head: Mutex<Head>,
    stopped: AtomicBool,
    told: AtomicBool,
}

/// An event of a binding.
#[derive(Debug, Clone)]
pub(crate) struct Suspect<'a> {
    pub plugin: &'a PluginName,
    pub digest: &'a Digest,
    pub event: &'a EventId,
    pub durable: &'a str,
    pub stream: &'a str,
    pub sequence: u64,
}

/// What the journal says of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nothing.
    Innocent,
    /// It ran when the host died: it is to run alone.
    Suspect,
    /// It ran alone when the host died again: it is not to run.
    Convicted,
}

/// An event that ended the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Convicted {
    /// The plugin.
    pub plugin: PluginName,
    /// The digest of its bytes.
    pub digest: Digest,
    /// The event.
    pub event: EventId,
    /// Where it is stored.
    pub stream: String,
    /// Its sequence there.
    pub sequence: u64,
}

type Key = (EventId, u64);

#[derive(Debug, Clone)]
struct Mark {
    slot: u32,
    digest: Digest,
    is_convicted: bool,
    alone: u8,
    death: u16,
}

/// A note that an event is in a guest. Taken away when it is dropped; a suspect stays one then, unless its run has ended.
#[derive(Debug)]
pub(crate) struct Noted<'a> {
    journal: &'a Journal,
    slot: u32,
    note: Note,
}

/// What a note says.
#[derive(Debug)]
enum Note {
    /// It runs beside others.
    Beside,
    /// It is a suspect and runs alone.
    Alone(Key),
    /// It has ended.
    Gone,
}

/// Why an event is no suspect any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cleared {
    /// It ran alone, and the host lives.
    Ran,
    /// It came to an end in another way.
    Ended,
}

impl Suspect<'_> {
    fn key(&self) -> Key {
        (self.event.clone(), slot::checksum(self.durable.as_bytes()))
    }

    fn record(&self, binding: u64) -> Record {
        Record {
            started_ms: now_ms(),
            digest: *self.digest,
            event: self.event.clone(),
            plugin: self.plugin.clone(),
            sequence: self.sequence,
            binding,
            stream: self.stream.to_owned(),
        }
    }
}

impl Journal {
    /// What is known of an event. A new version of the plugin is not convicted by what the old one did, but it is watched.
    pub(crate) fn standing(&self, suspect: &Suspect<'_>) -> Standing {
        if self.marks.load(Ordering::Acquire) == 0 {
            return Standing::Innocent;
        }
        match self.marked().get(&suspect.key()) {
            Some(mark) if mark.is_convicted && mark.digest == *suspect.digest => Standing::Convicted,
            Some(_) => Standing::Suspect,
            None => Standing::Innocent,
        }
    }

    /// Notes that the event's guest runs from now on. None where it could not be noted, which is told once.
    pub(crate) fn note(&self, suspect: &Suspect<'_>) -> Option<Noted<'_>> {
        if self.stopped.load(Ordering::Acquire) {
            return None;
        }
        let key = (self.marks.load(Ordering::Acquire) > 0).then(|| suspect.key());
        let mark = key.as_ref().and_then(|key| self.marked().get(key).cloned());
        let marked = key.zip(mark);
        let (slot, standing) = match &marked {
            Some((_, mark)) => (mark.slot, mark.standing(State::Alone)),
            None => (self.free().pop()?, slot::Standing { state: State::Running, alone: 0, death: 0 }),
        };
        let record = suspect.record(slot::checksum(suspect.durable.as_bytes())).encode(standing);
        if let Err(why) = self.file.write_all_at(&record, place(slot)) {
            if !self.told.swap(true, Ordering::Relaxed) {
                warn!(%why, "the in-flight journal can't be written; what kills this host will not be recognised");
            }
            if marked.is_none() {
                self.free().push(slot);
            }
            return None;
        }
        let note = marked.map_or(Note::Beside, |(key, _)| Note::Alone(key));
        Some(Noted { journal: self, slot, note })
    }

    /// The event has come to an end, wherever it ran.
    pub(crate) fn forget(&self, suspect: &Suspect<'_>) {
        if self.marks.load(Ordering::Acquire) > 0 {
            self.unmark(&suspect.key(), Cleared::Ended);
        }
    }

    /// Whether an event that this version of a plugin was convicted of has not become a dead letter yet.
    pub(crate) fn has_convicted(&self, digest: &Digest) -> bool {
        self.marks.load(Ordering::Acquire) > 0
            && self.marked().values().any(|mark| mark.is_convicted && mark.digest == *digest)
    }

    /// The host stops: nothing that runs now is a suspect, and nothing is noted from now on.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.change_head(|head| head.runs = false);
        let mut states = vec![0; BYTES];
        let slots = self.file.metadata().map_or(0, |about| about.len() / BYTES as u64).saturating_sub(1);
        for slot in 0..u32::try_from(slots).unwrap_or(u32::MAX) {
            if self.file.read_exact_at(&mut states, place(slot)).is_err() {
                break;
            }
            match states.first().and_then(|byte| State::of(*byte)) {
                Some(State::Running) => self.set(slot, State::Free),
                Some(State::Alone) => self.set(slot, State::Suspect),
                _ => {}
            }
        }
    }

    fn unmark(&self, key: &Key, cleared: Cleared) {
        let mut marked = self.marked();
        let Some(mark) = marked.remove(key) else { return };
        let mut others = marked.values_mut().filter(|other| other.death == mark.death);
        let from_outside = match cleared {
            Cleared::Ran => mark.death > 0 && !mark.is_convicted && others.next().is_none(),
            // It can't be known any more whether one of them did it.
            Cleared::Ended => {
                others.for_each(|other| other.death = 0);
                false
            }
        };
        drop(marked);
        self.marks.fetch_sub(1, Ordering::AcqRel);
        if from_outside {
            self.change_head(|head| head.outside_ms = now_ms());
            info!("the host was ended from outside: all that ran when it died has run alone since");
        }
        self.set(mark.slot, State::Free);
        self.free().push(mark.slot);
        info!(event = %key.0, "no longer suspected of having ended the host");
    }

    fn change_head(&self, change: impl FnOnce(&mut Head)) {
        let mut head = self.head.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut head);
        if let Err(why) = self.file.write_all_at(&head.bytes(), 0) {
            warn!(%why, "the in-flight journal can't be written");
        }
    }

    fn set(&self, slot: u32, state: State) {
        if let Err(why) = self.file.write_all_at(&[state as u8], place(slot))
            && !self.told.swap(true, Ordering::Relaxed)
        {
            warn!(%why, "the in-flight journal can't be written");
        }
    }

    fn free(&self) -> MutexGuard<'_, Vec<u32>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn marked(&self) -> MutexGuard<'_, HashMap<Key, Mark>> {
        self.marked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mark {
    fn standing(&self, state: State) -> slot::Standing {
        slot::Standing { state, alone: self.alone, death: self.death }
    }
}

impl Noted<'_> {
    /// The run has ended, and the host lives.
    pub(crate) fn ended(mut self) {
        if let Note::Alone(key) = &self.note {
            self.journal.unmark(key, Cleared::Ran);
            // Its slot is free already, and may be another's.
            self.note = Note::Gone;
        }
    }
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        match self.note {
            Note::Gone => {}
            Note::Alone(_) => self.journal.set(self.slot, State::Suspect),
            Note::Beside => {
                self.journal.set(self.slot, State::Free);
                self.journal.free().push(self.slot);
            }
        }
    }
}

/// What a convicted event ends with.
pub(crate) fn host_crash() -> Failure {
    let reason = "the host died twice while it handled this event, the second time while nothing else ran; it was not \
                  run again, and this version of the plugin is quarantined on that host";
    Failure::new(FailureClass::HostCrash, "died-twice", reason)
}

/// Where a slot begins.
fn place(slot: u32) -> u64 {
    (u64::from(slot) + 1) * BYTES as u64
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
