//! Lines on stderr, without tearing the bars that may be there.

use indicatif::MultiProgress;
use std::io::{self, Write};

/// Writes lines to stderr, above the progress bars if there are any. Clones share the bars.
#[derive(Clone, Debug)]
pub struct Messenger {
    bars: Option<MultiProgress>,
}

impl Messenger {
    /// With bars if stderr is a terminal.
    pub fn new() -> Self {
        let bars = MultiProgress::new();
        Self { bars: (!bars.is_hidden()).then_some(bars) }
    }

    /// Where bars belong, if stderr is a terminal.
    pub fn bars(&self) -> Option<&MultiProgress> {
        self.bars.as_ref()
    }

    /// Writes a line, or several.
    pub fn say(&self, text: &str) {
        // Without stderr there is nobody to tell; that must not stop the work.
        let _ = match &self.bars {
            Some(bars) => bars.println(text),
            None => io::stderr().write_all(format!("{text}\n").as_bytes()),
        };
    }
}
