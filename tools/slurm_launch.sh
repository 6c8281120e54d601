# shellcheck shell=bash
# Functions that slurm_train.sh and slurm_test.sh source.
#
# GPUS           total number of processes, one per GPU (8)
# GPUS_PER_NODE  number of processes per machine (8, or GPUS if that is less)
# CPUS_PER_TASK  cores per process (5)
# SRUN_ARGS      further arguments of srun, or of sbatch with BATCH=1, separated by spaces
# BATCH=1        submit a batch job instead of waiting. Slurm requeues it when it is preempted or reaches its time
#                limit, and it then resumes by itself; so does your own batch script that calls slurm_train.sh. Its
#                output goes to WORK_DIR/slurm-JOB.out
# SIGNAL_BEFORE  seconds before the time limit at which a batch job saves and requeues itself (120)
# MASTER_PORT    by default derived from job and step, so that jobs on one machine use different ports
# PYTHON         interpreter; by default .venv/bin/python of this checkout if it exists, else python

# shellcheck source=tools/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# A batch job runs this script again, without BATCH.
invocation=("$root/tools/${0##*/}" "$@")

# launch PARTITION JOB_NAME WORK_DIR SCRIPT ARGS...: runs tools/SCRIPT as a Slurm job step, or submits a job that does.
launch() {
  local partition=$1 job_name=$2 work_dir=$3 script=$4 python in_step extra resources gpus=${GPUS:-8}
  shift 4
  command -v srun >/dev/null || die 1 'srun does not exist on this machine; run this on a login node of a Slurm cluster,' \
    'or use the dist_*.sh script of the same name.'
  [[ $gpus =~ ^[1-9][0-9]*$ ]] || die 2 "GPUS must be a positive integer, but is '$gpus'"
  sinfo --noheader --partition="$partition" --format=%P 2>/dev/null | grep -q . ||
    die 2 "partition '$partition' does not exist; this cluster has: $(sinfo --noheader --format=%R | sort -u | xargs)"
  local per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
  read -ra extra <<<"${SRUN_ARGS:-}"
  python=$(find_python)
  export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
  resources=(--partition="$partition" --job-name="$job_name" --gres="gpu:$per_node" --ntasks="$gpus"
    --ntasks-per-node="$per_node" --cpus-per-task="${CPUS_PER_TASK:-5}")
  # Evaluated in the step, where the ids are known; 10000 to 29999 lie below the ports that systems assign.
  # shellcheck disable=SC2016
  in_step='export MASTER_PORT=${MASTER_PORT:-$((10000 + (SLURM_JOB_ID * 7 + SLURM_STEP_ID) % 20000))}; exec "$@"'
  if [[ -n ${BATCH:-} && ${BATCH} != 0 ]]; then
    mkdir -p "$work_dir"
    local again
    printf -v again '%q ' "${invocation[@]}"
    exec sbatch "${resources[@]}" --requeue --open-mode=append --output="$work_dir/slurm-%j.out" \
      --signal="USR1@${SIGNAL_BEFORE:-120}" ${extra[@]+"${extra[@]}"} --wrap="BATCH=0 SRUN_ARGS= $again"
  fi
  # A requeued batch job resumes from its last checkpoint; without one, --resume starts from scratch.
  if [[ $script == train.py && ${SLURM_RESTART_COUNT:-0} != 0 ]]; then set -- "$@" --resume; fi
  exec srun "${resources[@]}" --kill-on-bad-exit=1 ${extra[@]+"${extra[@]}"} \
    bash -c "$in_step" bash "$python" -u "$root/tools/$script" "$@" --launcher slurm
}
