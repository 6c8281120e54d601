# shellcheck shell=bash
# Functions that dist_train.sh and dist_test.sh source.
#
# PYTHON       interpreter; by default .venv/bin/python of this checkout if it exists, else python
# NNODES       number of machines (1)
# NODE_RANK    number of this machine (0)
# MASTER_ADDR  address of the first machine, the same value on all of them
# PORT         by default a free port on a single machine, and 29500 on several, which need the same one

# shellcheck source=tools/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# launch SCRIPT GPUS ARGS...: runs tools/SCRIPT in GPUS processes on this machine. The caller sets usage.
# shellcheck disable=SC2154
launch() {
  local script=$1 gpus=$2 python visible free_port cores port
  shift 2
  [[ $gpus =~ ^[1-9][0-9]*$ ]] || die 2 "GPUS must be a positive integer, but is '$gpus'" "$usage"
  local nodes=${NNODES:-1} rank=${NODE_RANK:-0}
  [[ $nodes =~ ^[1-9][0-9]*$ ]] || die 2 "NNODES must be a positive integer, but is '$nodes'"
  ((nodes == 1)) || [[ -n ${MASTER_ADDR:-} ]] ||
    die 2 "with NNODES=$nodes, MASTER_ADDR must name the first machine, the same on all of them"

  python=$(find_python)
  # On one machine the port is bound here to see whether it is free; 0 stands for any free port.
  read -r visible free_port cores <<<"$("$python" - "$((nodes == 1 ? ${PORT:-0} : 0))" 2>/dev/null <<'EOF'
import os
import socket
import sys

import torch

port = int(sys.argv[1])
with socket.socket() as s:
    try:
        s.bind(('127.0.0.1', port))
    except OSError:
        port = 'taken'
    else:
        port = s.getsockname()[1]
print(torch.cuda.device_count(), port, len(os.sched_getaffinity(0)))
EOF
  )" || true
  if [[ -z $cores ]]; then
    echo "${0##*/}: '$python' cannot import torch. Set PYTHON to an interpreter that can, or repair this one:" >&2
    "$python" "$root/tools/check_env.py" >&2 || true
    exit 1
  fi
  [[ $free_port != taken ]] || die 2 "port ${PORT:-} is in use; set PORT to a different one, or leave it unset to use a free one"
  if ((visible == 0)); then
    # torchrun would give each process one thread; PyTorch without it would give each process all cores.
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > gpus ? cores / gpus : 1))}
  elif ((gpus > visible)); then
    die 2 "GPUS is $gpus, but PyTorch sees $visible on this machine (CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES-unset})"
  fi
  if ((nodes == 1)); then port=${PORT:-$free_port}; else port=${PORT:-29500}; fi

  export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
  echo "${0##*/}: $gpus processes on this machine ($visible GPUs), machines: $nodes, port $port, $python" >&2
  # exec: signals of the scheduler must reach the launcher, which forwards them to the processes.
  exec "$python" -m torch.distributed.run --nnodes="$nodes" --node-rank="$rank" --nproc-per-node="$gpus" \
    --master-addr="${MASTER_ADDR:-127.0.0.1}" --master-port="$port" \
    --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 \
    "$root/tools/$script" "$@" --launcher pytorch
}
