"""What sounds are held to, made once."""

from __future__ import annotations

import pytest
from sets import log_mel_space


@pytest.fixture(scope="session")
def embedding():
    """For sounds of a second."""
    return log_mel_space(1.0)
