"""Tokenizers as those converted from SentencePiece: `▁` for spaces, and a byte's own token for what is unknown."""

from collections.abc import Sequence

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

from texts import CORPUS, learned, special

LLAMA2 = ["<unk>", "<s>", "</s>"]
PHI3 = ["<|endoftext|>", "<|assistant|>", "<|end|>", "<|user|>"]
GEMMA = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def llama2_tokenizer(vocab_size: int, added: Sequence[str] = ()) -> Tokenizer:
    """As Llama 2's and Mistral's, and with `added` tokens at the end as Phi-3's: a space before the first word."""
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer = byte_fallback(LLAMA2, vocab_size - len(added), normalizer, [])
    tokenizer.decoder = decoders.Sequence([*plain_text(), decoders.Strip(" ", 1, 0)])
    # Phi-3's control tokens take the space after them along.
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False, rstrip=True) for token in added])
    put_in_front(tokenizer, "<s>")
    return tokenizer


def gemma_tokenizer(vocab_size: int) -> Tokenizer:
    """As Gemma's: no space before the first word, runs of spaces and a line break in the vocabulary."""
    normalizer = normalizers.Replace(" ", "▁")
    tokenizer = byte_fallback(GEMMA, vocab_size, normalizer, ["\n", "▁▁", "▁▁▁"])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(plain_text())
    put_in_front(tokenizer, "<bos>")
    return tokenizer


def plain_text() -> list:
    return [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]


def byte_fallback(control: list[str], vocab_size: int, normalizer, runs: list[str]) -> Tokenizer:
    """Control tokens, bytes, then pieces that a few sentences teach; `runs` are made of their first character."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizer
    # Pieces end before a space, so that none holds two words.
    trained.pre_tokenizer = pre_tokenizers.Split(Regex("▁?[^▁]+"), "isolated")
    pieces = vocab_size - len(control) - len(BYTES) - len(runs)
    trained.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=pieces, show_progress=False))
    learned_vocab, merges = learned(trained)
    vocab = {token: id for id, token in enumerate([*control, *BYTES, *runs, *learned_vocab])}
    assert len(vocab) == vocab_size
    repeated = [(run[:-1], run[-1]) for run in runs if len(run) > 1]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=repeated + merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizer
    tokenizer.add_special_tokens([special(token) for token in control])
    return tokenizer


def put_in_front(tokenizer: Tokenizer, token: str) -> None:
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{token} $A",
        pair=f"{token} $A {token}:0 $B:0",
        special_tokens=[(token, tokenizer.token_to_id(token))],
    )
