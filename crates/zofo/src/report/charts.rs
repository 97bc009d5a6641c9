//! Which charts a report has.

use super::chart::{Chart, Mark, Series};
use super::format::{duration, score, short};
use super::group::Group;
use super::panel::Panel;
use super::run::Run;
use super::series::{Band, mean_of_curves, mean_of_steps};

/// A heading with its charts.
pub(super) struct Section {
    pub(super) title: &'static str,
    /// How to read it.
    pub(super) text: &'static str,
    pub(super) charts: Vec<Chart>,
}

/// The charts of one task. `name` begins the names of them all.
pub(super) fn sections(panel: &Panel, runs: &[Run], name: &str) -> Vec<Section> {
    let all = Charts { panel, runs, name };
    let sections = vec![
        Section {
            title: "Validation",
            text: "The mean over seeds; the band is one standard deviation to either side. Time is that of training: \
                   evaluation does not count.",
            charts: vec![all.over_time(), all.over_steps()],
        },
        Section {
            title: "Loss",
            text: "Means over seeds and over neighbouring steps. a = F(θ,p;B_f) is the outer batch's loss, b = F(θ,p;B_p) and \
                   c = F(θ,s;B_p) those of the inner data with p and with s; b − c is what the penalty presses to 0.",
            charts: all.losses(),
        },
        Section {
            title: "Slope",
            text: "The root mean square of g over neighbouring steps, and the part of it that is rounding. Where the two meet, \
                   the slope is noise: compute in f32, or use a larger ε.",
            charts: vec![all.slopes()],
        },
        Section {
            title: "Memory and time",
            text: "The most memory that a run had resident, against the median time of a step. What is named optimal is \
                   beaten in both by no other.",
            charts: vec![all.memory()],
        },
        Section {
            title: "Ablation",
            text: "The mean over seeds on the test examples against one key, all else equal. Bars are the 95 % interval of the \
                   first table.",
            charts: all.ablations(),
        },
    ];
    let drawn = sections.into_iter().map(|mut section| {
        section.charts.retain(Chart::has_points);
        section
    });
    drawn.filter(|section| !section.charts.is_empty()).collect()
}

/// What the charts of one task are made of.
pub(super) struct Charts<'a> {
    pub(super) panel: &'a Panel,
    pub(super) runs: &'a [Run],
    name: &'a str,
}

impl Charts<'_> {
    pub(super) fn chart(&self, name: &str, title: &str, axes: [&str; 2], series: Vec<Series>) -> Chart {
        let series: Vec<Series> = series.into_iter().filter(|series| !series.points.is_empty()).collect();
        let words = series.iter().filter_map(in_words).collect::<Vec<_>>().join(" ");
        let [x, y] = axes.map(str::to_owned);
        Chart {
            name: format!("{}-{name}", self.name),
            title: title.to_owned(),
            description: format!("{y} against {x}. {words}"),
            x,
            y,
            logarithmic: [false, false],
            series,
        }
    }

    /// A line for every group.
    fn lines(&self, of: impl Fn(&Group) -> Vec<Band>) -> Vec<Series> {
        let line = |(colour, group): (usize, &Group)| {
            let points = of(group);
            let seeds = points.iter().map(|band| band.count).max().unwrap_or_default();
            Series { label: with_seeds(&group.label, seeds), colour, mark: Mark::Line, points }
        };
        self.panel.groups.iter().enumerate().map(line).collect()
    }

    pub(super) fn metric(&self) -> &'static str {
        self.panel.metric.map_or("score", crate::task::Metric::as_str)
    }

    fn over_time(&self) -> Chart {
        let title = format!("Validation {} over training time", self.metric());
        let lines = self.lines(|group| self.panel.over_time(group, self.runs));
        self.chart("time", &title, ["seconds of training", self.metric()], lines)
    }

    fn over_steps(&self) -> Chart {
        let title = format!("Validation {} over steps", self.metric());
        let lines = self.lines(|group| self.panel.over_steps(group, self.runs));
        self.chart("steps", &title, ["steps", self.metric()], lines)
    }

    /// What steps logged under one of the names, the first that there is.
    fn logged(&self, group: &Group, names: &[&str]) -> Vec<Band> {
        let points = |run: &Run| {
            let value = |step: &super::Step| names.iter().find_map(|name| step.value(name));
            run.steps.iter().filter_map(|step| Some((step.step as f64, value(step)?))).collect()
        };
        mean_of_steps(&group.curves(self.runs, points))
    }

    fn losses(&self) -> Vec<Chart> {
        let training = self.lines(|group| self.logged(group, &["loss", "a"]));
        let mut charts = vec![self.chart("loss", "Training loss", ["steps", "loss, nats per token"], training)];
        let gap = self.lines(|group| self.logged(group, &["gap"]));
        charts.push(self.chart("gap", "b − c: how far p is from θ's best block", ["steps", "b − c, nats"], gap));
        for (index, group) in self.panel.groups.iter().enumerate() {
            let parts = [("a = F(θ,p;B_f)", "a"), ("b = F(θ,p;B_p)", "b"), ("c = F(θ,s;B_p)", "c")];
            let line = |(colour, (label, name)): (usize, (&str, &str))| Series {
                label: label.to_owned(),
                colour,
                mark: if name == "c" { Mark::Dashed } else { Mark::Line },
                points: self.logged(group, &[name]),
            };
            let lines: Vec<Series> = parts.into_iter().enumerate().map(line).collect();
            // One of them alone is no part.
            if lines.iter().filter(|line| !line.points.is_empty()).count() > 1 {
                let title = format!("Loss parts: {}", group.label);
                charts.push(self.chart(&format!("parts-{index}"), &title, ["steps", "loss, nats per token"], lines));
            }
        }
        charts
    }

    fn slopes(&self) -> Chart {
        let squares = |run: &Run| {
            run.steps.iter().filter_map(|step| Some((step.step as f64, step.value("slope")?.powi(2)))).collect()
        };
        let root = |band: Band| {
            let [mean, low, high] = [band.mean, band.low, band.high].map(|square| square.max(0.0).sqrt());
            Band { mean, low, high, ..band }
        };
        let mut series =
            self.lines(|group| mean_of_steps(&group.curves(self.runs, squares)).into_iter().map(root).collect());
        for (colour, group) in self.panel.groups.iter().enumerate() {
            let floor =
                |run: &Run| run.evaluations.iter().filter_map(|at| Some((at.step as f64, at.noise_floor?))).collect();
            let points = mean_of_curves(&group.curves(self.runs, floor));
            let label = format!("noise floor: {}", group.label);
            series.push(Series { label, colour, mark: Mark::Dashed, points });
        }
        let chart = self.chart("slope", "Size of the slope g", ["steps", "|g|"], series);
        Chart { logarithmic: [false, true], ..chart }
    }

    fn memory(&self) -> Chart {
        let mean = |group: &Group, what: &dyn Fn(&Run) -> Option<f64>| Some(group.sample(self.runs, what)?.mean);
        let place = |group: &Group| Some((mean(group, &Run::seconds_per_step)?, mean(group, &Run::peak_mib)?));
        let places: Vec<Option<(f64, f64)>> = self.panel.groups.iter().map(place).collect();
        let optimal = |(time, memory): (f64, f64)| {
            !places
                .iter()
                .flatten()
                .any(|&(other, its)| other <= time && its <= memory && (other, its) != (time, memory))
        };
        let points = self.panel.groups.iter().zip(&places).enumerate().filter_map(|(colour, (group, place))| {
            let (x, y) = (*place)?;
            let which = if optimal((x, y)) { ", optimal" } else { "" };
            let label = format!("{}: {}, {y:.0} MiB{which}", group.label, duration(x));
            let point = Band { x, mean: y, low: y, high: y, count: 1 };
            Some(Series { label, colour, mark: Mark::Points, points: vec![point] })
        });
        let axes = ["seconds per step", "peak memory, MiB"];
        self.chart("memory", "Memory and time of a step", axes, points.collect())
    }
}

/// What a legend calls a line over so many seeds.
pub(super) fn with_seeds(label: &str, seeds: usize) -> String {
    match seeds {
        0 | 1 => label.to_owned(),
        seeds => format!("{label} ({seeds} seeds)"),
    }
}

/// A series in a sentence.
fn in_words(series: &Series) -> Option<String> {
    let (first, last) = (series.points.first()?, series.points.last()?);
    let text = |value: f64| if value.abs() <= 1.0 { score(value) } else { short(value) };
    Some(match series.points.len() {
        1 => format!("{}: {} at {}.", series.label, text(first.mean), short(first.x)),
        _ => format!(
            "{}: from {} at {} to {} at {}.",
            series.label,
            text(first.mean),
            short(first.x),
            text(last.mean),
            short(last.x)
        ),
    })
}
