"""What every golden case needs: seeded draws, batches, losses, greedy decoding and file output."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

IGNORED = -100
"""A label that does not count."""

Tensors = dict[str, torch.Tensor]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(source: torch.Generator, shape, std: float = 1.0) -> torch.Tensor:
    return std * torch.randn(tuple(shape), generator=source)


def random_ids(source: torch.Generator, length: int, vocab: int) -> list[int]:
    return torch.randint(vocab, (length,), generator=source).tolist()


def random_weights(model: torch.nn.Module, source: torch.Generator) -> None:
    """Replaces all weights by draws wide enough that the logits differ by several units."""
    # Gemma's norms multiply by one more than their weight.
    norm_centre = 0.0 if model.config.model_type.startswith("gemma") else 1.0
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            if name.endswith(".bias"):
                weight.copy_(normal(source, weight.shape, 0.2))
            elif "norm" in name or ".ln_" in name:
                weight.copy_(norm_centre + normal(source, weight.shape, 0.2))
            else:
                embeds = any(part in name for part in ("embed", "wte", "wpe"))
                weight.copy_(normal(source, weight.shape, 0.3 if embeds else 0.25))


@dataclass
class Batch:
    """Right-padded sequences; `labels[b, t]` is `input_ids[b, t]` or `IGNORED`."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor

    @classmethod
    def draw(cls, rows: list[list[int]], pad: int, source: torch.Generator) -> "Batch":
        """Labels leave out about the first third of a row, as a prompt, and some tokens after it."""
        shape = (len(rows), max(map(len, rows)))
        ids = torch.full(shape, pad)
        mask = torch.zeros(shape, dtype=torch.int64)
        labels = torch.full(shape, IGNORED)
        for b, row in enumerate(rows):
            n, first = len(row), max(1, len(row) // 3)
            ids[b, :n] = torch.tensor(row)
            mask[b, :n] = 1
            labels[b, first:n] = ids[b, first:n]
            left_out = torch.rand(n - first, generator=source) < 0.15
            left_out[0] = False
            labels[b, first:n][left_out] = IGNORED
        return cls(ids, mask, labels)

    @classmethod
    def load(cls, tensors: Tensors, prefix: str = "") -> "Batch":
        return cls(*(tensors[prefix + name] for name in ("input_ids", "attention_mask", "labels")))

    def tensors(self, prefix: str = "") -> Tensors:
        return {prefix + name: tensor for name, tensor in vars(self).items()}

    def lengths(self) -> list[int]:
        return self.attention_mask.sum(1).tolist()

    def rows(self):
        """`(ids, labels)` of every sequence without its padding."""
        for b, n in enumerate(self.lengths()):
            yield self.input_ids[b, :n], self.labels[b, :n]


def token_nll(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """`[T - 1]`: −log p(token t + 1 given tokens 0..t), reduced in float64."""
    log_probabilities = logits[:-1].double().log_softmax(-1)
    return -log_probabilities.gather(1, ids[1:, None]).squeeze(1)


def sequence_nll(all_logits: list[torch.Tensor], batch: Batch) -> list[torch.Tensor]:
    return [token_nll(logits, ids) for logits, (ids, _) in zip(all_logits, batch.rows(), strict=True)]


def labelled_losses(all_logits: list[torch.Tensor], batch: Batch) -> tuple[list[torch.Tensor], list[int]]:
    """For every sequence the summed NLL of its labelled tokens, and their number."""
    sums, counts = [], []
    for logits, (ids, labels) in zip(all_logits, batch.rows(), strict=True):
        counted = labels[1:] != IGNORED
        sums.append(token_nll(logits, ids)[counted].sum())
        counts.append(int(counted.sum()))
    return sums, counts


def mean_loss(all_logits: list[torch.Tensor], batch: Batch) -> torch.Tensor:
    sums, counts = labelled_losses(all_logits, batch)
    return sum(sums) / sum(counts)


def loss_summary(all_logits: list[torch.Tensor], batch: Batch, model_loss: float) -> dict:
    sums, counts = labelled_losses(all_logits, batch)
    return {
        "mean": float(sum(sums) / sum(counts)),
        "hf_mean_on_right_padded_batch": model_loss,
        "per_sequence_sum": [float(x) for x in sums],
        "per_sequence_count": counts,
    }


def sequence_tensors(all_logits: list[torch.Tensor], batch: Batch, prefix: str = "") -> Tensors:
    out = {f"{prefix}logits.{i}": logits for i, logits in enumerate(all_logits)}
    if not prefix:
        out |= {f"nll.{i}": nll for i, nll in enumerate(sequence_nll(all_logits, batch))}
    return out


def greedy(logits_of: Callable[[torch.Tensor], torch.Tensor], prompt: list[int], steps: int) -> dict:
    """Arg-max decoding that starts over at every step and never stops early."""
    ids, margins = list(prompt), []
    for _ in range(steps):
        top = logits_of(torch.tensor(ids))[-1].topk(2)
        margins.append(float(top.values[0] - top.values[1]))
        ids.append(int(top.indices[0]))
    # A near tie would make the case a test of rounding: take another seed.
    assert min(margins) > 0.02, f"greedy margins {margins}"
    return {
        "prompt_ids": list(prompt),
        "new_ids": ids[len(prompt) :],
        "top1_minus_top2_logit": margins,
        "stops_at_eos": False,
    }


def largest_difference(left, right) -> float:
    """Over two tensors, or two equally keyed dictionaries or lists of tensors."""
    if isinstance(left, torch.Tensor):
        assert left.shape == right.shape, f"{left.shape} against {right.shape}"
        return float((left.detach().double() - right.detach().double()).abs().max())
    if isinstance(left, dict):
        assert left.keys() == right.keys(), f"{sorted(left)} against {sorted(right)}"
        left, right = left.values(), [right[name] for name in left]
    return max(largest_difference(a, b) for a, b in zip(left, right, strict=True))


def norm(tensors: Tensors) -> float:
    return float(sum(t.double().square().sum() for t in tensors.values()).sqrt())


def save(path: Path, tensors: Tensors) -> None:
    """Floating-point tensors as float32, integers as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = {
        name: (t.detach().float() if t.is_floating_point() else t).clone().contiguous() for name, t in tensors.items()
    }
    save_file(stored, path, metadata={"format": "pt"})


def load(path: Path) -> Tensors:
    return load_file(path)


def write_json(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=True) + "\n")


def read_json(path: Path):
    return json.loads(path.read_text())
