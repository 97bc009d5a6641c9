#!/usr/bin/env python3
"""Writes the golden cases of this folder. See README.md."""

import argparse
import shutil
import sys
from pathlib import Path

sys.dont_write_bytecode = True

import torch

from bilevel import write_bilevel
from cases_gemma_phi import GEMMA_PHI_CASES
from cases_llama import CHATML_PARTS, LLAMA_CASES, plain_rope
from cases_other import OTHER_CASES
from chat_cases import write_chats
from family import Family
from gguf_cases import IQ4_BLOCKS, K_BLOCKS, write_blocks, write_gguf_llama
from gguf_families import GGUF_FAMILIES
from methods import Lora
from pytorch_cases import write_pytorch
from sentencepiece_cases import write_gemma_like, write_llama_like
from texts import smollm_tokenizer
from verify import verify_bilevel, verify_gguf


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


def pytorch_bin(directory: Path) -> None:
    write_pytorch(directory, seed=6)


def chat_templates(directory: Path) -> None:
    write_chats(directory, Path(__file__).resolve().parent / "templates")


CASES = {
    **LLAMA_CASES,
    **OTHER_CASES,
    **GEMMA_PHI_CASES,
    "bilevel-tiny": bilevel_tiny,
    "gguf-tiny": gguf_tiny,
    "gguf-k-types": gguf_k_types,
    "chat-templates": chat_templates,
    "gguf-iq4-types": gguf_iq4_types,
    **GGUF_FAMILIES,
    "gguf-sentencepiece": write_llama_like,
    "gguf-sentencepiece-gemma": write_gemma_like,
    "pytorch-bin": pytorch_bin,
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
