import pytest
import torch

from sonolora.core.errors import CheckpointError
from sonolora.sampling.guidance import Guidance, guide, stg_blocks


def test_equals_the_publisher_sample_by_sample(cases):
    parts = {name: cases[f"guidance.{name}_x0"] for name in ("cond", "uncond", "perturbed")}
    guided = guide(parts["cond"], Guidance(), unconditional=parts["uncond"], perturbed=parts["perturbed"])
    torch.testing.assert_close(guided, cases["guidance.cfg7_stg1_rescale0.7"], atol=1e-6, rtol=1e-6)


def test_the_isolated_prediction_pushes_away():
    conditional, isolated = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    guided = guide(conditional, Guidance(rescale=0, modality=3), isolated=isolated)
    torch.testing.assert_close(guided, conditional + 2 * (conditional - isolated))


def test_the_conditional_prediction_alone_is_unchanged():
    conditional = torch.randn(1, 4, 3)
    torch.testing.assert_close(guide(conditional, Guidance()), conditional)


def test_the_perturbed_block_is_the_published_one_at_full_depth():
    assert stg_blocks(48) == {28}
    assert stg_blocks(6) == {3}
    assert stg_blocks(1) == {0}


def test_a_base_may_have_its_own_scales():
    metadata = {"guidance": {"cfg": 1.5}}
    assert Guidance.of_base({}) == Guidance()
    assert Guidance.of_base(metadata) == Guidance(cfg=1.5)
    assert Guidance.of_base(metadata, stg=0.5, cfg=None) == Guidance(cfg=1.5, stg=0.5)
    assert Guidance.of_base(metadata, cfg=4.0).cfg == 4


@pytest.mark.parametrize("guidance", [7, "{", {"strength": 1}, {"cfg": "much"}])
def test_unreadable_scales_are_refused(guidance):
    with pytest.raises(CheckpointError, match="guidance"):
        Guidance.of_base({"guidance": guidance})
