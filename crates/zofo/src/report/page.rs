//! The page.

use super::chart::{Chart, STYLE};
use super::charts::{Section, sections};
use super::diagnosis::Diagnosis;
use super::error::ReportError;
use super::format::{duration, score, short};
use super::group::{Group, varying_keys};
use super::numbers;
use super::panel::{Panel, panels};
use super::run::{Run, RunState};
use super::statistics::Sample;
use minijinja::{AutoEscape, Environment, Value, context};
use std::collections::BTreeSet;

const TEMPLATE: &str = include_str!("page.html");

/// What several runs have measured, compared.
pub struct Report {
    /// Its heading.
    pub title: String,
    /// The runs.
    pub runs: Vec<Run>,
    /// The same by task.
    pub panels: Vec<Panel>,
}

/// Cells of a table: those of the head, then rows.
type Table = (Vec<&'static str>, Vec<Vec<String>>);

const NONE: &str = "–";

impl Report {
    /// Compares runs.
    pub fn new(title: &str, runs: Vec<Run>) -> Self {
        let panels = panels(&runs);
        Self { title: title.to_owned(), runs, panels }
    }

    /// All charts that have something to show.
    pub fn charts(&self) -> Vec<Chart> {
        let of_panel = |(index, panel)| sections(panel, &self.runs, &format!("task{index}"));
        let sections = self.panels.iter().enumerate().flat_map(of_panel);
        sections.flat_map(|section| section.charts).collect()
    }

    /// The numbers, one per row: see the file's head.
    ///
    /// # Errors
    ///
    /// [`ReportError::Csv`].
    pub fn csv(&self) -> Result<String, ReportError> {
        numbers::csv(&self.panels, &self.runs)
    }

    /// The page: HTML with everything in it.
    ///
    /// # Errors
    ///
    /// [`ReportError::Draw`] or [`ReportError::Page`].
    pub fn html(&self) -> Result<String, ReportError> {
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(|_| AutoEscape::Html);
        environment.add_template("page", TEMPLATE)?;
        let panels: Result<Vec<Value>, ReportError> =
            self.panels.iter().enumerate().map(|panel| self.panel(panel)).collect();
        let problems = self.runs.iter().flat_map(|run| {
            let state = match &run.state {
                RunState::Finished => None,
                RunState::Unfinished => {
                    Some("unfinished: it goes on, or was stopped, and has no results yet".to_owned())
                }
                RunState::Diverged(reason) | RunState::Failed(reason) => {
                    Some(format!("{}: {reason}", run.state.as_str()))
                }
            };
            state.into_iter().chain(run.problems.iter().cloned()).map(|problem| vec![run.name.clone(), problem])
        });
        let page = context! {
            title => &self.title,
            version => env!("CARGO_PKG_VERSION"),
            chart_style => Value::from_safe_string(STYLE.to_owned()),
            summary => self.summary(),
            panels => panels?,
            problems => problems.collect::<Vec<_>>(),
            runs => table(self.run_table()),
            differences => self.differences(),
            shared => self.shared_settings(),
            environments => table(self.environments()),
        };
        Ok(environment.get_template("page")?.render(page)?)
    }

    /// What there is, and what it cannot tell, in sentences.
    fn summary(&self) -> Vec<String> {
        let finished = self.runs.iter().filter(|run| run.state == RunState::Finished).count();
        let mut sentences = vec![format!("{} runs, {finished} of them finished.", self.runs.len())];
        let groups = || self.panels.iter().flat_map(|panel| &panel.groups);
        let fewest = groups().map(|group| group.runs.len()).min().unwrap_or_default();
        let most = groups().map(|group| group.runs.len()).max().unwrap_or_default();
        if groups().count() > 1 && fewest < 5 {
            let seeds = if fewest == most { fewest.to_string() } else { format!("{fewest} to {most}") };
            sentences.push(format!(
                "Every group has {seeds} {}: too few to tell small differences from chance. Exact tests of n pairs cannot \
                 give a p below 2/2ⁿ, which is {} for the smallest group.",
                if most == 1 { "seed" } else { "seeds" },
                short((2.0 / 2f64.powi(fewest as i32)).min(1.0))
            ));
        }
        let examples: BTreeSet<u64> = self.runs.iter().filter_map(|run| run.test.as_ref()?.examples).collect();
        if let Some(&fewest) = examples.first() {
            sentences.push(format!(
                "The held-out examples are {fewest}{}: an accuracy near 0.8 over {fewest} has a standard error of {} points, \
                 whatever the seeds say.",
                if examples.len() > 1 { " at least" } else { "" },
                short(100.0 * (0.16 / fewest.max(1) as f64).sqrt())
            ));
        }
        sentences
    }

    fn panel(&self, (index, panel): (usize, &Panel)) -> Result<Value, ReportError> {
        let drawn = |section: Section| {
            let figure = |chart: &Chart| -> Result<Value, ReportError> {
                Ok(context! { title => &chart.title, svg => Value::from_safe_string(chart.svg()?) })
            };
            let figures: Vec<Value> = section.charts.iter().map(figure).collect::<Result<_, _>>()?;
            Ok(context! { title => section.title, text => section.text, figures => figures })
        };
        let sections = sections(panel, &self.runs, &format!("task{index}"));
        let sections: Vec<Value> = sections.into_iter().map(drawn).collect::<Result<_, ReportError>>()?;
        let reach = panel.reach(&self.runs).map(|reach| {
            let row = |(group, seconds): (&Group, &Option<f64>)| {
                vec![group.label.clone(), seconds.map_or("not reached".to_owned(), duration)]
            };
            let rows: Vec<Vec<String>> = panel.groups.iter().zip(&reach.seconds).map(row).collect();
            context! {
                of => &panel.groups[reach.of].label,
                value => score(reach.value),
                table => table((vec!["group", "training time"], rows)),
            }
        });
        Ok(context! {
            task => &panel.task,
            metric => panel.metric.map_or("score", crate::task::Metric::as_str),
            groups => table(self.group_table(panel)),
            diagnoses => diagnoses(panel),
            comparisons => table(self.comparison_table(panel)),
            reach => reach,
            sections => sections,
        })
    }

    fn group_table(&self, panel: &Panel) -> Table {
        let head = vec![
            "group",
            "seeds",
            "validation, selected",
            "test",
            "95 % interval",
            "test loss",
            "untouched",
            "training",
            "steps",
            "per step",
            "peak memory",
        ];
        let row = |group: &Group| {
            let of = |what: &dyn Fn(&Run) -> Option<f64>| group.sample(&self.runs, what);
            let test = of(&|run| run.test.as_ref()?.value);
            let mean = |sample: Option<Sample>, text: &dyn Fn(f64) -> String| {
                sample.map_or(NONE.to_owned(), |sample| text(sample.mean))
            };
            vec![
                group.label.clone(),
                group.runs.len().to_string(),
                with_deviation(of(&|run| run.selected()?.value)),
                with_deviation(test),
                interval(test),
                with_deviation(of(&|run| run.test.as_ref()?.loss)),
                mean(of(&|run| run.untouched.as_ref()?.value), &score),
                mean(of(&|run| run.training_seconds), &duration),
                mean(of(&|run| Some(run.step_count as f64)), &|count| format!("{count:.0}")),
                mean(of(&Run::seconds_per_step), &duration),
                mean(of(&Run::peak_mib), &|mib| format!("{mib:.0} MiB")),
            ]
        };
        (head, panel.groups.iter().map(row).collect())
    }

    fn comparison_table(&self, panel: &Panel) -> Table {
        let head = vec![
            "comparison",
            "pairs",
            "difference",
            "95 % interval",
            "p, t-test",
            "p, corrected",
            "p, exact",
            "smallest p",
        ];
        let p = |value: Option<f64>| value.map_or(NONE.to_owned(), |p| format!("{p:.3}"));
        let row = |comparison: &super::Comparison| {
            let [left, right] = [comparison.left, comparison.right].map(|index| &panel.groups[index].label);
            let paired = &comparison.paired;
            vec![
                format!("{left} − {right}"),
                paired.difference.count.to_string(),
                format!("{:+.4}", paired.difference.mean),
                interval(Some(paired.difference)),
                p(paired.t_test),
                p(comparison.corrected),
                p(paired.sign_flips),
                p(Some(paired.smallest())),
            ]
        };
        (head, panel.comparisons.iter().map(row).collect())
    }

    fn run_table(&self) -> Table {
        let head = vec![
            "run",
            "state",
            "metric",
            "validation",
            "at step",
            "test",
            "test loss",
            "steps",
            "training",
            "evaluation",
            "peak memory",
        ];
        let text = |value: Option<f64>, text: &dyn Fn(f64) -> String| value.map_or(NONE.to_owned(), text);
        let row = |run: &Run| {
            let (selected, test) = (run.selected(), run.test.as_ref());
            vec![
                run.name.clone(),
                run.state.as_str().to_owned(),
                run.metric.map_or(NONE.to_owned(), |metric| metric.to_string()),
                text(selected.and_then(|at| at.value), &score),
                selected.map_or(NONE.to_owned(), |at| at.step.to_string()),
                text(test.and_then(|score| score.value), &score),
                text(test.and_then(|score| score.loss), &score),
                run.step_count.to_string(),
                text(run.training_seconds, &duration),
                duration(run.evaluation_seconds()),
                text(run.peak_mib(), &|mib| format!("{mib:.0} MiB")),
            ]
        };
        (head, self.runs.iter().map(row).collect())
    }

    /// Keys that do not have one value in all runs.
    fn varying(&self) -> BTreeSet<&str> {
        let known = self.runs.iter().filter(|run| !run.settings.is_empty());
        varying_keys(known.map(|run| run.settings.iter().map(|(key, value)| (key.as_str(), value.as_str()))))
    }

    /// The settings in which groups differ: a row for every key, a column for every group.
    fn differences(&self) -> Value {
        let groups: Vec<(&Panel, &Group)> =
            self.panels.iter().flat_map(|panel| panel.groups.iter().map(move |group| (panel, group))).collect();
        let label = |(panel, group): &(&Panel, &Group)| match self.panels.len() {
            1 => group.label.clone(),
            _ => format!("{}: {}", panel.task, group.label),
        };
        let head: Vec<String> = ["key".to_owned()].into_iter().chain(groups.iter().map(label)).collect();
        let row = |key: &&str| {
            let values = groups.iter().map(|(_, group)| {
                let values = group.runs.iter().map(|&run| self.runs[run].setting(key).unwrap_or(NONE));
                values.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(" | ")
            });
            [(*key).to_owned()].into_iter().chain(values).collect::<Vec<String>>()
        };
        let keys = self.varying().into_iter().filter(|key| *key != "run.output");
        let rows: Vec<Vec<String>> = keys.collect::<Vec<_>>().iter().map(row).collect();
        context! { head, rows }
    }

    fn shared_settings(&self) -> Vec<Vec<String>> {
        let varying = self.varying();
        let Some(first) = self.runs.iter().find(|run| !run.settings.is_empty()) else { return Vec::new() };
        let shared = first.settings.iter().filter(|(key, _)| !varying.contains(key.as_str()));
        shared.map(|(key, value)| vec![key.clone(), value.clone()]).collect()
    }

    fn environments(&self) -> Table {
        let head = vec!["runs", "program", "system", "processor", "kernels", "threads", "began (UTC)"];
        let mut rows: Vec<(Vec<String>, usize, [String; 2])> = Vec::new();
        for environment in self.runs.iter().filter_map(|run| run.environment.as_ref()) {
            let what = vec![
                format!("zofo {}", environment.version),
                environment.system.clone(),
                environment.cpu.clone().unwrap_or_else(|| NONE.to_owned()),
                environment.kernels.clone(),
                environment.threads.to_string(),
            ];
            let began = environment.started.clone();
            match rows.iter_mut().find(|(known, ..)| *known == what) {
                Some((_, count, [first, last])) => {
                    *count += 1;
                    *first = began.clone().min(std::mem::take(first));
                    *last = began.max(std::mem::take(last));
                }
                None => rows.push((what, 1, [began.clone(), began])),
            }
        }
        let row = |(what, count, [first, last]): (Vec<String>, usize, [String; 2])| {
            let began = if first == last { first } else { format!("{first} to {last}") };
            [vec![count.to_string()], what, vec![began]].concat()
        };
        (head, rows.into_iter().map(row).collect())
    }
}

fn table((head, rows): Table) -> Value {
    context! { head, rows }
}

fn diagnoses(panel: &Panel) -> Vec<Value> {
    let text = |diagnosis: &Diagnosis| {
        let Diagnosis { group, sign, evidence, advice } = diagnosis;
        context! { group => &panel.groups[*group].label, sign => sign.as_str(), evidence => evidence, advice => advice }
    };
    panel.diagnoses.iter().map(text).collect()
}

fn with_deviation(sample: Option<Sample>) -> String {
    let text = |sample: Sample| {
        let deviation = sample.deviation.map_or_else(String::new, |deviation| format!(" ± {deviation:.4}"));
        score(sample.mean) + &deviation
    };
    sample.map_or(NONE.to_owned(), text)
}

fn interval(sample: Option<Sample>) -> String {
    let ends =
        |sample: Sample| sample.half_width.map(|half| format!("{:.3} … {:.3}", sample.mean - half, sample.mean + half));
    sample.and_then(ends).unwrap_or_else(|| NONE.to_owned())
}
