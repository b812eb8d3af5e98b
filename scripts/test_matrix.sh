#!/usr/bin/env bash
# Runs the tests that need neither torch nor ROS on several Pythons, each in a throw-away
# environment:  scripts/test_matrix.sh 3.10 3.11 3.12 3.13 3.14  (= make test-matrix PYTHONS="…")
#
# A version is looked up as pythonX.Y, and among those of pyenv. One that is not here is named at
# the end; the exit code is 1 if tests failed, or if no version was here.
# ARGS     arguments for pytest
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ $# -gt 0 ] || set -- 3.10 3.11 3.12 3.13 3.14

# Files in these rooms that need torch or ROS nevertheless skip themselves.
tests=(test/bags test/codec test/frames test/geometry test/labels test/sensing)

interpreter_of() {
  local python
  for python in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python; do
    if "$python" -c "import sys, venv; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2> /dev/null
    then echo "$python"; return; fi
  done
}

# What the package states that it needs, without torch; numba checks the codes of JPEGs.
requirements='
import sys
from importlib.metadata import Distribution
from packaging.requirements import Requirement
for text in Distribution.at(sys.argv[1]).requires:
    needed = Requirement(text)
    if needed.name != "torch" and (not needed.marker or needed.marker.evaluate({"extra": "cpu"})):
        print(needed.name)
'

run_tests() {  # INTERPRETER FOLDER
  "$1" -m venv "$2" || return
  # A shell with the workspace or ROS active must not lend its packages.
  local run=(env -u PYTHONPATH -u AMENT_PREFIX_PATH -u LD_LIBRARY_PATH "$2/bin/python")
  "${run[@]}" -m pip install -q -c constraints/workspace.txt pip setuptools wheel packaging \
    pytest hypothesis || return
  "${run[@]}" setup.py -q egg_info --egg-base "$2" || return
  "${run[@]}" -c "$requirements" "$2/occ_perception.egg-info" > "$2/needed.txt" || return
  "${run[@]}" -m pip install -q -c constraints/workspace.txt -r "$2/needed.txt" || return
  "${run[@]}" -m pytest -q -m "not slow and not ros" -p no:cacheprovider "${tests[@]}" ${ARGS:-}
}

room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
results=() failed=0 ran=0
for version in "$@"; do
  python=$(interpreter_of "$version")
  if [ -z "$python" ]; then results+=("$version: not here"); continue; fi
  echo "== Python $version ($python)"
  ran=1
  if run_tests "$python" "$room/$version"; then results+=("$version: passed")
  else results+=("$version: FAILED"); failed=1; fi
  rm -rf "${room:?}/$version"
done
printf '%s\n' "${results[@]}"
[ $failed = 0 ] && [ $ran = 1 ]
