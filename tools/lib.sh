# shellcheck shell=bash
# Functions that the shell scripts in this folder source.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# die STATUS LINE...: prints the lines to standard error and exits with the status.
die() {
  local status=$1
  shift
  printf '%s: %s\n' "${0##*/}" "$1" >&2
  shift
  (($# == 0)) || printf '%s\n' "$@" >&2
  exit "$status"
}

# elapsed SECONDS: prints a duration in minutes and seconds.
elapsed() {
  if (($1 < 60)); then echo "$1 s"; else echo "$(($1 / 60)) min $(($1 % 60)) s"; fi
}

# find_python: prints the interpreter to train and test with, as an absolute path or a name on PATH.
find_python() {
  if [[ -n ${PYTHON:-} ]]; then
    echo "$PYTHON"
  elif [[ -x $root/.venv/bin/python ]]; then
    echo "$root/.venv/bin/python"
  else
    command -v python || command -v python3 || die 1 'there is no python on PATH; run "make env" or set PYTHON'
  fi
}

# need_file WHAT PATH: exits if the file is missing, before every process of a job would report it.
need_file() {
  [[ -f $2 ]] || die 2 "the $1 '$2' does not exist (looked from $PWD)"
}
