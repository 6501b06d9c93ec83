//! `busway dlq export` and `import`: letters as lines of JSON, whole, so that they can be kept elsewhere and brought back.

use super::{
    super::{ConfigFile, print},
    letter::field,
    select::Filter,
};
use crate::Exit;
use anyhow::Context as _;
use busway_core::{Digest, Headers, dead_letter as account};
use busway_transport::{
    DeadLetters,
    nats::{Imported, StoredLetter},
};
use clap::Args;
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

/// The version of a line.
const VERSION: u32 = 1;

/// Writes dead letters as lines of JSON, oldest first, with everything that is needed to bring them back.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  busway dlq export > letters.jsonl\n  busway dlq export --plugin validate --out letters.jsonl"
)]
pub struct ExportArgs {
    #[command(flatten)]
    filter: Filter,
    /// Where to; a file that exists is replaced [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    pub file: ConfigFile,
}

/// Brings exported dead letters back. A damaged line is refused, and a letter that is there already is left as it is.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  busway dlq import letters.jsonl\n  zcat letters.jsonl.gz | busway dlq import -"
)]
pub struct ImportArgs {
    /// The file; `-` is standard input
    from: PathBuf,
    #[command(flatten)]
    pub file: ConfigFile,
}

/// A letter as a line.
#[derive(Serialize, Deserialize)]
struct Line {
    v: u32,
    subject: String,
    stored_at_ms: u64,
    headers: Vec<(String, String)>,
    payload_base64: String,
}

/// Exports.
pub async fn export(letters: &DeadLetters, args: &ExportArgs) -> anyhow::Result<Exit> {
    let mut meant = args.filter.find(letters, usize::MAX).await?;
    meant.reverse();
    let mut out: Box<dyn Write> = match &args.out {
        Some(path) => {
            Box::new(File::create(path).with_context(|| format!("{}: can't be written", path.display()))?)
        }
        None => Box::new(io::stdout()),
    };
    for stored in &meant {
        let whole = letters.get(stored.sequence).await?;
        serde_json::to_writer(&mut out, &Line::of(&whole))?;
        out.write_all(b"\n")?;
    }
    out.flush()?;
    // Standard output may be the file.
    writeln!(io::stderr(), "{} exported", meant.len())?;
    Ok(Exit::Ok)
}

/// Imports.
pub async fn import(letters: &DeadLetters, args: &ImportArgs) -> anyhow::Result<Exit> {
    let (mut stored, mut there, mut damaged) = (0, 0, 0);
    for (line, number) in open(&args.from)?.lines().zip(1u64..) {
        let line = line.with_context(|| format!("line {number} can't be read"))?;
        if line.trim().is_empty() {
            continue;
        }
        match Line::read(&line) {
            Ok(letter) => {
                let imported = letters.import(&letter).await;
                match imported.with_context(|| format!("line {number} was not stored; {stored} were"))? {
                    Imported::Stored(_) => stored += 1,
                    Imported::AlreadyThere(_) => there += 1,
                }
            }
            Err(why) => {
                damaged += 1;
                writeln!(io::stderr(), "line {number}: {why}")?;
            }
        }
    }
    print::line(format!("{stored} imported, {there} were there already, {damaged} damaged"))?;
    Ok(if damaged == 0 { Exit::Ok } else { Exit::Failed })
}

fn open(path: &Path) -> anyhow::Result<Box<dyn BufRead>> {
    if path == Path::new("-") {
        return Ok(Box::new(BufReader::new(io::stdin())));
    }
    let file = File::open(path).with_context(|| format!("{}: can't be read", path.display()))?;
    Ok(Box::new(BufReader::new(file)))
}

impl Line {
    fn of(stored: &StoredLetter) -> Self {
        let headers = stored.headers.iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        Self {
            v: VERSION,
            subject: stored.subject.clone(),
            stored_at_ms: stored.stored_at_ms,
            headers: headers.collect(),
            payload_base64: BASE64.encode(&stored.payload),
        }
    }

    /// The letter in a line; everything in it must fit together.
    fn read(line: &str) -> Result<StoredLetter, String> {
        let line: Line =
            serde_json::from_str(line).map_err(|why| format!("no exported dead letter: {why}"))?;
        if line.v != VERSION {
            return Err(format!("version {}, and this busway knows {VERSION}", line.v));
        }
        let payload = BASE64.decode(line.payload_base64.as_bytes());
        let payload = payload.map_err(|why| format!("its payload is damaged: {why}"))?;
        let headers: Headers = line.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        let stored = StoredLetter {
            sequence: 0,
            stored_at_ms: line.stored_at_ms,
            subject: line.subject,
            headers,
            payload: payload.into(),
        };
        let text = |name| field(&stored, name);
        if text(account::PAYLOAD_DIGEST) != Digest::of(&stored.payload).to_string() {
            return Err("its payload is not the one that its digest is of".to_owned());
        }
        let (plugin, event, round) = (text(account::PLUGIN), text(account::EVENT_ID), text(account::ROUND));
        if stored.subject != format!("{}.{plugin}.{event}.{round}", account::SUBJECT_PREFIX) {
            return Err("its subject does not say the plugin, event and round of its headers".to_owned());
        }
        Ok(stored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored() -> StoredLetter {
        let event = "a".repeat(52);
        let digest = Digest::of(b"\xff\x00").to_string();
        let headers = [
            (account::PLUGIN, "p"),
            (account::EVENT_ID, &*event),
            (account::ROUND, "0"),
            (account::PAYLOAD_DIGEST, &*digest),
            ("x-a", "1"),
            ("x-a", "2"),
        ];
        StoredLetter {
            sequence: 0,
            stored_at_ms: 5,
            subject: format!("busway.dlq.p.{event}.0"),
            headers: headers.into_iter().collect(),
            payload: bytes::Bytes::from_static(b"\xff\x00"),
        }
    }

    #[test]
    fn a_line_is_read_back_as_it_was() {
        let line = serde_json::to_string(&Line::of(&stored())).unwrap();
        assert_eq!(Line::read(&line), Ok(stored()));
    }

    #[test]
    fn whatever_is_damaged_is_refused_with_a_reason() {
        let line = serde_json::to_string(&Line::of(&stored())).unwrap();
        for (from, to, why) in [
            ("/wA=", "/wE=", "digest"),
            ("/wA=", "/w", "payload is damaged"),
            ("\"v\":1", "\"v\":2", "version 2"),
            ("busway.dlq.p.", "busway.dlq.q.", "subject"),
            ("{", "", "no exported dead letter"),
        ] {
            let refused = Line::read(&line.replacen(from, to, 1)).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
