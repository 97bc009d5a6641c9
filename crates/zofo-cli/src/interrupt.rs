//! Ctrl-C, and the signals by which a system asks a program to end.

use crate::errors::{Error, INTERRUPTED};
use crate::progress::Messenger;
use std::io;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// A flag that the first interruption sets; the second one ends the program at once. `again` is the command that then goes
/// on.
///
/// # Errors
/// If the signals cannot be caught.
pub fn flag(messenger: &Messenger, again: String) -> Result<Arc<AtomicBool>, Error> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let (flag, messenger) = (Arc::clone(&interrupted), messenger.clone());
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::SeqCst) {
            messenger.say(&format!("ended at once; `{again}` goes on from the last checkpoint"));
            process::exit(i32::from(INTERRUPTED));
        }
        messenger.say("interrupted: finishing this step and saving; once more ends at once");
    })
    .map_err(Error::Signal)?;
    Ok(interrupted)
}

/// Sets `flag` when standard input ends: how a sweep interrupts its runs, and what becomes of them if it is killed.
pub fn at_end_of_stdin(flag: &Arc<AtomicBool>) {
    let flag = Arc::clone(flag);
    thread::spawn(move || {
        // An input that cannot be read has ended too.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        flag.store(true, Ordering::SeqCst);
    });
}
