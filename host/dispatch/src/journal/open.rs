//! Opening the journal, and what it tells of the host before this one.

use super::{
    Convicted, Journal, Mark, now_ms, place,
    slot::{self, BYTES, MAGIC, Record, State},
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
        file.write_all_at(&slot::header(), 0).map_err(unusable)?;
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
    let mut found = Found::default();
    let oldest = now_ms().saturating_sub(SUSPECTED_MAX.as_millis() as u64);
    for (number, bytes) in bytes.chunks(BYTES).skip(1).enumerate() {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        found.slots = number.saturating_add(1);
        let state = bytes.first().and_then(|byte| State::of(*byte));
        if state == Some(State::Free) && bytes.len() == BYTES {
            continue;
        }
        let (Some(state), Some(record)) = (state, Record::decode(bytes)) else {
            found.damaged += 1;
            file.write_all_at(&[0; BYTES], place(number))?;
            continue;
        };
        if record.started_ms < oldest || found.marked.len() >= MARKS_MAX {
            file.write_all_at(&[State::Free as u8], place(number))?;
            continue;
        }
        let is_convicted = matches!(state, State::Alone | State::Convicted);
        let next = if is_convicted { State::Convicted } else { State::Suspect };
        file.write_all_at(&[next as u8], place(number))?;
        let mark = Mark { slot: number, digest: record.digest, is_convicted };
        if let Some(double) = found.marked.insert((record.event.clone(), record.binding), mark) {
            file.write_all_at(&[State::Free as u8], place(double.slot))?;
            found.taken.remove(&double.slot);
        }
        found.taken.insert(number);
        if state == State::Alone {
            let Record { plugin, digest, event, stream, sequence, .. } = record;
            found.convicted.push(Convicted { plugin, digest, event, stream, sequence });
        }
    }
    Ok(found)
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
