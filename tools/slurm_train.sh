#!/usr/bin/env bash
# Trains as a Slurm job; slurm_launch.sh describes the environment variables.
set -euo pipefail
# shellcheck source=tools/slurm_launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/slurm_launch.sh"

(($# >= 4)) || die 2 'usage: slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [arguments of train.py]'
need_file config "$3"
launch "$1" "$2" "$4" train.py "$3" --work-dir "$4" "${@:5}"
