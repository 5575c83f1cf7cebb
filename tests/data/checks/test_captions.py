"""Captions with faults of their own, and captions that do not fit together."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sonolora.data.checks.captions import caption_warnings
from sonolora.runs.demo import CLIPS, TRIGGER, clip


def words(text: str) -> int:
    return len(text.split())


def caption_findings(captions: Sequence[str], trigger: str = "", most: int = 50) -> list[tuple[str, str]]:
    return caption_warnings([(f"{n}.txt", text) for n, text in enumerate(captions)], trigger, words, most)


def test_nothing_is_found_in_good_captions() -> None:
    assert caption_findings(["a bell rings", "a deep gong", "rain on a roof"]) == []
    assert caption_findings(["f0leyvox a small bell", "f0leyvox a deep gong"], "f0leyvox") == []
    assert caption_findings(["rain falls, rain and rain", "rain on a roof"], "rain") == []
    assert caption_findings(["80s synth", "80s drums", "a slap bass"]) == []
    assert caption_findings(["footsteps on wood", "footsteps on snow", "footsteps on tiles", "a person runs"]) == []
    assert caption_findings([]) == []


def test_missing_captions_are_found() -> None:
    empty = caption_findings(["a bell rings", "", "a deep gong"])
    assert [file for file, text in empty if "an empty prompt" in text] == ["1.txt"]
    ((file, text),) = caption_findings(["f0leyvox a bell rings", "f0leyvox"], " f0leyvox ")
    assert file == "1.txt"
    assert "no caption: it is trained with the trigger phrase alone" in text


def test_identical_captions_are_found_once_for_each_text() -> None:
    ((file, text),) = caption_findings(["a bell rings", "A bell rings", "a bell rings"])
    assert (file, text.split(",")[0]) == ("0.txt", "all 3 captions are the same")
    bell, gong = "a bell rings", "a deep gong"
    warnings = caption_findings([bell, gong, bell, gong, "a big drum", *[bell] * 4])
    assert [(file, text.split(":")[0]) for file, text in warnings] == [
        ("0.txt", "has the same caption as 2.txt, 5.txt, 6.txt, and 2 more"),
        ("1.txt", "has the same caption as 3.txt"),
    ]


def test_a_trigger_phrase_that_is_trained_twice_is_found() -> None:
    captions = ["f0leyvox F0LEYVOX, a bell", "f0leyvox a f0leyvoxed gong", "f0leyvox f0leyvoxes sing"]
    ((file, text),) = caption_findings(captions, "f0leyvox")
    assert file == "0.txt"
    assert "is trained as 'f0leyvox F0LEYVOX, a bell', with the trigger phrase twice" in text


def test_captions_without_the_trigger_phrase_of_the_others_are_found() -> None:
    captions = ["f0leyvox a bell rings", "F0leyvox: a deep gong", "f0leyvox, soft rain", "a big drum"]
    ((file, text),) = caption_findings(captions)
    assert file == "3.txt"
    assert "lacks 'f0leyvox', with which 3 of 4 captions begin" in text


def test_captions_beyond_what_is_read_are_found() -> None:
    ((file, text),) = caption_findings(["a bell rings", "a gong " * 30])
    assert file == "1.txt"
    assert "60 tokens, and anything after the first 50 is not read" in text


def test_the_demos_own_captions_have_no_fault() -> None:
    assert caption_findings([f"{TRIGGER} {clip(number)[1]}" for number in range(8)], TRIGGER) == []
    texts = {text for number in range(CLIPS) for _, text in [clip(number)]}
    assert caption_findings([f"{TRIGGER} {text}" for text in sorted(texts)], TRIGGER) == []


# The pages' own examples.
@pytest.mark.parametrize("weak", ["rain", "Drums", "walking", "the rain.", "雨"])
@pytest.mark.parametrize("trigger", ["", "f0leyvox"])
def test_a_caption_of_one_word_is_weak(weak: str, trigger: str) -> None:
    good = ["a soft rain shower on a tin roof", "a drum fill building up to a cymbal crash"]
    ((file, text),) = [
        finding
        for finding in caption_findings([f"{trigger} {text}".strip() for text in (*good, weak)], trigger)
        if "another script" not in finding[1]
    ]
    assert file == "2.txt"
    assert f"'{weak}' is a weak caption" in text


def test_weak_captions_are_found_once() -> None:
    findings = caption_findings(["rain", "wind", "soft hail falls", "snow", "fog", "a storm"])
    assert [(file, text.split(":")[0]) for file, text in findings] == [
        ("0.txt", "'rain' is a weak caption, and so are 1.txt, 3.txt, 4.txt, and 1 more")
    ]


def test_captions_of_scripts_without_spaces_are_not_weak() -> None:
    assert caption_findings(["屋根に降る静かな雨", "犬が二回吠える", "遠くで鳴る鐘の音"]) == []


def test_a_label_among_descriptions_and_the_reverse_are_inconsistent() -> None:
    long = "a slow and heavy rain shower falls on the tin roof of a small shed number"
    ((file, text),) = caption_findings([*(f"{long} {number}" for number in range(6)), "rain falls"])
    assert (file, text.split(":")[0]) == ("6.txt", "has 2 words, where captions here have 14")
    ((file, text),) = caption_findings([*(f"rain number {number}" for number in range(6)), f"{long} {long} x"])
    assert file == "6.txt"
    assert caption_findings(["one bell rings", "two bells ring", long, f"{long} {long}"]) == [], "of all lengths"


def test_captions_in_two_scripts_are_inconsistent() -> None:
    ((file, text),) = caption_findings(["soft rain", "мягкий дождь", "a loud bell", "two dogs", "глухой колокол"])
    assert (file, text.split(":")[0]) == ("1.txt", "is in another script than most captions, and so are 4.txt")
