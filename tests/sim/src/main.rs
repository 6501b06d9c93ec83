//! `busway-sim`: many seeds, or one of them with its whole history. What `cargo xtask sim` runs.
#![expect(clippy::print_stdout, reason = "this program's output is what it is for")]

use anyhow::{Context as _, bail};
use busway_sim::{check, history::History, plant::Plant, run::run, scenario::Scenario};
use std::{
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

const USAGE: &str = "busway-sim [--seeds N] [--from SEED] [--plant NAME]
busway-sim --seed SEED [--plant NAME]

  --seeds N     play N seeds; 10000 by default
  --from SEED   the first of them; 0 by default
  --seed SEED   play one, and print its whole history
  --plant NAME  make this mistake on purpose, which must be found";
/// Lines of a failed history that are shown.
const TAIL: usize = 40;

struct Settings {
    seeds: std::ops::Range<u64>,
    one: Option<u64>,
    plant: Option<(Plant, String)>,
}

fn main() -> ExitCode {
    let kept = settings(std::env::args().skip(1)).and_then(|settings| match settings.one {
        Some(seed) => replay(seed, &settings),
        None => many(&settings),
    });
    match kept {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("busway-sim: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn settings(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Settings> {
    let (mut many, mut from, mut one, mut plant) = (10_000, 0, None, None);
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{name} needs a value\n\n{USAGE}"));
        let mut number =
            || value().and_then(|text| text.parse::<u64>().with_context(|| format!("{name} {text}")));
        match name.as_str() {
            "--seeds" => many = number()?,
            "--from" => from = number()?,
            "--seed" => one = Some(number()?),
            "--plant" => {
                let name = value()?;
                let known: Vec<_> = Plant::ALL.iter().map(|(_, known, _)| *known).collect();
                let planted = Plant::named(&name)
                    .with_context(|| format!("no such mistake {name:?}; there are {}", known.join(", ")))?;
                plant = Some((planted, name));
            }
            _ => bail!("unknown argument {name:?}\n\n{USAGE}"),
        }
    }
    Ok(Settings { seeds: from..from.saturating_add(many), one, plant })
}

/// Plays one seed and prints everything; whether it kept its promises.
fn replay(seed: u64, settings: &Settings) -> anyhow::Result<bool> {
    let scenario = Scenario::of(seed);
    println!("{scenario:#?}");
    let history = run(scenario, settings.plant.as_ref().map(|(plant, _)| *plant))?;
    print!("{}", history.tail(usize::MAX));
    let found = check::check(&history);
    for violation in &found {
        println!("seed {seed}: {violation}");
    }
    println!("seed {seed}: {}", if found.is_empty() { "every promise was kept" } else { "FAILED" });
    Ok(found.is_empty())
}

/// Plays many seeds on every core; whether all kept their promises.
fn many(settings: &Settings) -> anyhow::Result<bool> {
    let began = Instant::now();
    let next = AtomicU64::new(settings.seeds.start);
    let failed = AtomicBool::new(false);
    let first: Mutex<Option<(u64, History)>> = Mutex::new(None);
    let (events, entries) = (AtomicU64::new(0), AtomicU64::new(0));
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
    let plant = settings.plant.as_ref().map(|(plant, _)| *plant);
    thread::scope(|scope| -> anyhow::Result<()> {
        let play = || -> anyhow::Result<()> {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= settings.seeds.end || failed.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let scenario = Scenario::of(seed);
                events.fetch_add(scenario.events, Ordering::Relaxed);
                let history = run(scenario, plant)?;
                entries.fetch_add(history.entries.len() as u64, Ordering::Relaxed);
                if !check::check(&history).is_empty() {
                    failed.store(true, Ordering::Relaxed);
                    let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
                    if first.as_ref().is_none_or(|(before, _)| seed < *before) {
                        *first = Some((seed, history));
                    }
                }
            }
        };
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(play)).collect();
        for thread in threads {
            thread.join().map_err(|_| anyhow::anyhow!("a run panicked"))??;
        }
        Ok(())
    })?;
    let failed = first.into_inner().unwrap_or_else(PoisonError::into_inner);
    let told = format!(
        "{} events, {} entries, {:.1} s",
        events.into_inner(),
        entries.into_inner(),
        began.elapsed().as_secs_f64()
    );
    match failed {
        None => println!(
            "seeds {}..{}: every promise was kept ({told})",
            settings.seeds.start, settings.seeds.end
        ),
        Some((seed, history)) => {
            tell(seed, &history, settings);
            return Ok(false);
        }
    }
    Ok(true)
}

fn tell(seed: u64, history: &History, settings: &Settings) {
    println!(
        "seed {seed} FAILED; the last {TAIL} of {} entries:\n{}",
        history.entries.len(),
        history.tail(TAIL)
    );
    for violation in check::check(history) {
        println!("seed {seed}: {violation}");
    }
    let plant = settings.plant.as_ref().map(|(_, name)| format!(" --plant {name}")).unwrap_or_default();
    println!("\nreplay it with its whole history: cargo xtask sim --seed {seed}{plant}");
}
