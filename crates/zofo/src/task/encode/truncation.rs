//! What examples lose where they do not fit into a model's context.

use std::fmt;

/// What is cut where an example does not fit into the context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The left of the prompt.
    Prompt,
    /// The end of the conversation.
    Conversation,
}

/// How many examples did not fit into the context, and what they lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TruncationReport {
    /// What they lost.
    pub cut: Cut,
    /// Examples that were cut.
    pub truncated: usize,
    /// Examples in all.
    pub total: usize,
    /// Tokens of the longest candidate of any example, before cutting.
    pub longest: usize,
    /// Most tokens that fit.
    pub limit: usize,
    /// Demonstrations that were cut, in whole or in part, over all examples.
    pub demonstrations: usize,
    /// Of the examples that were cut those of which no answer was left, so that they are not used.
    pub left_out: usize,
}

impl TruncationReport {
    /// The report over several sets of examples.
    pub fn sum<'r>(reports: impl IntoIterator<Item = &'r TruncationReport>) -> Self {
        reports.into_iter().fold(Self::empty(Cut::Prompt, 0), |sum, report| Self {
            cut: report.cut,
            truncated: sum.truncated + report.truncated,
            total: sum.total + report.total,
            longest: sum.longest.max(report.longest),
            limit: report.limit,
            demonstrations: sum.demonstrations + report.demonstrations,
            left_out: sum.left_out + report.left_out,
        })
    }

    /// A report of no examples yet.
    pub(in crate::task) fn empty(cut: Cut, limit: usize) -> Self {
        Self { cut, truncated: 0, total: 0, longest: 0, limit, demonstrations: 0, left_out: 0 }
    }

    /// Counts an example.
    pub(super) fn add(&mut self, length: &Length) {
        self.total += 1;
        self.longest = self.longest.max(length.tokens);
        self.truncated += usize::from(length.tokens > self.limit);
        self.demonstrations += length.demonstrations_cut;
    }
}

/// How long an example was, and what that cost it.
pub(super) struct Length {
    /// Tokens of its longest candidate before cutting.
    pub(super) tokens: usize,
    /// Demonstrations that were cut.
    pub(super) demonstrations_cut: usize,
}

impl fmt::Display for TruncationReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cut, truncated, total, longest, limit, demonstrations, left_out } = self;
        if *truncated == 0 {
            return write!(
                formatter,
                "all {total} examples fit into the context of {limit} tokens (longest: {longest})"
            );
        }
        let lost = match cut {
            Cut::Prompt => "the left of their prompts",
            Cut::Conversation => "the end of these conversations",
        };
        write!(
            formatter,
            "{truncated} of {total} examples do not fit into the context of {limit} tokens (longest: {longest}): {lost} \
             was cut"
        )?;
        if *demonstrations > 0 {
            let each = *demonstrations as f64 / *truncated as f64;
            write!(formatter, ", and with it {demonstrations} demonstrations in whole or in part ({each:.1} of each)")?;
        }
        if *left_out > 0 {
            write!(formatter, ", and {left_out} of them, without an answer in what was left, are not used")?;
        }
        Ok(())
    }
}
