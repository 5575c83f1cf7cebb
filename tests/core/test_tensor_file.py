import errno
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from sonolora.core.atomic_files import OutputError
from sonolora.core.tensor_file import save_tensors

TENSORS = {
    "b": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "a": torch.randn(5).bfloat16(),
    "flag": torch.tensor([True, False, True]),
    "scalar": torch.tensor(7),
    "empty": torch.zeros(0, 4),
    "turned": torch.randn(3, 4).T,
}


def test_the_library_reads_what_we_write(tmp_path):
    path = tmp_path / "x.safetensors"
    save_tensors(path, TENSORS, {"mode": "t2a", "a": "ä"})
    found = load_file(path)
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"mode": "t2a", "a": "ä"}


def test_the_order_of_giving_does_not_matter(tmp_path):
    save_tensors(tmp_path / "1", TENSORS, {"x": "1", "y": "2"})
    save_tensors(tmp_path / "2", dict(reversed(TENSORS.items())), {"y": "2", "x": "1"})
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    save_tensors(path, TENSORS)
    before = path.read_bytes()
    real = Path.open

    def full(self, *args, **options):
        file = real(self, *args, **options)
        file.write(b"part")
        file.close()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OutputError, match=r"the disk is full.*unchanged"):
        save_tensors(path, {"other": torch.zeros(3)})
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.safetensors"]
