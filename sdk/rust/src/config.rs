//! The plugin's configuration, as the operator wrote it under `[plugin.config]`. Which keys there are, and which are
//! required, stands in the plugin's `plugin.toml`.

use serde::de::DeserializeOwned;

use crate::{Failure, host, json};

/// The value of a key; none when the operator has not set it and the manifest has no default.
///
/// # Panics
/// When the host can't read its own configuration. The attempt fails and is repeated: going on without the value would
/// be wrong in silence.
pub fn get(key: &str) -> Option<String> {
    host::config(key)
}

/// The value of a key as JSON; none as in [`get`].
///
/// # Errors
/// A retry that names the key and the place, when the value is not JSON or not of the type asked for. Not a reject: the
/// event is as good as any, and a retry keeps it at hand while the operator mends the configuration.
pub fn json<T: DeserializeOwned>(key: &str) -> Result<Option<T>, Failure> {
    let Some(text) = get(key) else {
        return Ok(None);
    };
    json::parse(text.as_bytes()).map(Some).map_err(|failure| match failure {
        Failure::Reject(why) => invalid(key, why.reason),
        retry @ Failure::Retry(_) => retry,
    })
}

/// The value of a key that must be there.
///
/// # Errors
/// A retry that names the key; why a retry, see [`json`].
pub fn required(key: &str) -> Result<String, Failure> {
    get(key).ok_or_else(|| invalid(key, "it is required and not set"))
}

/// A configuration key whose value can't be used, as a failure. For the checks that only the plugin can make.
pub fn invalid(key: &str, why: impl std::fmt::Display) -> Failure {
    Failure::retry(format_args!("configuration key `{key}`: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Event;
    use crate::testing::Harness;

    fn read(_: Event) -> Result<(), Failure> {
        let limits: Option<Vec<u32>> = json("limits")?;
        crate::log::info(format_args!("{limits:?} {:?}", get("region")));
        required("to").map(drop)
    }

    #[test]
    fn values_are_read_as_text_and_as_json() {
        let harness = Harness::new().config("limits", "[1, 2]").config("region", "eu").config("to", "a.b");
        let run = harness.run(read, Event::test("a", ""));
        assert_eq!(run.outcome, Ok(()));
        assert_eq!(run.logs[0].message, "Some([1, 2]) Some(\"eu\")");
    }

    #[test]
    fn a_value_of_another_type_is_a_retry_that_names_the_key() {
        let run = Harness::new().config("limits", "{}").run(read, Event::test("a", ""));
        let expected =
            "configuration key `limits`: invalid type: map, expected a sequence at line 1 column 0";
        assert_eq!(run.outcome, Err(Failure::retry(expected)));
    }

    #[test]
    fn a_required_key_that_is_not_set_is_a_retry() {
        let run = Harness::new().run(read, Event::test("a", ""));
        assert_eq!(run.outcome, Err(Failure::retry("configuration key `to`: it is required and not set")));
    }
}
