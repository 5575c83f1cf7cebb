"""The fingerprints of the server's bases, by which other machines find the same ones.

In: the name of a base. Out: its fingerprint. Looked up in a process of its own, since this one does not load PyTorch.
"""

from __future__ import annotations

import logging
import re
import subprocess
import sys

_known: dict[str, str] = {}

logger = logging.getLogger(__name__)


def fingerprint_of(name: str) -> str | None:
    """None when this machine does not have it. Takes seconds the first time."""
    if name not in _known:
        command = [sys.executable, "-m", "sonolora", "base", "show", name]
        shown = subprocess.run(command, capture_output=True, text=True)
        match = re.search(r"^fingerprint +(\w+)$", shown.stdout, re.MULTILINE)
        if match is None:
            logger.warning("the base %s is not known here: %s", name, shown.stderr.strip())
            return None
        _known[name] = match[1]
    return _known[name]
