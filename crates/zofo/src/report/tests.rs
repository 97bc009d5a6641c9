use super::{Fonts, Report, ReportError, RunState, Sign, find};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A run's folder as a run leaves it.
struct Folder<'a> {
    method: &'a str,
    seed: u64,
    /// Validation accuracy at steps 0, 5, 10.
    scores: [f64; 3],
    test: f64,
}

impl Folder<'_> {
    fn write(&self, parent: &Path, name: &str) -> PathBuf {
        let folder = parent.join(name);
        fs::create_dir_all(&folder).unwrap();
        let config = format!(
            "[data]\ntask = \"sst2\"\n[method]\nname = \"{}\"\nkeep = \"p\"\n[run]\noutput = \"{name}\"\nseed = {}\n",
            self.method, self.seed
        );
        fs::write(folder.join("config.toml"), config).unwrap();
        let mut lines = Vec::new();
        for step in 0..=10u32 {
            if step > 0 {
                lines.push(json!({
                    "event": "step", "step": step, "a": 1.0 / f64::from(step), "b": 0.5, "c": 0.25, "gap": 0.25,
                    "slope": -3.0, "seconds": 2.0, "training_seconds": 4.0 + 2.0 * f64::from(step),
                }));
            }
            if step % 5 == 0 {
                let score = |more: f64| json!({ "accuracy": self.scores[step as usize / 5] + more, "loss": 0.5 });
                lines.push(json!({
                    "event": "evaluation", "step": step, "p": score(0.0), "s": score(-0.5), "noise_floor": 0.5,
                    "best": step == 5, "seconds": 1.0,
                }));
            }
        }
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        fs::write(folder.join("metrics.jsonl"), text).unwrap();
        let score =
            |name: &str, accuracy: f64| json!({ "name": name, "accuracy": accuracy, "loss": 0.4, "examples": 100 });
        let scores = [score("untouched model", 0.5), score("(θ, p)", self.test), score("(θ, s)", 0.0)];
        let summary = json!({
            "steps": 10, "skipped_steps": 0, "kept_step": 5, "training_seconds": 24.0, "scores": scores, "kept_adapter": "p",
        });
        fs::write(folder.join("summary.json"), summary.to_string()).unwrap();
        let environment = json!({
            "version": "0.1.0", "system": "linux x86_64", "cpu": null, "kernels": "avx2", "threads": 2,
            "started": "2026-01-01 00:00:00", "peak_rss_mib": 700.0,
        });
        fs::write(folder.join("environment.json"), environment.to_string()).unwrap();
        folder
    }
}

/// Two methods with three seeds each.
fn two_methods(parent: &Path) {
    for seed in 0..3 {
        let better = seed as f64 / 100.0;
        Folder { method: "bilevel", seed, scores: [0.5, 0.8 + better, 0.7], test: 0.8 + better }
            .write(parent, &format!("bilevel,seed={seed}"));
        Folder { method: "mezo", seed, scores: [0.5, 0.6, 0.6], test: 0.6 }.write(parent, &format!("mezo,seed={seed}"));
    }
}

fn report(folder: &TempDir) -> Report {
    Report::new("a title", find(&[folder.path().to_owned()]).unwrap())
}

/// The elements of a page, by name, after a check that every one is closed where it must be, that attributes are quoted,
/// and that no `<`, `>` or `&` stands for itself. Raw text of `<style>` is passed over.
fn elements(page: &str) -> Vec<String> {
    const VOID: [&str; 2] = ["meta", "link"];
    let (mut open, mut names) = (Vec::<String>::new(), Vec::new());
    let mut rest = page;
    while let Some(start) = rest.find('<') {
        let text = &rest[..start];
        if open.last().is_none_or(|name| name != "style") {
            assert!(!text.contains('>'), "a bare > in {text:?}");
            for entity in text.split('&').skip(1) {
                let name = entity.split(';').next().unwrap();
                assert!(name.len() <= 6 && entity.contains(';'), "a bare & in {text:?}");
            }
        }
        let end = start + rest[start..].find('>').unwrap_or_else(|| panic!("a tag without end: {}", &rest[start..]));
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "closed out of order");
        } else if !tag.starts_with("!DOCTYPE") {
            let name = tag.split([' ', '/', '\n']).next().unwrap().to_owned();
            assert_eq!(tag.matches('"').count() % 2, 0, "quotes of <{tag}>");
            let outside: String = tag.split('"').step_by(2).collect();
            assert!(outside.chars().all(|c| c.is_ascii_alphanumeric() || " =-:/\n".contains(c)), "<{tag}>");
            if !tag.ends_with('/') && !VOID.contains(&name.as_str()) {
                open.push(name.clone());
            }
            names.push(name);
        }
    }
    assert_eq!(open, Vec::<String>::new(), "never closed");
    names
}

#[test]
fn runs_that_differ_by_their_seeds_are_one_group() {
    let folder = tempfile::tempdir().unwrap();
    two_methods(folder.path());
    let report = report(&folder);
    let [panel] = &report.panels[..] else { panic!("{} panels", report.panels.len()) };
    let groups: Vec<(&str, usize)> = panel.groups.iter().map(|g| (g.label.as_str(), g.runs.len())).collect();
    assert_eq!(groups, [("bilevel", 3), ("mezo", 3)]);
    assert!(report.runs.iter().all(|run| run.state == RunState::Finished && run.problems.is_empty()));
    // What was kept is p's, of step 5; s is in the summary, but not kept.
    let first = &report.runs[0];
    assert_eq!(first.selected().unwrap().value, Some(0.8));
    assert_eq!(first.test.as_ref().unwrap().name, "(θ, p)");
    // Four seconds of a warm start before the first step.
    assert_eq!([0, 5, 10].map(|step| first.seconds_at(step)), [Some(4.0), Some(14.0), Some(24.0)]);
    let [comparison] = &panel.comparisons[..] else { panic!("{:?}", panel.comparisons) };
    assert_eq!(comparison.paired.difference.count, 3);
    assert!((comparison.paired.difference.mean - 0.21).abs() < 1e-12);
    assert_eq!(comparison.paired.sign_flips, Some(0.25));
    // Bilevel's mean reaches MeZO's best, 0.6, between 4 and 14 seconds: it is seen at the evaluation.
    let reach = panel.reach(&report.runs).unwrap();
    assert_eq!((reach.of, reach.value, reach.seconds), (1, 0.6, vec![Some(14.0), Some(14.0)]));
}

#[test]
fn the_page_is_whole_and_names_what_it_shows() {
    let folder = tempfile::tempdir().unwrap();
    two_methods(folder.path());
    let report = report(&folder);
    let page = report.html().unwrap();
    let names = elements(&page);
    let count = |name: &str| names.iter().filter(|known| *known == name).count();
    assert_eq!(count("svg"), report.charts().len());
    assert_eq!(count("desc"), count("svg"));
    for chart in ["time", "steps", "loss", "gap", "parts-0", "slope", "memory"] {
        assert!(report.charts().iter().any(|known| known.name == format!("task0-{chart}")), "{chart}");
    }
    assert!(!page.contains("http://") || page.matches("http://").count() == page.matches("xmlns=\"http://").count());
    assert!(!page.contains("https://") && !page.contains("<script"));
    for words in
        ["0.8100 ± 0.0100", "bilevel − mezo", "+0.2100", "700 MiB", "too few to tell", "4.00 points", "not set"]
    {
        assert_eq!(page.contains(words), words != "not set", "{words}");
    }
    // Colours are the style sheet's.
    assert!(!page.contains("\"#01"), "a colour that stands for a class was left");
    for chart in report.charts() {
        elements(&chart.file().unwrap());
    }
}

/// A run of `bilevel` with these lines in its configuration besides.
fn with_settings(parent: &Path, name: &str, seed: u64, test: f64, settings: &str) {
    let run = Folder { method: "bilevel", seed, scores: [0.5, 0.6, 0.7], test }.write(parent, name);
    let config = fs::read_to_string(run.join("config.toml")).unwrap();
    fs::write(run.join("config.toml"), config.replace("[method]\n", &format!("[method]\n{settings}\n"))).unwrap();
}

/// The numbers that an attribute has in all elements of a kind.
fn numbers(svg: &str, element: &str, attribute: &str) -> Vec<f64> {
    let of = |tag: &str| tag.split(&format!(" {attribute}=\"")).nth(1)?.split('"').next()?.parse().ok();
    svg.split('<').filter(|tag| tag.starts_with(element)).filter_map(of).collect()
}

#[test]
fn a_key_that_alone_differs_is_charted() {
    let folder = tempfile::tempdir().unwrap();
    for (penalty, test) in [("1", 0.5), ("1e2", 0.7), ("1e4", 0.8), ("1e6", 0.6)] {
        for seed in 0..3 {
            let (name, test) = (format!("{penalty}-{seed}"), test + seed as f64 / 100.0);
            with_settings(folder.path(), &name, seed, test, &format!("penalty = {penalty}"));
        }
    }
    // Of no group that it is compared with, and of another method.
    with_settings(folder.path(), "other", 0, 0.9, "penalty = 1e3\nkind = \"x\"");
    Folder { method: "mezo", seed: 0, scores: [0.5; 3], test: 0.5 }.write(folder.path(), "mezo");
    let charts = report(&folder).charts();
    let [chart] = &charts.iter().filter(|chart| chart.name.contains("ablation")).collect::<Vec<_>>()[..] else {
        panic!("{:?}", charts.iter().map(|chart| &chart.name).collect::<Vec<_>>())
    };
    assert_eq!(
        (&*chart.name, &*chart.title),
        ("task0-ablation-method-penalty", "Test accuracy against method.penalty")
    );
    assert!(chart.description.contains("(3 seeds): from 0.5100 at 1.00 to 0.6100 at 1e6."), "{}", chart.description);
    let svg = chart.svg().unwrap();
    // The axis is logarithmic: values two decades apart are equally far from each other.
    let x: Vec<f64> = numbers(&svg, "circle", "cx").into_iter().take(4).collect();
    let steps: Vec<f64> = x.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(steps.iter().all(|step| (step - steps[0]).abs() <= 1.5 && *step > 50.0), "{x:?}");
    for tick in ["1", "100", "10000", "1e6"] {
        assert!(svg.contains(&format!("\n{tick}\n")), "{tick}: {svg}");
    }
    elements(&svg);
}

#[test]
fn two_keys_make_a_line_for_every_value_of_the_other() {
    let folder = tempfile::tempdir().unwrap();
    for (steps, penalty) in [(1, 10), (1, 20), (5, 10), (5, 20), (10, 10), (10, 20)] {
        let settings = format!("inner_steps = {steps}\npenalty = {penalty}");
        with_settings(folder.path(), &format!("{steps}-{penalty}"), 0, 0.5 + f64::from(steps) / 100.0, &settings);
    }
    let charts = report(&folder).charts();
    let chart = |name: &str| charts.iter().find(|chart| chart.name == format!("task0-ablation-method-{name}")).unwrap();
    for words in ["penalty 10: from 0.5100 at 1.00 to 0.6000 at 10.0", "penalty 20: from"] {
        assert!(chart("inner_steps").description.contains(words), "{}", chart("inner_steps").description);
    }
    for words in ["inner_steps 1: from 0.5100 at 10.0 to 0.5100 at 20.0", "inner_steps 10: from"] {
        assert!(chart("penalty").description.contains(words), "{}", chart("penalty").description);
    }
    // A decade is not more than a decade: the axis is linear, and 5 is 4/9 of the way from 1 to 10.
    let x = numbers(&chart("inner_steps").svg().unwrap(), "circle", "cx");
    assert!(((x[1] - x[0]) / (x[2] - x[0]) - 4.0 / 9.0).abs() < 0.02, "{x:?}");
}

#[test]
fn diagnoses_are_on_the_page() {
    let folder = tempfile::tempdir().unwrap();
    two_methods(folder.path());
    assert!(!report(&folder).html().unwrap().contains("Diagnoses"));
    // The record of a sweep whose run was killed before it had a folder; values are TOML there.
    let lines = [
        json!({ "event": "started", "run": "big", "settings": {
            "data.task": "\"sst2\"", "method.name": "\"bilevel\"", "outer.batch_size": "64" } }),
        json!({ "event": "ended", "run": "big", "status": "failed", "seconds": 1.0,
            "reason": "the process ended with signal: 6 (SIGABRT): see logs/big.log" }),
    ];
    fs::write(folder.path().join("sweep.jsonl"), lines.map(|line| format!("{line}\n")).concat()).unwrap();
    fs::create_dir(folder.path().join("logs")).unwrap();
    fs::write(folder.path().join("logs/big.log"), "memory allocation of 99 bytes <failed>\n").unwrap();
    let report = report(&folder);
    let [panel] = &report.panels[..] else { panic!("{} panels", report.panels.len()) };
    let [diagnosis] = &panel.diagnoses[..] else { panic!("{:?}", panel.diagnoses) };
    assert_eq!(diagnosis.sign, Sign::OutOfMemory);
    let page = report.html().unwrap();
    elements(&page);
    let place = |text: &str| page.find(text).unwrap_or_else(|| panic!("{text}"));
    let words =
        ["95 % interval", "Diagnoses", "out of memory", "99 bytes &lt;failed&gt;", "halve outer.batch_size (now 64)"];
    let places: Vec<usize> = words.into_iter().chain(["Differences on the test"]).map(place).collect();
    assert!(places.is_sorted(), "{places:?}");
}

#[test]
fn charts_are_png_with_their_text() {
    let folder = tempfile::tempdir().unwrap();
    two_methods(folder.path());
    let charts = report(&folder).charts();
    let fonts = match Fonts::of_system() {
        Ok(fonts) => fonts,
        // A machine without fonts says so.
        Err(error) => return assert!(matches!(error, ReportError::NoFont), "{error}"),
    };
    for chart in &charts {
        let image = lodepng::decode32(chart.png(&fonts).unwrap()).unwrap();
        let lines = chart.svg().unwrap().matches("<text").count();
        assert!(image.width == 840 && image.height > 540 && lines > 8, "{}", chart.name);
        assert!(image.buffer.iter().all(|pixel| pixel.a == 255));
        let count = |rgb: [u8; 3]| image.buffer.iter().filter(|pixel| [pixel.r, pixel.g, pixel.b] == rgb).count();
        // Letters and axes of the style's text colour, the first series, and paper.
        let [ink, first, paper] = [[0x24, 0x29, 0x2f], [0x0b, 0x62, 0xb8], [255; 3]].map(count);
        assert!(
            ink > 100 * lines && first > 50 && paper > image.buffer.len() / 2,
            "{}: {ink} {first} {paper}",
            chart.name
        );
    }
}

#[test]
fn hostile_text_stays_text() {
    let folder = tempfile::tempdir().unwrap();
    let hostile = "</title><script>alert(1)</script>\u{1}\" onload='x' & <b>";
    for seed in 0..2 {
        let run =
            Folder { method: "bilevel", seed, scores: [0.5; 3], test: 0.5 }.write(folder.path(), &format!("r{seed}"));
        let text = toml::Value::from(hostile);
        let config = format!(
            "[data]\ntask = {text}\n[method]\nname = {text}\n[run]\nseed = {seed}\n\n[peft]\n\"../<x>\" = {seed}\n"
        );
        fs::write(run.join("config.toml"), config).unwrap();
    }
    let report = Report::new(hostile, find(&[folder.path().to_owned()]).unwrap());
    let page = report.html().unwrap();
    elements(&page);
    assert!(!page.contains("<script") && !page.contains("<b>"), "{page}");
    for chart in report.charts() {
        let file = chart.file().unwrap();
        elements(&file);
        assert!(chart.name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)), "{}", chart.name);
        assert!(!file.contains('\u{1}') && !file.contains("<script"));
    }
}

#[test]
fn damaged_runs_are_reported_and_shown_as_far_as_they_go() {
    let folder = tempfile::tempdir().unwrap();
    let good = Folder { method: "mezo", seed: 0, scores: [0.5, 0.6, 0.7], test: 0.6 };
    good.write(folder.path(), "good");

    let killed = good.write(folder.path(), "killed");
    let text = fs::read_to_string(killed.join("metrics.jsonl")).unwrap();
    fs::write(killed.join("metrics.jsonl"), &text[..text.len() - 20]).unwrap();
    fs::remove_file(killed.join("summary.json")).unwrap();

    let garbled = good.write(folder.path(), "garbled");
    let bytes = [b"\xff\xfe not json\n[1]\n{\"event\":\"step\"}\n", text.as_bytes()].concat();
    fs::write(garbled.join("metrics.jsonl"), bytes).unwrap();
    fs::write(garbled.join("summary.json"), "{").unwrap();
    fs::write(garbled.join("config.toml"), "[[[").unwrap();

    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    fs::write(empty.join("config.toml"), "").unwrap();

    let report = report(&folder);
    let run = |name: &str| report.runs.iter().find(|run| run.name == name).unwrap();
    let problems = |name: &str| run(name).problems.join("\n");
    assert_eq!(problems("good"), "");
    assert!(problems("killed").contains("last line of metrics.jsonl is cut"), "{}", problems("killed"));
    assert_eq!((&run("killed").state, run("killed").evaluations.len()), (&RunState::Unfinished, 2));
    for words in ["2 lines of metrics.jsonl are no JSON objects", ": 1, 2", "no number", "summary.json", "config.toml"]
    {
        assert!(problems("garbled").contains(words), "{}", problems("garbled"));
    }
    assert_eq!(run("garbled").steps.len(), 10);
    assert!(problems("empty").contains("no step and no evaluation"), "{}", problems("empty"));
    let page = report.html().unwrap();
    elements(&page);
    assert!(page.contains("What is missing or went wrong"));
    report.csv().unwrap();
}

#[test]
fn losses_that_are_no_numbers_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let run = Folder { method: "mezo", seed: 0, scores: [0.5; 3], test: 0.5 }.write(folder.path(), "run");
    let null =
        |step: u64| json!({ "event": "step", "step": step, "a": null, "gap": null, "slope": f64::NAN, "seconds": 1.0 });
    let lines: Vec<Value> = vec![
        null(1),
        null(2),
        json!({ "event": "evaluation", "step": 2, "p": { "accuracy": 0.5, "loss": null }, "best": true }),
    ];
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(run.join("metrics.jsonl"), text).unwrap();
    fs::write(run.join("summary.json"), json!({ "diverged": "step 3: NaN", "steps": 2 }).to_string()).unwrap();
    let report = report(&folder);
    assert_eq!(report.runs[0].state, RunState::Diverged("step 3: NaN".to_owned()));
    assert!(report.runs[0].problems.iter().any(|problem| problem.starts_with("2 of 2 steps have no finite loss")));
    let names: Vec<String> = report.charts().into_iter().map(|chart| chart.name).collect();
    // One point of validation, and nothing else.
    assert_eq!(names, ["task0-steps", "task0-memory"]);
    let page = report.html().unwrap();
    elements(&page);
    assert!(page.contains("step 3: NaN") && !page.contains("NaN,"), "{page}");
}

#[test]
fn numbers_are_rows_of_csv() {
    let folder = tempfile::tempdir().unwrap();
    two_methods(folder.path());
    let text = report(&folder).csv().unwrap();
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let rows: Vec<Vec<String>> = reader.records().map(|row| row.unwrap().iter().map(str::to_owned).collect()).collect();
    let is = |row: &Vec<String>, cells: [&str; 5]| {
        [&row[2], &row[3], &row[4], &row[6], &row[7]].map(String::as_str) == cells
    };
    assert!(rows.iter().any(|row| is(row, ["mezo,seed=1", "evaluation", "5", "accuracy", "0.6"])));
    assert!(rows.iter().any(|row| is(row, ["bilevel,seed=2", "step", "4", "a", "0.25"])));
    assert!(rows.iter().any(|row| is(row, ["bilevel,seed=0", "test", "5", "accuracy", "0.8"])));
}

#[test]
fn folders_without_runs_are_refused_and_equal_names_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let error = find(&[folder.path().to_owned()]).unwrap_err().to_string();
    assert!(error.contains("holds no runs"), "{error}");
    assert!(find(&[folder.path().join("none")]).is_err());
    let good = Folder { method: "mezo", seed: 0, scores: [0.5; 3], test: 0.5 };
    for sweep in ["one", "two"] {
        good.write(&folder.path().join(sweep), "run");
    }
    let runs = find(&["one", "two"].map(|sweep| folder.path().join(sweep))).unwrap();
    assert_eq!(runs.iter().map(|run| run.name.as_str()).collect::<Vec<_>>(), ["one/run", "two/run"]);
}
