#!/usr/bin/env bash
# Evaluate as a Slurm job; settings from the environment are described in slurm_launch.sh.
set -euo pipefail
# shellcheck source=tools/slurm_launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/slurm_launch.sh"

(($# >= 4)) || die 2 'usage: slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of test.py]'
need_file config "$3"
launch "$1" "$2" "work_dirs/$(basename "$3" .py)" test.py "$3" "$4" "${@:5}"
