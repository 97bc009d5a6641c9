//! Jinja as transformers sets it up for chat templates (`_cached_compile_jinja_template` in `chat_template_utils.py`).

use std::{error::Error as StdError, fmt};

use jiff::{ZonedDateTime, fmt::strtime};
use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value, syntax::SyntaxConfig, value::Kwargs,
};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::dumps::{Style, dumps};

/// An environment without templates: blocks leave no lines of their own, values have Python's methods, and what is not
/// defined is an empty text until something is asked of it.
///
/// Known to differ from Python's: the keys of a dictionary that a template wrote itself come sorted; the filter `indent`
/// drops a line feed at the end of its text.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(unknown_method_callback);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", |format: &str| strftime(format, &ZonedDateTime::now()));
    environment.add_filter("tojson", to_json);
    // The delimiters are Jinja's own, so that there is nothing to refuse.
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        environment.set_syntax(syntax);
    }
    environment
}

/// What marks an error as the template's own.
#[derive(Debug)]
struct Refusal;

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the template called raise_exception")
    }
}

impl StdError for Refusal {}

/// Whether the template itself raised the error.
pub(super) fn is_refusal(error: &Error) -> bool {
    error.source().is_some_and(|source| source.is::<Refusal>())
}

fn raise_exception(message: &str) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.to_owned()).with_source(Refusal))
}

/// Python's `datetime.strftime`, of which both take the directives from C.
fn strftime(format: &str, now: &ZonedDateTime) -> Result<String, Error> {
    strtime::format(format, now)
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {error}")))
}

/// The filter `tojson`, with the arguments of Python's `json.dumps` that transformers lets through.
fn to_json(value: &Value, arguments: Kwargs) -> Result<String, Error> {
    let indent = match arguments.get::<Option<Value>>("indent")? {
        None => None,
        Some(width) => Some(match width.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(width)?.min(Style::WIDEST_INDENT)),
        }),
    };
    let (item_separator, key_separator) = match arguments.get::<Option<Value>>("separators")? {
        Some(pair) => (pair.get_item_by_index(0)?.to_string(), pair.get_item_by_index(1)?.to_string()),
        None => ((if indent.is_some() { "," } else { ", " }).to_owned(), ": ".to_owned()),
    };
    let style = Style {
        indent,
        item_separator,
        key_separator,
        ensure_ascii: arguments.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: arguments.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    arguments.assert_all_used()?;
    dumps(value, &style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_c_writes_them() {
        let date: ZonedDateTime = "2024-07-06T09:08:07[UTC]".parse().unwrap();
        assert_eq!(strftime("%d %b %Y", &date).unwrap(), "06 Jul 2024");
        assert_eq!(strftime("%A, %B %-d at %H:%M", &date).unwrap(), "Saturday, July 6 at 09:08");
        assert!(strftime("%", &date).unwrap_err().to_string().contains("strftime_now"));
    }

    #[test]
    fn the_clock_is_read() {
        let year = environment().render_str("{{ strftime_now('%Y') }}", ()).unwrap();
        assert!(year.parse::<u32>().unwrap() >= 2024, "{year}");
    }
}
