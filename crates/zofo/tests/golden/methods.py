"""The kinds of adapter that the cases have: peft's settings, and in words what they make a model compute."""

from dataclasses import dataclass, field

from peft import LoraConfig, PeftConfig, PrefixTuningConfig, PromptTuningConfig

LORA_CONVENTION = (
    "effective weight of a linear layer [out, in]: W + (lora_alpha / r) * (lora_B @ lora_A), lora_A [r, in], "
    "lora_B [out, r]; no dropout; tensors are named base_model.model.<module path>.lora_A.weight and lora_B.weight"
)
VARIANT_CONVENTION = (
    "; r of a module is the number of rows of its lora_A; its lora_alpha is that of alpha_pattern, if a pattern "
    "matches the end of its path; use_rslora divides by sqrt(r) instead of r"
)
CONV1D_CONVENTION = "; GPT-2 stores weights [in, out] (fan_in_fan_out): the product is transposed before it is added"
PREFIX_CONVENTION = (
    "prompt_embeddings [num_virtual_tokens, num_layers * 2 * kv_heads * head_dim]: row v viewed as "
    "[num_layers, 2, kv_heads, head_dim] has for each layer the key (0) and the value (1) of virtual token v, which "
    "stand in front of those of the real tokens as they are; real token t has position num_virtual_tokens + t, and a "
    "sliding window counts virtual tokens as it counts others; logits and labels are those of real tokens"
)
PROMPT_CONVENTION = (
    "prompt_embeddings [num_virtual_tokens, width] stand in front of the word embeddings; Gemma's factor "
    "sqrt(hidden_size) is part of the word embedding, so they do not get it; real token t has position "
    "num_virtual_tokens + t; logits and labels are those of real tokens"
)


@dataclass
class Lora:
    r: int
    alpha: int
    modules: list[str] | str
    seed: int
    merged_weights: bool = False
    more: dict = field(default_factory=dict)
    """Further settings of `LoraConfig`."""

    std = 0.15
    sgd_rate = 0.01

    @property
    def scaling(self) -> float:
        return self.alpha / self.r

    def config(self, model) -> PeftConfig:
        return LoraConfig(
            task_type="CAUSAL_LM",
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=0.0,
            target_modules=self.modules,
            fan_in_fan_out=model.config.model_type == "gpt2",
            **self.more,
        )

    def described(self, model) -> dict:
        convention = LORA_CONVENTION
        if self.more:
            convention += VARIANT_CONVENTION
        if model.config.model_type == "gpt2":
            convention += CONV1D_CONVENTION
        numbers = {"r": self.r, "lora_alpha": self.alpha}
        return {"convention": convention} | numbers | ({} if self.more else {"scaling": self.scaling})


@dataclass
class Prefix:
    """`hidden` is the width of the network that projects the prefix while peft trains it, if one does."""

    virtual: int
    seed: int
    hidden: int | None = None

    # Gradients are small: keys and values reach the loss through attention alone.
    std = 0.8
    sgd_rate = 0.5

    def config(self, model) -> PeftConfig:
        projection = {} if self.hidden is None else {"prefix_projection": True, "encoder_hidden_size": self.hidden}
        return PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=self.virtual, **projection)

    def described(self, model) -> dict:
        return {
            "num_virtual_tokens": self.virtual,
            "position_of_first_real_token": self.virtual,
            "convention": PREFIX_CONVENTION,
        }


@dataclass
class Prompt:
    virtual: int
    seed: int

    std = 0.5
    sgd_rate = 0.02

    def config(self, model) -> PeftConfig:
        return PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=self.virtual)

    def described(self, model) -> dict:
        return {
            "num_virtual_tokens": self.virtual,
            "position_of_first_real_token": self.virtual,
            "convention": PROMPT_CONVENTION,
        }


Method = Lora | Prefix | Prompt
