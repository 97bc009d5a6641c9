"""A Llama forward pass written out in float64.

The transformers model cannot serve as a float64 reference: it computes norms, softmax and rotary angles in float32
whatever the type of its weights. This one is differentiable and shares no code with it, so it checks it as well.
"""

import math

import torch

from common import Batch, Tensors, mean_loss


class Llama:
    """The function from weights to logits that one `config.json`, in either spelling, describes."""

    def __init__(self, config: dict):
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        self.layers = config["num_hidden_layers"]
        self.heads = config["num_attention_heads"]
        self.kv_heads = config["num_key_value_heads"]
        self.head_dim = config.get("head_dim") or config["hidden_size"] // self.heads
        self.eps = config["rms_norm_eps"]
        self.tied = config["tie_word_embeddings"]
        theta = rope.get("rope_theta") or config["rope_theta"]
        # Rotary frequencies are part of the model, not of its arithmetic: transformers keeps them as float32 numbers.
        frequencies = 1.0 / theta ** (torch.arange(0, self.head_dim, 2).float() / self.head_dim)
        self.frequencies = torch.tensor([rescaled(f, rope) for f in frequencies.tolist()], dtype=torch.float64)

    def logits(self, weights: Tensors, ids: torch.Tensor, adapter: Tensors | None = None, scaling: float = 0.0):
        """`[T, V]` of one sequence; `adapter` is a LoRA under peft's names, added with factor `scaling`."""

        def weight(name: str) -> torch.Tensor:
            w = weights[f"{name}.weight"].double()
            lora = f"base_model.model.{name}.lora_"
            if adapter and f"{lora}A.weight" in adapter:
                w = w + scaling * adapter[f"{lora}B.weight"].double() @ adapter[f"{lora}A.weight"].double()
            return w

        embedding = weight("model.embed_tokens")
        x = embedding[ids]
        for layer in range(self.layers):
            at = f"model.layers.{layer}."
            y = self.norm(x, weight(at + "input_layernorm"))
            q, k, v = (y @ weight(f"{at}self_attn.{part}_proj").T for part in "qkv")
            x = x + self.attention(q, k, v) @ weight(at + "self_attn.o_proj").T
            y = self.norm(x, weight(at + "post_attention_layernorm"))
            gate = y @ weight(at + "mlp.gate_proj").T
            up = y @ weight(at + "mlp.up_proj").T
            x = x + (gate * gate.sigmoid() * up) @ weight(at + "mlp.down_proj").T
        x = self.norm(x, weight("model.norm"))
        return x @ (embedding if self.tied else weight("lm_head")).T

    def loss(self, weights: Tensors, adapter: Tensors | None, scaling: float, batch: Batch) -> torch.Tensor:
        """Mean NLL of all labelled tokens of the batch."""
        return mean_loss([self.logits(weights, ids, adapter, scaling) for ids, _ in batch.rows()], batch)

    def norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return weight * x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt()

    def attention(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        length = len(q)
        angles = torch.arange(length, dtype=torch.float64)[:, None] * self.frequencies
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
        group = self.heads // self.kv_heads
        out = []
        for head in range(self.heads):
            own = slice(head * self.head_dim, (head + 1) * self.head_dim)
            shared = slice(head // group * self.head_dim, (head // group + 1) * self.head_dim)
            scores = rotated(q[:, own], angles) @ rotated(k[:, shared], angles).T / math.sqrt(self.head_dim)
            out.append(scores.masked_fill(hidden, -math.inf).softmax(-1) @ v[:, shared])
        return torch.cat(out, -1)


def rotated(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Turns the pair (i, i + half) of every row by its angle."""
    first, second = x.chunk(2, -1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def rescaled(frequency: float, rope: dict) -> float:
    """Llama 3.1's scaling: long waves slowed by `factor`, short ones kept, a linear passage between them."""
    if rope.get("rope_type", "default") == "default":
        return frequency
    assert rope["rope_type"] == "llama3", rope
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    turns = rope["original_max_position_embeddings"] * frequency / (2 * math.pi)
    kept = min(1.0, max(0.0, (turns - low) / (high - low)))
    return frequency * (kept + (1 - kept) / rope["factor"])
