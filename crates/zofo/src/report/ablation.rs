//! Charts of what one key does, all else equal.

use super::chart::{Chart, Mark, Series};
use super::charts::{Charts, with_seeds};
use super::group::{Group, Settings, labels, varying_keys};
use super::series::Band;

/// Values of a logarithmic axis span more than this.
const DECADE: f64 = 10.0;

/// Groups that differ in one numeric key alone.
struct Line<'a> {
    /// What they share.
    settings: Settings<'a>,
    /// The key's value, and the group.
    groups: Vec<(f64, &'a Group)>,
}

impl Charts<'_> {
    /// A chart for every numeric key in which groups differ that are else equal, with a line for every set of such groups.
    pub(super) fn ablations(&self) -> Vec<Chart> {
        let groups = &self.panel.groups;
        let settings: Vec<Settings> = groups.iter().map(|group| group.settings(self.runs)).collect();
        let keys = varying_keys(settings.iter().map(|settings| settings.iter().map(|(&key, &value)| (key, value))));
        let chart = |key: &str| {
            let mut lines: Vec<Line> = Vec::new();
            for (group, settings) in groups.iter().zip(&settings) {
                let Some(value) = group.number(self.runs, key) else { continue };
                let mut rest = settings.clone();
                rest.remove(key);
                match lines.iter_mut().find(|line| line.settings == rest) {
                    Some(line) => line.groups.push((value, group)),
                    None => lines.push(Line { settings: rest, groups: vec![(value, group)] }),
                }
            }
            lines.retain(|line| line.groups.len() > 1);
            self.ablation(key, &lines)
        };
        keys.into_iter().map(chart).filter(Chart::has_points).collect()
    }

    fn ablation(&self, key: &str, lines: &[Line]) -> Chart {
        let labels = labels(&lines.iter().map(|line| &line.settings).collect::<Vec<_>>());
        let line = |(colour, (line, label)): (usize, (&Line, String))| {
            let mut points: Vec<Band> = line.groups.iter().filter_map(|(x, group)| self.tested(*x, group)).collect();
            points.sort_by(|left, right| left.x.total_cmp(&right.x));
            // One value is no curve.
            points = if points.len() > 1 { points } else { Vec::new() };
            let seeds = points.iter().map(|point| point.count).max().unwrap_or_default();
            Series { label: with_seeds(&label, seeds), colour, mark: Mark::Bars, points }
        };
        let series: Vec<Series> = lines.iter().zip(labels).enumerate().map(line).collect();
        let values = || series.iter().flat_map(|series| &series.points).map(|point| point.x);
        let [low, high] = [values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max)];
        // A name for a file, whatever a configuration has for a key.
        let name: String = key.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).collect();
        let title = format!("Test {} against {key}", self.metric());
        let chart = self.chart(&format!("ablation-{name}"), &title, [key, self.metric()], series);
        Chart { logarithmic: [low > 0.0 && high > DECADE * low, false], ..chart }
    }

    /// The mean over a group's seeds on the held-out examples, with its 95 % interval.
    fn tested(&self, x: f64, group: &Group) -> Option<Band> {
        let sample = group.sample(self.runs, |run| run.test.as_ref()?.value)?;
        let half = sample.half_width.unwrap_or(0.0);
        Some(Band { x, mean: sample.mean, low: sample.mean - half, high: sample.mean + half, count: sample.count })
    }
}
