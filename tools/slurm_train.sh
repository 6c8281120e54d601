#!/usr/bin/env bash
# Train as a Slurm job; settings from the environment are described in slurm_launch.sh.
set -euo pipefail
# shellcheck source=tools/slurm_launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/slurm_launch.sh"

(($# >= 4)) || die 2 'usage: slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [arguments of train.py]'
need_file config "$3"
launch "$1" "$2" "$4" train.py "$3" --work-dir "$4" "${@:5}"
