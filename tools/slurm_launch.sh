# shellcheck shell=bash
# What slurm_train.sh and slurm_test.sh share, to be sourced.
#
# GPUS           processes in all, one per GPU (8)
# GPUS_PER_NODE  of these on each machine (8, or GPUS if that is less)
# CPUS_PER_TASK  cores of each process (5)
# SRUN_ARGS      further arguments of srun, separated by blanks
# MASTER_PORT    default: derived from the job and step, so that jobs on one machine do not meet
# PYTHON         interpreter: default .venv/bin/python of this checkout if it exists, else python

# shellcheck source=tools/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# launch PARTITION JOB_NAME SCRIPT ARGS...: run tools/SCRIPT as a Slurm job step.
launch() {
  local partition=$1 job_name=$2 script=$3 python in_step extra gpus=${GPUS:-8}
  shift 3
  command -v srun >/dev/null || die 1 'there is no srun on this machine: run this on a login node of a Slurm cluster,' \
    'or use the dist_*.sh script of the same name.'
  [[ $gpus =~ ^[1-9][0-9]*$ ]] || die 2 "GPUS must be a positive number, but is '$gpus'."
  local per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
  read -ra extra <<<"${SRUN_ARGS:-}"
  python=$(find_python)
  export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
  # Evaluated in the step, where the ids are known; 10000 to 29999 is below the ports that systems hand out.
  # shellcheck disable=SC2016
  in_step='export MASTER_PORT=${MASTER_PORT:-$((10000 + (SLURM_JOB_ID * 7 + SLURM_STEP_ID) % 20000))}; exec "$@"'
  exec srun --partition="$partition" --job-name="$job_name" --gres="gpu:$per_node" \
    --ntasks="$gpus" --ntasks-per-node="$per_node" --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 \
    ${extra[@]+"${extra[@]}"} bash -c "$in_step" bash "$python" -u "$root/tools/$script" "$@" --launcher slurm
}
