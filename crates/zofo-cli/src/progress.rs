//! What is going on, told on stderr: bars on a terminal, plain lines elsewhere.

mod downloads;
mod messenger;
mod plain;
mod terminal;

pub use downloads::Downloads;
pub use messenger::Messenger;

use plain::Plain;
use std::fmt;
use std::time::{Duration, Instant};
use terminal::Terminal;
use zofo::hf::hub::HubProgress;
use zofo::run::{BilevelRecord, EstimateRecord, EvaluationRecord, Observer, Plan, Score, StepRecord, Summary};

/// Where progress is shown.
pub trait Display {
    /// A line, or several, that stay.
    fn say(&mut self, text: &str);
    /// Steps of training: the share that is done, how fast it goes, and what the latest step measured.
    fn step(&mut self, fraction: f64, pace: &str, losses: &str);
    /// Something that is counted: what, how many are done, of how many, and a word on the latest.
    fn count(&mut self, what: &str, done: usize, of: usize, detail: &str);
    /// A file that comes: its name, the bytes that are there, and how many it has.
    fn transfer(&mut self, file: &str, bytes: u64, total: u64);
    /// The end of everything that is shown but does not stay.
    fn clear(&mut self);
}

/// The display that suits stderr.
pub fn display(messenger: &Messenger) -> Box<dyn Display> {
    match messenger.bars() {
        Some(bars) => Box::new(Terminal::new(bars.clone(), messenger.clone())),
        None => Box::new(Plain::new(messenger.clone())),
    }
}

/// Shows the progress of a training run, and keeps its summary.
pub struct TrainingProgress {
    display: Box<dyn Display>,
    downloads: Downloads,
    /// When this session's first step was done, and the share of the run that was done then.
    first: Option<(Instant, f64)>,
    summary: Option<Summary>,
}

impl TrainingProgress {
    /// Progress on stderr.
    pub fn new(messenger: &Messenger) -> Self {
        Self { display: display(messenger), downloads: Downloads::default(), first: None, summary: None }
    }

    /// Removes what does not stay; gives the summary, if the run came that far.
    pub fn finish(mut self) -> Option<Summary> {
        self.display.clear();
        self.summary
    }
}

impl Observer for TrainingProgress {
    fn downloading(&mut self, progress: HubProgress<'_>) {
        self.downloads.show(self.display.as_mut(), progress);
    }

    fn plan(&mut self, plan: &Plan) {
        self.display.say(&plan.to_string());
    }

    fn note(&mut self, message: &str) {
        self.display.say(message);
    }

    fn warm_start(&mut self, done: usize, of: usize, loss: f64) {
        self.display.count("warm start", done, of, &format!("loss {loss:.4}"));
    }

    fn step(&mut self, record: &StepRecord, fraction: f64) {
        let (start, before) = *self.first.get_or_insert((Instant::now(), fraction));
        let left = time_left(start.elapsed(), before, fraction);
        self.display.step(fraction, &pace(record, left), &losses(record));
    }

    fn evaluating(&mut self, what: &str, done: usize, of: usize) {
        self.display.count(what, done, of, "");
    }

    fn evaluated(&mut self, record: &EvaluationRecord) {
        self.display.say(&evaluation_line(record));
    }

    fn summary(&mut self, summary: &Summary) {
        self.summary = Some(summary.clone());
    }
}

/// Words for the time that something still takes if it goes on as since its start, `elapsed` ago; nothing at first.
pub fn left(elapsed: Duration, done: usize, of: usize) -> String {
    let left = time_left(elapsed, 0.0, done as f64 / of.max(1) as f64);
    left.map_or_else(String::new, |left| format!("{} left", Clock(left)))
}

/// The time that a run still takes if it goes on as it did since `before` was done, `elapsed` ago. Evaluations are in it.
fn time_left(elapsed: Duration, before: f64, fraction: f64) -> Option<Duration> {
    let done = fraction - before;
    (done > 0.0).then(|| Duration::try_from_secs_f64(elapsed.as_secs_f64() * (1.0 - fraction) / done).ok()).flatten()
}

fn pace(record: &StepRecord, left: Option<Duration>) -> String {
    let speed = record.tokens as f64 / record.seconds;
    let left = left.map_or_else(String::new, |left| format!("  {} left", Clock(left)));
    format!("step {}  {speed:.0} tokens/s{left}", record.step)
}

fn losses(record: &StepRecord) -> String {
    let mut text = match &record.bilevel {
        Some(BilevelRecord { a, b, c, gap, .. }) => format!("a {a:.4}  b {b:.4}  c {c:.4}  b−c {gap:+.1e}"),
        None => format!("loss {:.4}", record.loss),
    };
    if let Some(EstimateRecord { slope, skipped, .. }) = &record.estimate {
        text += &format!("  g {slope:+.1e}");
        if let Some(reason) = skipped {
            text += &format!("  θ not moved: {reason}");
        }
    }
    text
}

fn evaluation_line(record: &EvaluationRecord) -> String {
    let scores = [("p ", record.p), ("s ", record.s), ("", record.backbone)];
    let scores: Vec<(&str, Score)> = scores.into_iter().filter_map(|(name, score)| Some((name, score?))).collect();
    let metric = scores.first().map_or_else(String::new, |(_, score)| score.metric.to_string());
    let values: Vec<String> =
        scores.iter().map(|(name, Score { value, loss, .. })| format!("{name}{value:.3} (loss {loss:.4})")).collect();
    let floor = record.noise_floor.map_or_else(String::new, |floor| format!(", noise floor of g {floor:.1e}"));
    let best = if record.best { ", best so far" } else { "" };
    format!("validation after step {}: {metric} {}{floor}{best}", record.step, values.join(", "))
}

/// A duration as 5:07 or 1:05:07.
pub struct Clock(pub Duration);

impl fmt::Display for Clock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64().round() as u64;
        let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        if hours > 0 {
            write!(formatter, "{hours}:{minutes:02}:{seconds:02}")
        } else {
            write!(formatter, "{minutes}:{seconds:02}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_goes_by_what_was_done_since_the_first_step() {
        let left = |elapsed, before, fraction| time_left(Duration::from_secs(elapsed), before, fraction);
        assert_eq!(left(0, 0.25, 0.25), None);
        assert_eq!(left(10, 0.25, 0.5), Some(Duration::from_secs(20)));
        assert_eq!(left(10, 0.5, 1.0), Some(Duration::ZERO));
        assert_eq!(super::left(Duration::from_secs(60), 1, 3), "2:00 left");
        assert_eq!(super::left(Duration::from_secs(60), 0, 3), "");
        // Too long for a clock to show.
        assert_eq!(left(u64::MAX, 0.0, 1e-9), None);
    }

    #[test]
    fn clocks() {
        let clock = |seconds| Clock(Duration::from_secs_f64(seconds)).to_string();
        assert_eq!(clock(0.0), "0:00");
        assert_eq!(clock(59.6), "1:00");
        assert_eq!(clock(3907.0), "1:05:07");
    }

    #[test]
    fn a_step_tells_its_losses_and_why_it_was_skipped() {
        let mut record = StepRecord {
            step: 12,
            loss: 0.5,
            bilevel: Some(BilevelRecord { a: 0.5, b: 0.75, c: 0.625, gap: 0.125, inner_loss: 0.5, inner_cosine: None }),
            estimate: Some(EstimateRecord {
                objective_plus: 1.0,
                objective_minus: 1.0,
                slope: -320.0,
                slopes: Vec::new(),
                coefficient: None,
                skipped: None,
            }),
            learning_rates: [1e-3; 3],
            tokens: 1000,
            seconds: 2.0,
            training_seconds: 2.0,
        };
        assert_eq!(pace(&record, Some(Duration::from_secs(65))), "step 12  500 tokens/s  1:05 left");
        assert_eq!(pace(&record, None), "step 12  500 tokens/s");
        assert_eq!(losses(&record), "a 0.5000  b 0.7500  c 0.6250  b−c +1.2e-1  g -3.2e2");
        record.estimate.as_mut().unwrap().skipped = Some("the slope is odd".to_owned());
        assert!(losses(&record).ends_with("g -3.2e2  θ not moved: the slope is odd"));
        (record.bilevel, record.estimate) = (None, None);
        assert_eq!(losses(&record), "loss 0.5000");
    }
}
