//! Which layers attend to everything, and which to a sliding window.

use super::super::{error::HfError, json::Keys};

/// What a layer's tokens attend to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LayerType {
    /// All tokens before them.
    Full,
    /// The last few.
    Sliding,
}

/// The types in `layer_types`, or those of the family's `rule` by index.
pub(super) fn layer_types(
    config: &Keys<'_>,
    layers: usize,
    rule: impl Fn(usize) -> LayerType,
) -> Result<Vec<LayerType>, HfError> {
    let key = "layer_types";
    let Some(names) = config.strings(key)? else {
        return Ok((0..layers).map(rule).collect());
    };
    if names.len() != layers {
        return Err(config.unexpected(key, format!("one for each of the {layers} layers")));
    }
    let known = |name: &String| match name.as_str() {
        "full_attention" => Ok(LayerType::Full),
        "sliding_attention" => Ok(LayerType::Sliding),
        _ => Err(config.unsupported(key, "full_attention, sliding_attention")),
    };
    names.iter().map(known).collect()
}

/// The window of every layer, where `window` is that of sliding ones.
pub(super) fn windows(
    config: &Keys<'_>,
    types: &[LayerType],
    window: Option<usize>,
) -> Result<Vec<Option<usize>>, HfError> {
    let of_type = |layer_type: &LayerType| match layer_type {
        LayerType::Full => Ok(None),
        LayerType::Sliding if window.is_some() => Ok(window),
        LayerType::Sliding => Err(config.unexpected("sliding_window", "a window: layers of layer_types slide")),
    };
    types.iter().map(of_type).collect()
}

/// `sliding_window`, which is `default` where the key is absent and none where it is null.
pub(super) fn sliding_window(config: &Keys<'_>, default: Option<usize>) -> Result<Option<usize>, HfError> {
    let key = "sliding_window";
    if config.is_stated(key) { config.size(key) } else { Ok(default) }
}
