#!/usr/bin/env python3
"""Writes `beams/expected.json`: what transformers' beam search finds with `tiny-gqa-tied`, with its scores.

    HF_HUB_OFFLINE=1 python beams.py
"""

import itertools
import sys
from pathlib import Path

sys.dont_write_bytecode = True

import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from common import write_json

HERE = Path(__file__).resolve().parent
MODEL = HERE / "tiny-gqa-tied/model"
PROMPTS = ["The keeper", "A question about the weather", "She kept 365 notes in", "<|im_start|>user\nWhere?<|im_end|>\n"]
NEW_TOKENS = 14
# Numbers of other arithmetic may differ by less than this from these.
TIE = 1e-5


def search(model, prompt: torch.Tensor, beams: int, ends: list[int]) -> tuple[list[int], list[float]]:
    """The new tokens of the best answer, and the scores of all that are left at the end."""
    found = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        num_beams=beams,
        num_return_sequences=beams,
        length_penalty=1.0,
        early_stopping=False,
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        eos_token_id=ends,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    new = found.sequences[0, prompt.shape[1] :].tolist()
    stops = [place for place, token in enumerate(new) if token in ends]
    return new[: stops[0] + 1] if stops else new, found.sequences_scores.tolist()


def main() -> None:
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = LlamaForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    exact = LlamaForCausalLM.from_pretrained(MODEL, dtype=torch.float64).eval()
    cases, lengths = [], set()
    for text, beams in itertools.product(PROMPTS, [2, 3, 5]):
        prompt = tokenizer(text, return_tensors="pt").input_ids
        # One that never occurs.
        greedy = search(model, prompt, 1 + beams, [model.config.vocab_size - 1])[0]
        # Tokens that good answers have, so that some end early.
        for ends in ([greedy[3]], [greedy[5], greedy[9]]):
            tokens, scores = search(model, prompt, beams, ends)
            assert tokens == search(exact, prompt, beams, ends)[0], "rounding decides"
            assert scores[0] - scores[1] > TIE, "a near tie"
            lengths.add(len(tokens))
            cases.append(
                {"prompt": prompt[0].tolist(), "beams": beams, "ends": ends, "tokens": tokens, "score": scores[0]}
            )
    assert len(lengths) > 3, lengths
    write_json(HERE / "beams/expected.json", {"max_new_tokens": NEW_TOKENS, "cases": cases})
    print(f"{len(cases)} searches, answers of {sorted(lengths)} tokens")


if __name__ == "__main__":
    main()
