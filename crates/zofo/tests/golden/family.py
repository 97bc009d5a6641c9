"""A model with its reference logits, losses, gradients and greedy decoding: one case folder of a model family."""

from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from common import (
    Batch,
    Tensors,
    generator,
    greedy,
    largest_difference,
    load,
    loss_summary,
    mean_loss,
    random_ids,
    random_weights,
    read_json,
    save,
    sequence_nll,
    sequence_tensors,
    write_json,
)
from legacy import legacy_config
from reference import decoder
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
    architecture: str = "LlamaForCausalLM"
    bf16: bool = False
    shard_size: str | None = None
    tokenizer_cases: bool = True
    greedy_across: int | None = None
    """A length of the prompt from which greedy decoding passes the end of the original context."""

    def model_config(self) -> PreTrainedConfig:
        tokens = {
            f"{part}_token_id": self.tokenizer.token_to_id(self.special_tokens[f"{part}_token"])
            for part in ("bos", "eos", "pad")
            if f"{part}_token" in self.special_tokens
        }
        limit = {} if "n_positions" in self.config else {"max_position_embeddings": 128}
        return self.model_class().config_class(**tokens, **limit | self.config, attn_implementation="eager")

    def model_class(self) -> type[PreTrainedModel]:
        return getattr(transformers, self.architecture)


def write_family(directory: Path, family: Family) -> None:
    source = generator(family.seed)
    model = write_model(directory / "model", family, source)
    legacy = legacy_config(read_json(directory / "model/config.json"))
    write_json(directory / "config_legacy.json", legacy)
    if family.tokenizer_cases:
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
    batch = Batch.draw(rows, padding_id(model), source)
    logits = sequence_logits(model, batch)
    assert largest_difference(sequence_logits(with_config(model, legacy), batch), logits) == 0, "config_legacy.json"
    tensors = batch.tensors() | sequence_tensors(logits, batch) | hidden_states(model, batch)
    variants = {}
    if family.bf16:
        tensors |= write_bf16(directory / "model-bf16", family, model, legacy, batch, variants)
    if family.shard_size:
        write_sharded(directory / "model-sharded", family, model, variants)
    save(directory / "expected.safetensors", tensors)

    exact = decoder(read_json(directory / "model/config.json"))
    weights = load(directory / "model/model.safetensors")
    prompts = {"greedy": rows[0][:6]}
    if family.greedy_across:
        prompts["greedy_across"] = rows[-1][: family.greedy_across]
    decoded = {name: decoding(model, prompt) for name, prompt in prompts.items()}
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
            **decoded,
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


def write_model(directory: Path, family: Family, source: torch.Generator) -> PreTrainedModel:
    """Writes a random model and returns it as read back."""
    model = family.model_class()(family.model_config())
    random_weights(model, source)
    model.save_pretrained(directory)
    write_tokenizer(directory, family.tokenizer, family.special_tokens)
    return read_model(directory)


def read_model(directory: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    ).eval()


def with_config(model: PreTrainedModel, config: dict) -> PreTrainedModel:
    """The same weights under another spelling of the configuration."""
    other = type(model)(type(model.config)(**config, attn_implementation="eager"))
    other.load_state_dict(model.state_dict())
    return other.eval()


def padding_id(model: PreTrainedModel) -> int:
    """GPT-2 has no token for padding."""
    return model.config.eos_token_id if model.config.pad_token_id is None else model.config.pad_token_id


def write_bf16(directory: Path, family: Family, model, legacy: dict, batch: Batch, variants: dict) -> Tensors:
    half = type(model)(model.config).to(torch.bfloat16)
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


def logits_of(model, ids: torch.Tensor) -> torch.Tensor:
    """`[T, V]` of one sequence without padding."""
    with torch.no_grad():
        return own_logits(model, ids)


def own_logits(model, ids: torch.Tensor) -> torch.Tensor:
    """The logits at the sequence's own tokens: prompt tuning has others in front."""
    return model(input_ids=ids[None]).logits[0, -len(ids) :]


def sequence_logits(model, batch: Batch) -> list[torch.Tensor]:
    return [logits_of(model, ids) for ids, _ in batch.rows()]


def model_loss(model, batch: Batch) -> torch.Tensor:
    """The mean loss: as the model computes it of the padded batch, if every row is what it is alone."""
    rope = getattr(model.config, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("dynamic", "longrope"):
        # The longest row would decide how all are rotated.
        return mean_loss([own_logits(model, ids) for ids, _ in batch.rows()], batch)
    return padded_loss(model, batch)


def padded_loss(model, batch: Batch) -> torch.Tensor:
    return model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels).loss


@torch.no_grad()
def batch_loss(model, batch: Batch) -> float:
    return float(padded_loss(model, batch))


def decoding(model, prompt: list[int], steps: int = 12) -> dict:
    """Greedy decoding, and whether the library's own agrees, cache and all."""
    decoded = greedy(lambda ids: logits_of(model, ids), prompt, steps)
    agrees = generated(model, prompt, steps) == decoded["new_ids"]
    assert agrees, (decoded, generated(model, prompt, steps))
    return decoded | {"transformers_generate_agrees": agrees}


@torch.no_grad()
def hidden_states(model, batch: Batch) -> Tensors:
    ids, _ = next(batch.rows())
    states = model(input_ids=ids[None], output_hidden_states=True).hidden_states
    return {f"hidden.0.{k}": state[0] for k, state in enumerate(states)}


@torch.no_grad()
def right_padding(model, batch: Batch, logits: list[torch.Tensor]) -> float:
    padded = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    width = batch.input_ids.shape[1]
    return largest_difference([padded[b, -width:][:n] for b, n in enumerate(batch.lengths())], logits)


@torch.no_grad()
def padding(model, batch: Batch, logits: list[torch.Tensor]) -> dict:
    """Largest logit difference at real tokens that each way of padding makes."""
    width = batch.input_ids.shape[1]
    ids, mask = torch.full_like(batch.input_ids, padding_id(model)), torch.zeros_like(batch.attention_mask)
    for b, (row, _) in enumerate(batch.rows()):
        ids[b, width - len(row) :] = row
        mask[b, width - len(row) :] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)

    def difference(**more) -> float:
        padded = model(input_ids=ids, attention_mask=mask, **more).logits
        return largest_difference([padded[b, -n:] for b, n in enumerate(batch.lengths())], logits)

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
    # A padding token inside a text is a token like any other, whose gradient PyTorch would leave out.
    model.get_input_embeddings().padding_idx = None
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
