//! How the files of a model call its weights.

use super::super::family::{Family, HEAD};
use crate::model::DecoderConfig;

/// From the names that this program and transformers 5 use to those in the files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct StoredNames {
    /// What files leave out at the beginning of names.
    left_out: &'static str,
    /// The embedding, if the files have it as the head that it is tied to.
    as_head: Option<String>,
}

impl StoredNames {
    /// Looks at the names of all tensors in the files.
    ///
    /// As in transformers, a checkpoint is one of the model without its head if no name begins as it should, and a matrix
    /// that is embedding and head at once may have either name.
    pub(super) fn find<'a>(
        family: &Family,
        config: &DecoderConfig,
        stored: impl Iterator<Item = &'a str> + Clone,
    ) -> Self {
        let is_base = !stored.clone().any(|name| name.starts_with(family.base_prefix));
        let mut names = Self { left_out: if is_base { family.base_prefix } else { "" }, as_head: None };
        if config.is_tied() {
            let has = |wanted: &str| stored.clone().any(|name| name == wanted);
            let embedding = &config.embedding.tokens;
            names.as_head = (!has(names.of(embedding)) && has(HEAD)).then(|| embedding.clone());
        }
        names
    }

    /// The name in the files of the weight `name`.
    pub(super) fn of<'a>(&self, name: &'a str) -> &'a str {
        if self.as_head.as_deref() == Some(name) { HEAD } else { name.strip_prefix(self.left_out).unwrap_or(name) }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::super::super::{family::family, json::Keys};
    use super::*;

    fn find(tied: bool, stored: &[&str]) -> StoredNames {
        let config = json!({
            "architectures": ["GPT2LMHeadModel"], "vocab_size": 6, "n_embd": 8, "n_head": 2, "n_layer": 1,
            "tie_word_embeddings": tied,
        });
        let config = Keys::new(Path::new("config.json"), config.as_object().unwrap());
        let family = family(&config).unwrap();
        StoredNames::find(family, &family.decoder(&config).unwrap(), stored.iter().copied())
    }

    const WTE: &str = "transformer.wte.weight";
    const LN_F: &str = "transformer.ln_f.weight";

    #[test]
    fn as_transformers_writes_them() {
        let names = find(true, &[WTE, LN_F]);
        assert_eq!(names, StoredNames::default());
        assert_eq!([WTE, LN_F, HEAD].map(|name| names.of(name)), [WTE, LN_F, HEAD]);
        // With both, the embedding is what counts.
        assert_eq!(find(true, &[WTE, LN_F, HEAD]), StoredNames::default());
    }

    #[test]
    fn without_the_prefix() {
        let names = find(false, &["wte.weight", "ln_f.weight"]);
        assert_eq!([WTE, LN_F, HEAD].map(|name| names.of(name)), ["wte.weight", "ln_f.weight", HEAD]);
    }

    #[test]
    fn a_tied_matrix_under_the_name_of_the_head() {
        let names = find(true, &[LN_F, HEAD]);
        assert_eq!([WTE, LN_F].map(|name| names.of(name)), [HEAD, LN_F]);
        let untied = find(false, &[LN_F, HEAD]);
        assert_eq!(untied.of(WTE), WTE);
    }
}
