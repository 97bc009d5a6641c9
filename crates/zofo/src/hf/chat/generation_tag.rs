//! `{% generation %} … {% endgeneration %}`, with which a template marks what an assistant says.
//!
//! transformers adds the tag to Jinja to find the tokens to train on. It changes nothing in the text; like every call
//! block it keeps assignments inside. `{% with %}` does the same.

/// The template with the tags replaced; all lines stay where they are.
pub(super) fn removed(template: &str) -> String {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        text += before;
        let name_at = tag.len() - after_opening(tag).len();
        let (opening, name) = tag.split_at(name_at);
        text += opening;
        rest = name;
        for (theirs, ours) in [("generation", "with"), ("endgeneration", "endwith")] {
            if let Some(after) = name.strip_prefix(theirs).filter(|after| closes(after)) {
                text += ours;
                rest = after;
            }
        }
    }
    text + rest
}

/// What comes after `{%`, its sign and its blanks.
fn after_opening(tag: &str) -> &str {
    let inside = tag.strip_prefix("{%").unwrap_or(tag);
    inside.strip_prefix(['-', '+']).unwrap_or(inside).trim_start()
}

/// Whether the tag ends here.
fn closes(text: &str) -> bool {
    let text = text.trim_start();
    text.strip_prefix(['-', '+']).unwrap_or(text).starts_with("%}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_tags_are_replaced() {
        let template = "{% generation %}\na{%-endgeneration-%}{%+ generation\n +%}b{% endgeneration %}";
        let expected = "{% with %}\na{%-endwith-%}{%+ with\n +%}b{% endwith %}";
        assert_eq!(removed(template), expected);
        for other in
            ["", "{%", "{%-", "{% generation", "{% generations %}", "{{ generation }}", "{% set generation = 1 %}"]
        {
            assert_eq!(removed(other), other);
        }
    }
}
