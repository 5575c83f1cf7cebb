"""From a folder that is dropped to a LoRA that is heard, on the first layer of `tiny`, in each family of modes.

The server's workers are threads of this process, and training takes 2 steps. `test_whole_way.py` has processes and all
of `tiny`.
"""

from __future__ import annotations

import pytest
from studio_way import TAP, generate, listen, take, train
from workers_here import workers_of

# Slow: about one run in ten ends with a request of the page that is answered 404; which one is not known yet.
pytestmark = [pytest.mark.xdist_group("studio"), pytest.mark.slow]
STEPS = 2
MODES = ["t2a", "a2a", "v2a", "audio-inpaint", "audio-extend-prefix"]


@pytest.fixture(scope="module")
def at_work(_serving, shallow_base):
    with workers_of(_serving, shallow_base):
        yield


@pytest.mark.usefixtures("assistant_here", "at_work")
@pytest.mark.parametrize("mode", MODES)
def test_from_a_dropped_folder_to_a_lora_that_is_heard(mode, live, opened, tmp_path):
    page = opened(live.address, live.key, script=TAP)
    train(page, mode, tmp_path, STEPS)
    listen(page, STEPS)
    if mode == "t2a":
        generate(page, mode, 2)
    take(page, mode)
