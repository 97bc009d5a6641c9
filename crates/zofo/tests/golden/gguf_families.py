"""GGUF files of other families than Llama, as llama.cpp's converter makes them of Hugging Face's folders.

Names of tensors are those of gguf-py's own table. What the converter does to values besides is in `stored`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFWriter, LlamaFileType, RopeScalingType, TokenType, get_tensor_name_map
from gguf import GGMLQuantizationType as Type
from gguf.quants import quantize
from transformers import AutoModelForCausalLM

from byte_fallback import BYTES, GEMMA, LLAMA2, PHI3, gemma_tokenizer, llama2_tokenizer
from cases_gemma_phi import GEMMA_PARTS, PHI3_PARTS
from cases_other import GPT2_PARTS, QWEN_PARTS
from common import (
    Batch,
    generator,
    greedy,
    largest_difference,
    random_ids,
    random_weights,
    save,
    sequence_nll,
    sequence_tensors,
    write_json,
)
from family import Family, logits_of, sequence_logits
from gguf_cases import finish, stored_values
from texts import SENTENCE, gpt2_tokenizer, learned, qwen_tokenizer, tokenizer_cases

KINDS = [Type.F16, Type.BF16, Type.Q8_0, Type.F32]
"""Matrices in turn; vectors are F32."""


@dataclass
class Conversion:
    """What the converter does with one family."""

    architecture: MODEL_ARCH
    model_keys: Callable[[GGUFWriter, object], None]
    tokenizer_keys: Callable[[GGUFWriter, Family], None]
    transposed: tuple[str, ...] = ()
    """Modules whose weights are `[in, out]`."""
    norm_shift: float = 0.0
    """Added to the weights of norms."""

    def stored(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        module, kind = name.rsplit(".", 1)
        if kind == "weight" and module.endswith(self.transposed):
            return weight.T.contiguous()
        return weight + self.norm_shift if name.endswith("norm.weight") else weight

    def original(self, name: str, stored: torch.Tensor) -> torch.Tensor:
        module, kind = name.rsplit(".", 1)
        if kind == "weight" and module.endswith(self.transposed):
            return stored.T.contiguous()
        return stored - self.norm_shift if name.endswith("norm.weight") else stored


def write_gguf_family(directory: Path, family: Family, conversion: Conversion, text_cases: bool) -> None:
    source = generator(family.seed)
    config = family.model_config()
    model = family.model_class()(config).eval()
    random_weights(model, source)
    name = MODEL_ARCH_NAMES[conversion.architecture]
    path = directory / f"tiny-{name}.gguf"
    path.parent.mkdir(parents=True, exist_ok=True)
    names = gguf_names(model, conversion)
    types = write_file(path, family, model, conversion, names)
    stored = stored_values(path)
    save(directory / "dequantized.safetensors", stored)
    with torch.no_grad():
        for theirs, weight in model.named_parameters():
            weight.copy_(conversion.original(theirs, stored[names[theirs]]))

    text = family.tokenizer.encode(SENTENCE).ids[: family.lengths[0]]
    rows = [text] + [random_ids(source, length, config.vocab_size) for length in family.lengths[1:]]
    batch = Batch.draw(rows, 0, source)
    logits = sequence_logits(model, batch)
    # Constants that transformers does not look for in these files are given to it.
    theirs = AutoModelForCausalLM.from_pretrained(
        directory, gguf_file=path.name, config=config, attn_implementation="eager"
    ).eval()
    difference = largest_difference(logits, sequence_logits(theirs, batch))
    print(f"  transformers' own reading: {difference:.1e}")
    assert difference < 1e-5, "transformers reads another model"
    tensors = batch.tensors() | sequence_tensors(logits, batch)
    del tensors["labels"]
    save(directory / "expected.safetensors", tensors)
    write_json(
        directory / "expected.json",
        {
            "file": path.name,
            "architecture": name,
            "lengths": batch.lengths(),
            "tensor_types": types,
            "greedy": greedy(lambda ids: logits_of(model, ids), rows[0][:6], 12),
            "sequence_nll_sum": [float(nll.sum()) for nll in sequence_nll(logits, batch)],
        },
    )
    if text_cases:
        cases = {"model_vocab_size": config.vocab_size, "cases": tokenizer_cases(family.tokenizer)}
        write_json(directory / "tokenizer_expected.json", cases)


def gguf_names(model, conversion: Conversion) -> dict[str, str]:
    table = get_tensor_name_map(conversion.architecture, model.config.num_hidden_layers)
    names = {name: table.get_name(name, try_suffixes=(".weight", ".bias")) for name, _ in model.named_parameters()}
    assert None not in names.values(), names
    return names


def write_file(path: Path, family: Family, model, conversion: Conversion, names: dict[str, str]) -> dict[str, str]:
    """Returns the type of every tensor."""
    config = model.config
    writer = GGUFWriter(path, MODEL_ARCH_NAMES[conversion.architecture])
    writer.add_name(path.stem)
    writer.add_type("model")
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(2)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    conversion.model_keys(writer, config)
    conversion.tokenizer_keys(writer, family)
    types = {}
    for name, weight in model.named_parameters():
        rows = conversion.stored(name, weight.detach())
        kind = Type.F32 if rows.dim() == 1 else KINDS[len(types) % len(KINDS)]
        writer.add_tensor(names[name], quantize(rows.numpy(), kind), raw_dtype=kind)
        types[names[name]] = kind.name
    for name, values in rope_factors(config).items():
        writer.add_tensor(name, numpy.array(values, dtype=numpy.float32))
        types[name] = Type.F32.name
    finish(writer)
    return types


def rope_factors(config) -> dict[str, list[float]]:
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "longrope":
        return {}
    return {"rope_factors_long.weight": rope["long_factor"], "rope_factors_short.weight": rope["short_factor"]}


def gpt2_keys(writer: GGUFWriter, config) -> None:
    writer.add_feed_forward_length(config.n_inner)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)


def gated_keys(writer: GGUFWriter, config) -> None:
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def qwen2_keys(writer: GGUFWriter, config) -> None:
    gated_keys(writer, config)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])


def qwen3_keys(writer: GGUFWriter, config) -> None:
    qwen2_keys(writer, config)
    head_lengths(writer, config)


def head_lengths(writer: GGUFWriter, config) -> None:
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)


def gemma2_keys(writer: GGUFWriter, config) -> None:
    gated_keys(writer, config)
    head_lengths(writer, config)
    writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    writer.add_final_logit_softcapping(config.final_logit_softcapping)
    writer.add_sliding_window(config.sliding_window)


def gemma3_keys(writer: GGUFWriter, config) -> None:
    gated_keys(writer, config)
    head_lengths(writer, config)
    whole = config.rope_parameters["full_attention"]
    writer.add_rope_freq_base(whole["rope_theta"])
    writer.add_rope_scaling_type(RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(whole["factor"])
    writer.add_sliding_window(config.sliding_window)


def phi3_keys(writer: GGUFWriter, config) -> None:
    gated_keys(writer, config)
    rope = config.rope_parameters
    writer.add_rope_scaling_orig_ctx_len(config.original_max_position_embeddings)
    head_dim = config.hidden_size // config.num_attention_heads
    writer.add_rope_dimension_count(int(head_dim * rope["partial_rotary_factor"]))
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_sliding_window(config.sliding_window or 0)
    scale = config.max_position_embeddings / config.original_max_position_embeddings
    factor = (1 + numpy.log(scale) / numpy.log(config.original_max_position_embeddings)) ** 0.5
    writer.add_rope_scaling_attn_factors(float(factor))


def byte_level(pre: str) -> Callable[[GGUFWriter, Family], None]:
    def keys(writer: GGUFWriter, family: Family) -> None:
        tokenizer = family.tokenizer
        added = tokenizer.get_added_tokens_decoder()
        vocab, merges = learned(tokenizer)
        tokens = {id: token for token, id in vocab.items()} | {id: token.content for id, token in added.items()}
        # As many tokens as the embedding has rows.
        rows = range(family.config["vocab_size"])
        kinds = [TokenType.CONTROL if id in added else TokenType.NORMAL if id in tokens else TokenType.UNUSED for id in rows]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list([tokens.get(id, f"[PAD{id}]") for id in rows])
        writer.add_token_types(kinds)
        writer.add_token_merges([" ".join(merge) for merge in merges])
        parts(writer, family)
        writer.add_add_bos_token(False)

    return keys


def sentence_piece(control: list[str], prefix: bool) -> Callable[[GGUFWriter, Family], None]:
    def keys(writer: GGUFWriter, family: Family) -> None:
        vocab = sorted(family.tokenizer.get_vocab().items(), key=lambda entry: entry[1])
        merges = json.loads(family.tokenizer.to_str())["model"]["merges"]
        ranks = {"".join(merge): -float(rank) for rank, merge in reversed(list(enumerate(merges)))}
        kinds = {token: TokenType.CONTROL for token in control} | {token: TokenType.BYTE for token in BYTES}
        kinds["<unk>"] = TokenType.UNKNOWN
        missing = range(len(vocab), family.config["vocab_size"])
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list([token for token, _ in vocab] + [f"[PAD{id}]" for id in missing])
        writer.add_token_scores([ranks.get(token, -1e4) for token, _ in vocab] + [-1e4] * len(missing))
        types = [kinds.get(token, TokenType.NORMAL) for token, _ in vocab]
        writer.add_token_types(types + [TokenType.UNUSED] * len(missing))
        parts(writer, family)
        writer.add_add_space_prefix(prefix)

    return keys


def parts(writer: GGUFWriter, family: Family) -> None:
    for part, add in {
        "bos_token": writer.add_bos_token_id,
        "eos_token": writer.add_eos_token_id,
        "unk_token": writer.add_unk_token_id,
        "pad_token": writer.add_pad_token_id,
    }.items():
        if part in family.special_tokens:
            add(family.tokenizer.token_to_id(family.special_tokens[part]))


LENGTHS = [11, 26, 17]
GATED = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
}


def gguf_gpt2(directory: Path) -> None:
    """Transposed matrices, learned positions, one matrix of q, k and v."""
    config = {"vocab_size": 264, "n_embd": 32, "n_inner": 96, "n_layer": 2, "n_head": 4, "n_positions": 48}
    family = Family(config, gpt2_tokenizer(264), GPT2_PARTS, LENGTHS, 71, "GPT2LMHeadModel")
    transposed = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    conversion = Conversion(MODEL_ARCH.GPT2, gpt2_keys, byte_level("gpt-2"), transposed)
    write_gguf_family(directory, family, conversion, text_cases=True)


def gguf_qwen2(directory: Path) -> None:
    """Biases, rows of q and k as they are, ids beyond the tokenizer's."""
    rope = {"rope_type": "default", "rope_theta": 1_000_000.0}
    config = GATED | {"vocab_size": 268, "rope_parameters": rope, "tie_word_embeddings": False}
    family = Family(config, qwen_tokenizer(264), QWEN_PARTS, LENGTHS, 72, "Qwen2ForCausalLM")
    conversion = Conversion(MODEL_ARCH.QWEN2, qwen2_keys, byte_level("qwen2"))
    write_gguf_family(directory, family, conversion, text_cases=True)


def gguf_qwen3(directory: Path) -> None:
    """Norms of q and k, heads wider than their share."""
    rope = {"rope_type": "default", "rope_theta": 1_000_000.0}
    config = GATED | {"vocab_size": 264, "head_dim": 16, "rope_parameters": rope, "tie_word_embeddings": True}
    family = Family(config, qwen_tokenizer(264), QWEN_PARTS, LENGTHS, 73, "Qwen3ForCausalLM")
    conversion = Conversion(MODEL_ARCH.QWEN3, qwen3_keys, byte_level("qwen2"))
    write_gguf_family(directory, family, conversion, text_cases=False)


def gguf_gemma2(directory: Path) -> None:
    """Norms one larger, caps, a window in the first layer, the usual factor of scores."""
    config = GATED | {
        "vocab_size": 324,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 4.0,
        "sliding_window": 6,
    }
    family = Family(config, gemma_tokenizer(322), GEMMA_PARTS, LENGTHS, 74, "Gemma2ForCausalLM")
    conversion = Conversion(MODEL_ARCH.GEMMA2, gemma2_keys, sentence_piece(GEMMA, False), norm_shift=1.0)
    write_gguf_family(directory, family, conversion, text_cases=False)


def gguf_gemma3(directory: Path) -> None:
    """Norms of q and k, one larger; five layers with a window, then one without, with another rotation."""
    rope = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        "full_attention": {"rope_type": "linear", "rope_theta": 1_000_000.0, "factor": 8.0},
    }
    config = GATED | {
        "vocab_size": 324,
        "num_hidden_layers": 6,
        "intermediate_size": 32,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "sliding_window": 6,
        "rope_parameters": rope,
    }
    family = Family(config, gemma_tokenizer(322), GEMMA_PARTS, LENGTHS, 75, "Gemma3ForCausalLM")
    conversion = Conversion(MODEL_ARCH.GEMMA3, gemma3_keys, sentence_piece(GEMMA, False), norm_shift=1.0)
    write_gguf_family(directory, family, conversion, text_cases=False)


def gguf_phi3(directory: Path) -> None:
    """Fused matrices; LongRoPE on three quarters of a head, its divisors in tensors, within and beyond 20 tokens."""
    config = GATED | {
        "vocab_size": 322,
        "max_position_embeddings": 80,
        "original_max_position_embeddings": 20,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10_000.0,
            "partial_rotary_factor": 0.75,
            "short_factor": [1.0, 1.2, 1.5],
            "long_factor": [1.1, 2.5, 4.0],
        },
    }
    family = Family(config, llama2_tokenizer(320, PHI3), PHI3_PARTS, [7, 20, 26], 176, "Phi3ForCausalLM")
    conversion = Conversion(MODEL_ARCH.PHI3, phi3_keys, sentence_piece([*LLAMA2, *PHI3], True))
    write_gguf_family(directory, family, conversion, text_cases=False)


GGUF_FAMILIES = {
    "gguf-gpt2": gguf_gpt2,
    "gguf-qwen2": gguf_qwen2,
    "gguf-qwen3": gguf_qwen3,
    "gguf-gemma2": gguf_gemma2,
    "gguf-gemma3": gguf_gemma3,
    "gguf-phi3": gguf_phi3,
}
