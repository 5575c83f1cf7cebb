"""Deterministic operations: the switches are on within, back to what they were after it, and refused in vain."""

from __future__ import annotations

import pytest
import torch

from sonolora.core.determinism import deterministic
from sonolora.core.errors import SonoloraError


def switches():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cuda.cudnn_sdp_enabled(),
        torch.backends.cuda.flash_sdp_enabled(),
    )


def test_the_switches_are_on_within_and_then_as_before():
    before = switches()
    with deterministic(False):
        assert switches() == before
    with deterministic(True):
        assert switches() == (True, True, False, True)
        assert not torch.is_deterministic_algorithms_warn_only_enabled(), "attention would only warn"
    assert switches() == before


def test_they_are_as_before_after_an_error():
    before = switches()
    with pytest.raises(ValueError, match="an error"), deterministic(True):
        raise ValueError("an error")
    assert switches() == before


def test_an_operation_without_a_deterministic_form_fails():
    with deterministic(True), pytest.raises(RuntimeError, match="does not have a deterministic implementation"):
        torch.nn.MaxUnpool1d(2)(torch.ones(1, 1, 2), torch.tensor([[[0, 2]]]))


def test_a_workspace_with_which_products_differ_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    with pytest.raises(SonoloraError, match=r"CUBLAS_WORKSPACE_CONFIG to be :4096:8 or :16:8, and it is ':0:0'"):
        deterministic(True).__enter__()
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
