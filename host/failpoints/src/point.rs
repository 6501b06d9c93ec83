//! The names: every operation of every seam, before and after.

use std::{fmt, str::FromStr};

/// A place where something can be made to happen: `settle.record-attempts.before`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Point {
    /// The operation.
    pub operation: Operation,
    /// On which side of it.
    pub side: Side,
}

/// On which side of an operation a point lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// An error here: the operation is not done.
    Before,
    /// An error here: it is done, and the answer is lost.
    After,
}

/// The operations of the seams.
#[expect(missing_docs, reason = "each is the method of the seam that its name says")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    SourceNext,
    SourceClose,
    HandlerCall,
    PublishPublish,
    PublishAll,
    PublishSend,
    PublishDeadLetter,
    SettleAck,
    SettleAckConfirmed,
    SettlePutBack,
    SettleTerminate,
    SettleProgress,
    SettleAttempts,
    SettleRecordAttempts,
    SettlePark,
    SettleClaimKey,
    SettleReleaseKey,
    SettleUnsettled,
}

impl Operation {
    /// All of them, in the order of an event's path.
    pub const ALL: [Operation; 18] = [
        Self::SourceNext,
        Self::SourceClose,
        Self::HandlerCall,
        Self::PublishPublish,
        Self::PublishAll,
        Self::PublishSend,
        Self::PublishDeadLetter,
        Self::SettleAck,
        Self::SettleAckConfirmed,
        Self::SettlePutBack,
        Self::SettleTerminate,
        Self::SettleProgress,
        Self::SettleAttempts,
        Self::SettleRecordAttempts,
        Self::SettlePark,
        Self::SettleClaimKey,
        Self::SettleReleaseKey,
        Self::SettleUnsettled,
    ];

    /// The stable name: the seam and its method.
    pub fn name(self) -> &'static str {
        match self {
            Self::SourceNext => "source.next",
            Self::SourceClose => "source.close",
            Self::HandlerCall => "handler.call",
            Self::PublishPublish => "publish.publish",
            Self::PublishAll => "publish.publish-all",
            Self::PublishSend => "publish.send",
            Self::PublishDeadLetter => "publish.dead-letter",
            Self::SettleAck => "settle.ack",
            Self::SettleAckConfirmed => "settle.ack-confirmed",
            Self::SettlePutBack => "settle.put-back",
            Self::SettleTerminate => "settle.terminate",
            Self::SettleProgress => "settle.progress",
            Self::SettleAttempts => "settle.attempts",
            Self::SettleRecordAttempts => "settle.record-attempts",
            Self::SettlePark => "settle.park",
            Self::SettleClaimKey => "settle.claim-key",
            Self::SettleReleaseKey => "settle.release-key",
            Self::SettleUnsettled => "settle.unsettled",
        }
    }
}

impl Side {
    /// The end of a point's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
        }
    }
}

impl Point {
    /// Every point, in the order of an event's path.
    pub fn all() -> impl Iterator<Item = Self> {
        let sides = |operation| [Side::Before, Side::After].map(|side| Self { operation, side });
        Operation::ALL.into_iter().flat_map(sides)
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.operation.name(), self.side.name())
    }
}

impl FromStr for Point {
    type Err = ();
    fn from_str(name: &str) -> Result<Self, ()> {
        Self::all().find(|point| point.to_string() == name).ok_or(())
    }
}
