"""Derives the stored numbers a second time, from the stored files alone, with the float64 model of `reference.py`."""

from pathlib import Path

from safetensors import safe_open

from common import IGNORED, Batch, Tensors, largest_difference, load, mean_loss, read_json
from gguf_cases import NAMES
from reference import Decoder, decoder
from reference_block import Block

LOGITS = 5e-5
LOSS = 1e-5


def close(what: str, value: float, bound: float) -> None:
    assert value < bound, f"{what}: off by {value}, allowed {bound}"
    print(f"  {what}: {value:.1e}")


def numbered(tensors: Tensors, prefix: str) -> list:
    return [tensors[f"{prefix}{i}"] for i in range(sum(name.startswith(prefix) for name in tensors))]


def verify_family(directory: Path) -> None:
    tensors, expected = load(directory / "expected.safetensors"), read_json(directory / "expected.json")
    batch = Batch.load(tensors)
    weights = load(directory / "model/model.safetensors")
    for config in ("model/config.json", "config_legacy.json"):
        model = decoder(read_json(directory / config))
        logits = [model.logits(weights, ids) for ids, _ in batch.rows()]
        close(f"logits with {config}", largest_difference(logits, numbered(tensors, "logits.")), LOGITS)
        close(f"loss with {config}", abs(float(mean_loss(logits, batch)) - expected["loss"]["mean"]), LOSS)
    if "model-bf16" in expected["variants"]:
        widened = load(directory / "model-bf16/model.safetensors")
        model = decoder(read_json(directory / "model-bf16/config.json"))
        logits = [model.logits(widened, ids) for ids, _ in batch.rows()]
        close("bf16 logits", largest_difference(logits, numbered(tensors, "bf16.logits.")), LOGITS)
    if "model-sharded" in expected["variants"]:
        shards = {}
        for name, file in read_json(directory / "model-sharded/model.safetensors.index.json")["weight_map"].items():
            with safe_open(directory / "model-sharded" / file, "pt") as shard:
                shards[name] = shard.get_tensor(name)
        assert largest_difference(shards, weights) == 0, "shards differ"

    for adapter in sorted(directory.glob("peft-*")):
        verify_adapter(adapter, model, weights, batch)


def verify_adapter(directory: Path, model: Decoder, weights: Tensors, batch: Batch) -> None:
    tensors, expected = load(directory / "expected.safetensors"), read_json(directory / "expected.json")
    config = read_json(directory / "adapter/adapter_config.json")
    block = Block(config, load(directory / "adapter/adapter_model.safetensors"))
    logits = [model.logits(weights, ids, block) for ids, _ in batch.rows()]
    for kind in ("logits.", "merged_logits."):
        if f"{kind}0" in tensors:
            close(f"{directory.name} {kind}*", largest_difference(logits, numbered(tensors, kind)), LOGITS)
    merged = directory / "merged_weights.safetensors"
    if merged.exists():
        changed = load(merged)
        assert sorted(changed) == expected["merged_tensor_names"]
        logits = [model.logits(weights | changed, ids) for ids, _ in batch.rows()]
        close(f"{directory.name} with merged weights", largest_difference(logits, numbered(tensors, "logits.")), LOGITS)
    for optimizer in ("sgd", "adamw"):
        after = Block(config, load(directory / f"after_{optimizer}.safetensors"))
        losses = expected[optimizer]["losses_before_each_step_and_after"]
        loss = float(model.loss(weights, batch, after))
        close(f"{directory.name} loss after {optimizer}", abs(loss - losses[-1]), LOSS)
        assert losses[0] - losses[-1] > 1e-3, f"{directory.name}: no test would notice these steps: {losses}"


def verify_bilevel(directory: Path) -> None:
    expected = read_json(directory / "expected.json")
    in_float32 = expected["float32_reference"]
    for name in ("F_p_f", "F_p_p", "F_s_p"):
        close(f"{name} against transformers", abs(in_float32[name] - expected[name]), LOSS)
    close("projected gradient in float32", in_float32["abs_error"], 0.3)
    for block in ("theta", "p"):
        change = largest_difference(
            load(directory / f"trajectory_{block}.safetensors"),
            load(
                directory / ("model/model.safetensors" if block == "theta" else "adapter-p/adapter_model.safetensors")
            ),
        )
        assert change > 1e-3, f"the trajectory moves {block} by {change} only, which no test would notice"


def verify_gguf(directory: Path, config: dict) -> None:
    tensors, stored = load(directory / "expected.safetensors"), load(directory / "dequantized.safetensors")
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    weights = {}
    for name, values in stored.items():
        for part, count in heads.items():
            if part in name:
                head_dim = len(values) // count
                values = values.unflatten(0, (count, head_dim // 2, 2)).transpose(1, 2).flatten(0, 2)
        for theirs, ours in NAMES.items():
            name = name.replace(ours, theirs)
        weights[name] = values
    model = decoder({"model_type": "llama"} | config)
    batch = Batch(tensors["input_ids"], tensors["attention_mask"], tensors["input_ids"] * 0 + IGNORED)
    logits = [model.logits(weights, ids) for ids, _ in batch.rows()]
    close("logits", largest_difference(logits, numbered(tensors, "logits.")), LOGITS)
