//! How much consecutive updates of a block agree.

use crate::peft::Adapter;

/// The cosines of the angles between consecutive updates of a block: near 1 while they go one way, below 0 where they
/// go back and forth.
#[derive(Default)]
pub(super) struct Turns {
    last: Option<Vec<f32>>,
    sum: f64,
    count: f64,
}

impl Turns {
    /// Notes the update from one state of the block to the next.
    pub(super) fn push(&mut self, before: &Adapter, after: &Adapter) {
        let pairs = before.tensors().into_iter().zip(after.tensors());
        let update: Vec<f32> = pairs
            .flat_map(|((_, before), (_, after))| (after - before).into_data().iter::<f32>().collect::<Vec<_>>())
            .collect();
        if let Some(cosine) = self.last.as_ref().and_then(|last| cosine(last, &update)) {
            self.sum += cosine;
            self.count += 1.0;
        }
        self.last = Some(update);
    }

    /// Their mean; `None` of less than two updates, or if none moved anything.
    pub(super) fn mean(&self) -> Option<f64> {
        (self.count > 0.0).then(|| self.sum / self.count)
    }
}

/// x·y / (|x|·|y|), unless one of them is 0.
fn cosine(x: &[f32], y: &[f32]) -> Option<f64> {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let norms = (dot(x, x) * dot(y, y)).sqrt();
    (norms > 0.0).then(|| dot(x, y) / norms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn updates_agree_or_turn_back() {
        assert_eq!(cosine(&[1.0, 2.0], &[2.0, 4.0]), Some(1.0));
        assert_eq!(cosine(&[1.0, 0.0], &[-3.0, 0.0]), Some(-1.0));
        assert_eq!(cosine(&[1.0, 0.0], &[0.0, 5.0]), Some(0.0));
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 5.0]), None);
        assert_eq!(Turns::default().mean(), None);
    }
}
