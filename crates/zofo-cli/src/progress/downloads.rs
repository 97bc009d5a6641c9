//! What comes from the hub.

use super::Display;
use zofo::hf::hub::HubProgress;

/// Shows downloads, and why nothing comes, once per reason.
#[derive(Debug, Default)]
pub struct Downloads {
    said: String,
}

impl Downloads {
    /// Shows a moment of a download.
    pub fn show(&mut self, display: &mut dyn Display, progress: HubProgress<'_>) {
        match progress {
            HubProgress::Downloading { file, bytes, total } => {
                self.said.clear();
                display.transfer(file, bytes, total);
            }
            HubProgress::Waiting { reason } => {
                if self.said != reason {
                    reason.clone_into(&mut self.said);
                    display.say(reason);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was shown.
    #[derive(Default)]
    struct Shown(Vec<String>);

    impl Display for Shown {
        fn say(&mut self, text: &str) {
            self.0.push(text.to_owned());
        }
        fn step(&mut self, _: f64, _: &str, _: &str) {}
        fn count(&mut self, _: &str, _: usize, _: usize, _: &str) {}
        fn transfer(&mut self, file: &str, bytes: u64, total: u64) {
            self.0.push(format!("{file} {bytes}/{total}"));
        }
        fn clear(&mut self) {}
    }

    #[test]
    fn a_reason_to_wait_is_said_once() {
        let (mut downloads, mut shown) = (Downloads::default(), Shown::default());
        let waiting = HubProgress::Waiting { reason: "busy" };
        let part = HubProgress::Downloading { file: "a", bytes: 1, total: 2 };
        for progress in [waiting, waiting, part, waiting, HubProgress::Waiting { reason: "lost" }] {
            downloads.show(&mut shown, progress);
        }
        assert_eq!(shown.0, ["busy", "a 1/2", "busy", "lost"]);
    }
}
