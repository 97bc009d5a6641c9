//! The text filters that task templates may use.
//!
//! They mean what Python's string methods mean, because published prompts were written with those:
//! white space is what `str.isspace` calls so, and case mapping is full Unicode mapping.

use minijinja::{Environment, Error, ErrorKind};

/// Adds the filters to a template environment: `strip`, `stem`, `lc`, `qmark`, `lower`, `bullets`, `fill`, `before`,
/// `after`.
///
/// Every one takes a string and fails on anything else, where the engine's own filters would
/// convert silently.
pub(super) fn register(environment: &mut Environment<'_>) {
    environment.add_filter("strip", |text: &str| strip(text).to_owned());
    environment.add_filter("stem", |text: &str| stem(text).to_owned());
    environment.add_filter("lc", lower_first_word);
    environment.add_filter("qmark", question);
    environment.add_filter("lower", |text: &str| text.to_lowercase());
    environment.add_filter("bullets", |text: &str| text.replace("@highlight\n", "- "));
    environment.add_filter("fill", |text: &str, filling: &str| text.replace("@placeholder", filling));
    environment.add_filter("before", |text: &str, mark: &str| cut(text, mark).map(|(before, _)| before.to_owned()));
    environment.add_filter("after", |text: &str, mark: &str| cut(text, mark).map(|(_, after)| after.to_owned()));
}

/// What stands left and right of the only `mark`.
fn cut<'t>(text: &'t str, mark: &str) -> Result<(&'t str, &'t str), Error> {
    match text.split_once(mark) {
        Some((before, after)) if !mark.is_empty() && !after.contains(mark) => Ok((before, after)),
        _ => {
            let found = text.matches(mark).count();
            let reason = format!("expected the text to have {mark:?} exactly once, found it {found} times");
            Err(Error::new(ErrorKind::InvalidOperation, reason))
        }
    }
}

/// White space as Python's `str.isspace` has it: Unicode's, and the four ASCII separators U+001C to
/// U+001F.
pub(super) fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

/// Removes white space at both ends.
fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// Removes white space at the right end, then one full stop if the text now ends in one.
fn stem(text: &str) -> &str {
    let text = text.trim_end_matches(is_space);
    text.strip_suffix('.').unwrap_or(text)
}

/// Lower-cases the first word (up to the first blank) as a whole, unless it is exactly `I`.
fn lower_first_word(text: &str) -> String {
    match text.split_once(' ') {
        Some(("I", _)) => text.to_owned(),
        Some((word, rest)) => format!("{} {rest}", word.to_lowercase()),
        None if text == "I" => text.to_owned(),
        None => text.to_lowercase(),
    }
}

/// Ends the text with a question mark, and upper-cases its first character.
fn question(text: &str) -> String {
    let mut characters = text.chars();
    let mut result: String = characters.next().into_iter().flat_map(char::to_uppercase).collect();
    result.push_str(characters.as_str());
    if !result.ends_with('?') {
        result.push('?');
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strip_removes_what_python_calls_space() {
        assert_eq!(strip(" \t\u{a0}\u{1f}a b\u{3000}\n"), "a b");
        // A zero-width space is no white space in Python either.
        assert_eq!(strip("\u{200b}a"), "\u{200b}a");
    }

    #[test]
    fn stem_drops_one_full_stop_after_trimming() {
        assert_eq!(stem("She left. \n"), "She left");
        assert_eq!(stem(" She left ."), " She left ");
        assert_eq!(stem("Wait..."), "Wait..");
        assert_eq!(stem("Why?"), "Why?");
        assert_eq!(stem(""), "");
    }

    #[test]
    fn only_the_bare_word_i_keeps_its_case() {
        assert_eq!(lower_first_word("The Grass was cut."), "the Grass was cut.");
        assert_eq!(lower_first_word("NASA called"), "nasa called");
        assert_eq!(lower_first_word("I was late."), "I was late.");
        assert_eq!(lower_first_word("I'm late."), "i'm late.");
        assert_eq!(lower_first_word("I"), "I");
        assert_eq!(lower_first_word("Rain"), "rain");
        // The first piece of a text that begins with a blank is empty, so nothing changes.
        assert_eq!(lower_first_word(" The grass"), " The grass");
    }

    #[test]
    fn a_text_is_cut_at_its_only_mark() {
        assert_eq!(cut("Ann saw _'s dog.", "_").unwrap(), ("Ann saw ", "'s dog."));
        for (text, found) in [("no gap", 0), ("_ and _", 2)] {
            let message = cut(text, "_").unwrap_err().to_string();
            assert!(message.contains(&format!("\"_\" exactly once, found it {found} times")), "{message}");
        }
    }

    #[test]
    fn marks_of_a_cloze_passage_are_replaced_everywhere() {
        let mut environment = Environment::new();
        register(&mut environment);
        let render = |source: &str| environment.render_str(source, ()).unwrap();
        assert_eq!(render("{{ 'a\n@highlight\nb\n@highlight\nc' | bullets }}"), "a\n- b\n- c");
        assert_eq!(render("{{ '@placeholder of @placeholder' | fill('X') }}"), "X of X");
        assert_eq!(render("{{ 'a_b' | before('_') }}{{ 'a_b' | after('_') }}"), "ab");
    }

    #[test]
    fn question_appends_a_mark_and_capitalises() {
        assert_eq!(question("is it so"), "Is it so?");
        assert_eq!(question("is iPhone one?"), "Is iPhone one?");
        assert_eq!(question("ßa"), "SSa?");
        assert_eq!(question(""), "?");
    }
}
