//! Keys that families share, apart from how they spell some of them.

use zofo_kernels::Activation;

use super::super::{error::HfError, json::Keys};

/// Names are made for every layer before any weight is looked for; a lying file must not fill the memory with them.
const MOST_LAYERS: usize = 10_000;

/// The number of blocks.
pub(super) fn layers(config: &Keys<'_>, key: &str) -> Result<usize, HfError> {
    let layers = config.required(key, Keys::size)?;
    if layers > MOST_LAYERS {
        return Err(config.unexpected(key, format!("at most {MOST_LAYERS}")));
    }
    Ok(layers)
}

/// The width of a head where the heads share the hidden size.
pub(super) fn even_share(config: &Keys<'_>, key: &str, hidden: usize, heads: usize) -> Result<usize, HfError> {
    if hidden.is_multiple_of(heads) {
        Ok(hidden / heads)
    } else {
        Err(config.unexpected(key, format!("a multiple of the {heads} heads")))
    }
}

/// The function under `key`, by its name in transformers' `ACT2FN`.
pub(super) fn activation(config: &Keys<'_>, key: &str, default: &str) -> Result<Activation, HfError> {
    match config.string(key)?.unwrap_or(default) {
        "silu" | "swish" => Ok(Activation::Silu),
        "relu" => Ok(Activation::Relu),
        "gelu" | "gelu_python" => Ok(Activation::Gelu),
        // One formula, in as many implementations.
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_python_tanh" | "gelu_fast" | "gelu_accurate" => {
            Ok(Activation::GeluTanh)
        }
        _ => Err(config.unsupported(key, "silu, relu, gelu, gelu_new, gelu_pytorch_tanh")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::super::super::test_model::{assert_says, message};
    use super::*;

    #[test]
    fn activations_by_name() {
        let read = |name: &str| {
            let config = json!({ "hidden_act": name });
            activation(&Keys::new(Path::new("config.json"), config.as_object().unwrap()), "hidden_act", "silu")
        };
        assert_eq!(read("swish").unwrap(), Activation::Silu);
        assert_eq!(read("gelu").unwrap(), Activation::Gelu);
        assert_eq!(read("gelu_new").unwrap(), Activation::GeluTanh);
        assert_eq!(read("gelu_pytorch_tanh").unwrap(), Activation::GeluTanh);
        assert_eq!(read("relu").unwrap(), Activation::Relu);
        assert_says(&message(read("relu2")), &["\"hidden_act\" is \"relu2\"", "not supported", "gelu_new"]);
    }
}
