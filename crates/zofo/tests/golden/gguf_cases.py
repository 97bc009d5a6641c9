"""GGUF files: a tied Llama in the types whose blocks hold 32 values, and random blocks of the K types."""

from pathlib import Path

import numpy
import torch
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader, GGUFWriter, LlamaFileType, TokenType
from gguf.quants import dequantize, quantize
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from common import (
    Batch,
    Tensors,
    generator,
    greedy,
    largest_difference,
    random_ids,
    random_weights,
    save,
    sequence_nll,
    sequence_tensors,
    write_json,
)
from family import Family, logits_of, sequence_logits
from texts import SENTENCE, learned, tokenizer_cases

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.layers.": "blk.",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
}

TYPES = {
    "token_embd": Type.Q8_0,
    "blk.0.attn_q": Type.Q5_1,
    "blk.0.attn_k": Type.F16,
    "blk.0.attn_v": Type.Q5_0,
    "blk.0.attn_output": Type.Q4_0,
    "blk.0.ffn_gate": Type.Q4_1,
    "blk.0.ffn_up": Type.Q8_0,
    "blk.0.ffn_down": Type.BF16,
    "blk.1.attn_q": Type.Q8_0,
    "blk.1.attn_k": Type.Q4_1,
    "blk.1.attn_v": Type.F32,
    "blk.1.attn_output": Type.F16,
    "blk.1.ffn_gate": Type.Q5_0,
    "blk.1.ffn_up": Type.BF16,
    "blk.1.ffn_down": Type.Q5_1,
}
"""Everything else, which is the norms, is F32."""

# Bytes of a block, where in it the half-precision scales lie, and how large they are drawn.
K_BLOCKS = {
    Type.Q2_K: (84, [80, 82], 0.05),
    Type.Q3_K: (110, [108], 0.02),
    Type.Q4_K: (144, [0, 2], 0.01),
    Type.Q5_K: (176, [0, 2], 0.005),
    Type.Q6_K: (210, [208], 0.002),
}
IQ4_BLOCKS = {Type.IQ4_NL: (18, [0], 0.005), Type.IQ4_XS: (136, [0], 0.0002)}
ROWS, BLOCKS_PER_ROW = 3, 2


def gguf_name(name: str) -> str:
    for theirs, ours in NAMES.items():
        name = name.replace(theirs, ours)
    return name


def heads_of(name: str, config) -> int | None:
    """Number of heads of a tensor whose rows the format reorders."""
    if "attn_q" in name or "q_proj" in name:
        return config.num_attention_heads
    if "attn_k" in name or "k_proj" in name:
        return config.num_key_value_heads
    return None


def stored_order(rows: int, heads: int) -> list[int]:
    """Which row of the Hugging Face weight stands at each stored row: rotary pairs side by side."""
    half = rows // heads // 2
    return [h * 2 * half + j * half + i for h in range(heads) for i in range(half) for j in range(2)]


def write_gguf_llama(directory: Path, family: Family) -> None:
    source = generator(family.seed)
    config = family.model_config()
    model = LlamaForCausalLM(config).eval()
    random_weights(model, source)
    path = directory / "tied-llama.gguf"
    path.parent.mkdir(parents=True, exist_ok=True)
    types = write_llama(path, family, model)
    stored = stored_values(path)
    save(directory / "dequantized.safetensors", stored)

    with torch.no_grad():
        for name, weight in model.named_parameters():
            values, heads = stored[gguf_name(name)], heads_of(name, config)
            if heads:
                weight[stored_order(len(weight), heads)] = values
            else:
                weight.copy_(values)

    text = family.tokenizer.encode(SENTENCE).ids[: family.lengths[0]]
    rows = [text] + [random_ids(source, length, config.vocab_size) for length in family.lengths[1:]]
    batch = Batch.draw(rows, config.pad_token_id, source)
    logits = sequence_logits(model, batch)
    theirs = AutoModelForCausalLM.from_pretrained(directory, gguf_file=path.name, attn_implementation="eager").eval()
    assert largest_difference(logits, sequence_logits(theirs, batch)) < 1e-5, "transformers reads another model"
    tensors = batch.tensors() | sequence_tensors(logits, batch)
    del tensors["labels"]
    save(directory / "expected.safetensors", tensors)
    write_json(
        directory / "expected.json",
        {
            "file": path.name,
            "architecture": "llama",
            "lengths": batch.lengths(),
            "tensor_types": types,
            "greedy": greedy(lambda ids: logits_of(model, ids), rows[0][:6], 12),
            "sequence_nll_sum": [float(nll.sum()) for nll in sequence_nll(logits, batch)],
            "note": "rows of attn_q and attn_k have rotary pairs side by side: stored row h*head_dim + 2*i + j is row "
            "h*head_dim + j*(head_dim/2) + i of the Hugging Face weight; dequantized.safetensors is in stored order; "
            "there is no output.weight, because the head is tied to token_embd.weight",
        },
    )
    theirs = AutoTokenizer.from_pretrained(directory, gguf_file=path.name)
    cases = tokenizer_cases(family.tokenizer)
    for case in cases:
        case["transformers_from_gguf_agrees"] = theirs.encode(case["text"]) == case["ids_with_special"]
    write_json(directory / "tokenizer_expected.json", {"model_vocab_size": config.vocab_size, "cases": cases})


def write_llama(path: Path, family: Family, model) -> dict[str, str]:
    """Returns the type of every tensor."""
    config = model.config
    writer = GGUFWriter(path, "llama")
    writer.add_name("tied-llama")
    writer.add_type("model")
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(2)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(config.head_dim)
    vocab, merges = learned(family.tokenizer)
    control = set(family.tokenizer.get_added_tokens_decoder())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(list(vocab))
    writer.add_token_types([TokenType.CONTROL if id in control else TokenType.NORMAL for id in vocab.values()])
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(config.pad_token_id)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)

    types = {}
    for name, weight in model.named_parameters():
        name, rows = gguf_name(name), weight.detach()
        if heads := heads_of(name, config):
            rows = rows[stored_order(len(rows), heads)]
        kind = TYPES.get(name.removesuffix(".weight"), Type.F32)
        writer.add_tensor(name, quantize(rows.numpy(), kind), raw_dtype=kind)
        types[name] = kind.name
    finish(writer)
    return types


def write_blocks(path: Path, blocks: dict, seed: int) -> None:
    """Random bytes but for the scales, which are finite and of either sign. Not a model."""
    source = generator(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, "llama")
    writer.add_name(path.stem)
    types = {}
    for kind, (size, scales, std) in blocks.items():
        shape = (ROWS, BLOCKS_PER_ROW, size)
        block = torch.randint(256, shape, generator=source).to(torch.uint8).numpy()
        for at in scales:
            scale = (std * torch.randn(shape[:2], generator=source)).numpy().astype("<f2")
            block[..., at : at + 2] = scale[..., None].view(numpy.uint8)
        name = f"random.{kind.name.lower()}"
        writer.add_tensor(name, block.reshape(ROWS, -1), raw_dtype=kind)
        types[name] = kind.name
    finish(writer)
    values = stored_values(path)
    save(path.parent / "dequantized.safetensors", values)
    shapes = {name: list(values[name].shape) for name in types}
    write_json(path.parent / "expected.json", {"file": path.name, "tensor_types": types, "shapes": shapes})


def finish(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def stored_values(path: Path) -> Tensors:
    """Every tensor of a file as float32, in its stored order."""
    values = {}
    for tensor in GGUFReader(path).tensors:
        shape = [int(n) for n in reversed(tensor.shape)]
        array = dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        values[tensor.name] = torch.from_numpy(array.reshape(shape).copy())
        assert torch.isfinite(values[tensor.name]).all(), tensor.name
    return values
