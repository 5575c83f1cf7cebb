"""Evaluates the audio codec of a base: reconstruction error, compared with Griffin-Lim.

    python tools/tiny/judge_codec.py --base DIR [--out FILE.json] [--each 1] [--pictures DIR]

In: a folder with tiny.safetensors. Out: a table, also as JSON. Sounds: known kinds at indices that training never
draws, held-out kinds, speech and instruments (skipped where their programs are not installed). Paths:

    vocoder           waveform -> log-mel -> waveform
    vocoder by GL     the same by Griffin-Lim, at 16 kHz
    round trip        waveform -> log-mel -> latents -> log-mel -> waveform
    round trip by GL  the same with Griffin-Lim for the vocoder

All are compared at 16 kHz. The codec is also compared at 48 kHz, with the true sound low-passed at 8 kHz as the
baseline of bandwidth extension. Metrics are means over sounds; see distances.py.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import real_sounds
import torch
from corpus import sound
from distances import clicks, level_error, log_spectral_distance, mel_distance
from griffin_lim import griffin_lim
from sounds import HELD_OUT_KINDS, KINDS
from sounds.kind import Kind
from torch import Tensor

from sonolora.analysis.spectrogram import draw_waveform_and_mel
from sonolora.ltx.codec.audio_codec import AudioCodec, load_audio_codec
from sonolora.ltx.weights.checkpoint import Checkpoint
from sonolora.media.audio import Waveform, resample
from sonolora.media.write_audio import write_wav

LOW, HIGH = 16_000, 48_000
SECONDS = 3.0
UNSEEN_SEED = 1  # training draws from the corpus of seed 0
FIGURES = ("LSD", "mel", "level", "drift", "clicks")


def ways(codec: AudioCodec, true: Waveform) -> dict[str, dict[int, Tensor]]:
    """The output of each path for a sound at 48 kHz, by sample rate, (2, N); "true" is the input."""
    low = _at(true, LOW)
    mel = codec.log_mel(low[None])
    decoded_mel = codec.decode_mel(codec.encode(low[None]))
    return {
        "true": {LOW: low, HIGH: _at(true, HIGH)},
        "vocoder": _both_rates(codec.vocode(mel)[0]),
        "vocoder by GL": {LOW: griffin_lim(codec.log_mel, mel)[0]},
        "round trip": _both_rates(codec.vocode(decoded_mel)[0]),
        "round trip by GL": {LOW: griffin_lim(codec.log_mel, decoded_mel)[0]},
        "cut at 8 kHz": {HIGH: _at(Waveform(low.numpy(), LOW), HIGH)},
    }


def judged(made: Tensor, true: Tensor, rate: int) -> dict[str, float]:
    """The metrics of one sound, cut to the shorter of the two: four in dB, and clicks per second."""
    length = min(made.shape[-1], true.shape[-1])
    made, true = made[:, :length], true[:, :length]
    level, drift = level_error(made, true, rate)
    distances = log_spectral_distance(made, true, rate), mel_distance(made, true, rate)
    return dict(zip(FIGURES, (*distances, level, drift, clicks(made, true, rate) * rate / length), strict=True))


def made_sounds(kinds: Mapping[str, Kind], each: int) -> Iterable[Waveform]:
    return (sound(UNSEEN_SEED, index, SECONDS, kinds).audio for index in range(each * len(kinds)))


@torch.no_grad()
def judge(codec: AudioCodec, sets: Mapping[str, Iterable[Waveform]], pictures: Path | None) -> dict[str, object]:
    """Mean metrics by set, path and sample rate; empty sets are skipped."""
    results: dict[str, object] = {}
    for name, sounds in sets.items():
        found: dict[str, list[dict[str, float]]] = {}
        for number, true in enumerate(sounds):
            outcomes = ways(codec, true)
            for way, rates in outcomes.items():
                for rate, made in rates.items():
                    if way != "true":
                        found.setdefault(f"{way} {rate // 1000} kHz", []).append(
                            judged(made, outcomes["true"][rate], rate)
                        )
                    if pictures:
                        _keep(pictures, f"{name}-{number:02d}-{way}-{rate}".replace(" ", "-"), made, rate)
        if found:
            results[name] = {
                way: {figure: float(np.mean([row[figure] for row in rows])) for figure in FIGURES} | {"of": len(rows)}
                for way, rows in found.items()
            }
    return results


def _both_rates(high: Tensor) -> dict[int, Tensor]:
    return {HIGH: high, LOW: _at(Waveform(high.numpy(), HIGH), LOW)}


def _at(waveform: Waveform, rate: int) -> Tensor:
    return torch.from_numpy(resample(waveform, rate).samples)


def _keep(folder: Path, name: str, made: Tensor, rate: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    waveform = Waveform(made.numpy(), rate)
    write_wav(folder / f"{name}.wav", waveform)
    draw_waveform_and_mel(folder / f"{name}.png", waveform, name)


def _table(results: dict[str, object]) -> str:
    lines = [f"{'':34}" + "".join(f"{figure:>9}" for figure in FIGURES)]
    for name, by_way in results.items():
        lines.append(name)
        for way, figures in by_way.items():  # type: ignore[attr-defined]
            lines.append(f"    {way:30}" + "".join(f"{figures[figure]:9.2f}" for figure in FIGURES))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="the folder of tiny.safetensors")
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    parser.add_argument("--each", type=int, default=1, help="how many sounds of each kind")
    parser.add_argument("--pictures", type=Path, help="folder for the sounds as WAV files and spectrograms")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    checkpoint = Checkpoint.open(args.base / "tiny.safetensors")
    sets = {
        "made, known kinds": made_sounds(KINDS, args.each),
        "made, held-out kinds": made_sounds(HELD_OUT_KINDS, 3 * args.each),
        "speech": real_sounds.speech(),
        "instruments": real_sounds.instruments(),
    }
    results = judge(load_audio_codec(checkpoint, device=torch.device("cpu")), sets, args.pictures)
    print(_table(results))
    for name in sets.keys() - results.keys():
        print(f"{name}: skipped: its program is not installed (see real_sounds.py)")
    if args.out:
        about = {"made_by": checkpoint.metadata.get("made_by"), "figures": results}
        args.out.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
