#!/usr/bin/env python3
"""Writes scores/scores.json: what transformers makes of the candidates of some rows of real tasks.

    python scores.py --data DIR [--out DIR]

DIR holds a folder per task with validation.jsonl. Prompts are put together here in plain Python, not by the task files, and
log-probabilities are computed in float64, one unpadded sequence at a time. The rows are the shortest of their files, so that
little space holds them; what is still too long for the model's context is cut at its left.
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).parent
MODEL = HERE / "tiny-gqa-tied" / "model"
ROWS = 20
"""Of each task."""


def lower_first(text):
    first, *rest = text.split(" ")
    return " ".join([first if first == "I" else first.lower(), *rest])


def stem(text):
    return text.rstrip().removesuffix(".")


def question(text):
    text = text if text.endswith("?") else text + "?"
    return text[0].upper() + text[1:]


def copa(row):
    word = {"effect": "so", "cause": "because"}[row["question"]]
    answers = [f" {lower_first(row[key])}" for key in ("choice1", "choice2")]
    return f"{stem(row['premise'])} {word}", answers, word


def record(row):
    prompt = row["passage"].replace("@highlight\n", "- ") + "\n-"
    return prompt, [" " + row["query"].replace("@placeholder", name) for name in row["entities"]], "-"


def winogrande(row):
    before, after = row["sentence"].split("_")
    return before, [row[option] + after for option in ("option1", "option2")], ""


TASKS = {
    "sst2": lambda row: (row["sentence"].strip() + " It was", [" terrible", " great"], "It was"),
    "copa": copa,
    "boolq": lambda row: (f"{row['passage']} {question(row['question'])}\n", ["Yes", "No"], ""),
    "cb": lambda row: (
        f"Suppose {row['premise']} Can we infer that \"{row['hypothesis']}\"? Yes, No, or Maybe?\n",
        ["Yes", "No", "Maybe"],
        "",
    ),
    "rte": lambda row: (
        f"{row['premise']}\nDoes this mean that \"{row['hypothesis']}\" is true? Yes or No?\n",
        ["Yes", "No"],
        "",
    ),
    "wsc": lambda row: (
        f"{row['text']}\nIn the previous sentence, does the pronoun \"{row['span2_text'].lower()}\" refer to "
        f"{row['span1_text']}? Yes or No?\n",
        ["No", "Yes"],
        "",
    ),
    "wic": lambda row: (
        f"Does the word \"{row['word']}\" have the same meaning in these two sentences? Yes, No?\n"
        f"{row['sentence1']}\n{row['sentence2']}\n",
        ["No", "Yes"],
        "",
    ),
    "multirc": lambda row: (
        f"{row['paragraph']}\nQuestion: {row['question']}\nI found this answer \"{row['answer']}\". "
        "Is that correct? Yes or No?\n",
        ["No", "Yes"],
        "",
    ),
    "record": record,
    "winogrande": winogrande,
}


class Scorer:
    def __init__(self):
        self.model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).double().eval()
        self.tokenizer = AutoTokenizer.from_pretrained(MODEL)
        self.context = self.model.config.max_position_embeddings
        end = self.model.config.eos_token_id
        self.end = end[0] if isinstance(end, list) else end

    def ids(self, text):
        return self.tokenizer(text)["input_ids"]

    def score(self, prompt, texts):
        """Log-probabilities of the tokens that every text has more than the prompt; None if those exceed the context."""
        start = [] if self.ids(prompt) else [self.end]
        count = len(start + self.ids(prompt))
        sequences = [start + self.ids(text) for text in texts]
        excess = max(0, max(map(len, sequences)) - self.context)
        if excess >= count:
            return None
        scores = []
        for sequence in sequences:
            ids = torch.tensor(sequence[excess:])
            with torch.no_grad():
                logits = self.model(ids[None]).logits[0]
            log_probabilities = logits[:-1].log_softmax(-1).gather(1, ids[1:, None]).squeeze(1)
            scores.append([round(x, 6) for x in log_probabilities[count - excess - 1 :].tolist()])
        return scores


def joined(prompt, answer):
    return (prompt + answer).lstrip().rstrip(" ")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=HERE / "scores")
    arguments = parser.parse_args()
    scorer = Scorer()
    assert not scorer.ids(""), "the tokenizer has a BOS, which cutting would have to keep"
    out = []
    for task, parts in TASKS.items():
        lines = (arguments.data / task / "validation.jsonl").read_text().splitlines()
        rows = sorted(enumerate(lines, 1), key=lambda item: len(item[1]))
        cases = []
        for line, text in rows:
            if len(cases) == ROWS:
                break
            row = json.loads(text)
            prompt, answers, null = parts(row)
            scores = scorer.score(joined(prompt, ""), [joined(prompt, answer) for answer in answers])
            if scores is None:
                continue
            texts = [(null + answer).strip(" ") for answer in answers]
            cases.append(
                {
                    "task": task,
                    "line": line,
                    "row": row,
                    "bytes": [len(answer.strip().encode()) for answer in answers],
                    "scores": scores,
                    "null": [round(sum(tokens), 6) for tokens in scorer.score(null.strip(" "), texts)],
                }
            )
        out += cases
    arguments.out.mkdir(exist_ok=True)
    encoded = ",\n".join(json.dumps(case) for case in out)
    (arguments.out / "scores.json").write_text(f"[\n{encoded}\n]\n")


if __name__ == "__main__":
    main()
