import pytest

from sonolora.sampling.regions import CONTEXT, Region, plan_regions


def test_a_recording_of_the_trained_length_is_one_region():
    assert plan_regions([(1.0, 2.0)], 5.0, 5.0) == [Region(0.0, 5.0, ((1.0, 2.0),), ((1.0, 2.0),))]
    assert plan_regions([(0.1, 0.2)], 0.5, 5.0)[0].end == 0.5, "or shorter"


def test_a_span_has_context_on_both_sides():
    (region,) = plan_regions([(30.0, 31.0)], 60.0, 5.0)
    assert region == Region(28.0, 33.0, ((30.0, 31.0),), ((30.0, 31.0),))


@pytest.mark.parametrize(("span", "start"), [((0.0, 1.0), 0.0), ((0.5, 1.0), 0.0), ((59.0, 60.0), 55.0)])
def test_a_region_stays_inside_the_recording(span, start):
    (region,) = plan_regions([span], 60.0, 5.0)
    assert (region.start, region.end) == (start, start + 5)


def test_spans_close_together_share_a_region_and_others_have_their_own():
    regions = plan_regions([(10, 10.5), (12, 12.5), (40, 41), (42, 44.5)], 60.0, 5.0)
    assert [region.paste for region in regions] == [((10, 10.5), (12, 12.5)), ((40, 41),), ((42, 44.5),)]


def test_the_old_content_of_another_regions_span_is_no_context():
    first, second = plan_regions([(40, 41), (42, 44.5)], 60.0, 5.0)
    assert first.regenerate == ((40, 41), (42, first.end))
    assert second.regenerate == ((second.start, 41), (42, 44.5))


def test_a_long_span_makes_a_long_region():
    (region,) = plan_regions([(10, 30)], 60.0, 5.0)
    assert (region.start, region.end) == (10 - CONTEXT * 5, 30 + CONTEXT * 5)
    (region,) = plan_regions([(0, 60)], 60.0, 5.0)
    assert (region.start, region.end) == (0, 60)


def test_spans_that_touch_are_one():
    (region,) = plan_regions([(31, 32), (30, 31), (31.5, 31.7)], 60.0, 5.0)
    assert region.paste == ((30, 32),)
