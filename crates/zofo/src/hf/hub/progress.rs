//! What a download tells while it goes on, and how it is stopped.

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use super::error::HubError;

/// How often somebody who waits is asked whether to go on.
const POLL: Duration = Duration::from_millis(100);

/// A moment of a download.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HubProgress<'a> {
    /// A part of a file came.
    Downloading {
        /// Its name in the repository.
        file: &'a str,
        /// Bytes that are there, those of an earlier try included.
        bytes: u64,
        /// Bytes that it has.
        total: u64,
    },
    /// Nothing comes. Told again and again while it lasts.
    Waiting {
        /// What for.
        reason: &'a str,
    },
}

/// Receives progress; `Break` stops the download, which a later one then continues.
pub type Watcher<'a> = &'a mut dyn FnMut(HubProgress<'_>) -> ControlFlow<()>;

/// A [`Watcher`] whose wish to stop is an error.
pub(super) struct Watch<'a>(pub(super) Watcher<'a>);

impl Watch<'_> {
    pub(super) fn tell(&mut self, progress: HubProgress<'_>) -> Result<(), HubError> {
        match (self.0)(progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(HubError::Interrupted),
        }
    }

    /// Waits this long.
    pub(super) fn pause(&mut self, reason: &str, pause: Duration) -> Result<(), HubError> {
        let start = Instant::now();
        loop {
            self.tell(HubProgress::Waiting { reason })?;
            let left = pause.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(POLL));
        }
    }

    /// Waits until `is_done`.
    pub(super) fn wait_for(
        &mut self,
        reason: &str,
        mut is_done: impl FnMut() -> Result<bool, HubError>,
    ) -> Result<(), HubError> {
        while !is_done()? {
            self.pause(reason, POLL)?;
        }
        Ok(())
    }
}
