//! What is taken over from the files of the original: tokenizer, chat template, licence.

use std::{fs, io, path::Path};

use serde_json::Map;

use super::super::{
    HfError, ModelFiles,
    atomic::failed_to,
    chat::template_text,
    gguf::{HfTokenizerFiles, Metadata, NewMetadata, tokenizer_metadata},
    json::read_object,
};

const LICENSE: &str = "general.license";
const CARD: &str = "README.md";
const TOKENIZER: &str = "tokenizer.json";

/// Sets the keys of the tokenizer and the chat template. Gives what they cannot say.
pub(super) fn set_tokenizer(source: &ModelFiles, metadata: &mut NewMetadata) -> Result<Vec<String>, HfError> {
    if let Some(file) = source.gguf() {
        metadata.copy(&file.metadata(), "tokenizer.");
        return Ok(Vec::new());
    }
    let path = source.source_path().join(TOKENIZER);
    // Says what is wrong with it if it is missing.
    source.tokenizer()?;
    let config = source.tokenizer_config()?;
    let empty = Map::new();
    tokenizer_metadata(
        &HfTokenizerFiles {
            path: &path,
            tokenizer: &read_object(&path)?,
            tokenizer_config: config.as_ref().map_or(&empty, |config| &config.object),
            config: source.config_json(),
            chat_template: template_text(source)?.as_deref(),
            vocabulary: source.config().vocabulary,
        },
        metadata,
    )
}

/// Sets the licence if the original names one: a GGUF file in its metadata, a folder in the head of its `README.md`.
pub(super) fn set_license(source: &ModelFiles, metadata: &mut NewMetadata) -> Result<(), HfError> {
    let license = match source.gguf() {
        Some(file) => Metadata::string(&file.metadata(), LICENSE)?.map(str::to_owned),
        None => license_in_card(&source.source_path().join(CARD))?,
    };
    if let Some(license) = license {
        metadata.set(LICENSE, license);
    }
    Ok(())
}

fn license_in_card(path: &Path) -> Result<Option<String>, HfError> {
    match fs::read(path) {
        Ok(card) => Ok(license(&String::from_utf8_lossy(&card)).map(str::to_owned)),
        // There is none in folders of models of one's own.
        Err(cause) if matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(cause) => Err(failed_to("read", path)(cause).into()),
    }
}

/// The value of `license` in the YAML between the first two lines of dashes.
fn license(card: &str) -> Option<&str> {
    let mut lines = card.lines().map(str::trim_end);
    if lines.next()? != "---" {
        return None;
    }
    let head = lines.take_while(|line| *line != "---");
    let value = head.filter_map(|line| line.strip_prefix("license:")).next()?;
    Some(value.trim().trim_matches(['"', '\''])).filter(|license| !license.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_licence_in_a_card() {
        assert_eq!(license("---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\n"), Some("apache-2.0"));
        assert_eq!(license("---\r\nlicense: \"mit\"\r\n---\r\n"), Some("mit"));
        assert_eq!(license("---\ntags:\n- x\n---\nlicense: mit\n"), None);
        assert_eq!(license("license: mit\n"), None);
        assert_eq!(license("---\nlicense:\n---\n"), None);
        assert_eq!(license(""), None);
    }
}
