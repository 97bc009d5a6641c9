"""LoRA adapters on a family's model: logits, gradients, three steps of SGD and AdamW, and the merged weights."""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict

from common import (
    Batch,
    Tensors,
    generator,
    greedy,
    largest_difference,
    load,
    loss_summary,
    normal,
    read_json,
    save,
    sequence_tensors,
    write_json,
)
from family import batch_loss, generated, logits_of, model_loss, read_model, right_padding, sequence_logits
from reference import Llama

STEPS = 3
SGD = {"lr": 0.01}
ADAMW = {"lr": 0.001, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}

CONVENTION = (
    "effective weight of a linear layer [out, in]: W + (lora_alpha / r) * (lora_B @ lora_A), lora_A [r, in], "
    "lora_B [out, r]; no dropout; tensors are named base_model.model.<module path>.lora_A.weight and lora_B.weight"
)


@dataclass
class Lora:
    r: int
    alpha: int
    modules: list[str]
    seed: int
    merged_weights: bool = False

    @property
    def scaling(self) -> float:
        return self.alpha / self.r


def write_adapter(directory: Path, model_directory: Path, base_path: str, lora: Lora) -> None:
    """A random adapter, B included, as peft saves one."""
    config = LoraConfig(
        task_type="CAUSAL_LM", r=lora.r, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules=lora.modules
    )
    model = get_peft_model(read_model(model_directory), config)
    source = generator(lora.seed)
    with torch.no_grad():
        for _, weight in sorted(trainable(model).items()):
            weight.copy_(normal(source, weight.shape, 0.15))
    model.save_pretrained(directory)
    (directory / "README.md").unlink(missing_ok=True)
    # peft writes the modules as an unordered set and the base model as an absolute path.
    path = directory / "adapter_config.json"
    stored = read_json(path)
    stored |= {"target_modules": sorted(stored["target_modules"]), "base_model_name_or_path": base_path}
    write_json(path, dict(sorted(stored.items())))


def read_adapted(model_directory: Path, adapter_directory: Path) -> PeftModel:
    """The model with its adapter, only the latter trainable."""
    return PeftModel.from_pretrained(read_model(model_directory), adapter_directory, is_trainable=True).eval()


def trainable(model: PeftModel) -> Tensors:
    """The adapter's parameters under the names of `adapter_model.safetensors`."""
    return {name.replace(".default.", "."): weight for name, weight in model.named_parameters() if weight.requires_grad}


def write_lora(directory: Path, lora: Lora) -> None:
    """The case folder `directory`, beside the `model/` and the `expected.safetensors` of its family."""
    family = directory.parent
    adapter = directory / "adapter"
    write_adapter(adapter, family / "model", "../../model", lora)
    batch = Batch.load(load(family / "expected.safetensors"))
    base_logits = sequence_logits(read_model(family / "model"), batch)
    model = read_adapted(family / "model", adapter)
    assert largest_difference(get_peft_model_state_dict(model, save_embedding_layers=False), trainable(model)) == 0

    logits = sequence_logits(model, batch)
    merged = copy.deepcopy(model).merge_and_unload()
    merged_logits = sequence_logits(merged, batch)
    merged_names = sorted(
        name.removeprefix("base_model.model.").replace("lora_A.", "") for name in trainable(model) if "lora_A" in name
    )
    tensors = sequence_tensors(logits, batch)
    save(
        directory / "expected.safetensors", tensors | {f"merged_logits.{i}": row for i, row in enumerate(merged_logits)}
    )
    if lora.merged_weights:
        state = merged.state_dict()
        save(directory / "merged_weights.safetensors", {name: state[name] for name in merged_names})

    loss = batch_loss(model, batch)
    prompt = batch.input_ids[0, :6].tolist()
    decoded = greedy(lambda ids: logits_of(model, ids), prompt, 8)
    decoded["peft_generate_agrees"] = generated(model, prompt, 8) == decoded["new_ids"]
    assert decoded["peft_generate_agrees"]

    gradient = adapter_gradient(model, batch)
    after_sgd, sgd_losses = trained(family / "model", adapter, batch, torch.optim.SGD, SGD)
    after_adamw, adamw_losses = trained(family / "model", adapter, batch, torch.optim.AdamW, ADAMW)
    save(directory / "grads.safetensors", gradient)
    save(directory / "after_sgd.safetensors", after_sgd)
    save(directory / "after_adamw.safetensors", after_adamw)

    exact = ExactTraining(family / "model", adapter, lora.scaling, batch)
    exact_loss, exact_gradient = exact.loss_and_gradient(exact.start)
    differences = {
        "loss_abs_diff": abs(loss - float(exact_loss)),
        "grad_max_abs_diff": largest_difference(gradient, exact_gradient),
        "grad_max_abs": max(float(g.abs().max()) for g in exact_gradient.values()),
        "grad_min_abs": min(float(g.abs().min()) for g in exact_gradient.values()),
        "after_sgd_max_abs_diff": largest_difference(after_sgd, exact.after(torch.optim.SGD, SGD)),
        "after_adamw_max_abs_diff": largest_difference(after_adamw, exact.after(torch.optim.AdamW, ADAMW)),
    }
    # AdamW divides a gradient by its own size: one near zero would make its step a matter of rounding.
    assert differences["after_adamw_max_abs_diff"] < 1e-5, differences

    steps = {"steps": STEPS}
    write_json(
        directory / "expected.json",
        {
            "method": "LORA",
            "base_model": "../model",
            "batch": "input_ids, attention_mask, labels of ../expected.safetensors (right-padded)",
            "num_trainable": sum(weight.numel() for weight in trainable(model).values()),
            "max_abs_logit_change_due_to_adapter": largest_difference(logits, base_logits),
            "right_padded_max_abs_logit_diff": right_padding(model, batch, logits),
            "convention": CONVENTION,
            "r": lora.r,
            "lora_alpha": lora.alpha,
            "scaling": lora.scaling,
            "loss": loss_summary(logits, batch, loss),
            "greedy": decoded,
            "sgd": SGD | steps | {"losses_before_each_step_and_after": sgd_losses},
            "adamw": ADAMW | steps | {"losses_before_each_step_and_after": adamw_losses},
            "float32_vs_float64": differences,
            "merged_vs_unmerged_max_abs_logit_diff": largest_difference(merged_logits, logits),
            "merged_tensor_names": merged_names,
        },
    )


def adapter_gradient(model: PeftModel, batch: Batch) -> Tensors:
    weights = trainable(model)
    return dict(zip(weights, torch.autograd.grad(model_loss(model, batch), list(weights.values())), strict=True))


def trained(model_directory: Path, adapter: Path, batch: Batch, optimizer, settings) -> tuple[Tensors, list[float]]:
    """The adapter after `STEPS` steps on one batch, and the loss before each and after the last."""
    model = read_adapted(model_directory, adapter)
    step_by = optimizer(trainable(model).values(), **settings)
    losses = []
    for _ in range(STEPS):
        step_by.zero_grad()
        loss = model_loss(model, batch)
        loss.backward()
        step_by.step()
        losses.append(float(loss.detach()))
    return trainable(model), losses + [batch_loss(model, batch)]


class ExactTraining:
    """The same loss, gradient and steps in float64."""

    def __init__(self, model_directory: Path, adapter: Path, scaling: float, batch: Batch):
        self.llama = Llama(read_json(model_directory / "config.json"))
        self.weights = load(model_directory / "model.safetensors")
        stored = load(adapter / "adapter_model.safetensors")
        self.start = {name: weight.double().requires_grad_() for name, weight in stored.items()}
        self.scaling, self.batch = scaling, batch

    def loss_and_gradient(self, adapter: Tensors) -> tuple[torch.Tensor, Tensors]:
        loss = self.llama.loss(self.weights, adapter, self.scaling, self.batch)
        return loss.detach(), dict(zip(adapter, torch.autograd.grad(loss, list(adapter.values())), strict=True))

    def after(self, optimizer, settings: dict) -> Tensors:
        adapter = {name: weight.detach().clone().requires_grad_() for name, weight in self.start.items()}
        step_by = optimizer(adapter.values(), **settings)
        for _ in range(STEPS):
            for name, gradient in self.loss_and_gradient(adapter)[1].items():
                adapter[name].grad = gradient
            step_by.step()
        return adapter
