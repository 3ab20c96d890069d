//! How far a run is: a bar on a terminal, plain lines elsewhere, with rate and time left.

use crate::failure::Result;
use crate::output::{self, count};
use crate::report::ended;
use crate::shapes::Run;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The rate shown is that of the last so many seconds.
const RATE_WINDOW: Duration = Duration::from_secs(5);
/// Samples kept for it.
const SAMPLES_MAX: usize = 64;
/// Plain lines come at most this often.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Recipients done per second, by the recent past.
#[derive(Debug, Default)]
pub struct Rate {
    samples: VecDeque<(Duration, u64)>,
}

impl Rate {
    /// `at` counts from any fixed instant.
    pub fn observe(&mut self, at: Duration, done: u64) {
        self.samples.push_back((at, done));
        while self.samples.len() > SAMPLES_MAX
            || (self.samples.len() > 2 && at.saturating_sub(self.samples[1].0) >= RATE_WINDOW)
        {
            self.samples.pop_front();
        }
    }

    pub fn per_second(&self) -> f64 {
        let (Some(first), Some(last)) = (self.samples.front(), self.samples.back()) else { return 0.0 };
        let seconds = last.0.saturating_sub(first.0).as_secs_f64();
        if seconds <= 0.0 { 0.0 } else { last.1.saturating_sub(first.1) as f64 / seconds }
    }

    /// `None`: nothing moves, so there is no telling.
    pub fn left(&self, remaining: u64) -> Option<Duration> {
        let rate = self.per_second();
        (rate > 0.0).then(|| Duration::from_secs_f64((remaining as f64 / rate).min(1e9)))
    }
}

/// Where progress goes.
#[derive(Debug)]
enum Screen {
    Bar(ProgressBar),
    Stderr,
    Stdout,
    Nowhere,
}

#[derive(Debug)]
pub struct Progress {
    screen: Screen,
    rate: Rate,
    begun: Instant,
    last: Option<(Instant, String)>,
}

impl Progress {
    /// For `--wait`: beside the result, so on stderr.
    pub fn beside(quiet: bool) -> Self {
        let screen = match (quiet, stderr_is_terminal()) {
            (true, _) => Screen::Nowhere,
            (false, true) => bar(),
            (false, false) => Screen::Stderr,
        };
        Self::on(screen)
    }

    /// For `run watch`: the progress is the result.
    pub fn as_result() -> Self {
        let on_terminal = stderr_is_terminal() && std::io::IsTerminal::is_terminal(&std::io::stdout());
        Self::on(if on_terminal { bar() } else { Screen::Stdout })
    }

    fn on(screen: Screen) -> Self {
        Self { screen, rate: Rate::default(), begun: Instant::now(), last: None }
    }

    pub fn show(&mut self, run: &Run) -> Result<()> {
        let done = run.recipients.total - run.recipients.pending.min(run.recipients.total);
        self.rate.observe(self.begun.elapsed(), done);
        let what = describe(run);
        if let Screen::Bar(bar) = &self.screen {
            bar.set_length(run.recipients.total.max(1));
            bar.set_position(done);
            bar.set_message(format!("{what}{}", self.pace(run)));
            return Ok(());
        }
        let too_soon = self.last.as_ref().is_some_and(|(at, _)| at.elapsed() < LINE_EVERY);
        let same = self.last.as_ref().is_some_and(|(_, text)| *text == what);
        if same || (too_soon && !run.kind.has_ended()) {
            return Ok(());
        }
        let text = format!("{} {what}{}", run.run, self.pace(run));
        self.last = Some((Instant::now(), what));
        match self.screen {
            Screen::Stderr => eprintln!("{text}"),
            Screen::Stdout => output::line(text)?,
            Screen::Bar(_) | Screen::Nowhere => {}
        }
        Ok(())
    }

    /// A line about something that happened, above the bar.
    pub fn note(&self, text: &str) {
        match &self.screen {
            Screen::Bar(bar) => bar.println(text),
            Screen::Stderr | Screen::Stdout => eprintln!("{text}"),
            Screen::Nowhere => {}
        }
    }

    /// Takes the bar off the screen; the report follows.
    pub fn end(&self) {
        if let Screen::Bar(bar) = &self.screen {
            bar.finish_and_clear();
        }
    }

    fn pace(&self, run: &Run) -> String {
        if run.kind.has_ended() {
            return String::new();
        }
        let rate = format!(", {:.0}/s", self.rate.per_second());
        // The total is only known when the audience is read to its end.
        let left = run.split_complete.then(|| self.rate.left(run.recipients.pending)).flatten();
        rate + &left.map(|left| format!(", {} left", short(left))).unwrap_or_default()
    }
}

fn bar() -> Screen {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
    let style = ProgressStyle::with_template("[{bar:30}] {percent:>3}% {msg}");
    if let Ok(style) = style {
        bar.set_style(style.progress_chars("=> "));
    }
    Screen::Bar(bar)
}

/// `sending: 120 of 9,900 done, 118 accepted, 2 rejected`.
pub fn describe(run: &Run) -> String {
    let r = &run.recipients;
    let state = if run.paused && !run.kind.has_ended() { "paused" } else { run.state };
    let plus = if run.split_complete { "" } else { "+" };
    let mut text = format!("{state}: {} of {}{plus} done", count(r.total - r.pending.min(r.total)), count(r.total));
    let parts = ended(r).into_iter().chain([("bad rows", run.bad_rows)]);
    for (name, number) in parts.filter(|(_, number)| *number > 0) {
        text.push_str(&format!(", {} {name}", count(number)));
    }
    text
}

/// `12s`, `3m 20s`, `2h 5m`.
pub fn short(duration: Duration) -> String {
    let seconds = duration.as_secs_f64().round() as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        _ => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
    }
}

/// Whether a bar can be drawn.
fn stderr_is_terminal() -> bool {
    std::io::IsTerminal::is_terminal(&std::io::stderr())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_follows_the_recent_past() {
        let mut rate = Rate::default();
        assert_eq!((rate.per_second(), rate.left(10)), (0.0, None));
        for second in 0..20 {
            rate.observe(Duration::from_secs(second), if second < 10 { 0 } else { (second - 10) * 100 });
        }
        assert!((rate.per_second() - 100.0).abs() < 1e-9, "{}", rate.per_second());
        assert_eq!(rate.left(500), Some(Duration::from_secs(5)));
    }

    #[test]
    fn durations_are_short() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (200, "3m 20s"), (7500, "2h 5m")] {
            assert_eq!(short(Duration::from_secs(seconds)), text);
        }
    }
}
