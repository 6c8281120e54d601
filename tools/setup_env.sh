#!/usr/bin/env bash
# Creates or completes the virtual environment: tools/setup_env.sh lint|env|tests|docs
#
#   lint   only ruff
#   env    everything that training and evaluation need, and this package in editable mode
#   tests  what the tests need in addition to env
#   docs   what building the documentation needs in addition to env
#
# VENV      folder of the environment; by default .venv
# PYTHON    interpreter to create it with; by default python3
# MMCV_OPS  operators of mmcv to compile, cpu or cuda, which needs g++ and Python's headers; by default none
# MAX_JOBS  number of compiler processes at a time; by default one per core, each with 2 GB of free memory
#
# The versions are those of requirements/lock.txt; pip's configuration applies. Each part writes a stamp file last, so
# the next call completes an interrupted installation and never takes it for a finished one.
set -euo pipefail
# shellcheck source=tools/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

part=${1:-}
[[ $part =~ ^(lint|env|tests|docs)$ ]] || die 2 'usage: setup_env.sh lint|env|tests|docs'
[[ ${MMCV_OPS:-} =~ ^(cpu|cuda)?$ ]] || die 2 "MMCV_OPS is '$MMCV_OPS', but must be cpu or cuda"
venv=${VENV:-.venv}
lock=requirements/lock.txt
trap 'exit 130' INT TERM
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
export PIP_USER=0 # a user-wide `user = true` cannot work inside a virtual environment

# ---- checks of what pip would report unclearly, or only after minutes ----

# check_machine PYTHON: exits with one message about everything that is missing, if interpreter or compiler are.
check_machine() {
  local report version lacks missing=() packages=()
  # The code must also run on the old interpreters that it refuses.
  report=$("$1" - 2>&1 <<'EOF'
import os, sys
lacks = []
for name in ('venv', 'ensurepip'):
    try:
        __import__(name)
    except ImportError:
        lacks.append('venv')
try:
    import sysconfig
    if not os.path.exists(os.path.join(sysconfig.get_paths()['include'], 'Python.h')):
        lacks.append('headers')
except ImportError:
    lacks.append('headers')
print('%d.%d %s' % (sys.version_info[0], sys.version_info[1], ','.join(lacks)))
EOF
  ) || die 1 "'$1' does not run: ${report%%$'\n'*}" \
    'Set PYTHON to a Python 3.10, 3.11 or 3.12, for example: make env PYTHON=python3.11'
  read -r version lacks <<<"${report##*$'\n'}"
  [[ $version =~ ^3\.(10|11|12)$ ]] ||
    die 1 "'$1' is Python $version, but this project supports 3.10, 3.11 and 3.12." \
      'Set PYTHON to a different interpreter, for example: make env PYTHON=python3.11'

  if [[ $lacks == *venv* ]]; then
    missing+=("the venv module of Python $version")
    packages+=("python$version-venv")
  fi
  if [[ $part == env && -n ${MMCV_OPS:-} && $lacks == *headers* ]]; then
    missing+=("the C headers of Python $version (Python.h), to compile mmcv's operators")
    packages+=("python$version-dev")
  fi
  if [[ $part == env && -n ${MMCV_OPS:-} ]] && ! command -v "${CXX:-c++}" >/dev/null; then
    missing+=("a C++ compiler (${CXX:-c++}), to compile mmcv's operators")
    packages+=(g++)
  fi
  ((${#missing[@]} == 0)) || die 1 'this machine lacks' "${missing[@]/#/  - }" \
    'On Debian and Ubuntu, this installs it:' "  $(apt_install "${packages[@]}")" 'Then run the same command again.'
}

apt_install() {
  local sudo='sudo '
  ((EUID)) || sudo=
  echo "${sudo}apt-get update && ${sudo}apt-get install -y $*"
}

# ---- long steps: their output goes to a log, and a line every 20 s reports their progress ----

heartbeat() {
  local begin=$SECONDS compiled
  # The sleep must not keep the output of this script open after its end.
  while sleep 20 &>/dev/null && kill -0 $$ 2>/dev/null; do
    compiled=$(tail -c 20000 "$log" | grep -oE '^ *\[[0-9]+/[0-9]+\]' | tail -n 1) || true
    echo "    $(elapsed $((SECONDS - begin))): ${compiled:+compiled ${compiled//[[:space:]]/} }$(
      [[ -n $compiled ]] || tail -n 1 "$log" | tr -d '\r' | cut -c 1-90)"
  done
}

# step TEXT COMMAND...: runs the command; if it fails, shows the end of its output and exits.
step() {
  local text=$1 begin=$SECONDS status=0 ticker
  shift
  echo "==> $text"
  printf '\n==> %s\n' "$text" >>"$log"
  heartbeat &
  ticker=$!
  # shellcheck disable=SC2064
  trap "kill $ticker 2>/dev/null || true" EXIT
  "$@" >>"$log" 2>&1 </dev/null || status=$?
  kill "$ticker" 2>/dev/null || true
  wait "$ticker" 2>/dev/null || true
  if ((status)); then
    tail -n 25 "$log" | cut -c 1-400 >&2
    die 1 "failed: $text" "The complete output is in $log." "${hint[@]}"
  fi
  echo "    done in $(elapsed $((SECONDS - begin)))"
}
hint=()

pip() { "$python" -m pip "$@"; }

# ---- parts ----

make_venv() {
  local wanted
  [[ ! -e $venv || -f $venv/pyvenv.cfg || -z $(ls -A "$venv") ]] ||
    die 1 "VENV '$venv' contains other files and is not a virtual environment. Choose a different folder."
  if [[ ! -f $venv/pyvenv.cfg ]] || ! [[ -x $venv/bin/python ]]; then
    check_machine "${PYTHON:-python3}"
    echo "==> Creating a virtual environment in $venv with $("${PYTHON:-python3}" --version 2>&1)"
    "${PYTHON:-python3}" -m venv "$venv"
  fi
  python=$(cd "$venv" && pwd)/bin/python
  log=$venv/setup.log
  check_machine "$python"
  if [[ -n ${PYTHON:-} ]]; then
    wanted=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || die 1 "'$PYTHON' does not run"
    "$python" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$wanted')" ||
      die 1 "$venv was made with $("$python" --version), but PYTHON is $wanted." \
        "Remove it (rm -r $venv) or choose a different folder: VENV=.venv-$wanted"
  fi
  # An interrupted `python -m venv` leaves an interpreter without pip.
  pip --version &>/dev/null || "$python" -m ensurepip >/dev/null
  : >"$log"
}

check_no_originals() {
  local found
  found=$("$python" - <<'EOF'
from importlib.metadata import distributions
names = {(d.metadata['Name'] or '').lower() for d in distributions()}
print(*sorted(names & {'mmengine', 'mmcv', 'mmcv-full', 'mmcv-lite', 'mmdet', 'mmpretrain'}))
EOF
  )
  [[ -z $found ]] || die 1 "$venv holds $found, whose files the onedl-* distributions would overwrite." \
    "Remove them ($venv/bin/python -m pip uninstall $found) or choose a different folder with VENV."
}

# installed_ops: prints none, broken, python, cpu or cuda.
installed_ops() {
  "$python" - 2>/dev/null <<'EOF' || echo broken
import importlib.util
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

try:
    version('onedl-mmcv')
except PackageNotFoundError:
    print('none')
else:
    # Not imported: without the stand-in mmcv.ops does not load.
    (folder,) = importlib.util.find_spec('mmcv').submodule_search_locations
    if not any(Path(folder).glob('_ext.*')):
        print('python')
    else:
        from mmcv.ops import get_compiling_cuda_version

        print('cpu' if get_compiling_cuda_version() == 'not available' else 'cuda')
EOF
}

# compile_jobs: prints the number of jobs: one per core if the memory allows it, up to 2 GB each.
compile_jobs() {
  local cores memory
  cores=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
  command -v nproc >/dev/null && cores=$(nproc)
  memory=$(awk '/^MemAvailable/ {print int($2 / 2097152)}' /proc/meminfo 2>/dev/null || true)
  ((${memory:-$cores} >= cores)) || cores=$memory
  ((cores >= 1)) || cores=1
  echo "$cores"
}

install_openmmlab() {
  local installed
  installed=$(installed_ops)
  # Operators that somebody compiled are kept as long as they load.
  if [[ -n ${MMCV_OPS:-} && $installed != "$MMCV_OPS" && $installed != cuda ]]; then
    compile_mmcv
  elif [[ $installed == none || $installed == broken ]]; then
    # Built in isolation, where torch is not visible, mmcv compiles nothing. A build that pip kept may have been compiled.
    step 'Installing mmcv, without compiled operators' \
      pip install -c "$lock" --no-deps --force-reinstall --no-cache-dir onedl-mmcv
  fi
  step 'Installing mmengine, mmdet and mmpretrain' pip install -c "$lock" -r requirements/mminstall.txt
}

# cxx20: writes a compiler that always takes C++20 and prints its path. The headers of torch 2.14 need it, but mmcv 2.3.6 asks
# for C++17; of several options the last one counts. nvcc has a variable for it.
cxx20() {
  local wrapper
  wrapper=$(cd "$venv" && pwd)/bin/c++20
  printf '#!/bin/sh\nexec %s "$@" -std=c++20\n' "${CXX:-c++}" >"$wrapper"
  chmod +x "$wrapper"
  echo "$wrapper"
}

compile_mmcv() {
  local text build
  # Debug information and -O2 would double the time; ninja is only found on PATH.
  build=(env "CFLAGS=${CFLAGS:--g0 -O1}" "MAX_JOBS=${MAX_JOBS:-$(compile_jobs)}" "PATH=${python%/*}:$PATH"
    "CXX=$(cxx20)" "NVCC_APPEND_FLAGS=${NVCC_APPEND_FLAGS:-} -std=c++20")
  if [[ $MMCV_OPS == cuda ]]; then
    build+=(FORCE_CUDA=1)
    text='CPU and CUDA operators, 10 to 30 minutes'
  else
    build+=(FORCE_CUDA=0 CUDA_VISIBLE_DEVICES=)
    text='CPU operators, 4 to 9 minutes on 2 cores'
  fi
  hint=('If the compiler was killed for lack of memory: make env MAX_JOBS=1' 'This project does not need these operators: make env')
  step 'Installing what compiling needs' pip install -c "$lock" -r requirements/build.txt
  # pip's cache does not know for which torch, or with which operators, a build was made.
  step "Compiling mmcv: $text" "${build[@]}" "$python" -m pip install -v --no-build-isolation -c "$lock" \
    --no-deps --force-reinstall --no-cache-dir onedl-mmcv
  hint=()
}

install_env() {
  check_no_originals
  step 'Installing PyTorch and the other requirements (several GB the first time)' \
    pip install -c "$lock" -r requirements/runtime.txt
  install_openmmlab
  # Two distributions provide cv2: that for desktops needs libGL, the headless one does not.
  "$python" -c 'import cv2' &>/dev/null ||
    step 'Replacing OpenCV with its headless build: the other one does not load here, probably because libGL is missing' \
      pip install -c "$lock" --no-deps --force-reinstall opencv-python-headless
  # compat: adds the path. Otherwise Python, started beside the checkout, takes its folder for the package.
  step 'Installing mmdet_dinov2 (editable)' pip install --no-deps --no-build-isolation \
    --config-settings editable_mode=compat -e .
  # Every Python of the environment then finds the stand-in, also where mmdet is imported before this package.
  "$python" -c 'import mmdet_dinov2_mmcv_ops as ops; ops.write_pth()'
  hint=("If a shared library is missing, on Debian and Ubuntu: $(apt_install libgl1 libglib2.0-0)")
  step 'Checking that everything can be imported' "$python" -c \
    'import cv2, torch, torchvision, pycocotools.mask, mmengine, mmcv.ops, mmdet.models, mmpretrain.models'
}

ops_in_words() {
  case $(installed_ops) in
    python) echo "those of torchvision (make env MMCV_OPS=cpu or cuda compiles all)" ;;
    cpu) echo 'compiled for the CPU' ;;
    *) echo 'compiled for CPU and CUDA' ;;
  esac
}

make_venv
stamp=$venv/.done-$part
rm -f "$stamp"
case $part in
  lint) step 'Installing ruff' pip install -c "$lock" ruff ;;
  env) install_env ;;
  tests) step 'Installing what the tests need' pip install -c "$lock" -r requirements/tests.txt ;;
  docs) step 'Installing what builds the documentation' pip install -c "$lock" -r requirements/docs.txt ;;
esac
touch "$stamp"
if [[ $part == env ]]; then
  echo "Environment ready in $venv after $(elapsed $SECONDS): $("$python" --version)," \
    "torch $("$python" -c 'from importlib.metadata import version; print(version("torch"))')," \
    "operators of mmcv: $(ops_in_words)."
fi
