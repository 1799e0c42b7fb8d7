#!/usr/bin/env bash
# The voice model again: from clones of its corpora and whisper-base (a folder in the hub's format) to weights and card.
#   models/voice/make.sh CLONES WHISPER WORK
# Features, trainings and baselines that are in WORK stay; `wavfusion` is that on the PATH.
set -euo pipefail
clones=$(realpath "$1") whisper=$(realpath "$2")
mkdir -p "$3" && work=$(realpath "$3")
here=$(dirname "$(realpath "$0")")
manifest=$work/prepared/manifest.jsonl kept=$work/corpora/kept.csv left_out=$work/corpora/left_out.csv

if [ ! -e "$manifest" ]; then
    python "$here/corpora.py" "$clones" "$work/corpora"
    columns=id=id,audio=audio,emotion=emotion,speaker=speaker,corpus=corpus,language=language # without texts
    wavfusion prepare table "$work/corpora" --columns $columns --out "$work/prepared"
fi
printf 'audio: %s\ntext: tiny\nvideo: tiny\nlayers: 3 + 1\n' "$whisper" > "$work/voice.yaml"
wavfusion extract "$manifest" --store "$work/store" --preset "$work/voice.yaml" --variants 1

train() {
    [ -e "$work/trainings/$1/metrics.json" ] || wavfusion train --config "$here/voice.yaml" --manifest "$manifest" \
        --store "$work/store" --out "$work/trainings/$1" --resume "${@:2}"
}
train kept --protocol "$kept"
for fold in 1 2 3 4; do train "left_out/fold$fold" --protocol "$left_out" --fold $fold; done

python "$here/probes.py" "$manifest" "$work/store" "$left_out" 1 > "$work/probes.txt"
python "$here/baselines.py" "$manifest" "$left_out" "$work/baselines" "$work/baselines.csv"
python "$here/box.py" "$work/trainings/kept" "$here/wavfusion_voice"
python "$here/judge.py" "$here/wavfusion_voice" "$manifest" "$kept" "$work/changed.csv"
python "$here/card.py" "$work/trainings" "$manifest" "$work/changed.csv" "$work/baselines.csv" > "$work/CARD.md"
mv "$work/CARD.md" "$here/wavfusion_voice/README.md"
