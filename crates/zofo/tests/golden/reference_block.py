"""Adapters of peft in float64, as `reference.py` uses them."""

import re

import torch

from common import Tensors


class Block:
    """One adapter: what its `adapter_config.json` says about its tensors."""

    def __init__(self, config: dict, tensors: Tensors):
        self.config, self.tensors = config, tensors
        self.has_prompt = config.get("peft_type") == "PROMPT_TUNING"
        self.has_prefix = config.get("peft_type") == "PREFIX_TUNING"

    @property
    def prefix_length(self) -> int:
        return self.config["num_virtual_tokens"] if self.has_prefix else 0

    def prompt(self) -> torch.Tensor:
        """`[n, width]`: rows in front of the embeddings, which nothing scales."""
        return self.tensors["prompt_embeddings"].double()

    def prefix(self) -> torch.Tensor:
        """`[n, layers · 2 · kv_heads · head_dim]`: keys (0) and values (1) in front of those of every layer."""
        return self.tensors["prompt_embeddings"].double()

    def added(self, module: str) -> torch.Tensor | None:
        """`[out, in]`: what LoRA adds to the weight of `module`."""
        a, b = (self.tensors.get(f"base_model.model.{module}.lora_{half}.weight") for half in "AB")
        return None if a is None else self.scale(module, len(a)) * b.double() @ a.double()

    def scale(self, module: str, rank: int) -> float:
        """`alpha_pattern` may give the module an alpha of its own; its rank is that of its matrices."""
        alphas = (
            alpha
            for pattern, alpha in self.config["alpha_pattern"].items()
            if re.match(rf"(.*\.)?({pattern})$", module)
        )
        return next(alphas, self.config["lora_alpha"]) / (rank**0.5 if self.config["use_rslora"] else rank)


NO_BLOCK = Block({}, {})


class Weights:
    """A model's weights in float64, with a LoRA added."""

    def __init__(self, stored: Tensors, block: Block):
        self.stored, self.block = stored, block

    def __call__(self, module: str, kind: str = "weight") -> torch.Tensor:
        weight = self.stored[f"{module}.{kind}"].double()
        added = self.block.added(module) if kind == "weight" else None
        if added is None:
            return weight
        # Of GPT-2's linear layers the weight is stored `[in, out]`.
        return weight + (added.T if ".c_" in module else added)
