#!/usr/bin/env bash
# Evaluates with one process per GPU; dist_launch.sh describes the environment variables.
set -euo pipefail
# shellcheck source=tools/dist_launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/dist_launch.sh"

usage='usage: dist_test.sh CONFIG CHECKPOINT GPUS [arguments of test.py]'
(($# >= 3)) || die 2 "$usage"
need_file config "$1"
launch test.py "$3" "$1" "$2" "${@:4}"
