//! JSON to types, with an error that says where.
//!
//! Keeping track of the path costs time and stack on every level, so the first reading does without. Only when the JSON
//! is sound and not of the type asked for is it read again, for the path; a syntax error has line and column by itself.

use serde::Deserialize;
use serde_json::Deserializer;

use crate::Failure;

/// Reads one JSON value that must be all of `bytes`. An error is a reject: the same bytes never become better.
pub(crate) fn parse<'bytes, T: Deserialize<'bytes>>(bytes: &'bytes [u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|error| {
        let path = if error.is_data() { path_of_mismatch::<T>(bytes) } else { None };
        match path {
            Some(path) => Failure::reject("invalid-json", format_args!("{error}, in `{path}`")),
            None => Failure::reject("invalid-json", error),
        }
    })
}

/// None at the top of the document.
fn path_of_mismatch<'bytes, T: Deserialize<'bytes>>(bytes: &'bytes [u8]) -> Option<String> {
    let mut deserializer = Deserializer::from_slice(bytes);
    let error = serde_path_to_error::deserialize::<_, T>(&mut deserializer).err()?;
    (error.path().iter().len() > 0).then(|| error.path().to_string())
}
