"""A digest in a file: every change of a value, a name, a shape or the metadata is found."""

from __future__ import annotations

import pytest
import torch

from sonolora.core.checked_tensors import load_checked, save_checked
from sonolora.core.errors import CheckpointError, DamagedFileError
from sonolora.core.tensor_file import save_tensors

TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "b": torch.ones(3, dtype=torch.bfloat16),
    "c": torch.tensor([True]),
    "empty": torch.zeros(1, 0, 0),
}
METADATA = {"layout": '{"x": [1]}', "words": "naïve"}


@pytest.fixture
def file(tmp_path):
    save_checked(tmp_path / "x.safetensors", TENSORS, METADATA)
    return tmp_path / "x.safetensors"


def test_it_gives_what_was_saved(file):
    tensors, metadata = load_checked(file)
    assert metadata == METADATA
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())


def test_whatever_bit_changes_what_is_loaded_is_what_was_saved(file):
    content = file.read_bytes()
    loaded = 0
    for at in range(len(content)):
        for bit in (1, 128):
            file.write_bytes(content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :])
            try:
                tensors, metadata = load_checked(file)
            except DamagedFileError:
                continue
            loaded += 1  # white space of the header, or the name of the digest
            assert METADATA.items() <= metadata.items()
            assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())
    assert loaded < 50


def test_a_file_without_a_digest_is_loaded(tmp_path):
    save_tensors(tmp_path / "x.safetensors", TENSORS, METADATA)
    assert load_checked(tmp_path / "x.safetensors")[1] == METADATA


def test_a_file_that_is_not_there_is_no_damage(tmp_path):
    with pytest.raises(CheckpointError, match="is missing") as caught:
        load_checked(tmp_path / "x.safetensors")
    assert not isinstance(caught.value, DamagedFileError)
