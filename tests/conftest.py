"""What many tests need: the golden model of the publisher's own code, and a run folder that is cheap to make."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sonolora.ltx.base import find_base
from sonolora.ltx.checkpoint import Checkpoint
from sonolora.ltx.text import Tokenizer, load_tokenizer
from sonolora.ltx.transformer import Transformer, load_transformer

GOLDEN = Path(__file__).parent / "golden"
CPU = torch.device("cpu")

# The models of the tests are too small for threads to pay, and two processes of tests that share two cores stall.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden() -> Path:
    return GOLDEN


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    return Checkpoint.open(GOLDEN / "ltx23-golden.safetensors")


@pytest.fixture(scope="session")
def cases() -> dict[str, Tensor]:
    return load_file(GOLDEN / "cases.safetensors")


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """That of the embedded base."""
    base = find_base("tiny")
    return load_tokenizer(base.checkpoint, base.text_encoder)


@pytest.fixture
def transformer(checkpoint: Checkpoint) -> Transformer:
    """The golden model's audio stream; a fresh one for each test, since tests put adapters on it."""
    return load_transformer(checkpoint, video=False, device=CPU, dtype=torch.float32)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither read nor fill the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SONOLORA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
