//! Opening the journal, and what it tells of the host before this one.

use super::{
    Convicted, Journal, Mark, now_ms, place,
    slot::{BYTES, Head, MAGIC, Record, Standing, State},
};
use std::{
    collections::{HashMap, HashSet},
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize},
    },
    time::Duration,
};
use tracing::warn;

/// The file's name in the state folder.
const NAME: &str = "inflight";
/// Suspects that are kept at most; the rest is forgotten.
const MARKS_MAX: usize = 1024;
/// For so long after a death from outside it takes two deaths alone to convict.
const OUTSIDE: Duration = Duration::from_secs(3600);
/// Deaths while it ran alone that convict an event, when deaths come from outside as well.
const ALONE_MAX: u8 = 2;
/// A suspect that was not given to this host for so long has come to an end elsewhere.
const SUSPECTED_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// A journal that is open, and what it tells.
#[derive(Debug)]
pub struct Opened {
    /// The journal.
    pub journal: Journal,
    /// How many events ran, or were still suspected, when the last host died.
    pub suspects: usize,
    /// Those that ended the host for the second time just now. Their versions are to be quarantined.
    pub convicted: Vec<Convicted>,
}

/// Why there is no journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another host has it.
    #[error(
        "{path} is locked: another host runs with this state folder; give each host one of its own (`host.state`)"
    )]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The file can't be made, read or written.
    #[error("{path} can't be used: {source}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What the slots of a file hold.
#[derive(Default)]
struct Found {
    marked: HashMap<(busway_core::EventId, u64), Mark>,
    taken: HashSet<u32>,
    convicted: Vec<Convicted>,
    damaged: usize,
    slots: u32,
    head: Head,
}

impl Journal {
    /// Opens the journal in the state folder, for a host that runs so many events at once, and locks it for as long as it
    /// lives. A file that is damaged, or is no journal, is set aside.
    ///
    /// # Errors
    /// Another host has it, or the folder can't be written.
    pub fn open(folder: &Path, concurrency: u32) -> Result<Opened, JournalError> {
        let path = folder.join(NAME);
        let unusable = |source| JournalError::Unusable { path: path.clone(), source };
        fs::create_dir_all(folder).map_err(unusable)?;
        let mut options = OpenOptions::new();
        let file =
            options.read(true).write(true).create(true).truncate(false).open(&path).map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(JournalError::Locked { path }),
            Err(TryLockError::Error(source)) => return Err(unusable(source)),
        }
        let bytes = fs::read(&path).map_err(unusable)?;
        let is_ours = bytes.is_empty() || bytes.starts_with(MAGIC);
        let found = if is_ours { look(&file, &bytes).map_err(unusable)? } else { Found::default() };
        if !is_ours || found.damaged > 0 {
            set_aside(&path, &bytes, found.damaged);
        }
        if !is_ours {
            file.set_len(0).map_err(unusable)?;
        }
        let head = Head { runs: true, ..found.head };
        file.write_all_at(&head.bytes(), 0).map_err(unusable)?;
        let slots = concurrency.max(1).saturating_add(found.taken.len() as u32).max(found.slots);
        // Written and not only sized, so that a disk that fills up later does not matter.
        for slot in found.slots..slots {
            file.write_all_at(&[0; BYTES], place(slot)).map_err(unusable)?;
        }
        let free = (0..slots).rev().filter(|slot| !found.taken.contains(slot)).collect();
        let suspects = found.marked.len();
        let journal = Self {
            file,
            free: Mutex::new(free),
            head: Mutex::new(head),
            marks: AtomicUsize::new(suspects),
            marked: Mutex::new(found.marked),
            stopped: AtomicBool::new(false),
            told: AtomicBool::new(false),
        };
        Ok(Opened { journal, suspects, convicted: found.convicted })
    }
}

/// Reads every slot, and turns what ran into suspects and what ran alone into convicts.
fn look(file: &File, bytes: &[u8]) -> io::Result<Found> {
    let mut found = Found { head: Head::of(bytes), ..Found::default() };
    found.head.death = found.head.death.checked_add(1).unwrap_or(1);
    let is_recent = now_ms().saturating_sub(found.head.outside_ms) < OUTSIDE.as_millis() as u64;
    let alone_max = if is_recent { ALONE_MAX } else { 1 };
    let mut ran = 0;
    let oldest = now_ms().saturating_sub(SUSPECTED_MAX.as_millis() as u64);
    for (number, bytes) in bytes.chunks(BYTES).skip(1).enumerate() {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        found.slots = number.saturating_add(1);
        let before = Standing::of(bytes);
        if before.is_some_and(|before| before.state == State::Free) && bytes.len() == BYTES {
            continue;
        }
        let (Some(before), Some(record)) = (before, Record::decode(bytes)) else {
            found.damaged += 1;
            file.write_all_at(&[0; BYTES], place(number))?;
            continue;
        };
        if record.started_ms < oldest || found.marked.len() >= MARKS_MAX {
            file.write_all_at(&[State::Free as u8], place(number))?;
            continue;
        }
        ran += usize::from(matches!(before.state, State::Running | State::Alone));
        let after = after_death(before, found.head.death, alone_max);
        file.write_all_at(&after.bytes(), place(number))?;
        let is_convicted = after.state == State::Convicted;
        let Standing { alone, death, .. } = after;
        let mark = Mark { slot: number, digest: record.digest, is_convicted, alone, death };
        if let Some(double) = found.marked.insert((record.event.clone(), record.binding), mark) {
            file.write_all_at(&[State::Free as u8], place(double.slot))?;
            found.taken.remove(&double.slot);
        }
        found.taken.insert(number);
        if is_convicted && before.state == State::Alone {
            let Record { plugin, digest, event, stream, sequence, .. } = record;
            found.convicted.push(Convicted { plugin, digest, event, stream, sequence });
        }
    }
    // It died, and nothing ran: that was nobody's guest.
    if found.head.runs && ran == 0 {
        found.head.outside_ms = now_ms();
    }
    Ok(found)
}

/// What a slot says after the death of the host.
fn after_death(before: Standing, death: u16, alone_max: u8) -> Standing {
    match before.state {
        State::Free | State::Suspect | State::Convicted => before,
        State::Running => Standing { state: State::Suspect, alone: 0, death },
        State::Alone => {
            let alone = before.alone.saturating_add(1);
            let state = if alone >= alone_max { State::Convicted } else { State::Suspect };
            Standing { state, alone, death }
        }
    }
}

/// Keeps a copy of a file that can't be read whole. That it can't be kept either is no reason not to start.
fn set_aside(path: &Path, bytes: &[u8], damaged: usize) {
    let aside = path.with_extension(format!("damaged-{}", now_ms()));
    let kept = fs::write(&aside, bytes);
    warn!(
        file = %path.display(),
        aside = %aside.display(),
        kept = kept.is_ok(),
        damaged,
        "the in-flight journal was damaged or is none; a copy is set aside, and what can't be read in it is forgotten"
    );
}
