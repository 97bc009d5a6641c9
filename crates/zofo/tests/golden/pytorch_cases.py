"""Tensors in PyTorch's own file formats, in all the ways that a file can describe them."""

from pathlib import Path

import torch

from common import generator, normal, save


def write_pytorch(directory: Path, seed: int) -> None:
    """`tensors.bin`, `legacy.bin` (of before PyTorch 1.6), and what they hold."""
    source = generator(seed)
    matrix = normal(source, (3, 4))
    state = torch.nn.Module()
    state.parameter = torch.nn.Parameter(normal(source, (5,)))
    tensors = {
        "f32": matrix,
        "f16": normal(source, (2, 3)).half(),
        "bf16": normal(source, (4,)).bfloat16(),
        "tied": matrix,
        "transposed": normal(source, (2, 5)).t(),
        "part": normal(source, (4, 3))[2:],
        "every_other": normal(source, (3, 6))[:, 1::2],
        "permuted": normal(source, (2, 3, 4)).permute(2, 0, 1),
        "halves": normal(source, (6, 2)).half().t(),
        "scalar": torch.tensor(0.25),
        "empty": torch.zeros(0, 3),
        "parameter": state.parameter,
    }
    # With attributes, as that of a module has them.
    dictionary = state.state_dict()
    dictionary.clear()
    dictionary.update(tensors)
    assert dictionary._metadata
    directory.mkdir(parents=True, exist_ok=True)
    for name, is_zip in [("tensors.bin", True), ("legacy.bin", False)]:
        torch.save(dictionary, directory / name, _use_new_zipfile_serialization=is_zip)
        read = torch.load(directory / name, weights_only=True)
        assert read.keys() == tensors.keys()
        assert all(torch.equal(read[key], tensors[key]) for key in tensors)
    save(directory / "expected.safetensors", tensors)
