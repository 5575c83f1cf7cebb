"""Sounds from outside the corpus: speech by espeak-ng and instruments by FluidSynth, where installed.

In: those programs (Debian: espeak-ng, fluidsynth, fluid-soundfont-gm). Out: stereo waveforms at 48 kHz.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sonolora.media.audio import Waveform, decode_audio, peak_normalized, resample, to_stereo

RATE = 48_000
SOUND_FONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
_PEAK_DBFS = -6.0
_SPOKEN = (
    ("en-us", "The quick brown fox jumps over the lazy dog."),
    ("en-gb+f3", "She sells sea shells by the sea shore."),
    ("de", "Am Abend ging der alte Mann langsam nach Hause."),
    ("fr+f2", "Le petit chat dort au soleil dans le jardin."),
    ("es+m4", "La lluvia cae despacio sobre los tejados."),
    ("it+f4", "Domani mattina partiamo presto per la montagna."),
)
_PROGRAMS = (0, 6, 11, 24, 33, 40, 48, 56, 65, 73)  # General MIDI, from 0: piano to flute
_PHRASE = (60, 64, 67, 72, 71, 67, 65, 62)
_TICKS = 96  # of a note, at 192 a second


def speech() -> Iterator[Waveform]:
    """Sentences in several voices and languages; none if espeak-ng is not installed."""
    if not shutil.which("espeak-ng"):
        return
    with tempfile.TemporaryDirectory() as folder:
        for number, (voice, words) in enumerate(_SPOKEN):
            path = Path(folder) / f"{number}.wav"
            subprocess.run(["espeak-ng", "-v", voice, "-w", path, words], check=True)
            yield _prepared(path)


def instruments(sound_font: Path = SOUND_FONT) -> Iterator[Waveform]:
    """A phrase on several instruments; none if FluidSynth or the sound font is not installed."""
    if not shutil.which("fluidsynth") or not sound_font.exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        for program in _PROGRAMS:
            tune, path = Path(folder) / f"{program}.mid", Path(folder) / f"{program}.wav"
            tune.write_bytes(midi(program, _PHRASE))
            command = ["fluidsynth", "-ni", "-q", "-r", str(RATE), "-F", str(path), str(sound_font), str(tune)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            yield _prepared(path)


def midi(program: int, notes: tuple[int, ...]) -> bytes:
    """A MIDI file with one track: the notes in sequence on one instrument, half a second each."""
    events = bytes([0, 0xC0, program])
    for note in notes:
        events += bytes([0, 0x90, note, 90, _TICKS, 0x80, note, 0])
    events += bytes([0, 0xFF, 0x2F, 0])
    division = _TICKS  # a quarter note, at the standard tempo half a second
    header = b"MThd" + (6).to_bytes(4, "big") + bytes([0, 0, 0, 1]) + division.to_bytes(2, "big")
    return header + b"MTrk" + len(events).to_bytes(4, "big") + events


def _prepared(path: Path) -> Waveform:
    return peak_normalized(resample(to_stereo(decode_audio(path).waveform), RATE), _PEAK_DBFS)
