//! Drawing batches from a part of the data, in an order that a resumed run continues.

use serde::{Deserialize, Serialize};

use super::error::TaskError;
use super::shuffle::{SplitMix64, permutation};

/// Where a sampler is: all that a checkpoint has to keep of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Passes through the data that are complete.
    pub epoch: u64,
    /// Examples of the present pass that have been drawn.
    pub position: u64,
}

/// Draws batches of a fixed size: every pass (epoch) visits every example once, in a new order.
///
/// A batch that the rest of an epoch cannot fill is completed from the next one. The order of an
/// epoch is a pure function of (seed, split, epoch number, number of examples).
#[derive(Clone, Debug)]
pub struct BatchSampler {
    seed: u64,
    split: String,
    length: usize,
    batch_size: usize,
    epoch: u64,
    position: usize,
    /// The order of the present epoch.
    order: Vec<usize>,
}

impl BatchSampler {
    /// A sampler at the start of its first epoch.
    ///
    /// `split` names what is drawn from: samplers of different names draw independently, and
    /// messages use it. `length` is the number of examples.
    ///
    /// # Errors
    /// [`TaskError::BatchTooLarge`] if `batch_size` exceeds `length`; [`TaskError::EmptySplit`] if
    /// either is 0.
    pub fn new(seed: u64, split: &str, length: usize, batch_size: usize) -> Result<Self, TaskError> {
        if length == 0 || batch_size == 0 {
            return Err(TaskError::EmptySplit {
                part: "sampled",
                reason: format!("the {split} split has {length} examples and a batch {batch_size}"),
            });
        }
        if batch_size > length {
            return Err(TaskError::BatchTooLarge { split: split.to_owned(), length, batch_size });
        }
        let mut sampler =
            Self { seed, split: split.to_owned(), length, batch_size, epoch: 0, position: 0, order: Vec::new() };
        sampler.enter_epoch(0);
        Ok(sampler)
    }

    /// The next batch: positions in the split, from 0, `batch_size` of them.
    pub fn next_batch(&mut self) -> Vec<usize> {
        let mut batch = Vec::with_capacity(self.batch_size);
        while batch.len() < self.batch_size {
            if self.position == self.length {
                self.enter_epoch(self.epoch + 1);
            }
            let end = self.length.min(self.position + self.batch_size - batch.len());
            batch.extend_from_slice(&self.order[self.position..end]);
            self.position = end;
        }
        batch
    }

    /// The present place.
    pub fn cursor(&self) -> Cursor {
        // A position is at most a `Vec`'s length, which 64 bits hold.
        Cursor { epoch: self.epoch, position: self.position as u64 }
    }

    /// Goes to a place that [`BatchSampler::cursor`] gave.
    ///
    /// # Errors
    /// [`TaskError::BadCursor`] if the split has fewer examples than the place says; the sampler
    /// then stays where it was.
    pub fn seek(&mut self, cursor: Cursor) -> Result<(), TaskError> {
        let position = usize::try_from(cursor.position).ok().filter(|position| *position <= self.length);
        let Some(position) = position else {
            return Err(TaskError::BadCursor {
                split: self.split.clone(),
                position: cursor.position,
                length: self.length,
            });
        };
        self.enter_epoch(cursor.epoch);
        self.position = position;
        Ok(())
    }

    fn enter_epoch(&mut self, epoch: u64) {
        let mut generator = SplitMix64::keyed(self.seed, &format!("batches of {}", self.split), epoch);
        self.order = permutation(self.length, &mut generator);
        self.epoch = epoch;
        self.position = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_resumed_sampler_draws_what_an_uninterrupted_one_draws(
            length in 1_usize..40, part in 0.0_f64..1.0, before in 0_usize..60, after in 1_usize..60, seed: u64,
        ) {
            let batch_size = 1 + (part * (length - 1) as f64) as usize;
            let mut whole = BatchSampler::new(seed, "inner", length, batch_size).unwrap();
            for _ in 0..before {
                whole.next_batch();
            }
            let stored = serde_json::to_string(&whole.cursor()).unwrap();
            let mut resumed = BatchSampler::new(seed, "inner", length, batch_size).unwrap();
            resumed.seek(serde_json::from_str(&stored).unwrap()).unwrap();
            for _ in 0..after {
                prop_assert_eq!(resumed.next_batch(), whole.next_batch());
            }
            prop_assert_eq!(resumed.cursor(), whole.cursor());
        }

        #[test]
        fn every_epoch_visits_every_example_once(length in 1_usize..40, part in 0.0_f64..1.0, seed: u64) {
            let batch_size = 1 + (part * (length - 1) as f64) as usize;
            let mut sampler = BatchSampler::new(seed, "outer", length, batch_size).unwrap();
            let drawn: Vec<usize> = (0..length * 3).flat_map(|_| sampler.next_batch()).collect();
            for epoch in drawn.chunks_exact(length) {
                let mut sorted = epoch.to_vec();
                sorted.sort_unstable();
                prop_assert!(sorted.into_iter().eq(0..length));
            }
        }
    }

    #[test]
    fn epochs_seeds_and_splits_have_orders_of_their_own() {
        let epoch = |seed, split, cursor| {
            let mut sampler = BatchSampler::new(seed, split, 30, 30).unwrap();
            sampler.seek(cursor).unwrap();
            sampler.next_batch()
        };
        let start = Cursor::default();
        let next = Cursor { epoch: 1, position: 0 };
        let first = epoch(1, "inner", start);
        assert_ne!(first, epoch(1, "inner", next));
        assert_ne!(first, epoch(2, "inner", start));
        assert_ne!(first, epoch(1, "outer", start));
        // The end of an epoch and the start of the next are the same place.
        assert_eq!(epoch(1, "inner", Cursor { epoch: 0, position: 30 }), epoch(1, "inner", next));
    }

    #[test]
    fn impossible_sizes_and_places_are_refused() {
        let message = BatchSampler::new(0, "inner", 3, 4).unwrap_err().to_string();
        assert!(
            message.contains("a batch of 4 cannot be drawn from the inner split, which has 3 examples"),
            "{message}"
        );
        assert!(matches!(BatchSampler::new(0, "inner", 0, 1), Err(TaskError::EmptySplit { .. })));
        assert!(matches!(BatchSampler::new(0, "inner", 1, 0), Err(TaskError::EmptySplit { .. })));
        let mut sampler = BatchSampler::new(0, "inner", 3, 2).unwrap();
        let message = sampler.seek(Cursor { epoch: 0, position: 4 }).unwrap_err().to_string();
        assert!(message.contains("position 4 of the inner split lies beyond its 3 examples"), "{message}");
        assert_eq!(sampler.cursor(), Cursor::default());
    }
}
