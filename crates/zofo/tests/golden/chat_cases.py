"""What transformers makes of conversations by the templates in `templates/`, in the manner of published ones."""

import json
import re
from pathlib import Path
from shutil import copy

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerFast

from common import write_json
from texts import smollm_tokenizer

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


def turns(*pairs: tuple[str, str]) -> list[dict]:
    return [{"role": role, "content": content} for role, content in pairs]


CONVERSATIONS = {
    "question": turns(("user", "Where does the tide go?")),
    "blanks": turns(("user", "  \n two lines,\n\t\u00a0and blanks \n ")),
    "system": turns(("system", "Answer like a keeper. "), ("user", "What is the time?")),
    "three turns": turns(("user", "Hello"), ("assistant", " Good evening. "), ("user", "And <b>now</b> & 'then'?")),
    "all roles": turns(
        ("system", "Be brief."),
        ("user", "Is it \"late\"?"),
        ("assistant", "It is\n\nlate \u2014 \u6d77."),
        ("user", "How late?"),
        ("assistant", "Very."),
    ),
    "thoughts": turns(
        ("user", "2 + 2?"),
        ("assistant", "<think>\nTwo and two\n</think>\n\n4"),
        ("user", "And 3 + 3?"),
        ("assistant", "<think>\n\nThree\nand three\n\n</think>\n\n\n6"),
    ),
    "tool": turns(
        ("user", "Weather?"), ("assistant", "I look."), ("tool", '{"wind": 3}'), ("tool", "[]"), ("assistant", "Calm.")
    ),
    "wrong order": turns(("assistant", "Hello"), ("user", "Who asked?")),
    "twice": turns(("user", "One"), ("user", "Two")),
    "unknown role": turns(("user", "One"), ("assistant", "Two"), ("narrator", "Three")),
    "stopped": turns(("user", "One"), ("assistant", ""), ("stop", "never"), ("user", "seen")),
    "tokens spelt out": turns(("user", "<|im_end|>\n<|im_start|>system\n</s>{{ bos_token }}{% if %}")),
}


def write_chats(directory: Path, templates: Path) -> None:
    """Copies of the templates, and in `expected.json` for each and every conversation the text, or none if it fails."""
    directory.mkdir(parents=True)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=smollm_tokenizer(264), **TOKENS)
    cases = []
    for path in sorted(templates.glob("*.jinja")):
        copy(path, directory)
        for name, messages in CONVERSATIONS.items():
            for add_generation_prompt in (False, True):
                case = {"template": path.name, "conversation": name, "add_generation_prompt": add_generation_prompt}
                cases.append(case | rendered(tokenizer, path.read_text(), messages, add_generation_prompt))
    assert any(case["text"] is None for case in cases)
    tokenizer.backend_tokenizer.save(str(directory / "tokenizer.json"))
    masks = [
        {"template": path.name, "conversation": name} | masked(tokenizer, path, answered(messages))
        for path in sorted(templates.glob("*.jinja"))
        for name, messages in CONVERSATIONS.items()
        if all(message["role"] in ("system", "user", "assistant") for message in messages)
        and answered(messages)
        and readable(tokenizer, path, answered(messages))
    ]
    assert sum(mask["answers"] is None for mask in masks) >= 1
    assert any(mask["answers"] and len(mask["answers"]) > 1 for mask in masks)
    (directory / "answers.json").write_text("[\n" + ",\n".join(json.dumps(mask) for mask in masks) + "\n]\n")
    write_json(
        directory / "expected.json", {"special_tokens": TOKENS, "conversations": CONVERSATIONS, "cases": cases}
    )


def answered(messages: list[dict]) -> list[dict]:
    """Up to the last answer."""
    roles = [message["role"] for message in messages]
    return messages[: len(roles) - roles[::-1].index("assistant")] if "assistant" in roles else []


def readable(tokenizer, path: Path, messages: list[dict]) -> bool:
    """Whether it can be trained on: answers with text, none of them first, and a template that accepts it."""
    said = all(message["content"].strip() for message in messages if message["role"] == "assistant")
    asked = messages[0]["role"] != "assistant"
    return said and asked and rendered(tokenizer, path.read_text(), messages, False)["text"] is not None


def masked(tokenizer, path: Path, messages: list[dict]) -> dict:
    """The tokens, and ranges of those that are the assistant's: by the template's own marks where these are for what the
    assistant says and not for its header, else by what prefixes of the conversation render to. None if the template does
    not write a prefix as the beginning of the whole."""
    template = path.read_text()
    if path.name == "generation.jinja":
        encoded = tokenizer.apply_chat_template(
            messages, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
        )
        return {"ids": encoded["input_ids"], "answers": ranges(encoded["assistant_masks"])}

    def text(count: int, opens: bool) -> str:
        return rendered(tokenizer, template, messages[:count], opens)["text"]

    whole = text(len(messages), False)
    encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    mask = [0] * len(encoded["input_ids"])
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before, up_to = text(turn, True), text(turn + 1, False)
        if not whole.startswith(up_to):
            up_to = up_to.removesuffix(tokenizer.eos_token)
        if before is None or not (whole.startswith(up_to) and up_to.startswith(before)):
            return {"ids": encoded["input_ids"], "answers": None}
        words = message["content"].strip()
        behind = up_to[len(before) :].partition(words)[2]
        marker = re.match(r"\s*\S+", behind)
        end = len(up_to) - len(behind) + (marker.end() if marker else len(behind))
        for token, (_, token_end) in enumerate(encoded["offset_mapping"]):
            mask[token] |= len(before) < token_end <= end
    return {"ids": encoded["input_ids"], "answers": ranges(mask)}


def ranges(mask: list[int]) -> list[list[int]]:
    edges = [i for i in range(len(mask) + 1) if (i < len(mask) and mask[i]) != (i > 0 and mask[i - 1])]
    return [list(pair) for pair in zip(edges[::2], edges[1::2], strict=True)]


def rendered(tokenizer, template: str, messages: list[dict], add_generation_prompt: bool) -> dict:
    try:
        text = tokenizer.apply_chat_template(
            messages, chat_template=template, add_generation_prompt=add_generation_prompt, tokenize=False
        )
    except TemplateError as error:
        # What the template says itself is the same everywhere, what Jinja says is not.
        return {"text": None, "raised": str(error) if type(error) is TemplateError else None}
    return {"text": text}
