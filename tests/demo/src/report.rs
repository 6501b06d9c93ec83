//! What came of it, as a person reads it: counts, dead letters with their reasons, outputs, times, and the account.
//!
//! Counts come from the host's metrics, everything else from the streams. Times are the broker's own: from the moment at
//! which it stored an event in `GITHUB` to the moment at which it stored it in `ROUTED`.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, Write as _},
    net::SocketAddr,
};

use anyhow::Context as _;

use crate::{
    account::{Account, Evidence},
    broker::{Broker, Stored},
    damage::Damage,
    events::{Event, Fate},
    metrics::Metrics,
    run::{self, Times},
    settings::{Sabotage, Settings},
};

/// Faults that are told one by one.
const FAULTS_TOLD: usize = 20;

/// Everything that is printed.
#[derive(Debug)]
pub struct Report {
    /// Whether every event is where it belongs.
    pub account: Account,
    text: String,
}

impl Report {
    /// Reads everything back and compares.
    ///
    /// # Errors
    /// The broker or the host does not answer.
    pub async fn make(
        settings: &Settings,
        broker: &Broker,
        admin: SocketAddr,
        events: &[Event],
        times: Times,
    ) -> anyhow::Result<Self> {
        let mut text = String::from("\n");
        if settings.sabotage == Sabotage::DropOne {
            writeln!(
                text,
                "sabotage: {} is deleted from {} before it is read\n",
                sabotage(broker).await?,
                run::LAST
            )?;
        }
        let metrics = Metrics::read(admin).await?;
        let input = broker.read("GITHUB").await?;
        let evidence = Evidence {
            routed: broker.read(run::LAST).await?,
            dead: broker.read("BUSWAY_DLQ").await?,
            pending: run::pending(broker).await?,
        };
        let account = Account::of(events, &evidence);
        counts(&mut text, events, &metrics, &times)?;
        dead_letters(&mut text, events, &evidence)?;
        outputs(&mut text, &evidence)?;
        ways(&mut text, &input, &evidence, &times)?;
        balance(&mut text, events, &evidence, &account)?;
        Ok(Self { account, text })
    }

    /// Prints it on standard output.
    ///
    /// # Errors
    /// Standard output can't be written.
    pub fn print(&self) -> anyhow::Result<()> {
        say(&self.text)
    }
}

/// Prints lines for the person who runs the demo.
///
/// # Errors
/// Standard output can't be written.
pub fn say(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("standard output can't be written")
}

/// Deletes a routed event from the middle, and says which.
async fn sabotage(broker: &Broker) -> anyhow::Result<String> {
    let routed = broker.read(run::LAST).await?;
    let victim = routed.get(routed.len() / 2).context("there is nothing to delete")?;
    broker.delete(run::LAST, victim.sequence).await?;
    Ok(victim.delivery().to_owned())
}

fn counts(text: &mut String, events: &[Event], metrics: &Metrics, times: &Times) -> anyhow::Result<()> {
    writeln!(text, "{:32} {:>9} {:>9}", "", "validate", "route")?;
    let mut row = |label: &str, name: &str, labels: &[(&str, &str)], note: &str| {
        let of = |plugin| metrics.sum(name, &[labels, &[("plugin", plugin)]].concat());
        writeln!(text, "{label:32} {:9} {:9}   {note}", of("validate"), of("route"))
    };
    let settled = "busway_events_settled_total";
    let full = format!("{} was full for {:.1} s", run::LAST, times.full.as_secs_f64());
    row("deliveries", "busway_events_received_total", &[], "")?;
    row("handled", settled, &[("verdict", "ack")], "")?;
    row("retried: the attempt failed", settled, &[("verdict", "retry")], "")?;
    row("retried: put back, uncounted", settled, &[("verdict", "put-back")], &full)?;
    row("dead-lettered", settled, &[("verdict", "dead-letter")], "")?;
    row("outputs", "busway_outputs_released_total", &[], "")?;
    let damaged = events.iter().filter(|event| event.fate != Fate::Routed).count();
    let (published, recorded) = (events.len(), events.len() - damaged);
    let took = times.all.as_secs_f64();
    writeln!(
        text,
        "\npublished {published}: {recorded} recorded webhooks, {damaged} damaged ones, in {took:.1} s"
    )?;
    Ok(())
}

fn dead_letters(text: &mut String, events: &[Event], evidence: &Evidence) -> anyhow::Result<()> {
    writeln!(text, "\n{:14} {:>9}   {:24} for example", "damaged by", "letters", "class, code")?;
    for how in Damage::ALL {
        let is_so = |event: &&Event| matches!(event.fate, Fate::Dead(damaged) if damaged.how == how);
        let ids: Vec<_> = events.iter().filter(is_so).map(|event| event.id.as_str()).collect();
        let letters: Vec<_> =
            evidence.dead.iter().filter(|letter| ids.contains(&letter.delivery())).collect();
        let mut causes: BTreeMap<_, (usize, &str)> = BTreeMap::new();
        for letter in letters {
            let cause = format!("{}, {}", letter.header("Busway-Class"), letter.header("Busway-Code"));
            causes.entry(cause).or_insert((0, letter.header("Busway-Reason"))).0 += 1;
        }
        for (cause, (letters, reason)) in causes {
            writeln!(text, "{:14} {letters:9}   {cause:24} {reason}", how.name())?;
        }
    }
    Ok(())
}

fn outputs(text: &mut String, evidence: &Evidence) -> anyhow::Result<()> {
    let mut branches: BTreeMap<String, BTreeMap<&str, usize>> = BTreeMap::new();
    for stored in &evidence.routed {
        let mut tokens = stored.subject.splitn(3, '.');
        let branch = [tokens.next().unwrap_or_default(), tokens.next().unwrap_or_default()].join(".");
        *branches.entry(branch).or_default().entry(tokens.next().unwrap_or_default()).or_default() += 1;
    }
    writeln!(text, "\n{:18} {:>5}   most of it", "outputs", "")?;
    for (branch, leaves) in branches {
        let total: usize = leaves.values().sum();
        let mut leaves: Vec<_> = leaves.into_iter().collect();
        leaves.sort_by_key(|(leaf, count)| (std::cmp::Reverse(*count), *leaf));
        let most = leaves.iter().take(4).map(|(leaf, count)| format!("{leaf} {count}")).collect::<Vec<_>>();
        let rest = if leaves.len() > 4 { format!(", {} more", leaves.len() - 4) } else { String::new() };
        writeln!(text, "{:18} {total:5}   {}{rest}", format!("{branch}.>"), most.join(", "))?;
    }
    Ok(())
}

fn ways(text: &mut String, input: &[Stored], evidence: &Evidence, times: &Times) -> anyhow::Result<()> {
    let began: BTreeMap<_, _> = input.iter().map(|stored| (stored.delivery(), stored.at_ns)).collect();
    let way = |stored: &Stored| {
        let began = began.get(stored.delivery())?;
        u64::try_from(stored.at_ns - began).ok()
    };
    writeln!(text, "\n{:32} {:>9} {:>9} {:>9}", "from GITHUB to ROUTED", "p50", "p99", "longest")?;
    let full = times.full.as_secs_f64();
    let before = evidence.routed.iter().filter(|stored| stored.sequence <= run::ROOM).filter_map(way);
    way_row(text, &format!("the first {}", run::ROOM), before.collect())?;
    let all = evidence.routed.iter().filter_map(way);
    way_row(text, &format!("all, with {full:.1} s of a full stream"), all.collect())
}

fn way_row(text: &mut String, label: &str, mut ways: Vec<u64>) -> anyhow::Result<()> {
    ways.sort_unstable();
    let [p50, p99, longest] = [50, 99, 100].map(|percent| milliseconds(percentile(&ways, percent)));
    writeln!(text, "{label:32} {p50:>9} {p99:>9} {longest:>9}")?;
    Ok(())
}

/// The smallest value that so many percent of the values do not exceed. The values are sorted.
fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

fn milliseconds(nanoseconds: u64) -> String {
    let milliseconds = nanoseconds as f64 / 1e6;
    if milliseconds < 100.0 { format!("{milliseconds:.1} ms") } else { format!("{milliseconds:.0} ms") }
}

fn balance(
    text: &mut String,
    events: &[Event],
    evidence: &Evidence,
    account: &Account,
) -> anyhow::Result<()> {
    let Evidence { routed, dead, pending } = evidence;
    let (published, routed, dead) = (events.len(), routed.len(), dead.len());
    writeln!(text, "\npublished {published}, in ROUTED {routed}, in BUSWAY_DLQ {dead}, pending {pending}")?;
    writeln!(text, "lost {}", account.lost.len())?;
    for id in account.lost.iter().take(FAULTS_TOLD) {
        writeln!(text, "  {id} was published and is nowhere")?;
    }
    if account.is_balanced() {
        writeln!(text, "every event is accounted for: once, unchanged, each dead letter for its own reason")?;
        return Ok(());
    }
    for fault in account.faults.iter().take(FAULTS_TOLD) {
        writeln!(text, "  {fault}")?;
    }
    let told = account.lost.len().min(FAULTS_TOLD) + account.faults.len().min(FAULTS_TOLD);
    let all = account.lost.len() + account.faults.len();
    if all > told {
        writeln!(text, "  and {} more", all - told)?;
    }
    writeln!(text, "NOT every event is accounted for")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!([50, 99, 100].map(|percent| percentile(&hundred, percent)), [50, 99, 100]);
        assert_eq!([50, 99].map(|percent| percentile(&[7], percent)), [7, 7]);
        assert_eq!(percentile(&[], 50), 0);
    }
}
