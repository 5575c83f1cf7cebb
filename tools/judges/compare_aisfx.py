"""How near the learned space is to aiSFX's own front end (Essentia) and its own layers.

In: the wheel of aisfx 0.1.2, and a Python that has essentia. Out: printed figures, and with `--golden` a file of half a
second of sound with the original's levels and embedding, which the tests have.

    pip download aisfx==0.1.2 --no-deps
    python -m venv essentia && essentia/bin/pip install essentia==2.1b6.dev1389
    python tools/judges/compare_aisfx.py aisfx-0.1.2-py2.py3-none-any.whl essentia/bin/python

Printed for 47 kinds of made sounds of 3 s:

    47 sounds; distances between them: median 24.270, least 6.897
    front end: |difference| mean 3.7e-05, 99.9 % 9.7e-04, most 2.2e-03
    layers, float64: distance to the original mean 3.6e-14, most 5.1e-14
    float16 weights: distance to the original mean 7.7e-02, most 1.3e-01
    all of it: distance to the original mean 8.4e-02, most 1.3e-01

So the front end is Essentia's but for rounding (levels are 0 to about 1), the layers are the same, and half of the
bits of the weights cost 0.3 % of a distance between two kinds.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tiny"))
from convert_aisfx import folded, read_checkpoint
from corpus import sound
from sounds import HELD_OUT_KINDS, KINDS

from sonolora.analysis.learned_space import SAMPLE_RATE, WEIGHTS, embed, log_mel
from sonolora.core.checked_tensors import load_checked, save_checked
from sonolora.media.audio import Waveform, peak_normalized, resample
from sonolora.media.write_audio import write_wav

SECONDS, BLOCK = 3.0, 100
_SPECTROGRAMS = """
import sys
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[1] + "/aisfx/spectrogram")
from spectrogram_essentia import compute_spectrogram
for path in sorted(Path(sys.argv[2]).glob("*.wav")):
    levels = compute_spectrogram(filename=str(path), sr=44100.0, block_size=2048, hop_size=1024, n_mels=96,
                                 f_min=0.0, f_max=22050.0)
    np.save(path.with_suffix(".npy"), levels)
"""


def module(path: Path) -> ModuleType:
    """A file of the wheel, without the package around it, which wants old versions of other packages."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def _write_golden(path: Path, folder: Path, essentia: Path, own: torch.nn.Module) -> None:
    samples = np.load(folder / "sounds" / "speech.samples.npy")[: SAMPLE_RATE // 2]
    (folder / "golden").mkdir()
    write_wav(folder / "golden" / "golden.wav", Waveform(samples[None], SAMPLE_RATE))
    subprocess.run([essentia, "-c", _SPECTROGRAMS, folder / "wheel", folder / "golden"], check=True)
    levels = torch.from_numpy(np.load(folder / "golden" / "golden.npy")).double() / 9.457798957824707
    with torch.inference_mode():
        embedding = own(torch.nn.functional.pad(levels, (0, 0, 0, BLOCK - len(levels)))[None])[0]
    tensors = {"samples": torch.from_numpy(samples), "levels": levels.float(), "embedding": embedding.float()}
    save_checked(path, tensors, {"source": "aisfx 0.1.2 with essentia 2.1b6.dev1389"})


def main() -> None:
    parser = argparse.ArgumentParser(description="How near the learned space is to aiSFX's own.")
    parser.add_argument("wheel", type=Path)
    parser.add_argument("essentia", type=Path, help="a Python that has essentia")
    parser.add_argument("--golden", type=Path, help="write the first half second of one sound here")
    options = parser.parse_args()
    checkpoint = read_checkpoint(options.wheel)
    exact, kept = folded(checkpoint), {name: one.float() for name, one in load_checked(WEIGHTS)[0].items()}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with zipfile.ZipFile(options.wheel) as wheel:
            wheel.extractall(folder / "wheel")
        (folder / "sounds").mkdir()
        for index, (name, kind) in enumerate({**KINDS, **HELD_OUT_KINDS}.items()):
            made = peak_normalized(resample(sound(0, index, SECONDS, {name: kind}).audio, SAMPLE_RATE))
            mono = Waveform(made.samples.mean(0, keepdims=True), SAMPLE_RATE)
            write_wav(folder / "sounds" / f"{name}.wav", mono)
            np.save(folder / "sounds" / f"{name}.samples.npy", mono.samples[0])
        subprocess.run([options.essentia, "-c", _SPECTROGRAMS, folder / "wheel", folder / "sounds"], check=True)
        own = module(folder / "wheel" / "aisfx" / "models" / "cnn2d.py").EmbeddingNet("max", 3, 1, 64).double()
        prefix = "embedding_net."
        own.load_state_dict({n.removeprefix(prefix): t for n, t in checkpoint.items() if n.startswith(prefix)})
        own.eval()
        theirs, layers, half, whole, levels = [], [], [], [], []
        for path in sorted((folder / "sounds").glob("*.wav")):
            reference = torch.from_numpy(np.load(path.with_suffix(".npy"))).double() / 9.457798957824707
            ours = log_mel(torch.from_numpy(np.load(path.with_suffix(".samples.npy"))))
            if len(ours) != len(reference):
                print(f"{path.stem}: {len(ours)} frames, Essentia has {len(reference)}")
            count = min(len(ours), len(reference))
            levels.append((ours[:count] - reference[:count]).abs())
            with torch.inference_mode():
                block = reference[None, :BLOCK]
                theirs.append(own(block)[0])
                layers.append(embed(exact, block)[0])
                half.append(embed(kept, block.float())[0].double())
                whole.append(embed(kept, ours[None, :BLOCK].float())[0].double())
        if options.golden is not None:
            _write_golden(options.golden, folder, options.essentia, own)
    reference_ND = torch.stack(theirs)
    distances = torch.pdist(reference_ND)
    print(f"{len(theirs)} sounds; distances between them: median {distances.median():.3f}, least {distances.min():.3f}")
    errors = torch.cat([one.flatten() for one in levels])
    rare = errors.quantile(0.999)
    print(f"front end: |difference| mean {errors.mean():.1e}, 99.9 % {rare:.1e}, most {errors.max():.1e}")
    for what, found in (("layers, float64", layers), ("float16 weights", half), ("all of it", whole)):
        error_N = (torch.stack(found) - reference_ND).norm(dim=1)
        print(f"{what}: distance to the original mean {error_N.mean():.1e}, most {error_N.max():.1e}")


if __name__ == "__main__":
    main()
