//! What of an event is its key: for ordering, and for recognising a repeated input.

/// Where a key is found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum KeySource {
    /// The nth token of the subject, from 1.
    SubjectToken(u32),
    /// The first header line of this name.
    Header(String),
    /// The publisher's message id, `Nats-Msg-Id`.
    MessageId,
    /// A JSON pointer (RFC 6901) into the payload.
    Pointer(String),
}
