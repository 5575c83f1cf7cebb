"""Norms with hand-written backward passes against autograd, and the Triton kernels by Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from sonolora.core.randomness import normal
from sonolora.ltx.model import norms
from sonolora.ltx.model.rope import rotation

EPS = 1e-6
SHAPES = [(1, 7, 1, 96), (2, 5, 5, 64), (2, 3, 1, 130)]  # samples, tokens, vectors of a sample, width


def inputs(samples, tokens, vectors, width, dtype=torch.float32):
    x, gradient = (normal((samples, tokens, width), name).to(dtype) for name in ("x", "gradient"))
    return x, 1 + normal((samples, vectors, width), "scale"), normal((samples, vectors, width), "shift"), gradient


@pytest.mark.parametrize("shape", SHAPES)
def test_a_modulated_norm_is_that_of_autograd(shape):
    x, scale, shift, gradient = inputs(*shape)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    out = norms.modulated_norm(ours, scale, shift, EPS)
    expected = F.rms_norm(theirs, (shape[-1],), eps=EPS) * scale + shift
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    (found,), (wanted,) = (torch.autograd.grad(*one, gradient) for one in ((out, ours), (expected, theirs)))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("together", [1, 2])
def test_norms_of_heads_are_those_of_autograd(together, rotated):
    heads, width, tokens = 4, 48, 5
    x, weight = normal((2, tokens, together, width), "x"), normal((together, width), "weight")
    positions = normal((2, 1, tokens), "positions").abs()
    factors = rotation(positions, (20.0,), width, heads, 10000.0, float64=True) if rotated else None
    results = []
    for by_hand in (True, False):
        leaf = x.clone().requires_grad_()
        # A weight in training takes ordinary operations.
        out = norms.heads_norm(leaf, weight.clone().requires_grad_(not by_hand), factors, heads, EPS)
        assert ("HeadsNorm" in type(out.grad_fn).__name__) == by_hand
        (gradient,) = torch.autograd.grad(out, leaf, normal(tuple(out.shape), "gradient"))
        results.append((out, gradient))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


# float32 sums in another order; bfloat16 rounds once where the operations one by one round twice.
INTERPRETED = """
import torch
from test_norms import EPS, SHAPES, inputs
from sonolora.ltx.model import norm_kernels, norms

for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 2**-6)):
    for shape in SHAPES:
        x, scale, shift, gradient = inputs(*shape, dtype)
        leaf = x.clone().requires_grad_()
        expected = norms.modulated_norm(leaf, scale, shift, EPS)
        (wanted,) = torch.autograd.grad(expected, leaf, gradient)
        out, inverse = norm_kernels.forward(x, scale, shift, EPS)
        found = norm_kernels.backward(gradient, x, scale, inverse)
        torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)
"""


def test_triton_kernels_compute_the_same():
    """In a process of its own: Triton reads whether to interpret when it is imported."""
    pytest.importorskip("triton")
    here = str(Path(__file__).parent)
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join([here, *sys.path])}
    done = subprocess.run([sys.executable, "-c", INTERPRETED], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
