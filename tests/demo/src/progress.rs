//! What a person sees while it runs: one line that changes on a terminal, a line now and then elsewhere.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use tokio::time::Instant;

/// Between two lines where nothing can be overwritten.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// What empties a terminal's line.
const CLEAR: &str = "\r\x1b[2K";

/// Where progress is shown.
#[derive(Debug)]
pub struct Progress {
    start: Instant,
    surface: Surface,
}

#[derive(Debug)]
enum Surface {
    Terminal,
    Lines { next: Instant },
}

impl Progress {
    /// Begins now.
    pub fn begin() -> Self {
        let start = Instant::now();
        let surface =
            if io::stderr().is_terminal() { Surface::Terminal } else { Surface::Lines { next: start } };
        Self { start, surface }
    }

    /// How things are at the moment.
    pub fn show(&mut self, now: &str) {
        let at = self.start.elapsed().as_secs_f64();
        match &mut self.surface {
            Surface::Terminal => write(&format!("{CLEAR}{at:5.1} s  {now}")),
            Surface::Lines { next } if *next <= Instant::now() => {
                *next = Instant::now() + LINE_EVERY;
                write(&format!("{at:5.1} s  {now}\n"));
            }
            Surface::Lines { .. } => {}
        }
    }

    /// Something that happened; stays on the screen.
    pub fn tell(&mut self, what: &str) {
        let at = self.start.elapsed().as_secs_f64();
        let clear = if matches!(self.surface, Surface::Terminal) { CLEAR } else { "" };
        write(&format!("{clear}{at:5.1} s  {what}\n"));
    }
}

impl Drop for Progress {
    /// What comes after it begins on a clean line.
    fn drop(&mut self) {
        if matches!(self.surface, Surface::Terminal) {
            write(CLEAR);
        }
    }
}

/// Progress that nobody can see is no reason to stop.
fn write(text: &str) {
    let mut out = io::stderr();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}
