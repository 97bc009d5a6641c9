"""GGUF files with nothing but a SentencePiece tokenizer. The SentencePiece library itself says how texts are encoded."""

import io
import re
from dataclasses import dataclass, field
from pathlib import Path

import sentencepiece
from gguf import GGUFWriter, TokenType
from tokenizers import AddedToken, Tokenizer, decoders
from tokenizers.models import BPE
from transformers import AutoTokenizer

from common import write_json
from gguf_cases import finish
from texts import CASES, CORPUS

# No ▁ beside a space: to SentencePiece they are a run of two, to llama.cpp, which looks for runs before it writes spaces
# as ▁, they are not.
EXTRA_CASES = [
    "<s>The harbour</s> and the sea<s> again",
    "a<tool>b <tool> c<tool>",
    "<unk> is spelt, <0x41> is text, in▁the is as with a space",
    " ",
    "\n\n\nthree lines     and five spaces\t\t",
    "lanternlantern  harbourharbour",
]


@dataclass
class Spec:
    """What differs from one kind of model to the other."""

    architecture: str
    prefix: bool
    user_defined: list[str]
    training: dict = field(default_factory=dict)


def write_llama_like(directory: Path) -> None:
    write(directory, Spec("llama", True, ["<tool>"]))


def write_gemma_like(directory: Path) -> None:
    runs = ["▁" * n for n in (2, 3, 4, 8)] + ["\n", "\n\n", "\t"]
    training = {"split_digits": True, "bos_piece": "<bos>", "eos_piece": "<eos>", "pad_piece": "<pad>"}
    training |= {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}
    write(directory, Spec("gemma2", False, [*runs, "<tool>"], training))


def write(directory: Path, spec: Spec) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    model = train(spec)
    pieces = [piece(model, id, spec) for id in range(model.vocab_size())]
    path = directory / "tokenizer.gguf"
    write_gguf(path, spec, model, pieces)
    theirs = AutoTokenizer.from_pretrained(directory, gguf_file=path.name)
    decoder = decoding(pieces, spec)
    cases = []
    for text in CASES + EXTRA_CASES:
        ids = encode(model, pieces, spec, text)
        with_special = [model.bos_id(), *ids]
        cases.append(
            {
                "text": text,
                "ids": ids,
                "tokens": [pieces[id][0] for id in ids],
                "ids_with_special": with_special,
                "decoded": decoder.decode(ids, skip_special_tokens=False),
                "decoded_skip_special": decoder.decode(with_special, skip_special_tokens=True),
                "transformers_from_gguf_agrees": theirs.encode(text) == with_special,
            }
        )
    write_json(directory / "tokenizer_expected.json", {"cases": cases})


def train(spec: Spec) -> sentencepiece.SentencePieceProcessor:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        model_type="bpe",
        vocab_size=390,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        add_dummy_prefix=spec.prefix,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        user_defined_symbols=spec.user_defined,
        num_threads=1,
        minloglevel=2,
        **spec.training,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def piece(model: sentencepiece.SentencePieceProcessor, id: int, spec: Spec) -> tuple[str, float, TokenType]:
    """As llama.cpp's converter writes it."""
    text, score = model.id_to_piece(id), model.get_score(id)
    if model.is_unknown(id):
        return text, score, TokenType.UNKNOWN
    if model.is_control(id):
        return text, score, TokenType.CONTROL
    if model.is_byte(id):
        return text, score, TokenType.BYTE
    if text in spec.user_defined:
        return text.replace("▁", " "), -1000.0, TokenType.USER_DEFINED
    return text, score, TokenType.NORMAL


def write_gguf(path: Path, spec: Spec, model: sentencepiece.SentencePieceProcessor, pieces: list) -> None:
    writer = GGUFWriter(path, spec.architecture)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    texts, scores, types = zip(*pieces)
    writer.add_token_list(texts)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(model.bos_id())
    writer.add_eos_token_id(model.eos_id())
    writer.add_unk_token_id(model.unk_id())
    if model.pad_id() >= 0:
        writer.add_pad_token_id(model.pad_id())
    # Left out where it is what readers take for granted.
    if not spec.prefix:
        writer.add_add_space_prefix(False)
    finish(writer)


def encode(model: sentencepiece.SentencePieceProcessor, pieces: list, spec: Spec, text: str) -> list[int]:
    """Tokens that are spelt out in the text are found first, longer ones before shorter ones; the rest is SentencePiece's."""
    spelt = {
        text: id
        for id, (text, _, kind) in enumerate(pieces)
        if kind in (TokenType.UNKNOWN, TokenType.CONTROL, TokenType.USER_DEFINED)
    }
    pattern = "|".join(re.escape(token) for token in sorted(spelt, key=len, reverse=True))
    ids = []
    for part in re.split(f"({pattern})", text):
        if part in spelt:
            ids.append(spelt[part])
        elif part:
            ids += model.encode(part)
    return ids


def decoding(pieces: list, spec: Spec) -> Tokenizer:
    """transformers' decoder for this vocabulary."""
    vocab = {text: id for id, (text, _, _) in enumerate(pieces)}
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=[], byte_fallback=True, fuse_unk=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps + ([decoders.Strip(content=" ", left=1)] if spec.prefix else []))
    for text, _, kind in pieces:
        if kind in (TokenType.UNKNOWN, TokenType.CONTROL):
            tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False)])
        elif kind == TokenType.USER_DEFINED:
            tokenizer.add_tokens([AddedToken(text, normalized=False)])
    return tokenizer
