"""The files of bench/learning import one another as from their own folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench" / "learning"))


@pytest.fixture(scope="session")
def embedding():
    """For sounds of a second."""
    from sets import Embedding

    return Embedding.of_corpus(1.0)
