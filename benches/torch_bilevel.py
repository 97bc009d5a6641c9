"""The yardstick of `compare.sh`: one inner, outer and MeZO step, a forward pass and an evaluation in PyTorch, with
transformers and peft, in the manner of the method's official code: padded batches, logits of the whole vocabulary at
every position, a loss per adapter, and perturbations that are added to the weights and taken away again.

The batches are those of `zofo bench`: rows of the training file in order, each with its right answer; the first one
warms up. Prints one JSON object with the keys of `zofo bench --json`.
"""

import argparse
import json
import os
import resource
import sys
import time

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

PENALTY = 1e4
EPS = 1e-3
ADAPTER_LR = 1e-3
BACKBONE_LR = 1e-7
ANSWERS = [" terrible", " great"]  # of SST-2, by label
HELD_OUT = 200


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a model folder, a .gguf file or a model of the hub")
    parser.add_argument("--data", required=True, help="a folder with sst2/train.jsonl and sst2/validation.jsonl")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--batches", type=int, default=7)
    parser.add_argument("--mezo-only", action="store_true", help="MeZO alone, for its peak of memory")
    return parser.parse_args()


def load(model, dtype):
    """Model and tokenizer."""
    place = (model,)
    options = {}
    if model.endswith(".gguf"):
        folder, options["gguf_file"] = os.path.split(model)
        place = (folder or ".",)
    tokenizer = AutoTokenizer.from_pretrained(*place, **options)
    return AutoModelForCausalLM.from_pretrained(*place, dtype=dtype, **options), tokenizer


def read(path, count):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line, _ in zip(lines, range(count))]


def encode(tokenizer, row):
    """(prompt + answer, tokens of the answer) for every answer, and the right one."""
    tokens = lambda text: tokenizer(text, add_special_tokens=False).input_ids
    prompt = tokens(row["sentence"].strip() + " It was")
    return [(prompt + answer, len(answer)) for answer in map(tokens, ANSWERS)], row["label"]


def collate(rows):
    """Tokens, attention mask and labels, padded on the right; only answers are labelled."""
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, (tokens, answer) in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
        labels[row, len(tokens) - answer : len(tokens)] = torch.tensor(tokens[-answer:])
    return ids, mask, labels


def loss(model, batch):
    ids, mask, labels = batch
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
    return F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)


def normals(weights, seed):
    """Pairs of a weight and its part of a direction."""
    torch.manual_seed(seed)
    for weight in weights:
        yield weight, torch.normal(mean=0.0, std=1.0, size=weight.size(), dtype=weight.dtype)


def shift(weights, seed, scale):
    for weight, z in normals(weights, seed):
        weight.data += scale * z


@torch.no_grad()
def mezo_step(model, weights, batch, seed):
    shift(weights, seed, EPS)
    plus = loss(model, batch)
    shift(weights, seed, -2 * EPS)
    minus = loss(model, batch)
    shift(weights, seed, EPS)
    shift(weights, seed, -BACKBONE_LR * ((plus - minus) / (2 * EPS)).item())


class Bilevel:
    """The model with the blocks p and s."""

    def __init__(self, base):
        config = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
        self.model = get_peft_model(base, config, adapter_name="p")
        self.model.add_adapter("s", config)
        named = list(self.model.named_parameters())
        self.theta = [weight for name, weight in named if "lora_" not in name]
        self.blocks = {
            block: [weight for name, weight in named if "lora_" in name and f".{block}." in name] for block in "ps"
        }
        self.optimizers = {block: torch.optim.Adam(self.blocks[block], lr=ADAPTER_LR) for block in "ps"}
        self.backbone_optimizer = torch.optim.SGD(self.theta, lr=BACKBONE_LR)
        for weight in self.theta:
            weight.requires_grad_(False)

    def use(self, block):
        self.model.set_adapter(block)
        for other, weights in self.blocks.items():
            for weight in weights:
                weight.requires_grad_(other == block)

    def inner_step(self, batch):
        self.use("s")
        loss(self.model, batch).backward()
        self.optimizers["s"].step()
        self.optimizers["s"].zero_grad()

    def objective(self, outer, penalty, with_shadow=True):
        shadow = 0.0
        if with_shadow:
            self.use("s")
            shadow = loss(self.model, penalty)
        self.use("p")
        return loss(self.model, outer) + PENALTY * (loss(self.model, penalty) - shadow)

    def outer_step(self, outer, penalty, seed):
        self.objective(outer, penalty, with_shadow=False).backward()
        self.optimizers["p"].step()
        self.optimizers["p"].zero_grad()
        with torch.no_grad():
            shift(self.theta, seed, EPS)
            plus = self.objective(outer, penalty)
            shift(self.theta, seed, -EPS)
            minus = self.objective(outer, penalty)
            slope = ((plus - minus) / EPS).item()
            for weight, z in normals(self.theta, seed):
                weight.grad = slope * z
            self.backbone_optimizer.step()
            for weight in self.theta:
                weight.grad = None


@torch.no_grad()
def evaluate(model, examples):
    for start in range(0, len(examples), 16):
        ids, mask, labels = collate([row for rows, _ in examples[start : start + 16] for row in rows])
        logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
        targets = labels[:, 1:]
        logprobs = torch.log_softmax(logits, -1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
        (logprobs * (targets != -100)).sum(1)


def mean_ms(step, batches):
    """Milliseconds of `step(i)` for i = 1, 2, …, after 0 has warmed up."""
    step(0)
    start = time.perf_counter()
    for i in range(1, batches + 1):
        step(i)
    return (time.perf_counter() - start) * 1e3 / batches


def main():
    options = arguments()
    torch.manual_seed(0)
    model, tokenizer = load(options.model, {"f32": torch.float32, "bf16": torch.bfloat16}[options.dtype])
    count = options.batch_size * (options.batches + 2)
    rows = [encode(tokenizer, row) for row in read(f"{options.data}/sst2/train.jsonl", count)]
    right = [answers[label] for answers, label in rows]
    batches = [collate(right[i : i + options.batch_size]) for i in range(0, count, options.batch_size)]
    report = {"torch": torch.__version__, "threads": torch.get_num_threads(), "dtype": options.dtype}
    timed = lambda step: mean_ms(step, options.batches)

    if options.mezo_only:
        weights = list(model.parameters())
        report["mezo_ms"] = timed(lambda i: mezo_step(model, weights, batches[i], i))
        # Linux counts in KiB, macOS in bytes.
        unit = 2**20 if sys.platform == "darwin" else 2**10
        report["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    else:
        method = Bilevel(model)
        report["inner_ms"] = timed(lambda i: method.inner_step(batches[i]))
        report["outer_ms"] = timed(lambda i: method.outer_step(batches[i], batches[i + 1], i))
        with torch.no_grad():
            report["forward_ms"] = timed(lambda i: loss(method.model, batches[i]).item())
        held_out = [encode(tokenizer, row) for row in read(f"{options.data}/sst2/validation.jsonl", HELD_OUT)]
        start = time.perf_counter()
        evaluate(method.model, held_out)
        report["eval_examples_per_s"] = len(held_out) / (time.perf_counter() - start)
    json.dump(report, sys.stdout)


main()
