"""How the level correction of mended spans does on true sounds through the codec of `tiny`.

    python bench/level_correction.py [--kinds purr rain engine wind] [--clips 2]

Prints, without correction, with one gain and with one for each band: the error of the level step at the seams, that of
the level inside the span, and the log-mel distance inside it, all in dB.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tools" / "tiny"))

from sounds import HELD_OUT_KINDS, KINDS
from sounds.kind import RATE

from sonolora.analysis.likeness import log_mel
from sonolora.ltx.codec.audio_codec import load_audio_codec
from sonolora.ltx.weights.base import find_base
from sonolora.media.audio import Waveform, peak_normalized, resample
from sonolora.media.fit_audio import cut_or_padded
from sonolora.sampling.level_correction import correct_levels
from sonolora.sampling.paste_kept import paste_kept

SECONDS, SPAN = 3, ((1.0, 2.0),)
BESIDE = RATE // 5  # samples on either side of a seam
QUIET_DB = -45.0  # clips that are fainter beside a seam have no level step to judge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=["purr", "rain", "engine", "wind"])
    parser.add_argument("--clips", type=int, default=2, help="of each kind")
    arguments = parser.parse_args()
    codec = load_audio_codec(find_base("tiny").checkpoint, device=torch.device("cpu"))
    rows: dict[str, list[list[float]]] = {}
    for name in arguments.kinds:
        for index in range(arguments.clips):
            true = _clip(name, index)
            if min(_level(true, at) for at in (RATE - BESIDE, RATE, 2 * RATE - BESIDE, 2 * RATE)) < QUIET_DB:
                continue
            with torch.no_grad():
                latents = codec.encode(torch.from_numpy(resample(true, codec.sample_rate).samples)[None])
                decoded = codec.decode(latents)[0].numpy()
            made = cut_or_padded(Waveform(np.ascontiguousarray(decoded), RATE), SECONDS * RATE)
            for how, sound in (
                ("none", made),
                ("one gain", correct_levels(made, true, SPAN, by_band=False)),
                ("by band", correct_levels(made, true, SPAN)),
            ):
                rows.setdefault(how, []).append(_figures(paste_kept(sound, true, SPAN), true))
    print(f"{'correction':<12} {'seam, dB':>9} {'level, dB':>10} {'distance, dB':>13}")
    for how, values in rows.items():
        seam, level, distance = np.mean(values, axis=0)
        print(f"{how:<12} {seam:>9.2f} {level:>10.2f} {distance:>13.2f}")


def _clip(name: str, index: int) -> Waveform:
    """With the bandwidth that the codec can hold."""
    samples, _ = {**KINDS, **HELD_OUT_KINDS}[name].make(np.random.default_rng([3, index]), float(SECONDS))
    sound = peak_normalized(Waveform((samples / np.abs(samples).max()).astype(np.float32), RATE))
    narrow = resample(cut_or_padded(sound, SECONDS * RATE), 16_000)
    return cut_or_padded(resample(narrow, RATE), SECONDS * RATE)


def _level(sound: Waveform, start: int, count: int = BESIDE) -> float:
    return 10 * float(np.log10(np.square(sound.samples[:, start : start + count]).mean() + 1e-12))


def _figures(made: Waveform, true: Waveform) -> list[float]:
    def step(sound: Waveform, seam: int) -> float:
        return _level(sound, seam) - _level(sound, seam - BESIDE)

    seams = [abs(step(made, seam) - step(true, seam)) for seam in (RATE, 2 * RATE)]
    level = abs(_level(made, RATE, RATE) - _level(true, RATE, RATE))
    return [float(np.mean(seams)), level, float((log_mel(made) - log_mel(true)).abs()[100:200].mean())]


if __name__ == "__main__":
    main()
