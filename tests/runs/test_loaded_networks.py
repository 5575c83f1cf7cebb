"""Networks that serve one run after the other: nothing of a run stays in them, and results are those of new ones."""

from __future__ import annotations

import pytest
import torch
from run_support import StopsAt, begin

from sonolora.core.cancellation import InterruptedRunError
from sonolora.core.errors import InputError
from sonolora.ltx.lora.adapters import add_adapters
from sonolora.ltx.lora.lora_targets import AUDIO_TARGETS
from sonolora.ltx.model.lora_layer import LoRALinear
from sonolora.ltx.weights.base import find_base
from sonolora.runs import loaded_networks as networks_module
from sonolora.runs import train as train_module
from sonolora.runs.loaded_networks import Networks
from sonolora.runs.resume import resume


@pytest.fixture
def networks(settings):
    return Networks(find_base(settings.base), torch.device("cpu"))


@pytest.fixture
def loads(monkeypatch):
    """The names of the networks that are loaded, as they are."""
    loaded = []
    for name in ("load_audio_codec", "load_text_encoder", "load_transformer"):
        real = getattr(networks_module, name)

        def load(*args, real=real, name=name, **options):
            loaded.append(name.removeprefix("load_"))
            return real(*args, **options)

        monkeypatch.setattr(networks_module, name, load)
    return loaded


def adapted(networks):
    return [module for module in networks._transformer.modules() if isinstance(module, LoRALinear)]


def test_kept_networks_give_what_new_ones_give(body, settings, silent, tmp_path, networks, loads, monkeypatch):
    def run(name, networks, *stops, **changes):
        # Its own cache, so that every network is used in every run.
        monkeypatch.setenv("SONOLORA_CACHE", str(tmp_path / "cache" / name))
        return begin("t2a", {**body, **changes}, settings, tmp_path / name, *stops, networks=networks)

    def interrupted(name, networks, **changes):
        stops = StopsAt(step=10)
        with pytest.raises(InterruptedRunError):
            run(name, networks, stops, stops, **changes)

    new = run("new", None).read_bytes()
    interrupted("other", networks, rank=16, trigger_phrase="another")
    loads.clear()
    with pytest.raises(InputError):
        run("bad", networks, audio_duration_seconds=3)
    interrupted("again", networks)
    assert not adapted(networks)
    assert resume(tmp_path / "again", silent, networks=networks).read_bytes() == new
    assert loads == ["text_encoder"], "of which nothing is kept; all else was there"


def test_a_failing_run_leaves_the_transformer_bare(body, settings, tmp_path, networks, monkeypatch):
    with networks.transformer(video=False) as model:
        before = dict(model.named_modules())

    def fails(*args, **options):  # noqa: ARG001
        assert len(adapted(networks)) == 10 * len(model.transformer_blocks)
        raise RuntimeError("out of order")

    monkeypatch.setattr(train_module, "save_state", fails)
    with pytest.raises(RuntimeError, match="out of order"):
        begin("t2a", body, settings, tmp_path / "out", networks=networks)
    after = dict(networks._transformer.named_modules())
    assert list(after) == list(before), "in their old order, too"
    assert all(after[name] is module for name, module in before.items())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_adapters_that_were_only_half_put_on_are_taken_off(networks):
    with networks.transformer(video=False) as model:
        add_adapters(model, AUDIO_TARGETS[:3], 8, seed=0)
        assert adapted(networks)
    assert not adapted(networks)


def test_one_transformer_is_kept(networks, loads):
    for video in (False, False, True, True, False):
        with networks.transformer(video=video) as model:
            assert model.has_video == video
    assert loads == ["transformer"] * 3


def test_on_a_card_the_transformer_makes_room_for_the_text_encoder(networks):
    with networks.transformer(video=False):
        pass
    networks.text_encoder(video=False)
    assert networks._transformer is not None, "on a CPU it stays"
    networks.device = torch.device("cuda")
    networks.text_encoder(video=False)
    assert networks._transformer is None
