//! What can be wrong with a block that is to be made.

use crate::hf::BadPattern;

/// Settings of a block that do not fit the model, or each other.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// No linear layer of the model has the name of a target.
    #[error(
        "`peft.targets` names `{target}`, which is no linear layer of this model; it has {}",
        known.join(", ")
    )]
    UnknownTarget {
        /// What was asked for.
        target: String,
        /// Last parts of the names of the model's linear layers.
        known: Vec<String>,
    },

    /// No linear layer of the model has a name that the regular expression matches.
    #[error(
        "`peft.targets` has the regular expression `{pattern}`, which matches the whole name of no linear layer of this \
         model, such as `{example}`; for ends of names write a list: [\"{last}\"]"
    )]
    UnmatchedTarget {
        /// The expression.
        pattern: String,
        /// Whole name of one of the model's linear layers.
        example: String,
        /// Last part of that name.
        last: String,
    },

    /// Nothing is left to adapt.
    #[error(
        "`peft.targets` with `peft.exclude` and `peft.layers` leaves no linear layer of this model to adapt; it has {}",
        known.join(", ")
    )]
    NoTarget {
        /// Last parts of the names of the model's linear layers.
        known: Vec<String>,
    },

    /// A block of the model that it does not have.
    #[error("`peft.layers` names block {layer}; this model has the blocks 0 to {last}")]
    UnknownLayer {
        /// What was asked for.
        layer: usize,
        /// The last one.
        last: usize,
    },

    /// A regular expression that cannot be used.
    #[error("`peft.{key}`: {source}")]
    Pattern {
        /// The key that holds it.
        key: &'static str,
        /// Which one, and why.
        source: BadPattern,
    },

    /// A pattern that decides nothing.
    #[error("`peft.{key}` has the pattern `{pattern}`, which matches none of the adapted layers: {}", adapted.join(", "))]
    UnusedPattern {
        /// The key that holds it.
        key: &'static str,
        /// The pattern.
        pattern: String,
        /// Last parts of the names of the layers that are adapted.
        adapted: Vec<String>,
    },

    /// More virtual tokens than the model has positions.
    #[error(
        "`peft.virtual_tokens` = {virtual_tokens} leaves no position for real tokens: this model has {positions} positions"
    )]
    TooManyVirtualTokens {
        /// What was asked for.
        virtual_tokens: usize,
        /// The longest sequence of the model.
        positions: usize,
    },

    /// A text to begin from that is empty.
    #[error("`peft.init_text` has no tokens: give a text, or leave it out to begin from random tokens")]
    EmptyText,

    /// A token that the model's embedding matrix has no row for.
    #[error("`peft.init_text` has the token {token}, but this model has embeddings for {vocabulary} tokens only")]
    ForeignToken {
        /// The token.
        token: u32,
        /// Rows of the embedding matrix.
        vocabulary: usize,
    },
}
