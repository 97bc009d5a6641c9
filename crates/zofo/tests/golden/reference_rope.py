"""Rotary positions in float64, and the two spellings of a configuration that they are read from."""

import math
from collections.abc import Callable

import torch


def in_new_spelling(config: dict) -> dict:
    """The configuration with transformers 5's `rope_parameters` and `layer_types`, whichever spelling it has."""
    kind = config["model_type"]
    if kind in ("opt", "gpt2"):
        return config
    tied = config.get("tie_word_embeddings", kind.startswith("gemma"))
    config = config | {"layer_types": layer_types(config), "tie_word_embeddings": tied}
    if config.get("rope_parameters"):
        return config
    rope = {"rope_theta": config["rope_theta"]} | (config.get("rope_scaling") or {"rope_type": "default"})
    rope.setdefault("rope_type", rope.get("type"))
    for key in ("original_max_position_embeddings", "partial_rotary_factor"):
        if key in config:
            rope[key] = config[key]
    if kind == "gemma3_text":
        local = {"rope_type": "default", "rope_theta": config["rope_local_base_freq"]}
        rope = {"full_attention": rope, "sliding_attention": local}
    return config | {"rope_parameters": rope}


def layer_types(config: dict) -> list[str]:
    kind, layers = config["model_type"], config["num_hidden_layers"]
    if config.get("layer_types"):
        return config["layer_types"]
    if kind.startswith("gemma"):
        full = 2 if kind == "gemma2" else config["sliding_window_pattern"]
        return ["full_attention" if (i + 1) % full == 0 else "sliding_attention" for i in range(layers)]
    # Qwen has the key, but does not slide unless another one says so.
    slides = kind in ("mistral", "phi3") and config.get("sliding_window") is not None
    return ["sliding_attention" if slides else "full_attention"] * layers


def rotation(config: dict, layer: int, head_dim: int, positions: torch.Tensor) -> Callable:
    """Turns q or k `[T, heads, head_dim]`: in the first part of a head, the pair (i, i + half) by its angle."""
    rope = config["rope_parameters"]
    rope = rope.get(config["layer_types"][layer], rope)
    width = int(head_dim * rope.get("partial_rotary_factor", 1.0))
    frequencies, factor = scaled(rope, plain(rope["rope_theta"], width), len_of(positions), config)
    angles = (positions[:, None].double() * torch.tensor(frequencies, dtype=torch.float64))[:, None]
    cos, sin = factor * angles.cos(), factor * angles.sin()

    def turned(x: torch.Tensor) -> torch.Tensor:
        first, second, rest = x.split([width // 2, width // 2, head_dim - width], -1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], -1)

    return turned


def len_of(positions: torch.Tensor) -> int:
    """How long the sequence is with everything before it."""
    return int(positions[-1]) + 1


def plain(theta: float, width: int) -> list[float]:
    # Frequencies are part of the model, not of its arithmetic: transformers keeps them as float32 numbers.
    return (1.0 / theta ** (torch.arange(0, width, 2).float() / width)).tolist()


def scaled(rope: dict, frequencies: list[float], length: int, config: dict) -> tuple[list[float], float]:
    """The frequencies that `rope_type` makes of the plain ones, and what it multiplies sine and cosine by."""
    width = 2 * len(frequencies)
    match rope.get("rope_type", "default"):
        case "default":
            return frequencies, 1.0
        case "linear":
            return [f / rope["factor"] for f in frequencies], 1.0
        case "llama3":
            return [llama3(f, rope) for f in frequencies], 1.0
        case "dynamic":
            stretch = rope["factor"] * max(1.0, length / config["max_position_embeddings"]) - (rope["factor"] - 1)
            return plain(rope["rope_theta"] * stretch ** (width / (width - 2)), width), 1.0
        case "yarn":
            return yarn(rope, frequencies, width), 0.1 * math.log(rope["factor"]) + 1.0
        case "longrope":
            original = rope["original_max_position_embeddings"]
            stretched = rope["long_factor" if length > original else "short_factor"]
            attention = math.sqrt(1 + math.log(config["max_position_embeddings"] / original) / math.log(original))
            return [f / by for f, by in zip(frequencies, stretched, strict=True)], attention
        case other:
            raise AssertionError(f"rope_type {other}")


def llama3(frequency: float, rope: dict) -> float:
    """Llama 3.1's scaling: long waves slowed by `factor`, short ones kept, a linear passage between them."""
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    turns = rope["original_max_position_embeddings"] * frequency / (2 * math.pi)
    kept = min(1.0, max(0.0, (turns - low) / (high - low)))
    return frequency * (kept + (1 - kept) / rope["factor"])


def yarn(rope: dict, frequencies: list[float], width: int) -> list[float]:
    """As Llama 3's, but the passage is linear in the index of the pair (Peng et al., arXiv 2309.00071)."""

    def pair_that_turns(times: float) -> float:
        original = rope["original_max_position_embeddings"]
        return width * math.log(original / (times * 2 * math.pi)) / (2 * math.log(rope["rope_theta"]))

    low = max(0, math.floor(pair_that_turns(rope.get("beta_fast", 32))))
    high = min(width - 1, math.ceil(pair_that_turns(rope.get("beta_slow", 1))))
    slowed = [min(1.0, max(0.0, (i - low) / (high - low))) for i in range(len(frequencies))]
    return [f * (1 - s + s / rope["factor"]) for f, s in zip(frequencies, slowed, strict=True)]
