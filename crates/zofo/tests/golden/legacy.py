"""A configuration as transformers 4 spelt it."""

LATER_KEYS = {
    "llama": ["mlp_bias", "pad_token_id"],
    "mistral": [],
    "qwen2": ["layer_types"],
    "qwen3": ["layer_types"],
    "gemma2": ["layer_types", "tie_word_embeddings", "use_bidirectional_attention"],
    "gemma3_text": [
        "_sliding_window_pattern",
        "layer_types",
        "tie_word_embeddings",
        "use_bidirectional_attention",
    ],
    "phi3": [],
    "opt": ["tie_word_embeddings"],
    "gpt2": ["tie_word_embeddings"],
}
"""What that version took for granted, or did not know."""


def legacy_config(config: dict) -> dict:
    kind = config["model_type"]
    old = {name: value for name, value in config.items() if name not in ["dtype", *LATER_KEYS[kind]]}
    if kind == "gemma3_text":
        old |= gemma3(old.pop("rope_parameters"), config["layer_types"])
    elif "rope_parameters" in old:
        old |= one_rope(kind, dict(old.pop("rope_parameters")))
    if kind == "llama" and old["head_dim"] * old["num_attention_heads"] == old["hidden_size"]:
        del old["head_dim"]
    if kind.startswith("gemma"):
        old["cache_implementation"] = "hybrid"
    old["torch_dtype"] = config["dtype"]
    old["transformers_version"] = "4.40.0"
    return dict(sorted(old.items()))


def one_rope(kind: str, rope: dict) -> dict:
    outer = {"rope_theta": rope.pop("rope_theta")}
    if kind == "phi3":
        # Both stood beside `rope_scaling`, and the first also when nothing was scaled.
        outer["original_max_position_embeddings"] = rope.pop("original_max_position_embeddings", 4096)
        outer["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
        rope["type"] = rope.pop("rope_type")
    default = rope.get("rope_type", rope.get("type")) == "default"
    return outer | {"rope_scaling": None if default else rope}


def gemma3(ropes: dict, layer_types: list[str]) -> dict:
    full, local = dict(ropes["full_attention"]), ropes["sliding_attention"]
    theta = full.pop("rope_theta")
    pattern = layer_types.index("full_attention") + 1
    return {
        "rope_theta": theta,
        "rope_scaling": None if full["rope_type"] == "default" else full,
        "rope_local_base_freq": local["rope_theta"],
        "sliding_window_pattern": pattern,
    }
