//! How many examples of each class every part of a division gets, so that all parts have the shares of the whole.

/// The counts `[part][class]` of a division into parts of `sizes`, of examples of which `classes[c]` are of class c; the
/// sizes sum to the number of examples.
///
/// Every count is the part's size times the class's share, rounded up or down, so it is less than one example off; all
/// parts have their sizes and all classes their examples. Such a rounding of a table always exists: the fractions are a
/// flow from parts to classes with whole sums, and a flow network with whole capacities has a whole solution. It is
/// found by augmenting paths, largest fractions first.
pub(super) fn counts(sizes: &[usize], classes: &[usize]) -> Vec<Vec<usize>> {
    let total: u128 = classes.iter().map(|&count| count as u128).sum::<u128>().max(1);
    let share = |size: usize, count: usize| {
        let product = size as u128 * count as u128;
        ((product / total) as usize, product % total)
    };
    let mut counts = Vec::new();
    let mut order = Vec::new();
    for &size in sizes {
        let shares: Vec<(usize, u128)> = classes.iter().map(|&count| share(size, count)).collect();
        let mut with_fraction: Vec<usize> = (0..classes.len()).filter(|&class| shares[class].1 > 0).collect();
        with_fraction.sort_by_key(|&class| (std::cmp::Reverse(shares[class].1), class));
        counts.push(shares.iter().map(|share| share.0).collect::<Vec<usize>>());
        order.push(with_fraction);
    }
    let left = |class: usize| classes[class] - counts.iter().map(|row: &Vec<usize>| row[class]).sum::<usize>();
    let mut rounding = Rounding {
        is_up: vec![vec![false; classes.len()]; sizes.len()],
        left: (0..classes.len()).map(left).collect(),
        order,
    };
    for (part, &size) in sizes.iter().enumerate() {
        for _ in counts[part].iter().sum()..size {
            rounding.round_up(part, &mut vec![false; classes.len()]);
        }
    }
    for (row, is_up) in counts.iter_mut().zip(&rounding.is_up) {
        row.iter_mut().zip(is_up).for_each(|(count, &is_up)| *count += usize::from(is_up));
    }
    counts
}

struct Rounding {
    /// Which counts `[part][class]` are rounded up.
    is_up: Vec<Vec<bool>>,
    /// Examples of each class that no part has yet.
    left: Vec<usize>,
    /// Of each part, the classes whose count is no whole number, in the order in which they are tried.
    order: Vec<Vec<usize>>,
}

impl Rounding {
    /// Rounds one more count of a part up; if the class has no example left, another part takes one of another class.
    fn round_up(&mut self, part: usize, is_tried: &mut [bool]) -> bool {
        for class in self.order[part].clone() {
            if self.is_up[part][class] || std::mem::replace(&mut is_tried[class], true) {
                continue;
            }
            if self.left[class] > 0 {
                self.left[class] -= 1;
                self.is_up[part][class] = true;
                return true;
            }
            for other in 0..self.order.len() {
                if self.is_up[other][class] && self.round_up(other, is_tried) {
                    self.is_up[other][class] = false;
                    self.is_up[part][class] = true;
                    return true;
                }
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shares_are_kept_within_one_example(
            classes in proptest::collection::vec(0_usize..50, 1..8),
            cuts in proptest::collection::vec(0.0_f64..1.0, 0..4),
        ) {
            let total: usize = classes.iter().sum();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| (cut * total as f64) as usize).collect();
            cuts.sort_unstable();
            let ends = cuts.iter().copied().chain([total]);
            let sizes: Vec<usize> = [0].into_iter().chain(cuts.clone()).zip(ends).map(|(start, end)| end - start).collect();
            let counts = counts(&sizes, &classes);
            for (row, &size) in counts.iter().zip(&sizes) {
                prop_assert_eq!(row.iter().sum::<usize>(), size);
                for (&count, &class) in row.iter().zip(&classes) {
                    let exact = size as f64 * class as f64 / total.max(1) as f64;
                    prop_assert!((count as f64 - exact).abs() < 1.0, "{} of {}", count, exact);
                }
            }
            for (class, &size) in classes.iter().enumerate() {
                prop_assert_eq!(counts.iter().map(|row| row[class]).sum::<usize>(), size);
            }
        }
    }

    #[test]
    fn where_the_largest_fractions_alone_would_not_do() {
        // Both parts would take their odd example from the first class, which has one for them.
        assert_eq!(counts(&[2, 2], &[3, 1]), [[1, 1], [2, 0]]);
        assert_eq!(counts(&[1, 1, 1], &[1, 1, 1]).iter().flatten().sum::<usize>(), 3);
        assert_eq!(counts(&[4, 6], &[5, 5]), [[2, 2], [3, 3]]);
        assert_eq!(counts(&[0], &[0, 0]), [[0, 0]]);
    }
}
