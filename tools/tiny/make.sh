#!/usr/bin/env bash
# The base `tiny` from nothing, part after part, as it is in the package; on a card where there is one. Call it again to
# go on. Steps of a part are set by its name in capitals, as in VOCODER=100000 tools/tiny/make.sh WORK OUT.
set -euo pipefail
work=${1:?the folder of states, logs and made clips}
out=${2:?the folder of the base to write}
tools=$(dirname "$0")
python "$tools/train_vae.py" --work "$work" --steps "${VAE:-2000}"
python "$tools/train_vocoder.py" vocoder --work "$work" --steps "${VOCODER:-8000}"
python "$tools/train_vocoder.py" bwe --work "$work" --steps "${BWE:-1600}"
python "$tools/train_video_encoder.py" --work "$work" --steps "${VIDEO:-900}"
python "$tools/train_transformer.py" --work "$work" --steps "${TRANSFORMER:-12000}"
python "$tools/train_pictures.py" --work "$work" --steps "${PICTURES:-2000}"
python "$tools/assemble.py" --work "$work" --out "$out"
python "$tools/judge_codec.py" --base "$out"
