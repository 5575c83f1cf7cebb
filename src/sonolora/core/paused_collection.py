"""Imports of large libraries without garbage collection.

Such an import makes a million objects, none of them garbage; looking through them again and again takes a fifth of
its time.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused_collection() -> Iterator[None]:
    """No collection inside; what exists at the end is not looked at by later ones, either."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
