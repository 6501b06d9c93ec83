//! What operators do with letters: redrive, discard, bring back.
//!
//! A redrive is stored and confirmed before its letter is deleted, and recognised by its id when it is repeated, so an
//! operator who interrupts it at any point and does it again redrives nothing twice. Objects are deleted last: a letter
//! without its payload would be a loss, an object without its letter is only waste.

use super::{
    super::{
        api::{self, ApiError, Wanted, code},
        copies::Copies,
        fit,
        own_streams::DEAD_LETTER_STREAM,
    },
    DeadLetters, LetterError, Letters, StoredLetter,
};
use busway_core::{
    DeadLetter, Digest,
    again::{Copy, NotRedrivable},
    dead_letter::{self, PAYLOAD_OBJECT},
    port::{PublishError, Stored},
};
use serde_json::json;

/// Why a letter's event was not redriven, or a letter not brought back.
#[derive(Debug, thiserror::Error)]
pub enum RedriveError {
    /// The letter does not allow it.
    #[error(transparent)]
    NotRedrivable(#[from] NotRedrivable),
    /// The copy was not stored; the letter is still there.
    #[error("it was not stored: {0}")]
    NotStored(#[from] PublishError),
    /// The copy is stored, and the letter could not be deleted: doing it again deletes it.
    #[error(
        "it is redriven, but its letter could not be deleted ({0}); redriving it again does that and nothing else"
    )]
    NotDeleted(#[source] LetterError),
}

/// What became of a letter that was brought back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Imported {
    /// It is stored, under a new sequence.
    Stored(u64),
    /// It was there already, under this sequence.
    AlreadyThere(u64),
}

impl DeadLetters {
    /// Gives a letter's event to the plugin that failed, as the event that it was, and deletes the letter. The letter is
    /// whole, as [`DeadLetters::get`] gives it; its payload may be another one by now. Only a plugin whose digest begins
    /// with `version` runs it.
    ///
    /// # Errors
    /// See [`RedriveError`]. Unless it says otherwise, the letter is still there. Not cancel safe, and may be repeated.
    pub async fn redrive(
        &self,
        letter: &StoredLetter,
        version: Option<&str>,
    ) -> Result<Stored, RedriveError> {
        let copy = Copy::redriven(&letter.headers, letter.payload.clone(), version)?;
        let copies = Copies { egress: &self.egress, control: &self.control };
        let name = format!("{}-redriven", copy.message_id);
        let fitted = fit::fit(&self.egress, &copy.headers, &copy.payload, &name).await?;
        let stored = copies.redrive(&copy, fitted).await?;
        self.discard(letter).await.map_err(RedriveError::NotDeleted)?;
        Ok(stored)
    }

    /// Deletes a letter, then what belongs to it in the object store.
    ///
    /// # Errors
    /// No good answer of JetStream. A letter that is gone is no error.
    pub async fn discard(&self, letter: &StoredLetter) -> Result<(), LetterError> {
        let subject = format!("STREAM.MSG.DELETE.{DEAD_LETTER_STREAM}");
        let wanted = json!({ "seq": letter.sequence, "no_erase": true });
        match api::call::<serde_json::Value>(&self.control, &subject, &wanted).await {
            Ok(_) => {}
            Err(why) if why.is(code::MESSAGE_DELETE_FAILED) && self.is_gone(letter.sequence).await? => {}
            Err(why) => return Err(why.into()),
        }
        for object in fit::objects_of(&letter.headers) {
            fit::delete(&self.egress, &object)
                .await
                .map_err(|why| ApiError::Unreadable(format!("the object {object} was left behind: {why}")))?;
        }
        Ok(())
    }

    async fn is_gone(&self, sequence: u64) -> Result<bool, LetterError> {
        let found = api::stored(&self.control, DEAD_LETTER_STREAM, Wanted::sequence(sequence)).await?;
        Ok(found.is_none())
    }

    /// Brings a letter back that was exported: the same subject, headers and payload under a new sequence.
    ///
    /// # Errors
    /// A letter without its account, or one that the broker does not take.
    pub async fn import(&self, letter: &StoredLetter) -> Result<Imported, RedriveError> {
        let missing = |name| move || NotRedrivable::Header(name);
        let id = letter.headers.get(dead_letter::EVENT_ID).and_then(|id| id.parse().ok());
        let is_own = |name: &str| {
            name != PAYLOAD_OBJECT && name != fit::HEADERS_OBJECT && name != super::NOTHING_THERE.0
        };
        let letter = DeadLetter {
            subject: letter.subject.clone(),
            event_id: id.ok_or_else(missing(dead_letter::EVENT_ID))?,
            headers: letter.headers.iter().filter(|(name, _)| is_own(name)).collect(),
            payload: letter.payload.clone(),
            payload_digest: Digest::of(&letter.payload),
        };
        let stored = Letters { egress: &self.egress, control: &self.control }.store(&letter).await?;
        Ok(match stored.duplicate {
            true => Imported::AlreadyThere(stored.sequence),
            false => Imported::Stored(stored.sequence),
        })
    }
}
