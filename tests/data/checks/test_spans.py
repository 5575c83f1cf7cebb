"""Whether what is regenerated, and what is kept, is enough to learn from."""

from __future__ import annotations

import pytest

from sonolora.data.checks.spans import conditioning_warnings, mask_warnings


def test_masks_that_mark_too_much_too_little_or_too_briefly_are_found() -> None:
    assert mask_warnings([(1.0, 2.0), (3.5, 4.0)], 5.0) == []
    assert mask_warnings([(1.0, 1.16), (2.0, 2.2)], 5.0) == []
    (warning,) = mask_warnings([(0.0, 3.0), (2.0, 4.5)], 5.0)
    assert warning.startswith("90% of it is regenerated")
    (warning,) = mask_warnings([(1.0, 1.2)], 5.0)
    assert warning.startswith("only 4.0% of it")
    (warning,) = mask_warnings([(1.0, 1.1), (2.0, 4.0), (4.5, 4.6)], 5.0)
    assert "4 latent frames (0.16 s)" in warning
    assert "1-1.1 s, 4.5-4.6 s" in warning


@pytest.mark.parametrize(
    ("spans", "words"),
    [
        (((0.0, 4.0),), None),
        (((1.0, 5.0),), None),
        (((4.95, 5.0),), "conditioning_seconds of 4.95 leave 2 latent frames of 0.04 s to generate"),
        (((0.0, 0.01),), "leave 1 latent frame of 0.04 s to generate in clips of 5 s"),
        (((0.0, 4.93),), "conditioning_seconds of 0.07 leave 2 latent frames of 0.04 s to continue from"),
    ],
)
def test_a_conditioning_that_leaves_hardly_anything_is_found(spans, words) -> None:
    warnings = conditioning_warnings(spans, 5.0)
    if words is None:
        assert warnings == []
    else:
        (warning,) = warnings
        assert words in warning
