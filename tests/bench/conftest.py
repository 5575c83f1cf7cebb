"""What sounds are held to, made once."""

from __future__ import annotations

import pytest
from sets import Embedding


@pytest.fixture(scope="session")
def embedding():
    """For sounds of a second."""
    return Embedding.of_corpus(1.0)
