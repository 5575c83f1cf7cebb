"""Checkpoints in several files and under other prefixes: read to the same networks as the file they came from."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sonolora.core.errors import CheckpointError
from sonolora.core.randomness import normal
from sonolora.core.tensor_file import TensorInfo
from sonolora.ltx.codec.audio_codec import load_audio_codec
from sonolora.ltx.codec.video_encoder import load_video_encoder
from sonolora.ltx.lora.lora_file import open_lora
from sonolora.ltx.lora.merge import merge
from sonolora.ltx.model.transformer import Stream, is_transformer_tensor, load_transformer
from sonolora.ltx.text.text_encoder import load_text_encoder
from sonolora.ltx.weights.base import add_base, find_base
from sonolora.ltx.weights.ltx23_config import LTX23_CONFIG
from sonolora.ltx.weights.parts import TRANSFORMER, infer_config, open_parts
from sonolora.ltx.weights.registry import registered
from sonolora.ltx.weights.tensor_table import published_tensors
from sonolora.ltx.weights.verify import open_checkpoint, verify

CPU, F32 = torch.device("cpu"), torch.float32
TINY = find_base("tiny")


@pytest.fixture(scope="module")
def weights():
    return load_file(TINY.checkpoint.path)


@pytest.fixture(scope="module")
def metadata():
    with safe_open(TINY.checkpoint.path, "pt") as file:
        return file.metadata()


def without(prefix, weights):
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


TRANSFORMERS = {
    "published": lambda weights: {name: v for name, v in weights.items() if name.startswith(TRANSFORMER)},
    "comfyui": lambda weights: {f"diffusion_model.{name}": v for name, v in without(TRANSFORMER, weights).items()},
    "bare": lambda weights: without(TRANSFORMER, weights),
}
OTHERS = {
    "published": lambda weights: [
        {name: v for name, v in weights.items() if name.startswith(("audio_vae.", "vocoder."))},
        {name: v for name, v in weights.items() if name.startswith("vae.")},
        {name: v for name, v in weights.items() if name.startswith("text_embedding_projection.")},
    ],
    "bare": lambda weights: [
        without(prefix, weights) for prefix in ("audio_vae.", "vocoder.", "vae.", "text_embedding_projection.")
    ],
}


@pytest.fixture
def split(weights, metadata, tmp_path):
    """The files of a split copy of `tiny`; only the transformer's has a header, unless told otherwise."""

    def split(transformer, others, with_header=0):
        folder = tmp_path / "parts"
        folder.mkdir()
        paths = []
        for index, tensors in enumerate([TRANSFORMERS[transformer](weights), *OTHERS[others](weights)]):
            paths.append(folder / f"{index}.safetensors")
            tensors = {name: value.contiguous() for name, value in tensors.items()}
            save_file(tensors, paths[-1], metadata if index == with_header else {"format": "pt"})
        return paths

    return split


@pytest.mark.parametrize(("transformer", "others"), [("published", "published"), ("comfyui", "bare"), ("bare", "bare")])
def test_parts_are_read_as_the_whole(transformer, others, split, weights):
    parts = open_parts(split(transformer, others))
    assert parts.tensors.keys() == weights.keys()
    for load in (
        lambda file: load_transformer(file, video=True, device=CPU, dtype=F32),
        lambda file: load_audio_codec(file, device=CPU).vae,
        lambda file: load_audio_codec(file, device=CPU).vocoder,
        lambda file: load_video_encoder(file, device=CPU, dtype=F32),
    ):
        ours, expected = load(parts).state_dict(), load(TINY.checkpoint).state_dict()
        assert ours.keys() == expected.keys()
        assert all(torch.equal(ours[name], expected[name]) for name in expected)
    texts = [
        load_text_encoder(file, TINY.text_encoder, video=True, device=CPU, dtype=F32).encode(["a dog"])[0]
        for file in (parts, TINY.checkpoint)
    ]
    assert torch.equal(texts[0].audio, texts[1].audio)
    assert torch.equal(texts[0].video, texts[1].video)


def test_the_header_may_be_in_any_file(split):
    parts = open_parts(split("bare", "published", with_header=2))
    assert parts.config == TINY.checkpoint.config
    assert len({parts.fingerprint(), open_parts([parts.path]).fingerprint(), TINY.checkpoint.fingerprint()}) == 3


def test_each_part_alone_names_what_is_missing(split):
    missing = {
        0: "it has the transformer, the text connectors, but not the text projections, the audio VAE, the vocoder, the",
        1: "it has the audio VAE, the vocoder, but not the transformer, the text connectors, the text projections, the",
        2: "it has the video VAE, but not the transformer",
        3: "it has the text projections, but not the transformer",
    }
    paths = split("bare", "published")
    for index, words in missing.items():
        with pytest.raises(CheckpointError, match=f"only part of a checkpoint: {words}.*; give all parts"):
            verify(open_checkpoint(paths[index]))


def test_a_tensor_in_two_files_is_refused(split):
    paths = split("published", "published")
    shutil.copy(paths[1], paths[1].with_name("9.safetensors"))
    with pytest.raises(
        CheckpointError, match=r"9\.safetensors: audio_vae\..*, and \d+ more are in another of the files"
    ):
        open_parts([*paths, paths[1].with_name("9.safetensors")])


def test_configs_that_differ_are_refused(split, metadata):
    paths = split("published", "published")
    config = json.loads(metadata["config"])
    config["audio_vae"]["preprocessing"]["stft"]["hop_length"] = 7
    tensors = load_file(paths[1])
    save_file(tensors, paths[1], {"config": json.dumps(config)})
    with pytest.raises(CheckpointError, match="another config for 'audio_vae'"):
        open_parts(paths)
    save_file(tensors, paths[1], {"config": json.dumps({"audio_vae": None})})
    assert open_parts(paths).config == TINY.checkpoint.config


def test_without_a_config_the_published_sizes_decide():
    two_layers = {**LTX23_CONFIG, "transformer": {**LTX23_CONFIG["transformer"], "num_layers": 2}}
    table = {name: TensorInfo(t.dtype, t.shape, 0, 0) for name, t in published_tensors(two_layers).items()}
    assert infer_config(table) == two_layers
    name = next(name for name in table if name.endswith("audio_attn1.to_q.weight"))
    assert infer_config({**table, name: TensorInfo("BF16", (64, 64), 0, 0)}) is None
    assert infer_config({**table, "other": TensorInfo("BF16", (64, 64), 0, 0)}) is None
    assert infer_config({}) is None


def test_other_sizes_need_a_config(split):
    with pytest.raises(CheckpointError, match=r"no model configuration in the header .* as it was published"):
        _ = open_parts(split("bare", "bare", with_header=None)).config


def test_a_folder_of_parts_is_a_base(split):
    (path, *_) = split("comfyui", "bare")
    shutil.copytree(TINY.text_encoder, path.parent / "text_encoder")
    base = find_base(str(path.parent))
    assert load_transformer(base.checkpoint, video=False, device=CPU, dtype=F32)
    path.unlink()
    with pytest.raises(
        CheckpointError, match=r"holds one checkpoint .*found: 1\.safetensors, .*\(only part of a checkp"
    ):
        find_base(str(path.parent))


def test_parts_are_registered_and_found_again(split, monkeypatch, tmp_path):
    monkeypatch.setenv("SONOLORA_BASES", str(tmp_path / "bases.json"))
    paths = split("bare", "published")
    add_base("parts", list(map(str, paths)), str(TINY.text_encoder))
    add_base("folder", [str(paths[0].parent)], str(TINY.text_encoder))
    for entry in registered().values():
        assert [entry.checkpoint, *entry.parts] == paths
    assert find_base("parts").fingerprint == find_base("folder").fingerprint
    assert load_transformer(find_base("parts").checkpoint, video=False, device=CPU, dtype=F32)
    paths[2].unlink()
    with pytest.raises(CheckpointError, match=r"2\.safetensors: cannot be read"):
        find_base("parts")


def test_a_merge_needs_one_file(split, tmp_path):
    parts = open_parts(split("published", "published"))
    key = "diffusion_model.transformer_blocks.0.audio_attn1.to_q"
    out, inputs = TINY.checkpoint.tensors[f"model.{key}.weight"].shape
    halves = {f"{key}.lora_A.weight": torch.ones(1, inputs), f"{key}.lora_B.weight": torch.ones(out, 1)}
    save_file(halves, tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match="this base is in several files"):
        merge(parts, [(open_lora(tmp_path / "lora.safetensors"), 1.0)], tmp_path / "out.safetensors")


def test_files_of_other_networks_keep_their_names(tmp_path):
    save_file({"unet.x": torch.ones(2)}, tmp_path / "other.safetensors")
    assert list(open_parts([tmp_path / "other.safetensors"]).tensors) == ["unet.x"]


@pytest.mark.slow
def test_full_width_in_8_bits_without_prefix_and_config(tmp_path):
    """One layer of the published audio stream, 0.25 GB: the same outputs as the weights that are meant."""
    config = {**LTX23_CONFIG, "transformer": {**LTX23_CONFIG["transformer"], "num_layers": 1}}
    stored, meant = {}, {}
    for name, tensor in published_tensors(config).items():
        if not name.startswith(TRANSFORMER) or not is_transformer_tensor(name.removeprefix(TRANSFORMER), video=False):
            continue
        value = 0.02 * normal(tensor.shape, name)
        meant[name] = value if tensor.dtype == "F32" else value.bfloat16()
        stored[name.removeprefix(TRANSFORMER)] = meant[name]
        if "transformer_blocks." in name and name.endswith(".weight") and len(tensor.shape) == 2:
            bare, scale = name.removeprefix(TRANSFORMER), value.abs().max() / 448
            stored[bare] = (value / scale).to(torch.float8_e4m3fn)
            stored[f"{bare}_scale"] = scale
            meant[name] = stored[bare].float() * scale
    save_file(stored, tmp_path / "stored.safetensors")
    save_file(meant, tmp_path / "meant.safetensors", {"config": json.dumps(config)})
    audio = Stream(normal((1, 26, 128), "x"), torch.rand(1, 1, 26), torch.tensor([0.7]), normal((1, 128, 2048), "c"))
    outputs = [
        load_transformer(open_parts([tmp_path / f"{name}.safetensors"]), video=False, device=CPU, dtype=F32)(audio)[0]
        for name in ("stored", "meant")
    ]
    assert outputs[0].isfinite().all() and torch.equal(*outputs)
