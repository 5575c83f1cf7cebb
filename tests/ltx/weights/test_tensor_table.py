"""The published table: the counts of the publisher's files, the golden file, and the networks that read them."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx2 import LTX2VideoDecoder3d
from torch import nn

from sonolora.ltx.codec.audio_codec import build_vae, build_vocoder, vae_checkpoint_name, vocoder_checkpoint_name
from sonolora.ltx.codec.video_encoder import VideoEncoder
from sonolora.ltx.model.transformer import PREFIX, Transformer
from sonolora.ltx.text.text_projector import TextProjector, projector_checkpoint_name
from sonolora.ltx.weights.base import find_base
from sonolora.ltx.weights.ltx23_config import LTX23_CONFIG
from sonolora.ltx.weights.tensor_table import needed, published_tensors
from sonolora.ltx.weights.transformer_config import TransformerConfig
from sonolora.ltx.weights.verify import text_encoder_sizes

TABLE = published_tensors()


def count(prefix: str, names=TABLE) -> tuple[int, int]:
    """Tensors and values under a prefix."""
    chosen = [tensor for name, tensor in TABLE.items() if name.startswith(prefix) and name in names]
    return len(chosen), sum(tensor.values for tensor in chosen)


def test_whole_file():
    assert len(TABLE) == 5947
    assert sum(tensor.dtype == "F32" for tensor in TABLE.values()) == 290
    assert sum(tensor.dtype == "BF16" for tensor in TABLE.values()) == 5657
    size = sum(tensor.values * (4 if tensor.dtype == "F32" else 2) for tensor in TABLE.values())
    assert size == 46_148_472_534


@pytest.mark.parametrize(
    ("prefix", "tensors", "values"),
    [
        (f"{PREFIX}video_embeddings_connector.", 129, 1_612_546_304),
        (f"{PREFIX}audio_embeddings_connector.", 129, 403_620_096),
        ("text_embedding_projection.", 4, 1_156_061_184),
        ("text_embedding_projection.audio_", 2, 385_353_728),
        ("audio_vae.", 102, 21_333_008 + 31_915_138 + 2 * 128),
        ("audio_vae.encoder.", 44, 21_333_008),
        ("audio_vae.decoder.", 56, 31_915_138),
        ("vocoder.", 1227, 128_537_448 + 547_584),
        ("vocoder.vocoder.", 667, 115_075_032 + 109 * 24),
        ("vocoder.bwe_generator.", 557, 13_462_416 + 91 * 24),
        ("vocoder.mel_stft.", 3, 64 * 257 + 2 * 514 * 512),
        ("vae.", 170, 318_936_897 + 407_169_072 + 2 * 128),
    ],
)
def test_parts(prefix, tensors, values):
    assert count(prefix) == (tensors, values)


def test_transformer():
    transformer = {name for name in TABLE if name.startswith(PREFIX) and "embeddings_connector" not in name}
    assert count(PREFIX, transformer) == (4186, 18_988_838_144)
    assert count(PREFIX, transformer & needed(TABLE, video=False)) == (1457, 3_286_408_320)


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("audio_attn1.", 809_043_456),
        ("audio_attn2.", 809_043_456),
        ("audio_ff.", 1_611_104_256),
        ("attn1.", 3_228_698_112),
        ("attn2.", 3_228_698_112),
        ("ff.", 6_443_433_984),
        ("audio_to_video_attn.", 1_214_940_672),
        ("video_to_audio_attn.", 1_211_696_640),
        ("audio_scale_shift_table", 884_736),
        ("scale_shift_table_a2v_ca_audio", 491_520),
        ("scale_shift_table_a2v_ca_video", 983_040),
    ],
)
def test_groups_of_a_block(part, values):
    assert sum(count(f"{PREFIX}transformer_blocks.{index}.{part}")[1] for index in range(48)) == values


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("audio_adaln_single", 42_489_856),
        ("audio_prompt_adaln_single", 13_115_392),
        ("audio_patchify_proj", 264_192),
        ("audio_proj_out", 262_272),
        ("adaln_single", 168_865_792),
        ("prompt_adaln_single", 51_396_608),
        ("av_ca_video_scale_shift_adaln_single", 84_959_232),
        ("av_ca_audio_scale_shift_adaln_single", 21_508_096),
        ("av_ca_a2v_gate_adaln_single", 34_615_296),
        ("av_ca_v2a_gate_adaln_single", 8_919_040),
    ],
)
def test_global_groups(name, values):
    assert count(f"{PREFIX}{name}.")[1] == values


@pytest.mark.parametrize("which", ["golden", "tiny"])
def test_smaller_files_of_the_same_form(which, checkpoint):
    """Names, shapes and dtypes follow from the header by the same rules; the golden file is the publisher's."""
    states = 5
    if which == "tiny":
        base = find_base("tiny")
        checkpoint, (states, _) = base.checkpoint, text_encoder_sizes(base.text_encoder)
    table = published_tensors(checkpoint.config, states)
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in table.items()} == {
        name: (info.dtype, info.shape) for name, info in checkpoint.tensors.items()
    }


def shapes(module: nn.Module, file_name) -> dict[str, tuple[int, ...]]:
    return {file_name(name): tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def networks(video: bool) -> dict[str, tuple[int, ...]]:
    """What our loaders look for in the file."""
    config = TransformerConfig.from_header(LTX23_CONFIG["transformer"])
    found = {}
    with torch.device("meta"):
        found |= shapes(Transformer(config, video=video), lambda name: PREFIX + name)
        vae = build_vae(LTX23_CONFIG["audio_vae"])
        vocoder = build_vocoder(LTX23_CONFIG["vocoder"], vae)
        found |= shapes(vae, vae_checkpoint_name) | shapes(vocoder, vocoder_checkpoint_name)
        for stream, connector in [("audio", config.audio_connector), ("video", config.video_connector)][: 1 + video]:
            projector = TextProjector(49, config.text_channels, connector)
            found |= shapes(projector, lambda name, stream=stream: projector_checkpoint_name(stream, name))
        if video:
            encoder = VideoEncoder(LTX23_CONFIG["vae"])
            found |= shapes(encoder, encoder.checkpoint_name)
    return found


@pytest.mark.parametrize("video", [False, True])
def test_networks_take_exactly_what_their_modes_need(video):
    wanted = needed(TABLE, video=video)
    assert networks(video) == {name: tensor.shape for name, tensor in TABLE.items() if name in wanted}


def test_modes_need():
    audio, everything = needed(TABLE, video=False), needed(TABLE, video=True)
    size = sum(TABLE[name].values * (4 if TABLE[name].dtype == "F32" else 2) for name in audio)
    assert (len(audio), size) == (2917, 8_517_602_036)
    assert len(everything) == 5947 - 84
    assert audio < everything


def test_video_decoder_is_that_of_diffusers():
    """Which counts a compression to the block behind it, and the first residual block apart."""
    with torch.device("meta"):
        decoder = LTX2VideoDecoder3d(
            block_out_channels=(256, 512, 512, 1024),
            layers_per_block=(4, 6, 4, 2, 2),
            spatio_temporal_scaling=(True,) * 4,
            inject_noise=(False,) * 5,
            upsample_residual=(False,) * 4,
            upsample_type=("spatiotemporal", "spatiotemporal", "temporal", "spatial"),
            upsample_factor=(2, 2, 1, 2),
        )
    theirs = sorted(tuple(tensor.shape) for tensor in decoder.state_dict().values())
    assert theirs == sorted(tensor.shape for name, tensor in TABLE.items() if name.startswith("vae.decoder."))
