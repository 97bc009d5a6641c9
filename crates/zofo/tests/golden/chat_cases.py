"""What transformers makes of conversations by the templates in `templates/`, in the manner of published ones."""

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
    write_json(
        directory / "expected.json", {"special_tokens": TOKENS, "conversations": CONVERSATIONS, "cases": cases}
    )


def rendered(tokenizer, template: str, messages: list[dict], add_generation_prompt: bool) -> dict:
    try:
        text = tokenizer.apply_chat_template(
            messages, chat_template=template, add_generation_prompt=add_generation_prompt, tokenize=False
        )
    except TemplateError as error:
        # What the template says itself is the same everywhere, what Jinja says is not.
        return {"text": None, "raised": str(error) if type(error) is TemplateError else None}
    return {"text": text}
