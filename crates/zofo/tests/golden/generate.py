#!/usr/bin/env python3
"""Writes the golden cases of this folder. See README.md."""

import argparse
import shutil
import sys
from pathlib import Path

sys.dont_write_bytecode = True

import torch

from adapters import Lora, write_lora
from bilevel import write_bilevel
from family import Family, write_family
from gguf_cases import IQ4_BLOCKS, K_BLOCKS, write_blocks, write_gguf_llama
from sentencepiece_cases import write_gemma_like, write_llama_like
from texts import CHATML, LLAMA3, llama3_tokenizer, smollm_tokenizer
from verify import verify_bilevel, verify_family, verify_gguf

ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

CHATML_PARTS = {"bos_token": CHATML[1], "eos_token": CHATML[2], "unk_token": CHATML[0], "pad_token": CHATML[2]}
LLAMA3_PARTS = {"bos_token": LLAMA3[0], "eos_token": LLAMA3[1], "pad_token": LLAMA3[3]}


def plain_rope(theta: float) -> dict:
    return {"rope_type": "default", "rope_theta": theta}


def tiny_gqa_tied(directory: Path) -> None:
    """Grouped heads, a tied head, three layers; LoRA on two and on all linear layers."""
    config = {
        "vocab_size": 280,
        "hidden_size": 32,
        "intermediate_size": 56,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "rope_parameters": plain_rope(100_000.0),
        "tie_word_embeddings": True,
    }
    tokenizer = smollm_tokenizer(280)
    family = Family(config, tokenizer, CHATML_PARTS, [11, 31, 18], seed=2, bf16=True, shard_size="48KB")
    write_family(directory, family)
    write_lora(directory / "peft-lora", Lora(4, 8, ["q_proj", "v_proj"], seed=11, merged_weights=True))
    write_lora(directory / "peft-lora-all", Lora(2, 3, ALL_LINEAR, seed=12))
    verify_family(directory)


def tiny_llama3_rope(directory: Path) -> None:
    """Scaled rotary frequencies, an untied head, one group of wide heads, ids beyond the tokenizer's."""
    config = {
        "vocab_size": 276,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 12,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 50_000.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
        "tie_word_embeddings": False,
    }
    write_family(directory, Family(config, llama3_tokenizer(272), LLAMA3_PARTS, [14, 93, 37], seed=7))
    verify_family(directory)


def bilevel_tiny(directory: Path) -> None:
    config = {
        "vocab_size": 264,
        "hidden_size": 20,
        "intermediate_size": 36,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-5,
        "rope_parameters": plain_rope(10_000.0),
        "tie_word_embeddings": True,
    }
    family = Family(config, smollm_tokenizer(264), CHATML_PARTS, [], seed=3)
    write_bilevel(directory, family, Lora(3, 6, ["q_proj", "v_proj"], seed=31))
    verify_bilevel(directory)


def gguf_tiny(directory: Path) -> None:
    config = {
        "vocab_size": 272,
        "hidden_size": 32,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "rope_parameters": plain_rope(50_000.0),
        "tie_word_embeddings": True,
    }
    write_gguf_llama(directory, Family(config, smollm_tokenizer(272), CHATML_PARTS, [13, 29, 21], seed=4))
    verify_gguf(directory, config)


def gguf_k_types(directory: Path) -> None:
    write_blocks(directory / "k-types.gguf", K_BLOCKS, seed=5)


def gguf_iq4_types(directory: Path) -> None:
    write_blocks(directory / "iq4-types.gguf", IQ4_BLOCKS, seed=6)


CASES = {
    "tiny-gqa-tied": tiny_gqa_tied,
    "tiny-llama3-rope": tiny_llama3_rope,
    "bilevel-tiny": bilevel_tiny,
    "gguf-tiny": gguf_tiny,
    "gguf-k-types": gguf_k_types,
    "gguf-iq4-types": gguf_iq4_types,
    "gguf-sentencepiece": write_llama_like,
    "gguf-sentencepiece-gemma": write_gemma_like,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="folder of the case folders")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; all without any")
    arguments = parser.parse_args()
    if unknown := set(arguments.cases) - CASES.keys():
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    # One thread: the order of summation, and with it the last digits, stays the same.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name in arguments.cases or CASES:
        print(name)
        directory = arguments.out / name
        if directory.exists():
            shutil.rmtree(directory)
        CASES[name](directory)


if __name__ == "__main__":
    main()
