//! What the sections of a task file must be together.

use std::collections::BTreeMap;

use super::file::{Field, FieldType, Kind, LabelSource, TaskFile};
use crate::task::engine::{Engine, Fault};
use crate::task::label;
use crate::task::metric::Metric;
use crate::task::template::{Template, TemplateName};

/// The name is also the name of a folder.
pub(super) fn name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.contains(['/', '\\']) || name.starts_with('.') {
        return Err(format!(
            "`name` must be a plain word, without slashes and not beginning with a full stop; found \"{name}\""
        ));
    }
    Ok(())
}

/// Conditions are for the types that they can hold of.
pub(super) fn fields(fields: &BTreeMap<String, Field>) -> Result<(), String> {
    match fields.iter().find(|(_, field)| field.kind != FieldType::String && !field.one_of.is_empty()) {
        Some((name, _)) => Err(format!("field `{name}`: `one_of` is for fields of type \"string\"")),
        None => Ok(()),
    }
}

/// What sections may stand together.
pub(super) fn kind(file: &TaskFile) -> Result<(), String> {
    if file.kind == Kind::Chat {
        return chat(file);
    }
    let Some(label) = &file.label else {
        return Err("expected a section [label], which says what is right for a row".to_owned());
    };
    if file.fields.is_empty() {
        return Err("expected a section [fields], which says what a row has".to_owned());
    }
    if label.field.is_empty() == label.value.is_none() {
        return Err("[label]: expected one of `field` and `value`".to_owned());
    }
    if file.kind == Kind::Classification && file.generation.is_some() {
        return Err("[generation] is for kind = \"generation\"".to_owned());
    }
    if file.kind == Kind::Generation && (label.values.is_some() || label.names.is_some() || label.choices.is_some()) {
        return Err("[label]: `values`, `names` and `choices` are for kind = \"classification\"".to_owned());
    }
    if let Some(choices) = &label.choices {
        let fits = |field: &&Field| field.kind == FieldType::Strings && !field.optional;
        if file.fields.get(choices).filter(fits).is_none() {
            return Err(format!(
                "[label]: `choices` must name a field of type \"strings\" that is not optional; found \"{choices}\""
            ));
        }
    }
    if file.template.is_empty() {
        return Err("expected at least one template, as [template.prompt]".to_owned());
    }
    Ok(())
}

/// Conversations have forms of their own, and models the templates for them.
fn chat(file: &TaskFile) -> Result<(), String> {
    let sections = [
        ("[fields]", !file.fields.is_empty()),
        ("[label]", file.label.is_some()),
        ("[template]", !file.template.is_empty()),
        ("[generation]", file.generation.is_some()),
        ("candidates", file.candidates.is_some()),
        ("candidate", file.candidate.is_some()),
        ("answer", file.answer.is_some()),
    ];
    match sections.iter().find(|(_, is_there)| *is_there) {
        Some((name, _)) => Err(format!(
            "{name} is not for kind = \"chat\": rows are conversations, and the model's chat template makes texts of them"
        )),
        None => Ok(()),
    }
}

/// The number that all templates have; `None` if it is not theirs but the rows'.
pub(super) fn candidate_count(templates: &BTreeMap<TemplateName, Template>) -> Result<Option<usize>, String> {
    let mut counts = templates.values().map(Template::candidate_count);
    let first = counts.next().flatten();
    let differs = templates.values().find(|template| template.candidate_count() != first);
    match (first, differs) {
        (Some(first), Some(other)) => Err(format!(
            "template \"{}\" has {} candidates, another has {first}; labels need one number",
            other.name(),
            other.candidate_count().unwrap_or_default()
        )),
        _ => Ok(first),
    }
}

/// The metric that is set, or the kind's first.
pub(super) fn metric(metric: Option<Metric>, kind: Kind, candidates: Option<usize>) -> Result<Metric, String> {
    match (metric, kind) {
        (None, Kind::Classification) => Ok(Metric::Accuracy),
        (None, Kind::Generation) => Ok(Metric::F1),
        (None, Kind::Chat) => Ok(Metric::Perplexity),
        (Some(metric), kind) if metric.kind() != kind => {
            Err(format!("metric = \"{metric}\" is for kind = \"{}\", but this task's is \"{kind}\"", metric.kind()))
        }
        (Some(Metric::MacroF1), _) if candidates.is_none() => {
            Err("metric = \"macro-f1\" needs classes, but here candidates differ from row to row".to_owned())
        }
        (Some(metric), _) => Ok(metric),
    }
}

/// Names of the classes, after a check that the label section has as many of everything as there are candidates.
pub(super) fn classes(label: Option<&LabelSource>, candidates: Option<usize>) -> Result<Vec<String>, String> {
    let Some(label) = label else {
        return Ok(Vec::new());
    };
    let counted = |what: &str, found: usize| match candidates {
        Some(candidates) if found != candidates => {
            Err(format!("[label]: `{what}` has {found} entries, but there are {candidates} candidates"))
        }
        _ => Ok(()),
    };
    if let Some(values) = &label.values {
        counted("values", values.len())?;
        let all: Vec<_> = values.iter().flatten().collect();
        if let Some(twice) = all.iter().enumerate().find(|(index, value)| all[..*index].contains(value)) {
            return Err(format!("[label]: `values` has {} twice", twice.1));
        }
    }
    let Some(candidates) = candidates else {
        return match label.names {
            Some(_) => Err("[label]: `names` needs classes, but here candidates differ from row to row".to_owned()),
            None => Ok(Vec::new()),
        };
    };
    if let Some(names) = &label.names {
        counted("names", names.len())?;
        if let Some(twice) = names.iter().enumerate().find(|(index, name)| names[..*index].contains(name)) {
            return Err(format!("[label]: `names` has \"{}\" twice", twice.1));
        }
        return Ok(names.clone());
    }
    let strings = label.values.iter().flatten().map(|class| class[0].as_str().map(str::to_owned));
    let strings: Option<Vec<String>> = strings.collect();
    match strings {
        Some(names) if !names.is_empty() => Ok(names),
        _ => Ok((0..candidates).map(|position| position.to_string()).collect()),
    }
}

/// The template that computes labels, if there is one.
pub(super) fn label_value(
    label: Option<&LabelSource>,
    fields: &BTreeMap<String, Field>,
) -> Result<Option<Engine>, String> {
    let Some(source) = label.and_then(|label| label.value.as_ref()) else {
        return Ok(None);
    };
    let known = fields.keys().map(String::as_str).collect();
    let compile = || {
        let mut engine = Engine::new()?;
        engine.add(label::VALUE, source.clone(), &known)?;
        Ok(engine)
    };
    match compile() {
        Ok(engine) => Ok(Some(engine)),
        Err(Fault::Syntax(reason)) => Err(format!("[label]: `value`: {reason}")),
        Err(Fault::UnknownVariable(field)) => Err(format!(
            "[label]: `value`: unknown field `{field}`; the task declares: {}",
            known.into_iter().collect::<Vec<_>>().join(", ")
        )),
    }
}
