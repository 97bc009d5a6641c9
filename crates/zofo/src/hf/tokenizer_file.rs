//! Reading `tokenizer.json`.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::Value;
use tokenizers::Tokenizer;

/// The decoders that the tokenizers library knows. It panics at any other.
const DECODERS: [&str; 10] = [
    "BPEDecoder",
    "ByteFallback",
    "ByteLevel",
    "CTC",
    "Fuse",
    "Metaspace",
    "Replace",
    "Sequence",
    "Strip",
    "WordPiece",
];

/// The tokenizer in the text of a `tokenizer.json`, or why there is none.
pub(super) fn parse_tokenizer(text: &[u8]) -> Result<Tokenizer, String> {
    let json: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if let Some(decoder) = json.get("decoder").filter(|decoder| !decoder.is_null()) {
        check_decoder(decoder)?;
    }
    // What is checked above is what files get wrong. The library takes more for granted, as of precompiled normalizers,
    // and panics where it is not so.
    match catch_unwind(AssertUnwindSafe(|| Tokenizer::from_bytes(text))) {
        Ok(parsed) => parsed.map_err(|error| error.to_string()),
        Err(_) => Err("the tokenizers library could not take it in".to_owned()),
    }
}

fn check_decoder(decoder: &Value) -> Result<(), String> {
    let Some(kind) = decoder.get("type").and_then(Value::as_str) else {
        return Err(format!("\"decoder\" is expected to be an object with a \"type\", found {decoder}"));
    };
    if !DECODERS.contains(&kind) {
        return Err(format!("the decoder \"{kind}\" is not known; known are {}", DECODERS.join(", ")));
    }
    let parts = decoder.get("decoders").and_then(Value::as_array);
    parts.into_iter().flatten().try_for_each(check_decoder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        parse_tokenizer(text.as_bytes()).unwrap_err()
    }

    #[test]
    fn what_the_library_panics_at_is_an_error() {
        let with = |decoder: &str| format!("{{\"version\": \"1.0\", \"decoder\": {decoder}, \"model\": {{}}}}");
        assert!(refused("{\"version\": \"1.0\", \"decoder\": {\"type\"}}").contains("line 1 column"));
        assert!(refused(&with("5")).contains("found 5"));
        assert!(refused(&with("{\"type\": \"Foo\"}")).contains("\"Foo\" is not known; known are BPEDecoder"));
        let nested = "{\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Fuse\"}, {\"type\": \"Bar\"}]}";
        assert!(refused(&with(nested)).contains("\"Bar\""));
        // Past the check, and refused by the library itself: there is no model.
        assert!(!refused(&with("{\"type\": \"Fuse\"}")).contains("decoder"));
    }
}
