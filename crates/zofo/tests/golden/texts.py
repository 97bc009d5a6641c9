"""Small byte-level BPE tokenizers, trained on a few sentences, and what they make of difficult texts."""

import json
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from common import write_json

CORPUS = [
    "The lantern on the harbour wall was lit before the rain came in from the sea.",
    "Every evening the keeper walked down to the water and wrote the height of the tide.",
    "A question about the weather was answered with another question about the wind.",
    "She kept 365 notes in a tin box, one for every day, and read them in the winter.",
    "When the letter arrived, the two brothers were mending the red boat in the yard.",
    "There is no harbour here, said the stranger; there is only the sea and the weather.",
]

SENTENCE = "The keeper wrote 47 letters before the winter, and the harbour answered none of them."

CASES = [
    "",
    "The weather is in the answer.",
    "   three in front,  two  between, one after ",
    "a tab\there\nand lines\n\n\n   below\r\n",
    "déjà vu — “größer” als ¿qué?; cafe\u0301 and caf\u00e9",
    "⛵🌊 and 🧑🏻\u200d🚒 at sea",
    "海と港 Маяк φάρος ٤٥٦ x² ½",
    "She'll say it's THE KEEPER'S, won't she? I'd've 'asked'.",
    "On 31/12/1999 it cost $1,024.50 (about 7%) for  3 boats.",
    "Spelt out: <|im_start|>keeper<|im_end|> or <|begin_of_text|>keeper<|eot_id|>, a \0 nul and a\u00a0no-break space",
    "A lantern, two lanterns, Lantern",
    SENTENCE,
]

CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LLAMA3 = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|finetune_right_pad_id|>"]
QWEN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
OPT = ["<s>", "<pad>", "</s>", "<unk>"]
GPT2 = "<|endoftext|>"
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def special(content: str) -> AddedToken:
    return AddedToken(content, special=True, normalized=False)


def smollm_tokenizer(vocab_size: int) -> Tokenizer:
    """As SmolLM's: every digit alone, then GPT-2's split; special tokens have the first ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    train(tokenizer, vocab_size, [special(token) for token in CHATML])
    return tokenizer


def llama3_tokenizer(vocab_size: int) -> Tokenizer:
    """As Llama 3's: regex split, whole words looked up before merging, a token in front, special tokens last."""
    trained = Tokenizer(models.BPE())
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trained.pre_tokenizer = split
    # One word more: in the vocabulary, but out of reach of the merges.
    train(trained, vocab_size - len(LLAMA3) - 1, [])
    vocab, merges = learned(trained)
    assert "Ġlantern" not in vocab
    vocab["Ġlantern"] = len(vocab)

    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=True))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([special(token) for token in LLAMA3])
    first = LLAMA3[0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A",
        pair=f"{first} $A {first}:0 $B:0",
        special_tokens=[(first, tokenizer.token_to_id(first))],
    )
    return tokenizer


def gpt2_tokenizer(vocab_size: int) -> Tokenizer:
    """As GPT-2's: one special token, with the last id."""
    tokenizer = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), vocab_size - 1, [])
    tokenizer.add_special_tokens([special(GPT2)])
    return tokenizer


def opt_tokenizer(vocab_size: int) -> Tokenizer:
    """As OPT's: GPT-2's words, other special tokens, `</s>` in front."""
    tokenizer = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), vocab_size, OPT)
    first = OPT[2]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A",
        pair=f"{first} $A {first}:0 $B:0",
        special_tokens=[(first, tokenizer.token_to_id(first))],
    )
    return tokenizer


def qwen_tokenizer(vocab_size: int) -> Tokenizer:
    """As Qwen's: composed characters, a regex split with every digit alone, special tokens last, nothing in front."""
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_WORDS.replace("{1,3}", "")), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer = byte_level(split, vocab_size - len(QWEN), [])
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens([special(token) for token in QWEN])
    return tokenizer


def byte_level(pre_tokenizer, vocab_size: int, special_tokens: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    train(tokenizer, vocab_size, [special(token) for token in special_tokens])
    return tokenizer


def train(tokenizer: Tokenizer, vocab_size: int, special_tokens: list[AddedToken]) -> None:
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special_tokens,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    assert tokenizer.get_vocab_size() == vocab_size


def learned(tokenizer: Tokenizer) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary in order of ids, and the merges in order of rank."""
    model = json.loads(tokenizer.to_str())["model"]
    vocab = dict(sorted(model["vocab"].items(), key=lambda entry: entry[1]))
    return vocab, [tuple(merge) for merge in model["merges"]]


def write_tokenizer(directory: Path, tokenizer: Tokenizer, names: dict[str, str]) -> None:
    """`tokenizer.json` with its two companions; `names` says which token plays which part."""
    tokenizer.save(str(directory / "tokenizer.json"))
    write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": 128,
            "clean_up_tokenization_spaces": False,
            **names,
        },
    )
    write_json(directory / "special_tokens_map.json", names)


def tokenizer_cases(tokenizer: Tokenizer) -> list[dict]:
    cases = []
    for text in CASES:
        plain = tokenizer.encode(text, add_special_tokens=False)
        with_special = tokenizer.encode(text).ids
        cases.append(
            {
                "text": text,
                "ids": plain.ids,
                "tokens": plain.tokens,
                "ids_with_special": with_special,
                "decoded": tokenizer.decode(plain.ids, skip_special_tokens=False),
                "decoded_skip_special": tokenizer.decode(with_special, skip_special_tokens=True),
            }
        )
    return cases
