//! From the log-probabilities of a candidate's tokens to its score.

use crate::task::{EncodedExample, Encoder, Example, TaskError};

/// How candidates of different lengths and frequencies are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scoring {
    /// By the mean over their tokens.
    #[default]
    Mean,
    /// By the sum over their tokens: the probability of the whole answer.
    Sum,
    /// By the sum divided by the number of UTF-8 bytes of the answer, without white space at its ends
    /// (lm-evaluation-harness' byte-normalised accuracy).
    Bytes,
    /// By the sum less that of the same answer after the task's null prompt: surface-form calibration (Holtzman et al.,
    /// "Surface Form Competition", 2021; MeZO's `sfc`).
    Sfc,
    /// The same, with the demonstrations before the null prompt too (MeZO's `icl_sfc`).
    IclSfc,
}

/// A [`Scoring`], with what it needs of every example.
#[derive(Clone, Debug, PartialEq)]
pub enum Normalization {
    /// The mean of the tokens' log-probabilities.
    Mean,
    /// Their sum.
    Sum,
    /// Their sum divided by the answer's bytes, by example and candidate.
    Bytes(Vec<Vec<usize>>),
    /// Their sum less that of these: the same candidates in the same order, behind another prompt.
    Null(Vec<EncodedExample>),
}

impl Scoring {
    /// Prepares scores of `examples`. `start` is the token that stands before a text whose prompt has none: see
    /// [`Encoder::encode_null`].
    ///
    /// # Errors
    /// As of [`Encoder::encode`].
    pub fn prepare(
        self,
        encoder: &Encoder,
        examples: &[Example],
        start: Option<u32>,
    ) -> Result<Normalization, TaskError> {
        let bytes = |example| Ok(encoder.answers(example)?.iter().map(String::len).collect());
        let null = |demonstrations| {
            let encoded = encoder.encode_null(examples, demonstrations, start)?;
            Ok(Normalization::Null(encoded.examples))
        };
        match self {
            Scoring::Mean => Ok(Normalization::Mean),
            Scoring::Sum => Ok(Normalization::Sum),
            Scoring::Bytes => examples.iter().map(bytes).collect::<Result<_, _>>().map(Normalization::Bytes),
            Scoring::Sfc => null(false),
            Scoring::IclSfc => null(true),
        }
    }
}
