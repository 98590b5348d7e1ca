#!/bin/sh
# From the corpus to both model folders: ./run.sh CORPUS WORK
# CORPUS holds stories.txt.xz, prose.txt.xz, chat.jsonl.xz and wikitext2.test.txt.xz; WORK is for everything in between.
# TRAIN_OPTIONS is passed to train.py: TRAIN_OPTIONS="--steps 4 --rows 2 --length 256 --no-compile" tries the whole way out.
# If interrupted, continues from the last checkpoint when started again (data is only made if it is missing).
set -eu
[ $# -eq 2 ] || { echo "usage: ./run.sh CORPUS WORK" >&2; exit 2; }
corpus=$(cd "$1" && pwd)
mkdir -p "$2"
work=$(cd "$2" && pwd)
cd "$(dirname "$0")"
[ -f "$work/data/complete" ] || { python prepare.py --corpus "$corpus" --out "$work/data" --seed 1 && touch "$work/data/complete"; }
for model in hybrid xlstm; do
    [ -f "$work/runs/$model/final.pt" ] || python train.py $model --data "$work/data" --out "$work/runs/$model" --seed 1 ${TRAIN_OPTIONS:-}
    python export.py $model --weights "$work/runs/$model/final.pt" --tokenizer "$work/data/tokenizer.json" --out ../$model
    python evaluate.py $model --weights "$work/runs/$model/final.pt" --data "$work/data" --out "$work/runs/$model/perplexity.json"
done
python card.py plot --run "$work/runs" --out ..
python card.py samples --models .. > "$work/samples.md"
python reference.py --models .. --out ../../../tests/fixtures/demo
