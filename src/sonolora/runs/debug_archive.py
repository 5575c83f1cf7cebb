"""`debug_dataset.zip`: the training data as the model gets it, to listen to.

For each clip: `<name>_fitted.wav`, the input of the codec; `<name>_decoded.wav`, its reconstruction (no LoRA can learn
what the codec loses); `<name>.png`, the spectrogram of the reconstruction; `<name>.txt`, the full caption; and where
the mode has them `<name>_fitted.mp4` (the video at half size), `<name>_reference_fitted.wav`,
`<name>_reference_decoded.wav` and `<name>_mask.json` (the seconds to regenerate; the kept sound is decoded with silence
in their place, as the model gets it). And the report.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sonolora.analysis.spectrogram import draw_waveform_and_mel
from sonolora.core.atomic_files import atomic_write
from sonolora.data.clips import Clip
from sonolora.data.prepared import Prepared
from sonolora.ltx.codec.audio_codec import AudioCodec
from sonolora.media.audio import Waveform
from sonolora.media.write_audio import write_wav
from sonolora.runs.artifacts import REPORT, RunArtifacts, video_of


@torch.inference_mode()
def write_debug_archive(
    path: Path,
    clips: Sequence[Clip],
    prepared: Prepared,
    codec: AudioCodec,
    artifacts: RunArtifacts,
    clip_done: Callable[[str], None],
) -> None:
    """Write the archive, atomically. `artifacts` has the report on the clips, and their videos.

    `clip_done` is called with the name of each clip.
    """
    with (
        atomic_write(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
        tempfile.TemporaryDirectory(dir=path.parent, prefix=".debug-") as scratch,
    ):
        archive.write(artifacts.path(REPORT), REPORT)
        for number, (clip, example) in enumerate(zip(clips, prepared.examples, strict=True), start=1):
            decoded = _decoded(codec, example.latents_BTC, clip.audio.seconds)
            sounds = {"fitted": clip.audio, "decoded": decoded}
            if clip.reference is not None and example.reference_BRC is not None:
                sounds["reference_fitted"] = clip.reference
                sounds["reference_decoded"] = _decoded(codec, example.reference_BRC, clip.reference.seconds)
            for name, sound in sounds.items():
                write_wav(Path(scratch) / "sound.wav", sound)
                archive.write(Path(scratch) / "sound.wav", f"{clip.name}_{name}.wav")
            picture = Path(scratch) / "decoded.png"
            draw_waveform_and_mel(picture, decoded, f"{clip.name}, through the codec: {clip.caption}")
            archive.write(picture, f"{clip.name}.png")
            archive.writestr(f"{clip.name}.txt", clip.caption)
            if (video := video_of(number)) in artifacts:
                archive.write(artifacts.path(video), f"{clip.name}_fitted.mp4")
            if clip.regenerate is not None:
                archive.writestr(f"{clip.name}_mask.json", json.dumps(clip.regenerate))
            clip_done(clip.name)


def _decoded(codec: AudioCodec, latents_BTC: Tensor, seconds: float) -> Waveform:
    samples = codec.decode(latents_BTC.to(codec.vae.latents_mean.device))[0].cpu().numpy()
    length = round(seconds * codec.output_sample_rate)
    return Waveform(np.ascontiguousarray(samples[:, :length]), codec.output_sample_rate)
