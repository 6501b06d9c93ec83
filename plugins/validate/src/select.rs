//! Which schema counts for an event.
//!
//! With `kind-header` the header's value names one of `schemas`; what has no entry there falls to `schema`, and without
//! one it is a reject. Without `kind-header` there is only `schema`. In a fresh instance all of this is read again for
//! every event, so of `schemas` only the entry that counts is parsed.

use std::collections::BTreeMap;
use std::fmt::Display;

use busway_sdk::{Event, Failure, config};
use serde_json::value::RawValue;

use crate::schema::Schema;

/// The schema for an event.
///
/// # Errors
/// A reject with the code `unknown-kind` when no schema is meant for it; a retry when the configuration can't be used.
pub fn schema_for(event: &Event) -> Result<Schema, Failure> {
    let by_kind = match config::get("kind-header") {
        Some(header) => schema_of_kind(&header, event)?,
        None => Selected::NotByKind,
    };
    match (by_kind, config::get("schema")) {
        (Selected::Schema(schema), _) => Ok(schema),
        (_, Some(text)) => text.parse().map_err(|error| config::invalid("schema", error)),
        (Selected::Unknown(why), None) => Err(Failure::reject("unknown-kind", why)),
        (Selected::NotByKind, None) => {
            Err(config::invalid("schema", "it is needed where `kind-header` is not set"))
        }
    }
}

enum Selected {
    Schema(Schema),
    Unknown(String),
    NotByKind,
}

fn schema_of_kind(header: &str, event: &Event) -> Result<Selected, Failure> {
    let Some(kind) = event.header(header) else {
        return Ok(Selected::Unknown(format!("no header {header}")));
    };
    let schemas: BTreeMap<String, Box<RawValue>> = config::json("schemas")?
        .ok_or_else(|| config::invalid("schemas", "it is needed where `kind-header` is set"))?;
    match schemas.get(kind) {
        Some(text) => text.get().parse().map(Selected::Schema).map_err(|error| bad_schema(kind, error)),
        None => Ok(Selected::Unknown(format!("no schema for {header}: {kind}"))),
    }
}

fn bad_schema(kind: &str, error: impl Display) -> Failure {
    config::invalid("schemas", format_args!("`{kind}`: {error}"))
}
