"""Writes a base like `tiny` with random weights: the architecture and file format of LTX-2.3 at laptop size.

    python tools/tiny/make_random_base.py --out DIR

Out: DIR/tiny.safetensors (transformer, text projections and connectors, audio VAE, vocoder, video encoder; no video
decoder, which is not used) and DIR/text_encoder/ (a Gemma 3 language model with its tokenizer). The output is
deterministic on one machine. `assemble.py` replaces these weights by trained ones.

The weights are untrained but well scaled: activations keep their size through every network, gates are open, codec
statistics are measured, and everything that is computed rather than learned (STFT bases, mel filters, resampling
filters) is exact.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from captions import captions
from header import CONFIG, MODEL_VERSION, TEXT_CHANNELS
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import Gemma3TextConfig, Gemma3TextModel, GemmaTokenizer

from sonolora.analysis.mel import mel_filters
from sonolora.core.tensor_file import save_tensors
from sonolora.ltx.codec.audio_codec import (
    AudioCodec,
    build_log_mel,
    build_vae,
    build_vocoder,
    vae_checkpoint_name,
    vocoder_checkpoint_name,
)
from sonolora.ltx.codec.video_encoder import VideoEncoder
from sonolora.ltx.model.transformer import PREFIX, Transformer
from sonolora.ltx.text.text_projector import TextProjector, projector_checkpoint_name
from sonolora.ltx.weights.transformer_config import TransformerConfig

LICENSE = "Apache-2.0. Random weights, made by Sonolora's tools/tiny/make_random_base.py; not derived from LTX-2.3."
TEXT_TOKENS = 128
TEXT_LAYERS = 4
VOCABULARY = 1024
SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
GATE_ROWS = {9: (2, 5, 8), 5: (4,), 2: ()}  # rows of a scale-shift table that are gates, by its length


def make(out: Path) -> None:
    """Write the base into the folder `out`."""
    torch.manual_seed(0)
    tensors: dict[str, Tensor] = {}

    def add(module: nn.Module, file_name: Callable[[str], str]) -> None:
        for name, tensor in module.state_dict().items():
            keep = "scale_shift_table" in name  # as published: these in float32, everything else in bfloat16
            tensors[file_name(name)] = tensor if keep else tensor.to(torch.bfloat16)

    write_text_encoder(out / "text_encoder")
    config = TransformerConfig.from_header(CONFIG["transformer"])
    transformer = Transformer(config, video=True)
    initialise(transformer)
    add(transformer, lambda name: PREFIX + name)
    for stream, connector in ("audio", config.audio_connector), ("video", config.video_connector):
        projector = TextProjector(TEXT_LAYERS + 1, config.text_channels, connector)
        initialise(projector)
        add(projector, lambda name, stream=stream: projector_checkpoint_name(stream, name))
    codec = make_codec()
    add(codec.vae, vae_checkpoint_name)
    add(codec.vocoder, vocoder_checkpoint_name)
    video_encoder = make_video_encoder()
    add(video_encoder, video_encoder.checkpoint_name)
    # Written last: its presence marks a complete base.
    about = {
        "config": json.dumps(CONFIG),
        "model_version": MODEL_VERSION,
        "license": LICENSE,
        "made_by": "tools/tiny/make_random_base.py",
    }
    save_tensors(out / "tiny.safetensors", tensors, about)


@torch.no_grad()
def initialise(module: nn.Module) -> None:
    """Initialise weights that preserve activation scale, with open gates and small modulations."""
    for name, parameter in module.named_parameters():
        if "scale_shift_table" in name:
            parameter.normal_(std=0.1)
            for row in GATE_ROWS[len(parameter)]:
                parameter[row] += 0.5
        elif name.endswith("norm.weight"):
            parameter.fill_(1)
        elif parameter.ndim == 1:
            parameter.zero_()
        else:
            modulates = ".linear." in name  # the last layer of an adaptive layer norm
            parameter.normal_(std=(0.2 if modulates else 1) * parameter.shape[1] ** -0.5)


@torch.no_grad()
def make_codec() -> AudioCodec:
    """The audio codec with statistics measured on synthetic sounds, and a vocoder of moderate loudness."""
    section = CONFIG["audio_vae"]
    vae = build_vae(section)
    vocoder = build_vocoder(CONFIG["vocoder"], vae)
    fill_stft(vocoder.mel_stft, CONFIG["vocoder"]["bwe"])
    codec = AudioCodec(vae.eval(), vocoder.eval(), build_log_mel(section, torch.device("cpu")))
    waveforms = sounds()
    mel = codec.log_mel(waveforms)
    # The decoder's last layer starts from the mean spectrum, with about its spread.
    vae.decoder.conv_out.conv.weight *= 4
    vae.decoder.conv_out.conv.bias.fill_(mel.mean().item())
    latents_BTD = codec.encode(waveforms)
    vae.latents_mean.copy_(latents_BTD.mean((0, 1)))
    vae.latents_std.copy_(latents_BTD.std((0, 1)))
    stage = vocoder.vocoder
    stage.conv_out.weight *= 0.1 / stage(mel).std()
    vocoder.bwe_generator.conv_out.weight *= 0.1
    return codec


def fill_stft(mel_stft: nn.Module, section: dict[str, int]) -> None:
    """The Fourier bases (real part above imaginary part) under a Hann window, and the mel filters of the vocoder."""
    size = section["n_fft"]
    rows, samples = torch.arange(size // 2 + 1, dtype=torch.float64), torch.arange(size, dtype=torch.float64)
    angles = 2 * torch.pi / size * torch.outer(rows, samples)
    bases = torch.cat([angles.cos(), -angles.sin()])
    window = torch.hann_window(size, dtype=torch.float64)
    mel_stft.stft_fn.forward_basis.copy_((bases * window)[:, None])
    mel_stft.stft_fn.inverse_basis.copy_((torch.linalg.pinv(bases).T * section["hop_length"] * window / size)[:, None])
    mel_stft.mel_basis.copy_(torch.from_numpy(mel_filters(section["num_mels"], size, section["input_sampling_rate"])))


def sounds() -> Tensor:
    """Stereo sounds of two seconds at 16 kHz, (8, 2, 32000): noises, tones, sweeps, pulses."""
    t = torch.arange(32000) / 16000
    noise = torch.randn(3, len(t))
    turn = 2 * torch.pi * t
    mono = [
        0.1 * noise[0],
        0.2 * noise[1] * (-3 * t).exp(),
        0.01 * noise[2].cumsum(0) / 10,
        0.3 * (440 * turn).sin(),
        0.2 * (110 * turn).sin().sign() * (-2 * t).exp(),
        0.3 * ((200 + 1500 * t) * turn).sin(),
        0.5 * ((t * 8) % 1 < 0.002).float(),
        0.2 * (1000 * turn).sin() * (0.5 + 0.5 * (4 * turn).sin()),
    ]
    balance = torch.linspace(0.2, 0.8, len(mono))[:, None]
    return torch.stack([torch.stack(mono) * 2 * (1 - balance), torch.stack(mono) * 2 * balance], dim=1)


@torch.no_grad()
def make_video_encoder() -> VideoEncoder:
    """The video encoder with statistics measured on moving gradients and noise."""
    encoder = VideoEncoder(CONFIG["vae"]).eval()
    time, height, width = torch.meshgrid(*(torch.arange(n) / n for n in (17, 128, 192)), indexing="ij")
    waves = [torch.sin(6.3 * (a * time + b * height + c * width)) for a, b, c in ((2, 1, 0), (1, 0, 3), (4, 2, 2))]
    smooth = torch.stack(waves)[None]
    frames = torch.cat([smooth, smooth.flip(1, 2), torch.rand_like(smooth) * 2 - 1])
    latents = encoder.encode(frames)
    encoder.latents_mean.copy_(latents.mean((0, 2, 3, 4)))
    encoder.latents_std.copy_(latents.std((0, 2, 3, 4)))
    return encoder


def write_text_encoder(folder: Path) -> None:
    """A Gemma 3 language model with random weights, and a tokenizer trained on the captions."""
    tokenizer = train_tokenizer()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    config = Gemma3TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=TEXT_CHANNELS,
        intermediate_size=2 * TEXT_CHANNELS,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=TEXT_CHANNELS // 4,
        query_pre_attn_scalar=TEXT_CHANNELS // 4,
        max_position_embeddings=TEXT_TOKENS,
        sliding_window=TEXT_TOKENS,
        initializer_range=TEXT_CHANNELS**-0.5,
        architectures=["Gemma3TextModel"],
        dtype="bfloat16",
    )
    config.save_pretrained(folder)
    model = Gemma3TextModel(config).to(torch.bfloat16)
    save_tensors(folder / "model.safetensors", model.state_dict(), {"format": "pt"})


def train_tokenizer() -> GemmaTokenizer:
    """Byte-pair encoding over the captions, with byte fallback."""
    trained = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    fixed = [*SPECIAL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY - len(fixed), show_progress=False)
    trained.train_from_iterator(captions(), trainer)
    model = json.loads(trained.to_str())["model"]
    pieces = [*fixed, *sorted(model["vocab"], key=model["vocab"].get)]
    return GemmaTokenizer(
        vocab={piece: index for index, piece in enumerate(pieces)},
        merges=[tuple(pair) for pair in model["merges"]],
        model_max_length=TEXT_TOKENS,
        add_bos_token=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a base like 'tiny' with random weights.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    out = parser.parse_args().out
    make(out)
    print(f"{out}: written")
