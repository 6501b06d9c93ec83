//! For which plugins something has come back. Consumers of a thousand plugins to which nothing ever comes back would each
//! hold a pull request at the broker, so a plugin's consumer is made when the first copy for it is due. One request asks
//! for all plugins, and only when the stream has taken something since the last time.

use super::{
    api::{self, ApiError, code},
    connect::Line,
    own_streams::AGAIN_STREAM,
};
use busway_core::{PluginName, again::DUE_SUBJECTS};
use serde::Deserialize;
use serde_json::json;
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

/// Watches the stream of copies.
#[derive(Debug)]
pub struct Due {
    pub(super) control: Arc<Line>,
    /// The stream's last sequence when it was last looked at.
    pub(super) seen: u64,
}

#[derive(Deserialize)]
struct Info {
    state: State,
    #[serde(default)]
    offset: usize,
    #[serde(default)]
    total: usize,
}

#[derive(Deserialize)]
struct State {
    messages: u64,
    last_seq: u64,
    #[serde(default)]
    subjects: HashMap<String, u64>,
}

impl Due {
    /// The plugins for which copies are due. None where nothing was stored since it was last asked. Cancel safe.
    ///
    /// # Errors
    /// No good answer of JetStream; the next call looks again.
    pub async fn look(&mut self) -> Result<Option<BTreeSet<PluginName>>, ApiError> {
        let Some(info) = self.info(json!({})).await? else { return Ok(None) };
        if info.state.messages == 0 || info.state.last_seq == self.seen {
            return Ok(None);
        }
        let mut plugins = BTreeSet::new();
        let mut offset = 0;
        loop {
            let wanted = json!({ "subjects_filter": DUE_SUBJECTS, "offset": offset });
            let Some(page) = self.info(wanted).await? else { return Ok(None) };
            let count = page.state.subjects.len();
            plugins.extend(page.state.subjects.keys().filter_map(|subject| plugin_of(subject)));
            offset = page.offset + count;
            if count == 0 || offset >= page.total {
                break;
            }
        }
        self.seen = info.state.last_seq;
        Ok(Some(plugins))
    }

    async fn info(&self, wanted: serde_json::Value) -> Result<Option<Info>, ApiError> {
        match api::call(&self.control, &format!("STREAM.INFO.{AGAIN_STREAM}"), &wanted).await {
            Ok(info) => Ok(Some(info)),
            Err(why) if why.is(code::STREAM_NOT_FOUND) => Ok(None),
            Err(why) => Err(why),
        }
    }
}

fn plugin_of(subject: &str) -> Option<PluginName> {
    subject.strip_prefix("busway.again.")?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_due_subject_names_its_plugin() {
        assert_eq!(plugin_of("busway.again.enrich.abc").map(|name| name.to_string()), Some("enrich".into()));
        assert_eq!(plugin_of("busway.wait.enrich.abc.0"), None);
    }
}
