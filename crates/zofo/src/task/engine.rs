//! The template engine, set up for prompts: plain text, nothing dropped, nothing guessed.

use std::collections::BTreeSet;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value, context};
use serde_json::{Map, Value as Json};

use super::filters;
use super::row::Fields;

/// Why a part does not compile.
pub(super) enum Fault {
    /// What the engine says.
    Syntax(String),
    /// The name of a variable that nothing defines.
    UnknownVariable(String),
}

impl From<minijinja::Error> for Fault {
    fn from(error: minijinja::Error) -> Self {
        Fault::Syntax(error.to_string())
    }
}

/// Named pieces of template text, compiled.
pub(super) struct Engine {
    environment: Environment<'static>,
}

impl Engine {
    pub(super) fn new() -> Result<Self, Fault> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        // Model input is plain text, whatever a template is called.
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        // Jinja drops a final line feed; in a prompt it is a token.
        environment.set_syntax(SyntaxConfig::builder().keep_trailing_newline(true).build()?);
        filters::register(&mut environment);
        Ok(Self { environment })
    }

    /// Compiles a part, which may use the variables `known`.
    pub(super) fn add(&mut self, part: &str, source: String, known: &BTreeSet<&str>) -> Result<(), Fault> {
        self.environment.add_template_owned(part.to_owned(), source)?;
        // The smallest, so that the message does not depend on the order of a hash set.
        match self.variables(part).into_iter().filter(|variable| !known.contains(variable.as_str())).min() {
            Some(unknown) => Err(Fault::UnknownVariable(unknown)),
            None => Ok(()),
        }
    }

    /// Renders a part with a row's fields and variables besides; the error is a sentence.
    pub(super) fn render(&self, part: &str, fields: &Fields, besides: &Map<String, Json>) -> Result<String, String> {
        let values = context! { ..Value::from(Serde(besides)), ..Value::from(Serde(fields)) };
        self.environment.get_template(part).and_then(|template| template.render(values)).map_err(|error| {
            let undefined = error.kind() == minijinja::ErrorKind::UndefinedError;
            let absent = self
                .variables(part)
                .into_iter()
                .filter(|name| !fields.contains_key(name) && !besides.contains_key(name));
            match absent.min() {
                Some(name) if undefined => {
                    format!("the row has no `{name}`, which is optional; the template must ask `{name} is defined`")
                }
                _ => error.to_string(),
            }
        })
    }

    /// The variables of a part that are neither its own nor the engine's.
    fn variables(&self, part: &str) -> Vec<String> {
        let globals: BTreeSet<&str> = self.environment.globals().map(|(name, _)| name).collect();
        let used = self.environment.get_template(part).map(|template| template.undeclared_variables(false));
        used.unwrap_or_default().into_iter().filter(|name| !globals.contains(name.as_str())).collect()
    }
}
