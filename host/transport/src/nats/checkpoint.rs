//! How far a consumer had come, kept beside it: for the day somebody deletes the consumer while no host runs.
//!
//! Without it, a consumer on a stream that keeps acknowledged events would begin at the first one again. The checkpoint is
//! the sequence up to which everything was acknowledged when a host last looked, so what is made from it gives some events
//! again and leaves out none. It holds the stream's creation time: for a stream that was made anew it means nothing.

use super::{
    api::{self, Wanted},
    connect::Line,
    delivery::Origin,
    own_streams::CHECKPOINTS_BUCKET,
};
use async_nats::Request;
use serde::{Deserialize, Serialize};
use tracing::debug;

/// The version that is written.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Checkpoint {
    v: u32,
    stream_created_ns: i128,
    ack_floor: u64,
}

fn subject(origin: &Origin) -> String {
    format!("$KV.{CHECKPOINTS_BUCKET}.{}.{}", origin.stream, origin.consumer)
}

/// The sequence that was kept; 0 where none was, or where it can't be read: then everything is given again.
pub(super) async fn read(line: &Line, origin: &Origin) -> u64 {
    let subject = subject(origin);
    let raw = match api::stored(line, &format!("KV_{CHECKPOINTS_BUCKET}"), Wanted::last(&subject)).await {
        Ok(Some(raw)) => raw,
        Ok(None) => return 0,
        Err(why) => {
            debug!(consumer = %origin.consumer, %why, "no checkpoint can be read");
            return 0;
        }
    };
    match serde_json::from_slice::<Checkpoint>(&raw.payload) {
        Ok(kept) if kept.v == VERSION && kept.stream_created_ns == origin.stream_created_ns => kept.ack_floor,
        _ => 0,
    }
}

/// Keeps a sequence. One that is not kept is one that is older: nothing is lost by that, so nobody waits for it twice.
pub(super) async fn write(line: &Line, origin: &Origin, ack_floor: u64) {
    let checkpoint = Checkpoint { v: VERSION, stream_created_ns: origin.stream_created_ns, ack_floor };
    let Ok(body) = serde_json::to_vec(&checkpoint) else { return };
    let request = Request::new().payload(body.into());
    if let Err(why) = line.request(subject(origin), request, api::ANSWER_WAIT).await {
        debug!(consumer = %origin.consumer, %why, "the checkpoint was not kept");
    }
}
