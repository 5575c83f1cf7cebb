"""Help pages, and advice for what stands in the wrong place."""

from __future__ import annotations

import re

import pytest

from sonolora.modes import MODES


def commands(page):
    return re.findall(r"^  ([a-z0-9-]+) ", page.partition("Commands:\n")[2], re.MULTILINE)


def test_commands_are_listed_in_the_order_of_work(sonolora):
    listed = commands(sonolora("--help").out)
    assert listed[:9] == ["demo", "base", "check", "estimate", "train", "sweep", "generate", "inspect", "merge"]
    assert {"serve", "keys", "requests", "ledger", "demo", "env", "selftest", "bench", "completion"} <= set(listed)
    assert commands(sonolora("train", "--help").out) == list(MODES)


def test_every_field_of_a_request_is_on_its_help_page(sonolora):
    page = " ".join(sonolora("train", "t2a", "--help").out.split())
    request = MODES["t2a"].request
    for name in request.model_fields:
        if name in request.without_effect:
            assert f" {name}" in page.partition("without effect here:")[2], name
        elif name != "training_data_url":
            assert re.search(rf"--{name.replace('_', '-')}[ ,]", page), name
    assert "--audio-normalize / --no-audio-normalize" in page and "[default: on]" in page
    assert (
        page.index("Arguments:") < page.index("Options:") < page.index("Run settings:") < page.index("Request fields:")
    )


def test_no_page_names_an_old_option(sonolora):
    for arguments in (("train", "--help"), ("train", "t2a", "--help"), ("generate", "t2a", "--help")):
        page = sonolora(*arguments).out
        assert "--block-offload" in page and "stream-blocks" not in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train --base tiny t2a x.zip --out y", "base: must come after the mode: sonolora train t2a --base ..."),
        ("train --stream-blocks t2a x.zip", "block_offload: must come after the mode: sonolora train t2a --block-offl"),
        ("train --rank 8 t2a x.zip --out y", "rank: must come after the mode: sonolora train t2a --rank ..."),
        ("train --rank 8", "rank: must come after the mode: sonolora train MODE --rank ..."),
        ("generate --lora x v2a --out y.wav", "lora: must come after the mode: sonolora generate v2a --lora ..."),
        ("--device cpu train t2a x.zip", "device: must come after the command: sonolora train --device ..."),
        ("train --base tiny", "mode: specify a mode (t2a, a2a, "),
        ("train t2", "mode: 't2' is not a mode; did you mean t2a?"),
        ("trian t2a x.zip", "command: 'trian' is not a command; did you mean train?"),
        ("train {here}", "is not a mode: specify one of t2a, a2a"),
        ("train t2a --resume x", "resume: takes no mode"),
        ("train --resume x t2a y.zip --out z", "resume: takes no mode"),
        ("train --resume x --rank 8", "rank: cannot be given with --resume: the run keeps its own"),
    ],
)
def test_words_in_the_wrong_place(sonolora, tmp_path, arguments, message):
    done = sonolora(*(word.replace("{here}", str(tmp_path)) for word in arguments.split()))
    assert (done.code, done.out) == (2, "")
    assert message in done.err


def test_data_without_a_mode(sonolora, tmp_path):
    assert "before the data" in sonolora("train", tmp_path, "--out", "x").err


def test_an_option_that_nothing_takes_is_no_misplaced_one(sonolora):
    done = sonolora("train", "--nonsense", "t2a")
    assert done.code == 2
    assert "No such option: --nonsense" in done.err
