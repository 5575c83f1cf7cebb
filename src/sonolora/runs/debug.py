"""`debug_dataset.zip`: the data as the model is trained on it, to be listened to.

For each clip: `<name>_fitted.wav` as it went into the codec, `<name>_decoded.wav` as the codec gives it back (what it
cannot keep, no LoRA can learn), `<name>.png` of the decoded sound, `<name>.txt` with the full caption; and the report.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from sonolora.data.clips import Clip
from sonolora.data.examples import Prepared
from sonolora.files import atomic_write
from sonolora.ltx.audio_codec import AudioCodec
from sonolora.media.audio import Waveform
from sonolora.media.draw import draw_waveform_and_mel
from sonolora.media.write import write_wav


@torch.inference_mode()
def write_debug_dataset(path: Path, clips: Sequence[Clip], prepared: Prepared, codec: AudioCodec, report: Path) -> None:
    """Write the archive, atomically."""
    with (
        atomic_write(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
        tempfile.TemporaryDirectory(dir=path.parent, prefix=".debug-") as scratch,
    ):
        archive.write(report, "report.json")
        for clip, example in zip(clips, prepared.examples, strict=True):
            device = codec.vae.latents_mean.device
            samples = codec.decode(example.latents_BTC.to(device))[0].cpu().numpy()
            wanted = round(clip.audio.seconds * codec.output_sample_rate)
            decoded = Waveform(np.ascontiguousarray(samples[:, :wanted]), codec.output_sample_rate)
            work = Path(scratch)
            write_wav(work / "fitted.wav", clip.audio)
            write_wav(work / "decoded.wav", decoded)
            draw_waveform_and_mel(work / "decoded.png", decoded, f"{clip.name}, through the codec: {clip.caption}")
            archive.write(work / "fitted.wav", f"{clip.name}_fitted.wav")
            archive.write(work / "decoded.wav", f"{clip.name}_decoded.wav")
            archive.write(work / "decoded.png", f"{clip.name}.png")
            archive.writestr(f"{clip.name}.txt", clip.caption)
