//! Ragged batches: rows of different lengths, one behind the other, without padding.

use crate::task::{EncodedCandidate, EncodedExample};
use std::ops::Range;
use zofo_kernels::Segment;

/// A position whose next token counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Label {
    /// Row of the batch's tokens from which the token is predicted.
    pub row: usize,
    /// The token that follows.
    pub target: u32,
}

/// Tokens of several rows, who attends to whom, and which predictions count.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Tokens that are fed, all rows one behind the other.
    pub ids: Vec<u32>,
    /// Position of every token in its sequence.
    pub positions: Vec<u32>,
    /// The rows.
    pub segments: Vec<Segment>,
    /// The predictions that count, by row and position.
    pub labels: Vec<Label>,
    /// For every segment, the keys of a cache that it attends to, in order of position. Without an entry it attends to
    /// all of them.
    pub cached: Vec<Vec<Range<usize>>>,
    /// If not empty, the examples among whose candidates the loss compares; else it is a mean over all labels.
    pub choices: Vec<Choice>,
    /// The examples that were drawn for it, as positions in their set; empty if it was not drawn from one.
    pub drawn: Vec<usize>,
}

/// An example of which every candidate is in a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The labels of each candidate's answer; none is empty.
    pub candidates: Vec<Range<usize>>,
    /// The right one.
    pub gold: usize,
}

impl Batch {
    /// Sequences that count in the tokens of their answers ([`EncodedCandidate::counted`]): training on answers.
    ///
    /// The last token of a sequence predicts nothing, so it is not fed.
    pub fn answers<'a>(sequences: impl IntoIterator<Item = &'a EncodedCandidate>) -> Self {
        let mut batch = Self::default();
        for sequence in sequences {
            let own = batch.push_row(sequence.fed(), 0, &[]);
            batch.label(&sequence.ids, sequence.counted(), |position| own.start + position);
        }
        batch
    }

    /// Sequences that count in all tokens but the first, which nothing predicts.
    pub fn whole<'a>(sequences: impl IntoIterator<Item = &'a EncodedCandidate>) -> Self {
        let mut batch = Self::default();
        for sequence in sequences {
            let own = batch.push_row(sequence.fed(), 0, &[]);
            batch.label(&sequence.ids, 1..sequence.ids.len(), |position| own.start + position);
        }
        batch
    }

    /// All candidates of some examples, of which the loss is that of choosing the right ones.
    pub fn choices<'a>(examples: impl IntoIterator<Item = &'a EncodedExample> + Clone) -> Self {
        let (batch, ranges) = Self::candidates(examples.clone());
        let choice = |(example, candidates): (&EncodedExample, _)| Choice { candidates, gold: example.gold() };
        Self { choices: examples.into_iter().zip(ranges).map(choice).collect(), ..batch }
    }

    /// All candidates of some examples. What an example's candidates begin with is computed once, and each candidate attends
    /// to it. Returns, per example and candidate, its range of labels.
    pub fn candidates<'a>(examples: impl IntoIterator<Item = &'a EncodedExample>) -> (Self, Vec<Vec<Range<usize>>>) {
        let mut batch = Self::default();
        let labels = examples.into_iter().flat_map(|example| batch.push_candidates(&[example], 0, 0)).collect();
        (batch, labels)
    }

    /// Appends all candidates of some examples, behind a cache of `virtual_tokens` and of the first `skipped` tokens, which
    /// are the same in all of them and hold neither an answer nor the token before one. Whatever several candidates begin
    /// with, of one example or of many, is computed once. Returns, per example and candidate, its range of labels.
    pub fn push_candidates(
        &mut self,
        examples: &[&EncodedExample],
        skipped: usize,
        virtual_tokens: usize,
    ) -> Vec<Vec<Range<usize>>> {
        let candidates = || examples.iter().flat_map(|example| &example.candidates);
        let sequences: Vec<&[u32]> = candidates().map(EncodedCandidate::fed).collect();
        let paths = self.push_tree(&sequences, skipped, virtual_tokens);
        let mut paths = paths.iter();
        let mut label = |candidate: &EncodedCandidate| {
            let first = self.labels.len();
            let path: Vec<usize> = paths.next().into_iter().flatten().cloned().flatten().collect();
            self.label(&candidate.ids, candidate.counted(), |position| path[position - skipped]);
            first..self.labels.len()
        };
        examples.iter().map(|example| example.candidates.iter().map(&mut label).collect()).collect()
    }

    /// Appends sequences as a tree: a beginning that several have in common is one row, and rows that go on from there
    /// attend to it. Returns the rows of each sequence, from its token `skipped` on.
    fn push_tree(&mut self, sequences: &[&[u32]], skipped: usize, virtual_tokens: usize) -> Vec<Vec<Range<usize>>> {
        let mut order: Vec<usize> = (0..sequences.len()).collect();
        order.sort_by_key(|&sequence| sequences[sequence]);
        let mut paths = vec![Vec::new(); sequences.len()];
        let mut pending = vec![(&order[..], skipped, Vec::new())];
        while let Some((members, depth, mut path)) = pending.pop() {
            let (Some(&first), Some(&last)) = (members.first(), members.last()) else { continue };
            // They are sorted: what the first and the last have in common, all have.
            let common = common_len(sequences[first], sequences[last]);
            let own = self.push_row(&sequences[first][depth..common], virtual_tokens + depth, &path);
            path.push(own);
            let ended = members.iter().take_while(|&&member| sequences[member].len() == common).count();
            let (ended, longer) = members.split_at(ended);
            for &member in ended {
                paths[member].clone_from(&path);
            }
            let branches = longer.chunk_by(|&left, &right| sequences[left][common] == sequences[right][common]);
            // The first branch is the next to be taken.
            pending.extend(branches.rev().map(|branch| (branch, common, path.clone())));
        }
        paths
    }

    /// One row that continues a cache of `past` tokens. No prediction counts: it is for logits.
    pub fn continuation(ids: &[u32], past: usize) -> Self {
        let mut batch = Self::default();
        batch.push_row(ids, past, &[]);
        batch
    }

    /// Appends a row of tokens at positions `start`, `start + 1`, …, which attends to the keys `cached` of a cache; returns
    /// its tokens' range. No prediction counts.
    pub fn push_continuation(&mut self, ids: &[u32], start: usize, cached: Vec<Range<usize>>) -> Range<usize> {
        let own = self.push_row(ids, start, &[]);
        if !own.is_empty() {
            self.cached.push(cached);
        }
        own
    }

    /// Sequences that count wherever they have a label: `labels[t]` is the target of the token before t.
    pub fn labelled<'a>(rows: impl IntoIterator<Item = (&'a [u32], &'a [Option<u32>])>) -> Self {
        let mut batch = Self::default();
        for (ids, labels) in rows {
            let own = batch.push_row(ids, 0, &[]);
            for (position, label) in labels.iter().enumerate().skip(1) {
                if let Some(target) = *label {
                    batch.labels.push(Label { row: own.start + position - 1, target });
                }
            }
        }
        batch
    }

    /// Number of tokens that are fed.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Appends a row at positions `start`, `start + 1`, …, which attends to the rows before it in `context`; returns its
    /// tokens' range.
    fn push_row(&mut self, ids: &[u32], start: usize, context: &[Range<usize>]) -> Range<usize> {
        let own = self.ids.len()..self.ids.len() + ids.len();
        self.ids.extend_from_slice(ids);
        self.positions.extend((start..start + ids.len()).map(|position| position as u32));
        if !own.is_empty() {
            let keys = context.iter().chain([&own]).filter(|range| !range.is_empty()).cloned();
            self.segments.push(Segment { queries: own.clone(), keys: keys.collect() });
        }
        own
    }

    /// Labels the tokens at `positions` of a sequence, each at the row of the token before it. None is the first: an
    /// answer always has a token before it.
    fn label(&mut self, ids: &[u32], positions: impl Iterator<Item = usize>, row_of: impl Fn(usize) -> usize) {
        self.labels.extend(positions.map(|position| Label { row: row_of(position - 1), target: ids[position] }));
    }
}

/// The length of what two sequences begin with.
pub(crate) fn common_len(left: &[u32], right: &[u32]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(ids: &[u32], answer_len: usize) -> EncodedCandidate {
        EncodedCandidate::new(ids.to_vec(), answer_len)
    }

    #[test]
    fn answers_are_predicted_by_the_token_before_and_the_last_token_is_not_fed() {
        let batch = Batch::answers(&[candidate(&[1, 2, 3, 4], 2), candidate(&[5, 6], 1)]);
        assert_eq!(batch.ids, [1, 2, 3, 5]);
        assert_eq!(batch.positions, [0, 1, 2, 0]);
        let rows: Vec<(usize, u32)> = batch.labels.iter().map(|l| (l.row, l.target)).collect();
        assert_eq!(rows, [(1, 3), (2, 4), (3, 6)]);
    }

    #[test]
    fn of_a_conversation_the_answers_count() {
        let question = 3..5;
        let chat = EncodedCandidate { between: vec![question], ..candidate(&[1, 2, 3, 4, 5, 6], 4) };
        let targets = |batch: &Batch| batch.labels.iter().map(|l| (l.row, l.target)).collect::<Vec<_>>();
        assert_eq!(targets(&Batch::answers([&chat])), [(1, 3), (4, 6)]);
        assert_eq!(targets(&Batch::whole([&chat])).len(), 5);
        let example = EncodedExample { candidates: vec![chat], golds: vec![0], line: 1 };
        let (batch, ranges) = Batch::candidates([&example]);
        assert_eq!((targets(&batch), ranges), (vec![(1, 3), (4, 6)], vec![vec![0..2]]));
    }

    #[test]
    fn whole_sequences_count_from_the_second_token_on() {
        let batch = Batch::whole(&[candidate(&[1, 2, 3], 1), candidate(&[5, 6], 1)]);
        let rows: Vec<(usize, u32)> = batch.labels.iter().map(|l| (l.row, l.target)).collect();
        assert_eq!((&batch.ids[..], &rows[..]), (&[1, 2, 5][..], &[(0, 2), (1, 3), (2, 6)][..]));
    }

    #[test]
    fn candidates_branch_from_what_they_share() {
        let example = EncodedExample {
            candidates: vec![candidate(&[1, 2, 3, 7], 1), candidate(&[1, 2, 3, 8, 9], 2)],
            golds: vec![0],
            line: 1,
        };
        let (batch, ranges) = Batch::candidates(&[example.clone(), example.clone()]);
        // The first answer has one token, predicted by the shared prefix; of the second, one token is fed.
        assert_eq!(batch.ids, [1, 2, 3, 8, 1, 2, 3, 8]);
        assert_eq!(batch.positions, [0, 1, 2, 3, 0, 1, 2, 3]);
        assert_eq!(ranges, [vec![0..1, 1..3], vec![3..4, 4..6]]);
        let rows: Vec<(usize, u32)> = batch.labels.iter().map(|l| (l.row, l.target)).collect();
        assert_eq!(rows, [(2, 7), (2, 8), (3, 9), (6, 7), (6, 8), (7, 9)]);
        assert_eq!(batch.segments[1], Segment { queries: 3..4, keys: vec![0..3, 3..4] });
        assert_eq!(batch.segments[3], Segment { queries: 7..8, keys: vec![4..7, 7..8] });
        // Behind a cache of one virtual and two real tokens.
        let mut batch = Batch::default();
        let ranges = batch.push_candidates(&[&example], 2, 1);
        assert_eq!((&batch.ids[..], &batch.positions[..]), (&[3, 8][..], &[3, 4][..]));
        assert_eq!(ranges, [vec![0..1, 1..3]]);
        let rows: Vec<(usize, u32)> = batch.labels.iter().map(|l| (l.row, l.target)).collect();
        assert_eq!(rows, [(0, 7), (0, 8), (1, 9)]);
    }

    #[test]
    fn examples_branch_from_what_they_share() {
        let example = |prompt: &[u32]| EncodedExample {
            candidates: [&[7][..], &[8, 9]].map(|answer| candidate(&[prompt, answer].concat(), answer.len())).into(),
            golds: vec![0],
            line: 1,
        };
        let examples = [example(&[1, 2, 5]), example(&[1, 2, 3, 4]), example(&[1, 2])];
        let mut batch = Batch::default();
        let ranges = batch.push_candidates(&examples.each_ref(), 0, 0);
        // The beginning; of the second example and of the first, the rest of the prompt and the longer answer; of the third
        // only that.
        assert_eq!(batch.ids, [1, 2, 3, 4, 8, 5, 8, 8]);
        assert_eq!(batch.positions, [0, 1, 2, 3, 4, 2, 3, 2]);
        let keys: Vec<Vec<usize>> =
            batch.segments.iter().map(|segment| segment.keys.iter().cloned().flatten().collect()).collect();
        let expected = [&[0, 1][..], &[0, 1, 2, 3], &[0, 1, 2, 3, 4], &[0, 1, 5], &[0, 1, 5, 6], &[0, 1, 7]];
        assert_eq!(keys, expected);
        assert_eq!(ranges, [vec![0..1, 1..3], vec![3..4, 4..6], vec![6..7, 7..9]]);
        let rows: Vec<(usize, u32)> = batch.labels.iter().map(|l| (l.row, l.target)).collect();
        assert_eq!(rows, [(5, 7), (5, 8), (6, 9), (3, 7), (3, 8), (4, 9), (1, 7), (1, 8), (7, 9)]);
    }
}
