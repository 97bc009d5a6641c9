"""Cases of Gemma 2, Gemma 3 and Phi-3."""

from pathlib import Path

from adapters import write_adapted
from byte_fallback import GEMMA, LLAMA2, PHI3, gemma_tokenizer, llama2_tokenizer
from family import Family, write_family
from methods import Lora, Prefix, Prompt
from verify import verify_family

LENGTHS = [8, 15, 9]

GEMMA_PARTS = {"bos_token": GEMMA[2], "eos_token": GEMMA[1], "unk_token": GEMMA[3], "pad_token": GEMMA[0]}
PHI3_PARTS = {"bos_token": LLAMA2[1], "eos_token": PHI3[0], "unk_token": LLAMA2[0], "pad_token": PHI3[0]}

SIZES = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
}


def tiny_gemma2(directory: Path) -> None:
    """Caps low enough to bend attention and logits; a window of 6 tokens in the first layer, none in the second."""
    config = SIZES | {
        "vocab_size": 324,
        "head_dim": 8,
        "query_pre_attn_scalar": 12,
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 4.0,
        "sliding_window": 6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    }
    write_family(directory, Family(config, gemma_tokenizer(322), GEMMA_PARTS, LENGTHS, 61, "Gemma2ForCausalLM"))
    write_adapted(directory / "peft-lora", Lora(4, 8, ["q_proj", "v_proj"], seed=611, merged_weights=True))
    everything = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    write_adapted(directory / "peft-lora-all", Lora(2, 3, everything, seed=612))
    write_adapted(directory / "peft-prefix", Prefix(4, seed=613))
    write_adapted(directory / "peft-prompt", Prompt(5, seed=614))
    verify_family(directory)


def tiny_gemma3(directory: Path) -> None:
    """Norms of q and k; two layers with a window and a rotation of their own, then one with scaled rotation."""
    config = SIZES | {
        "vocab_size": 324,
        "num_hidden_layers": 3,
        "head_dim": 8,
        "query_pre_attn_scalar": 12,
        "sliding_window": 6,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            "full_attention": {"rope_type": "linear", "rope_theta": 1_000_000.0, "factor": 8.0},
        },
    }
    write_family(directory, Family(config, gemma_tokenizer(322), GEMMA_PARTS, LENGTHS, 62, "Gemma3ForCausalLM"))
    write_adapted(directory / "peft-prefix", Prefix(7, seed=623))
    write_adapted(directory / "peft-prompt", Prompt(5, seed=624))
    verify_family(directory)


def tiny_phi3(directory: Path) -> None:
    """q, k and v in one matrix, gate and up in another; a window of 7 tokens; an untied head."""
    config = SIZES | {
        "vocab_size": 322,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        "sliding_window": 7,
    }
    write_family(directory, Family(config, llama2_tokenizer(320, PHI3), PHI3_PARTS, LENGTHS, 163, "Phi3ForCausalLM"))
    write_adapted(directory / "peft-lora", Lora(4, 8, ["qkv_proj"], seed=631, merged_weights=True))
    everything = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
    write_adapted(directory / "peft-lora-all", Lora(2, 3, everything, seed=1632))
    write_adapted(directory / "peft-prefix", Prefix(4, seed=633))
    write_adapted(directory / "peft-prompt", Prompt(5, seed=634))
    verify_family(directory)


def tiny_phi3_longrope(directory: Path) -> None:
    """Three quarters of a head are rotated, by one list of factors up to 20 tokens and by another beyond; tied head."""
    config = SIZES | {
        "vocab_size": 322,
        "hidden_size": 32,
        "max_position_embeddings": 80,
        "original_max_position_embeddings": 20,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10_000.0,
            "partial_rotary_factor": 0.75,
            "short_factor": [1.0, 1.2, 1.5],
            "long_factor": [1.1, 2.5, 4.0],
        },
        "tie_word_embeddings": True,
    }
    family = Family(
        config, llama2_tokenizer(320, PHI3), PHI3_PARTS, [7, 20, 26], 64, "Phi3ForCausalLM", greedy_across=14
    )
    write_family(directory, family)
    verify_family(directory)


GEMMA_PHI_CASES = {
    "tiny-gemma2": tiny_gemma2,
    "tiny-gemma3": tiny_gemma3,
    "tiny-phi3": tiny_phi3,
    "tiny-phi3-longrope": tiny_phi3_longrope,
}
