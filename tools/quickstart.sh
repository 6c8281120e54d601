#!/usr/bin/env bash
# Trains the quick-start model, evaluates it and draws its boxes; `make quickstart` sets up the environment first.
#
# RETRAIN=1  train again, even if a training has finished
# PYTHON     interpreter; by default that of .venv
# START      second at which `make` began, to report how long the environment took
set -euo pipefail
# shellcheck source=tools/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

python=$(find_python)
config=configs/dino_dinov2_quickstart.py
work_dir=work_dirs/quickstart
finished=$work_dir/.training-finished
last=$work_dir/last_checkpoint
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
now() { date +%s; }
before_training=$(now)

[[ ${RETRAIN:-0} == 0 ]] || rm -f "$finished" "$last"
if [[ -f $finished && -f $last ]]; then
  echo "==> Training finished on $(date -r "$finished" '+%F %T') and is not repeated; to train again: make quickstart RETRAIN=1"
else
  set -- "$config" --work-dir "$work_dir"
  if [[ -f $last ]]; then
    echo "==> Resuming the interrupted training in $work_dir (to train from scratch: make quickstart RETRAIN=1)"
    set -- "$@" --resume
  else
    echo "==> Training $config in $work_dir"
  fi
  "$python" tools/train.py "$@"
  touch "$finished"
fi
before_test=$(now)

checkpoint=$(<"$last")
# The file holds the path at the time of training; the checkout may have been moved since.
[[ -f $checkpoint ]] || checkpoint=$work_dir/${checkpoint##*/}
need_file checkpoint "$checkpoint"
echo "==> Evaluating $checkpoint"
"$python" tools/test.py "$config" "$checkpoint" --work-dir "$work_dir/test" --show-dir pictures
after_test=$(now)

# mmdet draws into a new folder for every run, named after its start time.
pictures=$(find "$work_dir/test" -type d -name pictures | sort | tail -n 1)
count=0
[[ -z $pictures ]] || count=$(find "$pictures" -name '*.png' -o -name '*.jpg' | wc -l)
((count > 0)) || die 1 "the evaluation did not draw pictures in $work_dir/test"

scores=$(find "$work_dir/test" -path '*/20*/20*.json' | sort | tail -n 1)
# score NAME: prints the last value of a metric, rounded.
score() { grep -oE "\"coco/$1\": [0-9.]+" "$scores" | tail -n 1 | awk '{printf "%.3f", $2}'; }

cat <<EOF

Quick start finished: bbox_mAP $(score bbox_mAP), bbox_mAP_50 $(score bbox_mAP_50) on pictures it was not trained on.
  environment  $(elapsed $((before_training - ${START:-before_training})))
  training     $(elapsed $((before_test - before_training)))
  evaluation   $(elapsed $((after_test - before_test)))
  pictures     $root/$pictures ($((count)) files)
EOF
