#!/usr/bin/env bash
# Evaluates as a Slurm job; slurm_launch.sh describes the environment variables.
set -euo pipefail
# shellcheck source=tools/slurm_launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/slurm_launch.sh"

(($# >= 4)) || die 2 'usage: slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of test.py]'
need_file config "$3"
launch "$1" "$2" "work_dirs/$(basename "$3" .py)" test.py "$3" "$4" "${@:5}"
