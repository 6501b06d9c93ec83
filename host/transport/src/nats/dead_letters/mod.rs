//! Dead letters: stored once, read and redriven by operators.
//!
//! A letter's subject holds the event, the plugin and the round, and is written with "nothing may be there yet". Refused
//! for that, the letter that is there is read: the same event with the same payload is a success that somebody had
//! before us, anything else is not. A full stream gives the same kind of refusal and is never taken for a success.

mod reading;
mod redriving;

pub use reading::{DeadLetters, LetterError, LetterFilter, LetterPage, StoredLetter};
pub use redriving::{Imported, RedriveError};

use super::{
    api::{self, ApiError, Wanted, code},
    connect::Line,
    fit,
    own_streams::DEAD_LETTER_STREAM,
    publish::{Ack, Store, answer, refused},
    wire,
};
use busway_core::{
    DeadLetter,
    port::{PublishError, Stored},
};

/// Refuses the letter where there is one already.
const NOTHING_THERE: (&str, &str) = ("Nats-Expected-Last-Subject-Sequence", "0");

/// Writes letters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Letters<'a> {
    pub egress: &'a Line,
    pub control: &'a Line,
}

impl Letters<'_> {
    pub(super) async fn store(&self, letter: &DeadLetter) -> Result<Stored, PublishError> {
        let fitted = fit::fit(self.egress, &letter.headers, &letter.payload, &letter.object_name()).await?;
        let mut headers = wire::to_library(&fitted.headers).map_err(refused)?;
        wire::append(&mut headers, NOTHING_THERE.0, NOTHING_THERE.1).map_err(refused)?;
        let store = Store { line: self.egress, control: self.control };
        match store.until_answered(&letter.subject, &headers, fitted.payload).await {
            Ack::Refused(refusal) if refusal.err_code == code::WRONG_LAST_SEQUENCE => {
                self.compare(letter).await
            }
            Ack::Stored(stored) if stored.stream != DEAD_LETTER_STREAM => Err(PublishError::Refused(
                format!("the stream {} captures dead letters instead of {DEAD_LETTER_STREAM}", stored.stream),
            )),
            ack => answer(ack),
        }
    }

    /// Is the letter that is there already this one?
    async fn compare(&self, letter: &DeadLetter) -> Result<Stored, PublishError> {
        let stored = api::stored(self.control, DEAD_LETTER_STREAM, Wanted::last(&letter.subject)).await;
        let Some(raw) = stored.map_err(api_error)? else {
            return Err(PublishError::NotNow("a letter that was there is gone; once more, then".into()));
        };
        let there = wire::parse(&raw.header_block).unwrap_or_default();
        if letter.is_same(&there) {
            Ok(Stored { stream: DEAD_LETTER_STREAM.into(), sequence: raw.sequence, duplicate: true })
        } else {
            Err(PublishError::Refused(format!("a different letter is stored under {}", letter.subject)))
        }
    }
}

fn api_error(why: ApiError) -> PublishError {
    match why {
        ApiError::Refused { .. } => PublishError::NotNow(why.to_string()),
        ApiError::NoAnswer(_) | ApiError::NoJetStream | ApiError::Unreadable(_) => {
            PublishError::Unreachable(why.to_string())
        }
    }
}
