//! What is larger than the broker takes: dead letters and copies carry the original and the host's account, and both
//! together may not fit although the original did.
//!
//! Broker and stream bound a message: payload and headers by the broker's maximum, headers by 64 KiB. What does not fit
//! goes into an object store first, whole; the message says where.

use super::{
    connect::Line,
    own_streams::PAYLOADS_BUCKET,
    refusal,
    wire::{self, block_bytes},
};
use async_nats::jetstream::{
    self,
    object_store::{DeleteErrorKind, GetErrorKind, ObjectStore},
};
use busway_core::{
    Headers,
    again::ORIGINAL,
    dead_letter::{PAYLOAD_OBJECT, RAW_HEADERS},
    headers,
    port::PublishError,
};
use bytes::Bytes;
use tokio::io::AsyncReadExt as _;

/// The object that holds the publisher's headers, where they don't fit beside the host's account.
pub const HEADERS_OBJECT: &str = "Busway-Headers-Object";
/// What the headers may grow by before the message is sent.
const MARGIN: usize = 512;

/// What goes into a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fitted {
    pub headers: Headers,
    pub payload: Bytes,
}

/// Makes a message fit; what does not is in the object store afterwards, under `name` or one that begins so.
pub(super) async fn fit(
    line: &Line,
    headers: &Headers,
    payload: &Bytes,
    name: &str,
) -> Result<Fitted, PublishError> {
    let mut fitted = Fitted { headers: headers.clone(), payload: payload.clone() };
    if block_bytes(&fitted.headers) + MARGIN > wire::BLOCK_BYTES_MAX {
        let (own, publishers): (Headers, Headers) = (
            headers.iter().filter(|(name, _)| is_account(name)).collect(),
            headers.iter().filter(|(name, _)| !is_account(name)).collect(),
        );
        let name = format!("{name}-headers");
        put(line, &name, &wire::to_block(&publishers)).await?;
        fitted.headers = own;
        fitted.headers.push(HEADERS_OBJECT, &name);
    }
    let bytes = block_bytes(&fitted.headers) + MARGIN + fitted.payload.len();
    if bytes > line.client().max_payload() {
        put(line, name, &fitted.payload).await?;
        fitted.headers.push(PAYLOAD_OBJECT, name);
        fitted.payload = Bytes::new();
    }
    Ok(fitted)
}

/// Whether a line is the host's account, which is bounded; everything else is the publisher's.
fn is_account(name: &str) -> bool {
    let is_original = name.get(..ORIGINAL.len()).is_some_and(|start| start.eq_ignore_ascii_case(ORIGINAL));
    headers::is_reserved(name) && !is_original && !name.eq_ignore_ascii_case(RAW_HEADERS)
}

/// The objects that belong to a message: its payload's, its headers'.
pub(super) fn objects_of(headers: &Headers) -> Vec<String> {
    [PAYLOAD_OBJECT, HEADERS_OBJECT]
        .into_iter()
        .filter_map(|name| headers.get(name))
        .map(str::to_owned)
        .collect()
}

/// Why an object can't be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NoObject {
    /// There is none of this name.
    Gone(String),
    /// It could not be read now.
    NotNow(String),
}

/// Makes a stored message whole again: what is in the object store comes back from there.
pub(super) async fn whole(line: &Line, headers: &mut Headers, payload: &mut Bytes) -> Result<(), NoObject> {
    if let Some(object) = headers.get(PAYLOAD_OBJECT).map(str::to_owned) {
        *payload = read(line, &object).await?.into();
    }
    if let Some(object) = headers.get(HEADERS_OBJECT).map(str::to_owned) {
        let block = read(line, &object).await?;
        let mut whole = wire::parse(&block).map_err(|why| NoObject::NotNow(format!("{object}: {why}")))?;
        for (name, value) in headers.iter() {
            whole.push(name, value);
        }
        *headers = whole;
    }
    Ok(())
}

/// Deletes an object; one that is gone already is as wanted.
pub(super) async fn delete(line: &Line, object: &str) -> Result<(), PublishError> {
    match store(line).await?.delete(object).await {
        Ok(()) => Ok(()),
        Err(why) if why.kind() == DeleteErrorKind::NotFound => Ok(()),
        Err(why) => Err(not_now(&why)),
    }
}

/// Stores an object.
pub(super) async fn put(line: &Line, name: &str, bytes: &[u8]) -> Result<(), PublishError> {
    let store = store(line).await?;
    store.put(name, &mut &*bytes).await.map_err(|why| not_now(&why))?;
    Ok(())
}

/// Reads an object.
pub(super) async fn read(line: &Line, object: &str) -> Result<Vec<u8>, NoObject> {
    let failed = |why: String| NoObject::NotNow(format!("{object}: {why}"));
    let store = store(line).await.map_err(|why| failed(why.to_string()))?;
    let mut reader = store.get(object).await.map_err(|why| match why.kind() {
        GetErrorKind::NotFound => NoObject::Gone(object.to_owned()),
        _ => failed(refusal::chain(&why)),
    })?;
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).await.map_err(|why| failed(why.to_string()))?;
    Ok(bytes)
}

async fn store(line: &Line) -> Result<ObjectStore, PublishError> {
    jetstream::new(line.client()).get_object_store(PAYLOADS_BUCKET).await.map_err(|why| not_now(&why))
}

fn not_now(why: &(dyn std::error::Error + 'static)) -> PublishError {
    PublishError::NotNow(format!("the object store {PAYLOADS_BUCKET}: {}", refusal::chain(why)))
}
