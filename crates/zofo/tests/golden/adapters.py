"""Adapters on a family's model: logits, gradients, three steps of SGD and AdamW, and merged weights of a LoRA."""

import copy
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict

from common import (
    Batch,
    Tensors,
    generator,
    largest_difference,
    load,
    loss_summary,
    normal,
    read_json,
    save,
    sequence_tensors,
    write_json,
)
from family import batch_loss, decoding, model_loss, padded_loss, read_model, right_padding, sequence_logits
from methods import Lora, Method, Prompt
from reference import decoder
from reference_block import Block

STEPS = 3
ADAMW = {"lr": 0.001, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}


def write_adapter(directory: Path, model_directory: Path, base_path: str, method: Method) -> None:
    """A random adapter, LoRA's B included, as peft saves one."""
    base = read_model(model_directory)
    model = get_peft_model(base, method.config(base))
    source = generator(method.seed)
    with torch.no_grad():
        for _, weight in sorted(trainable(model).items()):
            weight.copy_(normal(source, weight.shape, method.std))
    model.save_pretrained(directory)
    (directory / "README.md").unlink(missing_ok=True)
    # peft writes the modules as an unordered set and the base model as an absolute path.
    path = directory / "adapter_config.json"
    stored = read_json(path)
    if isinstance(stored.get("target_modules"), list):
        stored["target_modules"].sort()
    stored["base_model_name_or_path"] = base_path
    write_json(path, dict(sorted(stored.items())))


def read_adapted(model_directory: Path, adapter_directory: Path) -> PeftModel:
    """The model with its adapter, only the latter trainable."""
    model = read_model(model_directory)
    if PeftConfig.from_pretrained(adapter_directory).peft_type == "LORA":
        return PeftModel.from_pretrained(model, adapter_directory, is_trainable=True).eval()
    # peft has no way to go on with a prefix or prompt from a file, but uses the tensor as it is.
    adapted = PeftModel.from_pretrained(model, adapter_directory).eval()
    adapted.prompt_encoder.requires_grad_(True)
    return adapted


def trainable(model: PeftModel) -> Tensors:
    """The adapter's parameters under the names of `adapter_model.safetensors`."""
    names = {"prompt_encoder.default.embedding.weight": "prompt_embeddings"}
    return {
        names.get(name, name.replace(".default.", ".")): weight
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }


def write_adapted(directory: Path, method: Method) -> None:
    """The case folder `directory`, beside the `model/` and the `expected.safetensors` of its family."""
    family = directory.parent
    adapter = directory / "adapter"
    write_adapter(adapter, family / "model", "../../model", method)
    batch = Batch.load(load(family / "expected.safetensors"))
    base_logits = sequence_logits(read_model(family / "model"), batch)
    model = read_adapted(family / "model", adapter)
    assert largest_difference(get_peft_model_state_dict(model, save_embedding_layers=False), trainable(model)) == 0

    logits = sequence_logits(model, batch)
    tensors, merging = sequence_tensors(logits, batch), {}
    if isinstance(method, Lora):
        tensors |= merged(directory, method, model, batch, logits, merging)
    if isinstance(method, Prompt):
        tensors["virtual_logits"] = virtual_logits(model, batch, method.virtual)
    save(directory / "expected.safetensors", tensors)

    loss = batch_loss(model, batch)
    decoded = decoding(model, batch.input_ids[0, :6].tolist(), 8)
    decoded["peft_generate_agrees"] = decoded.pop("transformers_generate_agrees")
    sgd = {"lr": method.sgd_rate}
    gradient = adapter_gradient(model, batch)
    after_sgd, sgd_losses = trained(family / "model", adapter, batch, torch.optim.SGD, sgd)
    after_adamw, adamw_losses = trained(family / "model", adapter, batch, torch.optim.AdamW, ADAMW)
    save(directory / "grads.safetensors", gradient)
    save(directory / "after_sgd.safetensors", after_sgd)
    save(directory / "after_adamw.safetensors", after_adamw)

    exact = ExactTraining(family / "model", adapter, batch)
    exact_loss, exact_gradient = exact.loss_and_gradient(exact.start)
    differences = {
        "loss_abs_diff": abs(loss - float(exact_loss)),
        "grad_max_abs_diff": largest_difference(gradient, exact_gradient),
        "grad_max_abs": max(float(g.abs().max()) for g in exact_gradient.values()),
        "grad_min_abs": min(float(g.abs().min()) for g in exact_gradient.values()),
        "after_sgd_max_abs_diff": largest_difference(after_sgd, exact.after(torch.optim.SGD, sgd)),
        "after_adamw_max_abs_diff": largest_difference(after_adamw, exact.after(torch.optim.AdamW, ADAMW)),
    }
    # AdamW divides a gradient by its own size: one near zero would make its step a matter of rounding.
    assert differences["after_adamw_max_abs_diff"] < 1e-5, differences
    assert differences["grad_max_abs_diff"] < 5e-6 and differences["after_sgd_max_abs_diff"] < 5e-6, differences

    steps = {"steps": STEPS}
    write_json(
        directory / "expected.json",
        {
            "method": read_json(adapter / "adapter_config.json")["peft_type"],
            "base_model": "../model",
            "batch": "input_ids, attention_mask, labels of ../expected.safetensors (right-padded)",
            "num_trainable": sum(weight.numel() for weight in trainable(model).values()),
            "max_abs_logit_change_due_to_adapter": largest_difference(logits, base_logits),
            "right_padded_max_abs_logit_diff": right_padding(model, batch, logits),
            **method.described(model),
            **first_label(model, batch, method),
            "loss": loss_summary(logits, batch, loss),
            "greedy": decoded,
            "sgd": sgd | steps | {"losses_before_each_step_and_after": sgd_losses},
            "adamw": ADAMW | steps | {"losses_before_each_step_and_after": adamw_losses},
            "float32_vs_float64": differences,
            **merging,
        },
    )


def merged(
    directory: Path, lora: Lora, model: PeftModel, batch: Batch, logits: list[torch.Tensor], summary: dict
) -> Tensors:
    """Logits with the adapter added to the weights; the changed weights go to a file of their own."""
    merged = copy.deepcopy(model).merge_and_unload()
    merged_logits = sequence_logits(merged, batch)
    names = sorted(
        name.removeprefix("base_model.model.").replace("lora_A.", "") for name in trainable(model) if "lora_A" in name
    )
    if lora.merged_weights:
        state = merged.state_dict()
        save(directory / "merged_weights.safetensors", {name: state[name] for name in names})
    summary["merged_vs_unmerged_max_abs_logit_diff"] = largest_difference(merged_logits, logits)
    summary["merged_tensor_names"] = names
    return {f"merged_logits.{i}": row for i, row in enumerate(merged_logits)}


@torch.no_grad()
def virtual_logits(model: PeftModel, batch: Batch, virtual: int) -> torch.Tensor:
    """`[n, V]`: sequence 0's at the virtual tokens."""
    ids, _ = next(batch.rows())
    return model(input_ids=ids[None]).logits[0, :virtual]


@torch.no_grad()
def first_label(model: PeftModel, batch: Batch, method: Method) -> dict:
    """With a prompt in front the first real token has a prediction too; no other method counts one there."""
    if not isinstance(method, Prompt):
        return {}
    counted = Batch(batch.input_ids, batch.attention_mask, batch.labels.clone())
    counted.labels[:, 0] = counted.input_ids[:, 0]
    return {"loss_when_first_label_counts": float(padded_loss(model, counted))}


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

    def __init__(self, model_directory: Path, adapter: Path, batch: Batch):
        self.decoder = decoder(read_json(model_directory / "config.json"))
        self.weights = load(model_directory / "model.safetensors")
        self.config = read_json(adapter / "adapter_config.json")
        stored = load(adapter / "adapter_model.safetensors")
        self.start = {name: weight.double().requires_grad_() for name, weight in stored.items()}
        self.batch = batch

    def loss_and_gradient(self, adapter: Tensors) -> tuple[torch.Tensor, Tensors]:
        loss = self.decoder.loss(self.weights, self.batch, Block(self.config, adapter))
        return loss.detach(), dict(zip(adapter, torch.autograd.grad(loss, list(adapter.values())), strict=True))

    def after(self, optimizer, settings: dict) -> Tensors:
        adapter = {name: weight.detach().clone().requires_grad_() for name, weight in self.start.items()}
        step_by = optimizer(adapter.values(), **settings)
        for _ in range(STEPS):
            for name, gradient in self.loss_and_gradient(adapter)[1].items():
                adapter[name].grad = gradient
            step_by.step()
        return adapter
