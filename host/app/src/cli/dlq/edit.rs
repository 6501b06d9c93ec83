//! `busway dlq edit`: another payload, then a redrive.

use super::{
    super::{ConfigFile, print},
    letter,
    retry::{self, ToVersion},
    select,
};
use crate::Exit;
use anyhow::Context as _;
use busway_core::{Digest, dead_letter as account};
use busway_transport::{DeadLetters, nats::StoredLetter};
use bytes::Bytes;
use clap::Args;
use std::{
    env, fs,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

/// Changes the payload of a dead letter's event, then redrives it.
///
/// The letter is deleted when the changed event is stored. Without --payload the payload is opened in $VISUAL or $EDITOR;
/// one that is left as it was changes nothing.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  busway dlq edit 17\n  busway dlq edit 17 --payload mended.json")]
pub struct EditArgs {
    /// The letter's number, or its event's id or how that begins
    id: String,
    /// A file with the payload instead of an editor; `-` is standard input
    #[arg(long, value_name = "FILE")]
    payload: Option<PathBuf>,
    #[command(flatten)]
    version: ToVersion,
    #[command(flatten)]
    pub file: ConfigFile,
}

/// Edits and redrives.
pub async fn run(letters: &DeadLetters, args: &EditArgs) -> anyhow::Result<Exit> {
    let stored = select::one(letters, &args.id).await?;
    let payload = match &args.payload {
        Some(file) => read(file)?,
        None => in_editor(&stored)?,
    };
    if payload == stored.payload {
        print::line(format!("{}  unchanged; nothing was done", letter::name(&stored)))?;
        return Ok(Exit::Ok);
    }
    if is_json(&stored.payload) && !is_json(&payload) {
        anyhow::bail!("the payload was JSON and is not any more; nothing was done");
    }
    let digest = Digest::of(&payload);
    let before = letter::field(&stored, account::PAYLOAD_DIGEST).to_owned();
    let edited = StoredLetter { payload, ..stored };
    match retry::redrive(letters, &edited, args.version.to_version.as_deref()).await {
        Ok(what) => {
            print::line(format!("{}  edited and {what}", letter::name(&edited)))?;
            print::line(format!("  payload {} instead of {}", digest, print::escaped(&before)))?;
            Ok(Exit::Ok)
        }
        Err(why) => anyhow::bail!("not redriven, and the letter is as it was: {why}"),
    }
}

fn is_json(payload: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(payload).is_ok()
}

fn read(file: &Path) -> anyhow::Result<Bytes> {
    if file == Path::new("-") {
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes).context("standard input can't be read")?;
        return Ok(bytes.into());
    }
    Ok(fs::read(file).with_context(|| format!("{}: can't be read", file.display()))?.into())
}

/// A file that is removed with its folder's only name for it.
struct Draft(PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        // What can't be removed stays among the temporary files.
        drop(fs::remove_file(&self.0));
    }
}

fn in_editor(stored: &StoredLetter) -> anyhow::Result<Bytes> {
    let editor =
        ["VISUAL", "EDITOR"].into_iter().find_map(|name| env::var(name).ok().filter(|it| !it.is_empty()));
    let Some(editor) = editor else {
        return Err(retry::usage("no editor: set VISUAL or EDITOR, or name a file with --payload"));
    };
    let name = format!("busway-letter-{}-{}", stored.sequence, std::process::id());
    let draft = Draft(env::temp_dir().join(name));
    let shown = draft.0.display().to_string();
    private(&draft.0)
        .and_then(|mut file| file.write_all(&stored.payload))
        .with_context(|| format!("{shown}: can't be written"))?;
    let mut words = editor.split_whitespace();
    let program = words.next().unwrap_or_default();
    let status = Command::new(program).args(words).arg(&draft.0).status();
    let status = status.with_context(|| format!("the editor {program} can't be run"))?;
    anyhow::ensure!(status.success(), "the editor ended with {status}; nothing was done");
    read(&draft.0)
}

/// A new file that nobody else reads.
fn private(path: &Path) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
