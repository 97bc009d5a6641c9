"""Cases of the Llama family."""

from pathlib import Path

from adapters import write_adapted
from family import Family, write_family
from methods import Lora, Prefix, Prompt
from texts import CHATML, LLAMA3, llama3_tokenizer, smollm_tokenizer
from verify import verify_family

ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

CHATML_PARTS = {"bos_token": CHATML[1], "eos_token": CHATML[2], "unk_token": CHATML[0], "pad_token": CHATML[2]}
LLAMA3_PARTS = {"bos_token": LLAMA3[0], "eos_token": LLAMA3[1], "pad_token": LLAMA3[3]}


def plain_rope(theta: float) -> dict:
    return {"rope_type": "default", "rope_theta": theta}


def tiny_gqa_tied(directory: Path) -> None:
    """Grouped heads, a tied head, three layers; every kind of adapter, LoRA on two and on all linear layers."""
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
    write_adapted(directory / "peft-lora", Lora(4, 8, ["q_proj", "v_proj"], seed=11, merged_weights=True))
    write_adapted(directory / "peft-lora-all", Lora(2, 3, ALL_LINEAR, seed=12))
    write_adapted(directory / "peft-prefix", Prefix(4, seed=13))
    write_adapted(directory / "peft-prompt", Prompt(6, seed=15))
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


def rope_case(rope: dict, max_positions: int, lengths: list[int], seed: int):
    def write(directory: Path) -> None:
        config = {
            "vocab_size": 264,
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "rms_norm_eps": 1e-5,
            "rope_parameters": rope,
            "max_position_embeddings": max_positions,
            "tie_word_embeddings": True,
        }
        tokenizer = smollm_tokenizer(264)
        write_family(directory, Family(config, tokenizer, CHATML_PARTS, lengths, seed, tokenizer_cases=False))
        verify_family(directory)

    return write


LINEAR = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 32}

LLAMA_CASES = {
    "tiny-gqa-tied": tiny_gqa_tied,
    "tiny-llama3-rope": tiny_llama3_rope,
    "tiny-rope-linear": rope_case(LINEAR, 128, [7, 29, 12], seed=241),
    # One sequence that ends within the context of pre-training and two that do not.
    "tiny-rope-dynamic": rope_case(DYNAMIC, 24, [8, 26, 33], seed=42),
    "tiny-rope-yarn": rope_case(YARN, 128, [8, 40, 12], seed=143),
}
