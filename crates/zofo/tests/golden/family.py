"""A Llama with its reference logits, losses, gradients and greedy decoding: one case folder of a model family."""

from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from common import (
    Batch,
    Tensors,
    generator,
    greedy,
    largest_difference,
    load,
    loss_summary,
    random_ids,
    random_weights,
    read_json,
    save,
    sequence_nll,
    sequence_tensors,
    write_json,
)
from reference import Llama
from texts import SENTENCE, tokenizer_cases, write_tokenizer

logging.set_verbosity_error()
logging.disable_progress_bar()


@dataclass
class Family:
    """What distinguishes one case from another."""

    config: dict
    tokenizer: Tokenizer
    special_tokens: dict[str, str]
    lengths: list[int]
    seed: int
    bf16: bool = False
    shard_size: str | None = None

    def llama_config(self) -> LlamaConfig:
        tokens = {
            f"{part}_token_id": self.tokenizer.token_to_id(self.special_tokens[f"{part}_token"])
            for part in ("bos", "eos", "pad")
        }
        return LlamaConfig(**tokens, **self.config, max_position_embeddings=128, attn_implementation="eager")


def write_family(directory: Path, family: Family) -> None:
    source = generator(family.seed)
    model = write_model(directory / "model", family, source)
    legacy = legacy_config(read_json(directory / "model/config.json"))
    write_json(directory / "config_legacy.json", legacy)
    write_json(
        directory / "tokenizer_expected.json",
        {
            "model_vocab_size": model.config.vocab_size,
            "tokenizer_vocab_size": family.tokenizer.get_vocab_size(),
            "cases": tokenizer_cases(family.tokenizer),
        },
    )

    vocab = model.config.vocab_size
    text = family.tokenizer.encode(SENTENCE).ids[: family.lengths[0]]
    rows = [text] + [random_ids(source, length, vocab) for length in family.lengths[1:]]
    batch = Batch.draw(rows, model.config.pad_token_id, source)
    logits = sequence_logits(model, batch)
    tensors = batch.tensors() | sequence_tensors(logits, batch) | hidden_states(model, batch)
    variants = {}
    if family.bf16:
        tensors |= write_bf16(directory / "model-bf16", family, model, legacy, batch, variants)
    if family.shard_size:
        write_sharded(directory / "model-sharded", family, model, variants)
    save(directory / "expected.safetensors", tensors)

    exact = Llama(read_json(directory / "model/config.json"))
    weights = load(directory / "model/model.safetensors")
    prompt = rows[0][:6]
    decoded = greedy(lambda ids: logits_of(model, ids), prompt, 12)
    decoded["transformers_generate_agrees"] = generated(model, prompt, 12) == decoded["new_ids"]
    assert decoded["transformers_generate_agrees"]
    write_json(
        directory / "expected.json",
        {
            "family": model.config.model_type,
            "num_parameters": sum(p.numel() for p in model.parameters()),
            "tied_output_embedding": model.config.tie_word_embeddings,
            "bos_token_id": model.config.bos_token_id,
            "eos_token_id": model.config.eos_token_id,
            "pad_token_id": model.config.pad_token_id,
            "lengths": batch.lengths(),
            "text_of_sequence_0": f"{SENTENCE}  (first {len(text)} tokens)",
            "sequence_nll_sum": [float(nll.sum()) for nll in sequence_nll(logits, batch)],
            "loss": loss_summary(logits, batch, batch_loss(model, batch)),
            "greedy": decoded,
            "padding": padding(model, batch, logits),
            "float32_vs_float64_max_abs_logit_diff": largest_difference(
                logits, [exact.logits(weights, ids) for ids, _ in batch.rows()]
            ),
            "variants": variants,
            "gradient_summary": {
                "of": "loss.mean on the right-padded batch, all weights trainable",
                "parameters": gradient_summary(model, batch),
            },
        },
    )


def write_model(directory: Path, family: Family, source: torch.Generator) -> LlamaForCausalLM:
    """Writes a random model and returns it as read back."""
    model = LlamaForCausalLM(family.llama_config())
    random_weights(model, source)
    model.save_pretrained(directory)
    write_tokenizer(directory, family.tokenizer, family.special_tokens)
    return read_model(directory)


def read_model(directory: Path) -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    ).eval()


def legacy_config(config: dict) -> dict:
    """The configuration as transformers 4.40 spelt it, without what that version took for granted."""
    old = {name: value for name, value in config.items() if name not in ("dtype", "mlp_bias", "pad_token_id")}
    rope = dict(old.pop("rope_parameters"))
    old["rope_theta"] = rope.pop("rope_theta")
    old["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    if old["head_dim"] * old["num_attention_heads"] == old["hidden_size"]:
        del old["head_dim"]
    old["torch_dtype"] = config["dtype"]
    old["transformers_version"] = "4.40.0"
    return dict(sorted(old.items()))


def write_bf16(directory: Path, family: Family, model, legacy: dict, batch: Batch, variants: dict) -> Tensors:
    half = LlamaForCausalLM(model.config).to(torch.bfloat16)
    half.load_state_dict(model.state_dict())
    half.save_pretrained(directory)
    write_tokenizer(directory, family.tokenizer, family.special_tokens)
    write_json(directory / "config.json", legacy | {"torch_dtype": "bfloat16"})

    widened = read_model(directory)
    logits = sequence_logits(widened, batch)
    variants[directory.name] = {
        "weights": "bfloat16",
        "config": "legacy spelling",
        "logits": "bf16.logits.* : weights widened to float32, float32 arithmetic",
        "mean_loss_f32_arithmetic": batch_loss(widened, batch),
        "mean_loss_bf16_arithmetic": batch_loss(half.eval(), batch),
    }
    return sequence_tensors(logits, batch, "bf16.")


def write_sharded(directory: Path, family: Family, model, variants: dict) -> None:
    model.save_pretrained(directory, max_shard_size=family.shard_size)
    write_tokenizer(directory, family.tokenizer, family.special_tokens)
    shards = len(list(directory.glob("model-*-of-*.safetensors")))
    assert shards > 1, "the shard size leaves one file"
    variants[directory.name] = {"weights": "float32", "shards": shards, "logits": "identical to logits.*"}


@torch.no_grad()
def logits_of(model, ids: torch.Tensor) -> torch.Tensor:
    """`[T, V]` of one sequence without padding."""
    return model(input_ids=ids[None]).logits[0]


def sequence_logits(model, batch: Batch) -> list[torch.Tensor]:
    return [logits_of(model, ids) for ids, _ in batch.rows()]


def model_loss(model, batch: Batch) -> torch.Tensor:
    """The model's own loss of the padded batch."""
    return model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels).loss


@torch.no_grad()
def batch_loss(model, batch: Batch) -> float:
    return float(model_loss(model, batch))


@torch.no_grad()
def hidden_states(model, batch: Batch) -> Tensors:
    ids, _ = next(batch.rows())
    states = model(input_ids=ids[None], output_hidden_states=True).hidden_states
    return {f"hidden.0.{k}": state[0] for k, state in enumerate(states)}


@torch.no_grad()
def right_padding(model, batch: Batch, logits: list[torch.Tensor]) -> float:
    padded = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    return largest_difference([padded[b, :n] for b, n in enumerate(batch.lengths())], logits)


@torch.no_grad()
def padding(model, batch: Batch, logits: list[torch.Tensor]) -> dict:
    """Largest logit difference at real tokens that each way of padding makes."""
    width = batch.input_ids.shape[1]
    ids, mask = torch.full_like(batch.input_ids, model.config.pad_token_id), torch.zeros_like(batch.attention_mask)
    for b, (row, _) in enumerate(batch.rows()):
        ids[b, width - len(row) :] = row
        mask[b, width - len(row) :] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)

    def difference(**more) -> float:
        padded = model(input_ids=ids, attention_mask=mask, **more).logits
        return largest_difference([padded[b, width - n :] for b, n in enumerate(batch.lengths())], logits)

    return {
        "right_padded_max_abs_logit_diff": right_padding(model, batch, logits),
        "left_padded_max_abs_logit_diff_with_position_ids_from_mask": difference(position_ids=positions),
        "left_padded_max_abs_logit_diff_with_mask_only": difference(),
    }


def generated(model, prompt: list[int], steps: int) -> list[int]:
    """What the library's own greedy search appends."""
    settings, model.generation_config.eos_token_id = model.generation_config.eos_token_id, None
    ids = torch.tensor([prompt])
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=steps, do_sample=False, use_cache=True
    )
    model.generation_config.eos_token_id = settings
    return out[0, len(prompt) :].tolist()


def gradient_summary(model, batch: Batch) -> dict:
    model.zero_grad()
    model_loss(model, batch).backward()
    summary = {}
    for name, weight in model.named_parameters():
        flat = weight.grad.flatten()
        index = [0, len(flat) // 3, 2 * len(flat) // 3, len(flat) - 1]
        summary[name] = {
            "shape": list(weight.shape),
            "l2": float(flat.double().norm()),
            "sum": float(flat.double().sum()),
            "flat_index": index,
            "value": flat[index].tolist(),
        }
    model.zero_grad()
    return summary
