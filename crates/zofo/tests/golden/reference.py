"""Forward passes written out in float64, for every family of the cases.

The transformers models cannot serve as a float64 reference: they compute norms, softmax and rotary angles in float32
whatever the type of their weights. These are differentiable and share no code with them, so they check them as well.
"""

import math

import torch

from common import Batch, Tensors, mean_loss
from reference_block import NO_BLOCK, Block, Weights
from reference_rope import in_new_spelling, rotation


def decoder(config: dict) -> "Decoder":
    """The function from weights to logits that one `config.json`, in either spelling, describes."""
    config = in_new_spelling(config)
    return {"opt": Opt, "gpt2": Gpt2}.get(config["model_type"], Rotary)(config)


class Decoder:
    """What the families have in common."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    softcap: float | None = None
    windows: list[int | None]

    def logits(self, weights: Tensors, ids: torch.Tensor, block: Block = NO_BLOCK) -> torch.Tensor:
        """`[T, V]` of one sequence."""
        weight = Weights(weights, block)
        x = torch.cat([block.prompt(), self.embedded(weight, ids)]) if block.has_prompt else self.embedded(weight, ids)
        # Virtual tokens take the first positions, whether they are rows of x or of every layer's keys.
        x = self.hidden(weight, x, torch.arange(len(x)) + block.prefix_length, block)
        return self.head(weight, x[len(x) - len(ids) :])

    def loss(self, weights: Tensors, batch: Batch, block: Block = NO_BLOCK) -> torch.Tensor:
        """Mean NLL of all labelled tokens of the batch."""
        return mean_loss([self.logits(weights, ids, block) for ids, _ in batch.rows()], batch)

    def attention(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, block: Block) -> torch.Tensor:
        """`[T, heads · head_dim]` of q, k and v `[T, heads, head_dim]` with their positions in them."""
        if block.prefix_length:
            prefix = block.prefix().unflatten(-1, (self.layers, 2, self.kv_heads, self.head_dim))
            k, v = torch.cat([prefix[:, layer, 0], k]), torch.cat([prefix[:, layer, 1], v])
        places = torch.arange(len(k))
        distance = places[len(k) - len(q) :, None] - places
        hidden = distance < 0
        if self.windows[layer] is not None:
            hidden |= distance >= self.windows[layer]
        out = []
        for head in range(self.heads):
            shared = head // (self.heads // self.kv_heads)
            scores = q[:, head] @ k[:, shared].T * self.scale
            if self.softcap is not None:
                scores = self.softcap * (scores / self.softcap).tanh()
            out.append(scores.masked_fill(hidden, -math.inf).softmax(-1) @ v[:, shared])
        return torch.cat(out, -1)

    def in_heads(self, *projected: torch.Tensor) -> list[torch.Tensor]:
        return [x.unflatten(-1, (-1, self.head_dim)) for x in projected]

    def embedded(self, weight: Weights, ids: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def hidden(self, weight: Weights, x: torch.Tensor, positions: torch.Tensor, block: Block) -> torch.Tensor:
        raise NotImplementedError

    def head(self, weight: Weights, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class Rotary(Decoder):
    """Llama and its kin: rotary positions, root-mean-square norms, a gated MLP."""

    def __init__(self, config: dict):
        self.config, self.kind = config, config["model_type"]
        self.gemma = self.kind.startswith("gemma")
        self.layers = config["num_hidden_layers"]
        self.heads = config["num_attention_heads"]
        self.kv_heads = config["num_key_value_heads"]
        self.head_dim = config.get("head_dim") or config["hidden_size"] // self.heads
        self.scale = (config.get("query_pre_attn_scalar") or self.head_dim) ** -0.5
        # Gemma 3 has Gemma 2's key but no use for it.
        self.softcap = config["attn_logit_softcapping"] if self.kind == "gemma2" else None
        self.windows = [config["sliding_window"] if t == "sliding_attention" else None for t in config["layer_types"]]

    def embedded(self, weight, ids):
        return weight("model.embed_tokens")[ids] * (self.config["hidden_size"] ** 0.5 if self.gemma else 1.0)

    def hidden(self, weight, x, positions, block):
        for layer in range(self.layers):
            at = f"model.layers.{layer}."
            y = self.norm(x, weight(at + "input_layernorm"))
            q, k, v = self.projected(weight, at + "self_attn.", y)
            q, k = (rotation(self.config, layer, self.head_dim, positions)(x) for x in (q, k))
            y = self.attention(layer, q, k, v, block) @ weight(at + "self_attn.o_proj").T
            if self.gemma:
                x = x + self.norm(y, weight(at + "post_attention_layernorm"))
                y = self.gated(weight, at + "mlp.", self.norm(x, weight(at + "pre_feedforward_layernorm")))
                x = x + self.norm(y, weight(at + "post_feedforward_layernorm"))
            else:
                x = x + y
                x = x + self.gated(weight, at + "mlp.", self.norm(x, weight(at + "post_attention_layernorm")))
        return self.norm(x, weight("model.norm"))

    def projected(self, weight: Weights, at: str, y: torch.Tensor) -> list[torch.Tensor]:
        if self.kind == "phi3":
            sizes = [self.heads * self.head_dim] + 2 * [self.kv_heads * self.head_dim]
            return self.in_heads(*(y @ weight(at + "qkv_proj").T).split(sizes, -1))
        biased = self.kind == "qwen2"
        q, k, v = self.in_heads(*(linear(weight, f"{at}{part}_proj", y, biased) for part in "qkv"))
        if self.kind in ("qwen3", "gemma3_text"):
            q, k = self.norm(q, weight(at + "q_norm")), self.norm(k, weight(at + "k_norm"))
        return [q, k, v]

    def gated(self, weight: Weights, at: str, y: torch.Tensor) -> torch.Tensor:
        if self.kind == "phi3":
            gate, up = (y @ weight(at + "gate_up_proj").T).chunk(2, -1)
        else:
            gate, up = (y @ weight(f"{at}{part}_proj").T for part in ("gate", "up"))
        activated = gelu(gate) if self.gemma else gate * gate.sigmoid()
        return (activated * up) @ weight(at + "down_proj").T

    def norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        weight = 1.0 + weight if self.gemma else weight
        return weight * x / (x.square().mean(-1, keepdim=True) + self.config["rms_norm_eps"]).sqrt()

    def head(self, weight, x):
        logits = x @ weight("model.embed_tokens" if self.config["tie_word_embeddings"] else "lm_head").T
        cap = self.config.get("final_logit_softcapping")
        return logits if cap is None else cap * (logits / cap).tanh()


class Opt(Decoder):
    """Learned positions, layer norms before attention and MLP, biases."""

    def __init__(self, config: dict):
        assert config["do_layer_norm_before"] and config["word_embed_proj_dim"] == config["hidden_size"]
        self.layers = config["num_hidden_layers"]
        self.heads = self.kv_heads = config["num_attention_heads"]
        self.head_dim = config["hidden_size"] // self.heads
        self.scale, self.windows = self.head_dim**-0.5, [None] * self.layers

    def embedded(self, weight, ids):
        return weight("model.decoder.embed_tokens")[ids]

    def hidden(self, weight, x, positions, block):
        x = x + weight("model.decoder.embed_positions")[positions + 2]
        for layer in range(self.layers):
            at = f"model.decoder.layers.{layer}."
            y = layer_norm(weight, at + "self_attn_layer_norm", x)
            q, k, v = self.in_heads(*(linear(weight, f"{at}self_attn.{part}_proj", y) for part in "qkv"))
            x = x + linear(weight, at + "self_attn.out_proj", self.attention(layer, q, k, v, block))
            y = layer_norm(weight, at + "final_layer_norm", x)
            x = x + linear(weight, at + "fc2", linear(weight, at + "fc1", y).relu())
        return layer_norm(weight, "model.decoder.final_layer_norm", x)

    def head(self, weight, x):
        return x @ weight("model.decoder.embed_tokens").T


class Gpt2(Decoder):
    """Learned positions, layer norms before attention and MLP, weights stored the other way round."""

    def __init__(self, config: dict):
        self.layers, self.heads = config["n_layer"], config["n_head"]
        self.kv_heads, self.head_dim = self.heads, config["n_embd"] // self.heads
        self.scale, self.windows = self.head_dim**-0.5, [None] * self.layers

    def embedded(self, weight, ids):
        return weight("transformer.wte")[ids]

    def hidden(self, weight, x, positions, block):
        x = x + weight("transformer.wpe")[positions]
        for layer in range(self.layers):
            at = f"transformer.h.{layer}."
            y = conv1d(weight, at + "attn.c_attn", layer_norm(weight, at + "ln_1", x))
            y = self.attention(layer, *self.in_heads(*y.chunk(3, -1)), block)
            x = x + conv1d(weight, at + "attn.c_proj", y)
            y = gelu(conv1d(weight, at + "mlp.c_fc", layer_norm(weight, at + "ln_2", x)))
            x = x + conv1d(weight, at + "mlp.c_proj", y)
        return layer_norm(weight, "transformer.ln_f", x)

    def head(self, weight, x):
        return x @ weight("transformer.wte").T


def linear(weight: Weights, name: str, x: torch.Tensor, biased: bool = True) -> torch.Tensor:
    y = x @ weight(name).T
    return y + weight(name, "bias") if biased else y


def conv1d(weight: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return x @ weight(name) + weight(name, "bias")


def layer_norm(weight: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * weight(name) + weight(name, "bias")


def gelu(x: torch.Tensor) -> torch.Tensor:
    """GELU in its tanh form."""
    return 0.5 * x * (1.0 + (math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)).tanh())
