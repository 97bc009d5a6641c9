//! Progress as lines, for files and pipes.

use super::{Display, Messenger};
use indicatif::HumanBytes;
use std::time::{Duration, Instant};

/// At most one passing line in this time. Steps that take longer get a line each.
const INTERVAL: Duration = Duration::from_secs(5);

/// Lines on stderr, not too many.
pub struct Plain {
    messenger: Messenger,
    /// When the last passing line was written, or the start.
    last: Instant,
    /// Whether a step was shown: the first one is, at once.
    stepped: bool,
}

impl Plain {
    pub fn new(messenger: Messenger) -> Self {
        Self { messenger, last: Instant::now(), stepped: false }
    }

    /// Whether it is time for a passing line; if so, the next one is due an interval later.
    fn is_due(&mut self, at_once: bool) -> bool {
        let due = at_once || self.last.elapsed() >= INTERVAL;
        if due {
            self.last = Instant::now();
        }
        due
    }
}

impl Display for Plain {
    fn say(&mut self, text: &str) {
        self.messenger.say(text);
    }

    fn step(&mut self, fraction: f64, pace: &str, losses: &str) {
        if self.is_due(!self.stepped) {
            self.messenger.say(&format!("{:3.0} %  {pace}  {losses}", 100.0 * fraction));
            self.stepped = true;
        }
    }

    fn count(&mut self, what: &str, done: usize, of: usize, detail: &str) {
        if self.is_due(false) {
            self.messenger.say(format!("{what}: {done} of {of}  {detail}").trim_end());
        }
    }

    fn transfer(&mut self, file: &str, bytes: u64, total: u64) {
        if self.is_due(false) {
            self.messenger.say(&format!("{file}: {} of {}", HumanBytes(bytes), HumanBytes(total)));
        }
    }

    fn clear(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passing_lines_keep_their_distance() {
        let mut plain = Plain::new(Messenger::new());
        assert!(!plain.is_due(false));
        plain.last -= INTERVAL;
        assert!(plain.is_due(false));
        assert!(!plain.is_due(false));
        assert!(plain.is_due(true));
    }
}
