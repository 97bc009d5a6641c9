//! The runs of one task, compared.

use super::diagnosis::{Diagnosis, diagnose};
use super::group::{Group, group};
use super::run::Run;
use super::series::{Band, mean_of_curves};
use super::statistics::{Paired, holm};
use crate::task::Metric;
use std::collections::BTreeMap;
use std::path::Path;

/// Up to so many groups, each is compared with each.
const MOST_GROUPS: usize = 5;

/// The runs of one task.
#[derive(Clone, Debug)]
pub struct Panel {
    /// The task.
    pub task: String,
    /// Its metric, if any run was evaluated.
    pub metric: Option<Metric>,
    /// Its runs, those that differ only by seeds together.
    pub groups: Vec<Group>,
    /// Pairs of groups, compared on the held-out examples with equal seeds.
    pub comparisons: Vec<Comparison>,
    /// What went wrong, by its signs, and what to do about it.
    pub diagnoses: Vec<Diagnosis>,
}

/// Two groups, compared.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The position of one.
    pub left: usize,
    /// The position of the other.
    pub right: usize,
    /// What the left one has more, seed by seed.
    pub paired: Paired,
    /// p of the t-test, corrected by Holm's method for all comparisons of the panel.
    pub corrected: Option<f64>,
}

/// How long groups take to a mark that one of them sets.
pub(super) struct Reach {
    /// The position of the group whose best mean it is.
    pub(super) of: usize,
    /// The mark.
    pub(super) value: f64,
    /// Of every group: seconds of training to the first point of its mean curve that is as good.
    pub(super) seconds: Vec<Option<f64>>,
}

/// Puts runs together by their tasks.
pub(super) fn panels(runs: &[Run]) -> Vec<Panel> {
    let mut tasks: Vec<(&str, Vec<usize>)> = Vec::new();
    for (position, run) in runs.iter().enumerate() {
        let task = run.setting("data.task").unwrap_or("unknown task");
        match tasks.iter_mut().find(|(known, _)| *known == task) {
            Some((_, positions)) => positions.push(position),
            None => tasks.push((task, vec![position])),
        }
    }
    let panel = |(task, positions): (&str, Vec<usize>)| {
        let groups = group(runs, &positions);
        let metric = positions.iter().find_map(|&position| runs[position].metric);
        // A task file is told by its name.
        let name = Path::new(task).file_stem().map_or_else(|| task.into(), |stem| stem.to_string_lossy());
        let (task, comparisons, diagnoses) = (name.into_owned(), Vec::new(), Vec::new());
        let mut panel = Panel { task, metric, groups, comparisons, diagnoses };
        panel.comparisons = panel.compare(runs);
        panel.diagnoses = diagnose(&panel, runs);
        panel
    };
    tasks.into_iter().map(panel).collect()
}

impl Panel {
    /// Whether a value of this metric is better than another.
    pub(super) fn is_better(&self, value: f64, than: f64) -> bool {
        self.metric.is_some_and(|metric| metric.is_better(value, than))
    }

    /// The mean of a group's validation scores over training time.
    pub(super) fn over_time(&self, group: &Group, runs: &[Run]) -> Vec<Band> {
        let points = |run: &Run| {
            let point = |at: &super::Evaluation| Some((run.seconds_at(at.step)?, at.value?));
            run.evaluations.iter().filter_map(point).collect()
        };
        mean_of_curves(&group.curves(runs, points))
    }

    /// The mean of a group's validation scores over steps.
    pub(super) fn over_steps(&self, group: &Group, runs: &[Run]) -> Vec<Band> {
        let points = |run: &Run| run.evaluations.iter().filter_map(|at| Some((at.step as f64, at.value?))).collect();
        mean_of_curves(&group.curves(runs, points))
    }

    fn compare(&self, runs: &[Run]) -> Vec<Comparison> {
        let count = self.groups.len();
        let mut pairs: Vec<(usize, usize)> = Vec::new();
        if count <= MOST_GROUPS {
            pairs.extend((0..count).flat_map(|left| (left + 1..count).map(move |right| (left, right))));
        } else if let Some(best) = self.best_on_validation(runs) {
            pairs.extend((0..count).filter(|&other| other != best).map(|other| (best, other)));
        }
        let scores: Vec<BTreeMap<_, f64>> = self.groups.iter().map(|group| scores_by_seed(group, runs)).collect();
        let compare = |(left, right): (usize, usize)| {
            let shared = scores[left].iter().filter_map(|(seed, value)| Some(value - scores[right].get(seed)?));
            let paired = Paired::of(&shared.collect::<Vec<f64>>())?;
            Some(Comparison { left, right, paired, corrected: None })
        };
        let mut comparisons: Vec<Comparison> = pairs.into_iter().filter_map(compare).collect();
        let tests: Vec<f64> = comparisons.iter().filter_map(|comparison| comparison.paired.t_test).collect();
        let tested = comparisons.iter_mut().filter(|comparison| comparison.paired.t_test.is_some());
        for (comparison, corrected) in tested.zip(holm(&tests)) {
            comparison.corrected = Some(corrected);
        }
        comparisons
    }

    /// The group that validation finds the best: the held-out examples choose nothing.
    fn best_on_validation(&self, runs: &[Run]) -> Option<usize> {
        let mean = |group: &Group| group.sample(runs, |run| run.selected()?.value).map(|sample| sample.mean);
        let means = self.groups.iter().enumerate().filter_map(|(index, group)| Some((index, mean(group)?)));
        means.reduce(|best, next| if self.is_better(next.1, best.1) { next } else { best }).map(|(index, _)| index)
    }

    /// Time to the best mean of MeZO, or, if it is not there, of the group whose best is the least; none if there are not
    /// two groups.
    pub(super) fn reach(&self, runs: &[Run]) -> Option<Reach> {
        let curves: Vec<Vec<Band>> = self.groups.iter().map(|group| self.over_time(group, runs)).collect();
        let best = |curve: &Vec<Band>| {
            let better = |best: f64, next: f64| if self.is_better(next, best) { next } else { best };
            // Of one point there is no way to it.
            curve.iter().map(|band| band.mean).reduce(better).filter(|_| curve.len() > 1)
        };
        let bests: Vec<(usize, f64)> =
            curves.iter().enumerate().filter_map(|(index, curve)| Some((index, best(curve)?))).collect();
        if bests.len() < 2 {
            return None;
        }
        let method = |index: usize| self.groups[index].setting(runs, "method.name");
        let mezo = bests.iter().find(|(index, _)| method(*index) == Some("mezo"));
        let weakest = || bests.iter().reduce(|worst, next| if self.is_better(worst.1, next.1) { next } else { worst });
        let &(of, value) = mezo.or_else(weakest)?;
        let seconds =
            curves.iter().map(|curve| curve.iter().find(|band| !self.is_better(value, band.mean)).map(|band| band.x));
        Some(Reach { of, value, seconds: seconds.collect() })
    }
}

/// The held-out score of every run, by its seeds.
fn scores_by_seed<'a>(group: &Group, runs: &'a [Run]) -> BTreeMap<[Option<&'a str>; 2], f64> {
    let score = |&position: &usize| {
        let run = &runs[position];
        Some((["run.seed", "data.seed"].map(|key| run.setting(key)), run.test.as_ref()?.value?))
    };
    group.runs.iter().filter_map(score).collect()
}
