"""A run that version 0.1 was stopped in the middle of is continued, to the LoRA that version 0.1 makes of it.

`fixtures/run-0.1` is its folder at step 60 of 100, without pictures and sounds; `fixtures/run-0.1-lora.safetensors` is
what version 0.1 made of it on a CPU with AVX512, under torch 2.13.0+cpu. Its base is the first layer of `tiny`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from run_support import eval_losses_of
from safetensors.torch import load_file

from sonolora.core.errors import CheckpointError
from sonolora.runs.artifacts import RunArtifacts
from sonolora.runs.resume import resume

FIXTURES = Path(__file__).with_name("fixtures")
MADE_WITH = "2.13.0+cpu", "AVX512"
SHA256 = "1499d52d71094c8538b9ea20ef10bf2ef653b294c65775f677c7c41054d587e3"  # of the tensors by name


@pytest.fixture
def old_run(tmp_path):
    return Path(shutil.copytree(FIXTURES / "run-0.1", tmp_path / "run"))


def sha256(tensors):
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def test_it_is_continued_to_the_same_lora(old_run, shallow_base, recorded):
    expected = load_file(FIXTURES / "run-0.1-lora.safetensors")
    assert sha256(expected) == SHA256
    tensors = load_file(resume(old_run, recorded, base=str(shallow_base)))
    assert "continuing from step 60" in recorded.messages
    if (torch.__version__, torch.backends.cpu.get_cpu_capability()) == MADE_WITH:
        assert sha256(tensors) == SHA256
    else:  # other kernels round in another way
        assert tensors.keys() == expected.keys()
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor, expected[name], rtol=0.05, atol=2e-3)
    losses = eval_losses_of(old_run)
    assert list(losses) == [0, 100], "that of step 0 is read under its present name"
    assert losses[100] < losses[0]
    assert RunArtifacts(old_run).is_finished()


def test_what_does_not_belong_to_it_is_still_refused(old_run, shallow_base, recorded):
    record = json.loads((old_run / "run.json").read_text())
    record["request"]["learning_rate"] = 0.1
    (old_run / "run.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="is of another run: its settings is"):
        resume(old_run, recorded, base=str(shallow_base))
