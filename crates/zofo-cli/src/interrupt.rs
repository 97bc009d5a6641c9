//! Ctrl-C, and the signals by which a system asks a program to end.

use crate::errors::{Error, INTERRUPTED};
use crate::progress::Messenger;
use std::path::Path;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag that the first interruption sets; the second one ends the program at once. `folder` is that of the run.
///
/// # Errors
/// If the signals cannot be caught.
pub fn flag(messenger: &Messenger, folder: &Path) -> Result<Arc<AtomicBool>, Error> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let (flag, messenger) = (Arc::clone(&interrupted), messenger.clone());
    let resume = format!("zofo train --resume {}", folder.display());
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::SeqCst) {
            messenger.say(&format!("ended at once; `{resume}` goes on from the last checkpoint"));
            process::exit(i32::from(INTERRUPTED));
        }
        messenger.say("interrupted: finishing this step and saving; once more ends at once");
    })
    .map_err(Error::Signal)?;
    Ok(interrupted)
}
