//! Progress as bars, for a terminal.

use super::{Display, Messenger};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Resolution of the bar of steps.
const PARTS: f64 = 1000.0;

/// The bar of steps: two lines, to fit a narrow terminal.
const STEPS: &str = "{bar:24} {percent:>3} %  {prefix}\n{wide_msg}";

/// The bar of what is counted.
const COUNTER: &str = "{bar:24} {pos} of {len}  {prefix}  {wide_msg}";

/// The bar of a file that comes.
const TRANSFER: &str = "{bar:24} {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left  {wide_msg}";

/// One bar for the steps of training, below it one for what is being counted or comes.
pub struct Terminal {
    bars: MultiProgress,
    messenger: Messenger,
    steps: Option<ProgressBar>,
    counter: Option<Counter>,
}

struct Counter {
    what: String,
    bar: ProgressBar,
}

impl Terminal {
    pub fn new(bars: MultiProgress, messenger: Messenger) -> Self {
        Self { bars, messenger, steps: None, counter: None }
    }

    /// The counter of `what`, in the place of any other.
    fn counter(&mut self, what: &str, of: u64, form: &str) -> &ProgressBar {
        if self.counter.as_ref().is_some_and(|counter| counter.what != what) {
            self.clear_counter();
        }
        let counter = self.counter.get_or_insert_with(|| {
            let bar = self.bars.add(ProgressBar::new(of));
            Counter { what: what.to_owned(), bar: bar.with_style(style(form)) }
        });
        &counter.bar
    }

    fn clear_counter(&mut self) {
        if let Some(counter) = self.counter.take() {
            counter.bar.finish_and_clear();
            self.bars.remove(&counter.bar);
        }
    }
}

impl Display for Terminal {
    fn say(&mut self, text: &str) {
        self.clear_counter();
        self.messenger.say(text);
    }

    fn step(&mut self, fraction: f64, pace: &str, losses: &str) {
        self.clear_counter();
        let bar = self.steps.get_or_insert_with(|| {
            let bar = self.bars.add(ProgressBar::new(PARTS as u64));
            bar.with_style(style(STEPS))
        });
        bar.set_position((PARTS * fraction) as u64);
        bar.set_prefix(pace.to_owned());
        bar.set_message(losses.to_owned());
    }

    fn count(&mut self, what: &str, done: usize, of: usize, detail: &str) {
        let bar = self.counter(what, of as u64, COUNTER);
        bar.set_prefix(what.to_owned());
        bar.set_message(detail.to_owned());
        bar.set_position(done as u64);
        if done >= of {
            self.clear_counter();
        }
    }

    fn transfer(&mut self, file: &str, bytes: u64, total: u64) {
        let bar = self.counter(file, total, TRANSFER);
        bar.set_message(file.to_owned());
        bar.set_position(bytes);
        if bytes >= total {
            self.clear_counter();
        }
    }

    fn clear(&mut self) {
        self.clear_counter();
        if let Some(bar) = self.steps.take() {
            bar.finish_and_clear();
        }
    }
}

/// A bar of this form. All forms are right, as a test shows; a wrong one would give the plain bar.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::ProgressDrawTarget;

    #[test]
    fn one_counter_at_a_time_below_the_steps() {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::hidden());
        let mut terminal = Terminal::new(bars, Messenger::new());
        let counted = |terminal: &Terminal| terminal.counter.as_ref().map(|c| (c.what.clone(), c.bar.position()));
        terminal.step(0.5, "step 3", "a 0.7");
        let steps = terminal.steps.clone().unwrap();
        assert_eq!((steps.position(), steps.prefix().as_str(), steps.message().as_str()), (500, "step 3", "a 0.7"));

        terminal.count("validation, p", 1, 3, "");
        terminal.count("validation, p", 2, 3, "");
        assert_eq!(counted(&terminal), Some(("validation, p".to_owned(), 2)));
        let first = terminal.counter.as_ref().unwrap().bar.clone();
        terminal.count("validation, s", 1, 3, "");
        assert!(first.is_finished());
        assert_eq!(counted(&terminal), Some(("validation, s".to_owned(), 1)));
        terminal.count("validation, s", 3, 3, "");
        assert_eq!(counted(&terminal), None);

        terminal.clear();
        assert!(steps.is_finished());
    }

    #[test]
    fn a_file_that_comes_has_a_bar_until_it_is_there() {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::hidden());
        let mut terminal = Terminal::new(bars, Messenger::new());
        terminal.transfer("model.safetensors", 1 << 20, 1 << 21);
        let bar = terminal.counter.as_ref().unwrap().bar.clone();
        assert_eq!(
            (bar.position(), bar.length(), bar.message().as_str()),
            (1 << 20, Some(1 << 21), "model.safetensors")
        );
        terminal.transfer("model.safetensors", 1 << 21, 1 << 21);
        assert!(bar.is_finished() && terminal.counter.is_none());
    }

    #[test]
    fn the_forms_of_all_bars_are_right() {
        for template in [STEPS, COUNTER, TRANSFER] {
            ProgressStyle::with_template(template).unwrap();
        }
    }
}
