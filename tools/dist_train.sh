#!/usr/bin/env bash
# Trains with one process per GPU; dist_launch.sh describes the environment variables.
set -euo pipefail
# shellcheck source=tools/dist_launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/dist_launch.sh"

usage='usage: dist_train.sh CONFIG GPUS [arguments of train.py]'
(($# >= 2)) || die 2 "$usage"
need_file config "$1"
launch train.py "$2" "$1" "${@:3}"
