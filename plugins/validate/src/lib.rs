//! Lets only those events through whose JSON satisfies a JSON Schema, and passes them on unchanged.
//!
//! The kind of event is looked at first, because it decides which schema counts; then the payload must be JSON, then it
//! must satisfy the schema. Each of the three has a code of its own, so that dead letters group by what is wrong with
//! them: `unknown-kind`, `invalid-json`, `schema-mismatch`.

mod schema;
mod select;

use busway_sdk::{Event, Failure, config, publish};
use serde_json::Value;

#[busway_sdk::handler]
fn handle(event: Event) -> Result<(), Failure> {
    let schema = select::schema_for(&event)?;
    let payload: Value = event.json()?;
    schema.check(&payload).map_err(|mismatch| Failure::reject("schema-mismatch", mismatch))?;

    let to = config::required("to")?.replace("{subject}", &event.subject);
    publish(event.forward(to))?;
    Ok(())
}

#[cfg(test)]
mod tests;
