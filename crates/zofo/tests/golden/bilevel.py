"""The bilevel objective G = F(θ, p; B_f) + λ (F(θ, p; B_p) − F(θ, s; B_p)) on a small Llama, in float64."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from adapters import read_adapted, trainable, write_adapter
from common import Batch, Tensors, generator, load, norm, normal, random_ids, read_json, save, write_json
from family import Family, batch_loss, write_model
from methods import Lora
from reference import decoder
from reference_block import Block

LAMBDA = 100.0
LARGE_LAMBDA = 10_000.0
EPS = 1e-3
RATES = {"lr_theta": 1e-7, "lr_p": 1e-4, "lr_s": 1e-2}
TRAJECTORY_RATES = {"lr_theta": 1e-6, "lr_p": 2e-5, "lr_s": 5e-2}
OUTER_STEPS = 2
INNER_STEPS = 2


@dataclass
class Losses:
    """a, b and c, whose weighted sum is G."""

    F_p_f: torch.Tensor
    F_p_p: torch.Tensor
    F_s_p: torch.Tensor

    def g(self, penalty: float = LAMBDA) -> torch.Tensor:
        return self.F_p_f + penalty * (self.F_p_p - self.F_s_p)

    def numbers(self) -> dict:
        return {name: float(value.detach()) for name, value in vars(self).items()}

    def with_g(self) -> dict:
        return self.numbers() | {"G": float(self.g().detach())}


@dataclass
class Point:
    """(θ, p, s)."""

    theta: Tensors
    p: Tensors
    s: Tensors


class Problem:
    """Losses of one model's shape as functions of every tensor, in float64."""

    def __init__(self, config: dict, adapter_config: dict):
        self.decoder = decoder(config)
        self.adapter_config = adapter_config

    def loss(self, theta: Tensors, adapter: Tensors, batch: Batch) -> torch.Tensor:
        return self.decoder.loss(theta, batch, Block(self.adapter_config, adapter))

    def losses(self, at: Point, f: Batch, p: Batch) -> Losses:
        return Losses(self.loss(at.theta, at.p, f), self.loss(at.theta, at.p, p), self.loss(at.theta, at.s, p))

    def slope(self, at: Point, z: Tensors, f: Batch, p: Batch, eps: float = EPS) -> "Slope":
        with torch.no_grad():
            plus = self.losses(replace(at, theta=moved(at.theta, eps, z)), f, p)
            minus = self.losses(replace(at, theta=moved(at.theta, -eps, z)), f, p)
        return Slope(plus, minus, eps)


@dataclass
class Slope:
    """G on both sides of θ along a direction."""

    plus: Losses
    minus: Losses
    eps: float

    def value(self, penalty: float = LAMBDA) -> float:
        return float(self.plus.g(penalty) - self.minus.g(penalty)) / (2 * self.eps)


def moved(tensors: Tensors, factor: float, by: Tensors) -> Tensors:
    return {name: tensor + factor * by[name] for name, tensor in tensors.items()}


def gradient(of: torch.Tensor, to: Tensors) -> Tensors:
    return dict(zip(to, torch.autograd.grad(of, list(to.values()), retain_graph=True), strict=True))


def variables(path: Path) -> Tensors:
    return {name: tensor.double().requires_grad_() for name, tensor in load(path).items()}


def constants(tensors: Tensors) -> Tensors:
    return {name: tensor.detach().double() for name, tensor in tensors.items()}


def write_bilevel(directory: Path, family: Family, lora: Lora) -> None:
    source = generator(family.seed)
    model = write_model(directory / "model", family, source)
    write_adapter(directory / "adapter-p", directory / "model", "../model", lora)
    write_adapter(directory / "adapter-s", directory / "model", "../model", replace(lora, seed=lora.seed + 1))

    def batch(*lengths: int) -> Batch:
        rows = [random_ids(source, length, model.config.vocab_size) for length in lengths]
        return Batch.draw(rows, model.config.pad_token_id, source)

    f, p = batch(15, 8, 23), batch(19, 7, 11, 14)
    save(directory / "batches.safetensors", f.tensors("f.") | p.tensors("p."))
    steps = {
        "k0.inner0": batch(16, 18), "k0.inner1": batch(9, 7), "k0.f": batch(10, 13), "k0.p": batch(12, 6),
        "k1.inner0": batch(8, 14), "k1.inner1": batch(12, 12), "k1.f": batch(17, 9), "k1.p": batch(5, 15),
    }  # fmt: skip
    save(
        directory / "trajectory_batches.safetensors",
        {name: t for key, value in steps.items() for name, t in value.tensors(f"{key}.").items()},
    )
    stored = load(directory / "model/model.safetensors")
    for name in ("z", "trajectory_z0", "trajectory_z1"):
        z = {key: normal(source, weight.shape) for key, weight in sorted(stored.items())}
        save(directory / f"{name}.safetensors", z)

    problem = Problem(
        read_json(directory / "model/config.json"), read_json(directory / "adapter-p/adapter_config.json")
    )
    start = Point(
        variables(directory / "model/model.safetensors"),
        variables(directory / "adapter-p/adapter_model.safetensors"),
        variables(directory / "adapter-s/adapter_model.safetensors"),
    )
    write_json(
        directory / "expected.json",
        {
            "family": "llama",
            "arithmetic": "float64 on the stored float32 weights, adapters and directions",
            "lambda": LAMBDA,
            "eps": EPS,
            **RATES,
            "definition": "G = F(theta,p;Bf) + lambda*(F(theta,p;Bp) - F(theta,s;Bp)), F(theta,a;B) being the mean NLL "
            "of the labelled tokens of batch B under backbone theta with LoRA a",
            **at_start(directory, problem, start, f, p),
            "trajectory": trajectory(directory, problem, start, steps),
        },
    )


def at_start(directory: Path, problem: Problem, start: Point, f: Batch, p: Batch) -> dict:
    """Everything about one point: losses, gradients, one step of each block, the projected gradient."""
    z = constants(load(directory / "z.safetensors"))
    losses = problem.losses(start, f, p)
    grad_theta, grad_p = gradient(losses.g(), start.theta), gradient(losses.g(), start.p)
    grad_s = gradient(losses.F_s_p, start.s)
    save(directory / "grad_theta.safetensors", grad_theta)
    save(directory / "grad_p.safetensors", grad_p)
    save(directory / "grad_s.safetensors", grad_s)
    save(directory / "p_after.safetensors", moved(start.p, -RATES["lr_p"], grad_p))
    save(directory / "s_after.safetensors", moved(start.s, -RATES["lr_s"], grad_s))

    slope = problem.slope(start, z, f, p)
    g, g_large = slope.value(), slope.value(LARGE_LAMBDA)
    derivative = float(sum((grad_theta[name] * z[name]).sum() for name in z))
    narrow = problem.slope(start, z, f, p, 1e-6).value()
    assert abs(narrow - derivative) < 1e-4 * max(1.0, abs(derivative)), (narrow, derivative)
    coefficient = -RATES["lr_theta"] * g
    after = moved(start.theta, coefficient, z)
    return {
        **losses.with_g(),
        "plus": slope.plus.with_g(),
        "minus": slope.minus.with_g(),
        "projected_gradient": g,
        "exact_directional_derivative": derivative,
        "projected_gradient_eps_1e-6": narrow,
        "grad_theta_norm": norm(grad_theta),
        "z_norm": norm(z),
        "grad_p_norm": norm(grad_p),
        "grad_s_norm": norm(grad_s),
        "num_backbone_parameters": sum(weight.numel() for weight in start.theta.values()),
        "theta_step": {
            "rule": "theta_after = theta - lr_theta * projected_gradient * z",
            "coefficient": coefficient,
            "checks": {
                name: {"flat_index": [0, w.numel() - 1], "value": [float(w.detach().flatten()[i]) for i in (0, -1)]}
                for name, w in after.items()
            },
        },
        "p_step": "p_after = p - lr_p * dG/dp (one SGD step)",
        "s_step": "s_after = s - lr_s * dF(theta,s;Bp)/ds (one SGD step)",
        "float32_reference": in_float32(directory, z, f, p, g, g_large),
        "projected_gradient_lambda_1e4": g_large,
    }


def trajectory(directory: Path, problem: Problem, start: Point, batches: dict[str, Batch]) -> dict:
    """Outer steps of the whole algorithm with plain SGD for every block."""
    at = Point(*(constants(block) for block in (start.theta, start.p, start.s)))
    steps = []
    for k in range(OUTER_STEPS):
        z = constants(load(directory / f"trajectory_z{k}.safetensors"))
        f, p = batches[f"k{k}.f"], batches[f"k{k}.p"]
        inner_losses = []
        for t in range(INNER_STEPS):
            s = {name: tensor.requires_grad_() for name, tensor in at.s.items()}
            loss = problem.loss(at.theta, s, batches[f"k{k}.inner{t}"])
            inner_losses.append(float(loss.detach()))
            at = replace(at, s=constants(moved(s, -TRAJECTORY_RATES["lr_s"], gradient(loss, s))))
        at_p = {name: tensor.requires_grad_() for name, tensor in at.p.items()}
        losses = problem.losses(replace(at, p=at_p), f, p)
        grad_p = gradient(losses.g(), at_p)
        slope = problem.slope(at, z, f, p)
        at = replace(
            at,
            theta=moved(at.theta, -TRAJECTORY_RATES["lr_theta"] * slope.value(), z),
            p=constants(moved(at_p, -TRAJECTORY_RATES["lr_p"], grad_p)),
        )
        steps.append(
            {
                "inner_losses": inner_losses,
                **losses.with_g(),
                "G_plus": float(slope.plus.g()),
                "G_minus": float(slope.minus.g()),
                "projected_gradient": slope.value(),
                "grad_p_norm": norm(grad_p),
            }
        )
    save(directory / "trajectory_p.safetensors", at.p)
    save(directory / "trajectory_s.safetensors", at.s)
    save(directory / "trajectory_theta.safetensors", at.theta)
    last = OUTER_STEPS - 1
    return {
        "outer_steps": OUTER_STEPS,
        "inner_steps": INNER_STEPS,
        "lambda": LAMBDA,
        "eps": EPS,
        **TRAJECTORY_RATES,
        "optimizer": "SGD for theta, p and s",
        "order": "per outer step k: inner_steps of SGD on s, batch k{K}.inner{T}; then grad_p of G and the projected "
        "gradient along trajectory_z{K}, both at (theta, p, new s) on k{K}.f and k{K}.p; then p and theta move",
        "steps": steps,
        "losses_after_on_last_batches": problem.losses(at, batches[f"k{last}.f"], batches[f"k{last}.p"]).with_g(),
        "files": "trajectory_batches, trajectory_z{K}; trajectory_p, trajectory_s, trajectory_theta at the end",
    }


def in_float32(directory: Path, z: Tensors, f: Batch, p: Batch, g: float, g_large: float) -> dict:
    """The same numbers from transformers and peft in float32, and how far rounding takes them from g."""
    with_p, with_s = (read_adapted(directory / "model", directory / f"adapter-{block}") for block in "ps")
    stored = load(directory / "model/model.safetensors")

    def losses(shift: float) -> Losses:
        for model in (with_p, with_s):
            adapter = {id(weight) for weight in trainable(model).values()}
            with torch.no_grad():
                for name, weight in model.named_parameters():
                    if id(weight) not in adapter:
                        name = name.removeprefix("base_model.model.").replace(".base_layer", "")
                        weight.copy_(stored[name] + shift * z[name].float())
        values = batch_loss(with_p, f), batch_loss(with_p, p), batch_loss(with_s, p)
        return Losses(*(torch.tensor(value, dtype=torch.float64) for value in values))

    slope = Slope(losses(EPS), losses(-EPS), EPS)
    error, error_large = abs(slope.value() - g), abs(slope.value(LARGE_LAMBDA) - g_large)
    assert error < 0.3 and error_large < 30, (error, error_large)
    return {
        **losses(0.0).numbers(),
        "projected_gradient": slope.value(),
        "abs_error": error,
        "projected_gradient_lambda_1e4": slope.value(LARGE_LAMBDA),
        "abs_error_lambda_1e4": error_large,
    }
