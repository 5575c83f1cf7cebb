"""The workflows of the docs: JSON in the form of ComfyUI's API whose links lead somewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "comfyui"


@pytest.mark.parametrize("mode", ["t2a", "v2a", "audio-inpaint", "a2a"])
def test_every_link_leads_to_a_node_and_every_node_to_the_result(mode):
    nodes = json.loads((FOLDER / f"{mode}.json").read_text("utf-8"))
    assert all(node.keys() == {"class_type", "inputs", "_meta"} for node in nodes.values())
    links = {
        number: [value[0] for value in node["inputs"].values() if isinstance(value, list)]
        for number, node in nodes.items()
    }
    assert all(source in nodes for sources in links.values() for source in sources)
    (end,) = [number for number, node in nodes.items() if node["class_type"].startswith("Save")]
    reached, left = set(), [end]
    while left:
        if (number := left.pop()) not in reached:
            reached.add(number)
            left += links[number]
    assert reached == nodes.keys(), "no node is idle"
    kinds = {node["class_type"] for node in nodes.values()}
    assert {"LoraLoaderModelOnly", "SamplerCustomAdvanced", "LTXVAudioVAEDecode"} <= kinds
    needed = {"v2a": "LoadVideo", "audio-inpaint": "SetLatentNoiseMask", "a2a": "LTXVReferenceAudio"}
    assert needed.get(mode, "LTXVEmptyLatentAudio") in kinds
