//! Curves of several seeds as one: their mean, and how far apart they are.

use super::statistics::Sample;

/// Points of a chart; more cannot be told apart.
const MOST_POINTS: usize = 160;

/// A curve that ends not earlier than this share of the longest keeps its last value to its end: runs bounded by minutes
/// do not end at the same instant.
const NEARLY_THERE: f64 = 0.95;

/// A point of a curve over seeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Band {
    /// Where.
    pub x: f64,
    /// The mean.
    pub mean: f64,
    /// The mean less one standard deviation.
    pub low: f64,
    /// The mean and one standard deviation.
    pub high: f64,
    /// Curves that go so far.
    pub count: usize,
}

impl Band {
    fn of(x: f64, values: &[f64]) -> Option<Self> {
        let Sample { count, mean, deviation, .. } = Sample::of(values)?;
        let deviation = deviation.unwrap_or(0.0);
        Some(Self { x, mean, low: mean - deviation, high: mean + deviation, count })
    }
}

/// Curves measured here and there, as at evaluations: between its points each goes in a straight line. Where fewer than
/// half of them have values, there is no point.
pub(super) fn mean_of_curves(curves: &[Vec<(f64, f64)>]) -> Vec<Band> {
    let end = |curve: &Vec<(f64, f64)>| curve.last().map_or(f64::NEG_INFINITY, |point| point.0);
    let longest = curves.iter().map(end).fold(f64::NEG_INFINITY, f64::max);
    let mut places: Vec<f64> = curves.iter().flatten().map(|point| point.0).collect();
    places.sort_by(f64::total_cmp);
    places.dedup();
    let bands = thinned(&places).into_iter().filter_map(|x| {
        let values: Vec<f64> = curves.iter().filter_map(|curve| value_at(curve, x, longest)).collect();
        Band::of(x, &values).filter(|_| 2 * values.len() >= curves.len())
    });
    bands.collect()
}

/// Curves measured at every step: the means of all values in each of at most 160 stretches.
pub(super) fn mean_of_steps(curves: &[Vec<(f64, f64)>]) -> Vec<Band> {
    let last = curves.iter().flatten().map(|point| point.0).fold(0.0, f64::max);
    let width = (last / MOST_POINTS as f64).max(1.0);
    let bins = (last / width).ceil() as usize;
    // Bin i has what lies above i·width, up to (i + 1)·width: steps begin with 1.
    let bin = |x: f64| ((x / width).ceil() as usize).clamp(1, bins.max(1)) - 1;
    let means = curves.iter().map(|curve| {
        let mut sums = vec![(0.0, 0usize); bins.max(1)];
        for &(x, y) in curve {
            let (sum, count) = &mut sums[bin(x)];
            *sum += y;
            *count += 1;
        }
        sums
    });
    let means: Vec<Vec<(f64, usize)>> = means.collect();
    let bands = (0..bins.max(1)).filter_map(|bin| {
        let of_bin = means.iter().map(|sums| sums[bin]).filter(|(_, count)| *count > 0);
        let values: Vec<f64> = of_bin.map(|(sum, count)| sum / count as f64).collect();
        Band::of(((bin + 1) as f64 * width).min(last), &values)
    });
    bands.collect()
}

/// All of them, or evenly many with the first and the last.
fn thinned(places: &[f64]) -> Vec<f64> {
    if places.len() <= MOST_POINTS {
        return places.to_vec();
    }
    let last = places.len() - 1;
    (0..MOST_POINTS).map(|i| places[i * last / (MOST_POINTS - 1)]).collect()
}

fn value_at(curve: &[(f64, f64)], x: f64, longest: f64) -> Option<f64> {
    let after = curve.partition_point(|point| point.0 < x);
    match (after.checked_sub(1).map(|before| curve[before]), curve.get(after)) {
        (_, Some(&(there, value))) if there == x => Some(value),
        (Some((left, low)), Some(&(right, high))) => Some(low + (high - low) * (x - left) / (right - left)),
        (Some((end, value)), None) if end >= NEARLY_THERE * longest => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_go_straight_between_their_points() {
        let curves = [vec![(0.0, 0.0), (10.0, 1.0)], vec![(0.0, 1.0), (5.0, 1.0), (10.0, 0.0)]];
        let bands = mean_of_curves(&curves);
        let means: Vec<(f64, f64)> = bands.iter().map(|band| (band.x, band.mean)).collect();
        assert_eq!(means, [(0.0, 0.5), (5.0, 0.75), (10.0, 0.5)]);
        let deviation = 0.5f64.sqrt();
        assert!((bands[0].high - bands[0].mean - deviation).abs() < 1e-12);
        assert_eq!(bands[1].count, 2);
    }

    #[test]
    fn a_curve_that_ends_early_does_not_pull_the_others() {
        let curves = [vec![(0.0, 0.0), (10.0, 1.0)], vec![(0.0, 0.0), (9.6, 0.5)], vec![(0.0, 0.0), (2.0, 0.0)]];
        let bands = mean_of_curves(&curves);
        let last = bands.last().unwrap();
        assert_eq!((last.x, last.count, last.mean), (10.0, 2, 0.75));
        // A half-way end of one of two is no point: one curve is half of them.
        let bands = mean_of_curves(&[vec![(0.0, 0.0), (1.0, 1.0)], vec![(0.0, 0.0)], vec![(0.0, 0.0)]]);
        assert_eq!(bands.len(), 1);
        assert_eq!(mean_of_curves(&[]), []);
        assert_eq!(mean_of_curves(&[Vec::new()]), []);
    }

    #[test]
    fn steps_are_put_together_and_none_is_lost() {
        let curve: Vec<(f64, f64)> = (1..=3200).map(|step| (f64::from(step), f64::from(step))).collect();
        let bands = mean_of_steps(&[curve]);
        assert_eq!(bands.len(), 160);
        assert_eq!((bands[0].x, bands[0].mean), (20.0, 10.5));
        assert_eq!(bands[159].x, 3200.0);
        let few = mean_of_steps(&[vec![(1.0, 5.0), (3.0, 7.0)], vec![(1.0, 7.0)]]);
        assert_eq!(few.iter().map(|band| (band.x, band.mean)).collect::<Vec<_>>(), [(1.0, 6.0), (3.0, 7.0)]);
        assert_eq!(mean_of_steps(&[]), []);
    }
}
