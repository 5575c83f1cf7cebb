"""Files for datasets of the REST face."""

from __future__ import annotations

import io
import wave
import zipfile

import numpy as np


def tone(
    hertz: float = 440, seconds: float = 0.6, rate: int = 16000, gaps: tuple[tuple[float, float], ...] = ()
) -> bytes:
    """A WAV of a sine with silent spans."""
    time = np.arange(round(seconds * rate)) / rate
    sound = 9000 * np.sin(2 * np.pi * hertz * time)
    for start, end in gaps:
        sound[round(start * rate) : round(end * rate)] = 0
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(sound.astype("<i2").tobytes())
    return content.getvalue()


def packed(files: dict[str, bytes]) -> bytes:
    """A zip."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()
