//! What is tried again, and for how long.

use std::time::Duration;

use super::{error::HubError, progress::Watch, settings::RetryPolicy};

/// Why a try came to nothing.
pub(super) enum Failure {
    /// It would fail again.
    Final(HubError),
    /// It may succeed later.
    Passing {
        error: HubError,
        /// How long the hub says to wait.
        after: Option<Duration>,
        /// Whether it came further than any try before.
        progressed: bool,
    },
}

impl<E: Into<HubError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Final(error.into())
    }
}

impl Failure {
    /// The connection broke, or there was none.
    pub(super) fn network(
        url: &str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
        progressed: bool,
    ) -> Self {
        let error = HubError::Network { url: url.to_owned(), hint: String::new(), source: source.into() };
        Self::Passing { error, after: None, progressed }
    }
}

/// Tries until it succeeds, fails for good, or fails too often in a row.
pub(super) fn retrying<T>(
    policy: RetryPolicy,
    watch: &mut Watch<'_>,
    mut attempt: impl FnMut(&mut Watch<'_>) -> Result<T, Failure>,
) -> Result<T, HubError> {
    let mut failed = 0;
    let mut pause = policy.first_pause;
    loop {
        let (error, after, progressed) = match attempt(watch) {
            Ok(done) => return Ok(done),
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Passing { error, after, progressed }) => (error, after, progressed),
        };
        if progressed {
            (failed, pause) = (0, policy.first_pause);
        }
        failed += 1;
        if failed >= policy.tries || after.is_some_and(|after| after > policy.longest_pause) {
            return Err(error);
        }
        let wait = after.unwrap_or(pause).min(policy.longest_pause);
        watch.pause(&format!("{error}: trying again in {:.0} s", wait.as_secs_f64().ceil()), wait)?;
        pause *= 2;
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;

    #[test]
    fn tries_in_a_row_are_bounded_and_progress_starts_the_count_again() {
        let policy = RetryPolicy { tries: 3, first_pause: Duration::ZERO, longest_pause: Duration::from_secs(9) };
        let tries = |progress: &dyn Fn(u32) -> bool, after: Option<Duration>| {
            let mut count = 0;
            let mut go_on = |_: super::super::HubProgress<'_>| ControlFlow::Continue(());
            let result = retrying(policy, &mut Watch(&mut go_on), |_| -> Result<(), Failure> {
                count += 1;
                let error = HubError::Status { url: String::new(), status: String::new() };
                Err(Failure::Passing { error, after, progressed: progress(count) })
            });
            assert!(matches!(result, Err(HubError::Status { .. })));
            count
        };
        assert_eq!(tries(&|_| false, None), 3);
        assert_eq!(tries(&|count| count == 2, None), 4);
        assert_eq!(tries(&|_| false, Some(Duration::from_secs(10))), 1);
    }
}
