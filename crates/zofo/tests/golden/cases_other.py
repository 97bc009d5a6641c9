"""Cases of OPT, GPT-2, Mistral and Qwen, and of the ways to say which modules a LoRA is on."""

from pathlib import Path

from adapters import write_adapted
from byte_fallback import LLAMA2, llama2_tokenizer
from family import Family, write_family
from methods import Lora, Prefix, Prompt
from texts import GPT2, OPT, QWEN, gpt2_tokenizer, opt_tokenizer, qwen_tokenizer
from verify import verify_family

LENGTHS = [8, 14, 9]

LLAMA2_PARTS = {"bos_token": LLAMA2[1], "eos_token": LLAMA2[2], "unk_token": LLAMA2[0], "pad_token": LLAMA2[2]}
OPT_PARTS = {"bos_token": OPT[2], "eos_token": OPT[2], "unk_token": OPT[2], "pad_token": OPT[1]}
GPT2_PARTS = {"bos_token": GPT2, "eos_token": GPT2, "unk_token": GPT2}
QWEN_PARTS = {"eos_token": QWEN[2], "pad_token": QWEN[0]}

GATED = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def tiny_opt(directory: Path) -> None:
    config = {
        "vocab_size": 266,
        "hidden_size": 24,
        "word_embed_proj_dim": 24,
        "ffn_dim": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "max_position_embeddings": 64,
    }
    write_family(directory, Family(config, opt_tokenizer(266), OPT_PARTS, LENGTHS, 51, "OPTForCausalLM"))
    write_adapted(directory / "peft-lora", Lora(4, 8, ["q_proj", "v_proj"], seed=511, merged_weights=True))
    everything = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
    write_adapted(directory / "peft-lora-all", Lora(2, 3, everything, seed=512))
    write_adapted(directory / "peft-prefix", Prefix(4, seed=513))
    write_adapted(directory / "peft-prompt", Prompt(5, seed=514))
    verify_family(directory)


def tiny_gpt2(directory: Path) -> None:
    config = {"vocab_size": 264, "n_embd": 24, "n_inner": 40, "n_layer": 2, "n_head": 3, "n_positions": 48}
    write_family(directory, Family(config, gpt2_tokenizer(264), GPT2_PARTS, LENGTHS, 152, "GPT2LMHeadModel"))
    write_adapted(directory / "peft-lora", Lora(4, 8, ["c_attn"], seed=2521, merged_weights=True))
    write_adapted(directory / "peft-lora-all", Lora(2, 3, ["c_attn", "c_proj", "c_fc"], seed=522))
    write_adapted(directory / "peft-prefix", Prefix(4, seed=1523))
    write_adapted(directory / "peft-prompt", Prompt(5, seed=524))
    verify_family(directory)


def tiny_mistral(directory: Path) -> None:
    """A window of 7 tokens and wide heads; the prefix and the prompt move out of the window."""
    config = GATED | {
        "vocab_size": 320,
        "head_dim": 8,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        "sliding_window": 7,
    }
    write_family(directory, Family(config, llama2_tokenizer(320), LLAMA2_PARTS, LENGTHS, 53, "MistralForCausalLM"))
    write_adapted(directory / "peft-prefix", Prefix(4, seed=533))
    write_adapted(directory / "peft-prompt", Prompt(5, seed=534))
    verify_family(directory)


def tiny_qwen2(directory: Path) -> None:
    """Biases of q, k and v; adapters whose modules, ranks and scales are chosen in peft's other ways."""
    config = GATED | {
        "vocab_size": 268,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
        "tie_word_embeddings": True,
    }
    write_family(directory, Family(config, qwen_tokenizer(264), QWEN_PARTS, LENGTHS, 54, "Qwen2ForCausalLM"))
    qv = ["q_proj", "v_proj"]
    patterns = {
        "rank_pattern": {"v_proj": 5, r"layers\.1\.mlp\..*": 1},
        "alpha_pattern": {"layers.0.self_attn.q_proj": 7, "down_proj": 3},
    }
    for name, lora in {
        "rslora": Lora(4, 3, qv, seed=541, more={"use_rslora": True}),
        "patterns": Lora(3, 6, [*qv, "up_proj", "down_proj"], seed=542, more=patterns),
        "all-linear": Lora(2, 4, "all-linear", seed=543),
        "regex": Lora(3, 5, r"model\.layers\.\d\.(self_attn\.k|mlp\.gate)_proj", seed=1544),
        "one-layer": Lora(3, 5, qv, seed=545, more={"layers_to_transform": [1], "layers_pattern": "layers"}),
    }.items():
        write_adapted(directory / f"peft-lora-{name}", lora)
    write_adapted(directory / "peft-prefix-projection", Prefix(3, seed=546, hidden=5))
    verify_family(directory)


def tiny_qwen3(directory: Path) -> None:
    """Norms of every head's q and k; heads wider than `hidden_size / heads`."""
    config = GATED | {
        "vocab_size": 268,
        "head_dim": 8,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
        "tie_word_embeddings": True,
    }
    tokenizer = qwen_tokenizer(264)
    family = Family(config, tokenizer, QWEN_PARTS, LENGTHS, 55, "Qwen3ForCausalLM", tokenizer_cases=False)
    write_family(directory, family)
    verify_family(directory)


OTHER_CASES = {
    "tiny-opt": tiny_opt,
    "tiny-gpt2": tiny_gpt2,
    "tiny-mistral": tiny_mistral,
    "tiny-qwen2": tiny_qwen2,
    "tiny-qwen3": tiny_qwen3,
}
