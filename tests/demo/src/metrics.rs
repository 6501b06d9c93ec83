//! What the host tells over HTTP: whether it is ready, and what it has counted.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// How long an answer may take.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Whether its status is 200.
    pub is_ok: bool,
    /// The rest.
    pub body: String,
}

/// Asks for a page. Cancel safe.
///
/// # Errors
/// No answer in time, or one that is not HTTP.
pub async fn get(admin: SocketAddr, path: &str) -> anyhow::Result<Answer> {
    let asked = timeout(ANSWER_WAIT, exchange(admin, path)).await;
    let text = asked
        .with_context(|| format!("http://{admin}{path} does not answer"))?
        .with_context(|| format!("http://{admin}{path} can't be asked"))?;
    let (head, body) = text.split_once("\r\n\r\n").context("an answer that is not HTTP")?;
    Ok(Answer { is_ok: head.contains(" 200 "), body: body.to_owned() })
}

/// HTTP/1.0, so that the answer ends where the connection does.
async fn exchange(admin: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(admin).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {admin}\r\n\r\n").as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

/// The host's counters at one moment.
#[derive(Debug)]
pub struct Metrics {
    text: String,
}

impl Metrics {
    /// Reads them.
    ///
    /// # Errors
    /// As for [`get`].
    pub async fn read(admin: SocketAddr) -> anyhow::Result<Self> {
        let answer = get(admin, "/metrics").await?;
        ensure!(answer.is_ok, "http://{admin}/metrics answers with an error: {}", answer.body);
        Ok(Self { text: answer.body })
    }

    /// The sum of a counter's lines that have all of these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let wanted: Vec<_> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let lines = self.text.lines().filter_map(|line| {
            let (series, value) = line.split_once(' ')?;
            let (known, labels) = series.trim_end_matches('}').split_once('{')?;
            let is_meant =
                known == name && wanted.iter().all(|label| labels.split(',').any(|has| has == label));
            if is_meant { value.parse::<u64>().ok() } else { None }
        });
        lines.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_summed_over_the_lines_that_have_the_labels() {
        let text = "# TYPE busway_events_settled counter\n\
            busway_events_settled_total{plugin=\"route\",verdict=\"ack\"} 329\n\
            busway_events_settled_total{plugin=\"validate\",verdict=\"ack\"} 4\n\
            busway_events_settled_total{plugin=\"route\",verdict=\"put-back\"} 70\n\
            busway_events_held{plugin=\"route\"} 7\n# EOF\n";
        let metrics = Metrics { text: text.to_owned() };
        let settled = |labels: &[(&str, &str)]| metrics.sum("busway_events_settled_total", labels);
        assert_eq!(settled(&[("verdict", "ack")]), 333);
        assert_eq!(settled(&[("verdict", "ack"), ("plugin", "route")]), 329);
        assert_eq!(settled(&[]), 403);
        assert_eq!(settled(&[("plugin", "rout")]), 0);
    }
}
