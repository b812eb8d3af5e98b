#!/usr/bin/env bash
# Builds everything a checkout needs into .venv/ and install/:  scripts/setup.sh  (= make setup)
#
# Each step writes a stamp with a checksum of its inputs. A step with a current stamp is skipped; an
# interrupted step has no stamp and is repeated.
#
# PYTHON   interpreter for .venv (default: the one of the existing .venv, or else python3)
# ROS      distribution of the ROS wheels: kilted or jazzy (default: that of .venv, or else kilted)
set -eo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
venv=$root/.venv
stamps=$venv/.setup

say() { printf '== %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# once NAME CHECKSUM COMMAND: runs the command unless it was completed for the same checksum.
once() {
  local name=$1 checksum=$2
  if [ "$(cat "$stamps/$name" 2>/dev/null)" = "$checksum" ]; then return; fi
  say "$name"
  local start=$SECONDS
  "$3"
  mkdir -p "$stamps"
  echo "$checksum" > "$stamps/$name"
  say "$name: done in $((SECONDS - start)) s"
}

checksum_of() { cat "$@" | sha256sum | cut -d' ' -f1; }

require_tools() {
  local missing=() tool
  for tool in cmake make g++; do command -v "$tool" > /dev/null || missing+=("$tool"); done
  [ ${#missing[@]} = 0 ] || fail "not found: ${missing[*]}. Debian and Ubuntu: apt-get install build-essential cmake python3-dev python3-venv"
}

# Prints the same text for an interpreter and for its virtual environments.
interpreter_of() {
  "$1" -c 'import os, sys; print("Python %d.%d in" % sys.version_info[:2], os.path.realpath(sys.base_prefix))'
}

# Sets python. An existing .venv keeps its interpreter, because its packages belong to it.
choose_python() {
  python=${PYTHON:-python3}
  [ -e "$venv/bin/python" ] || [ -L "$venv/bin/python" ] || return 0
  local there wanted
  there=$(interpreter_of "$venv/bin/python") \
    || fail ".venv/bin/python no longer runs; start over: make clean, then make setup"
  [ ! -f "$stamps/venv" ] || "$venv/bin/python" -c 'import pip' 2> /dev/null \
    || fail ".venv was made for another version than $there; start over: make clean, then make setup"
  if [ -n "$PYTHON" ]; then
    wanted=$(interpreter_of "$PYTHON") || fail "PYTHON=$PYTHON does not run"
    [ "$wanted" = "$there" ] \
      || fail ".venv has $there, PYTHON=$PYTHON is $wanted; leave PYTHON out, or start over: make clean, then make setup PYTHON=$PYTHON"
  fi
  python=$venv/bin/python
}

# Sets ros. An existing .venv keeps its distribution, because the wheels of one belong together.
choose_ros() {
  local there
  there=$(cat "$stamps/ros" 2> /dev/null) || there=
  [ -n "$there" ] || [ ! -f "$stamps/packages" ] || there=kilted
  ros=${ROS:-${there:-kilted}}
  [[ $ros = kilted || $ros = jazzy ]] || fail "ROS=$ros: there are wheels of kilted and of jazzy"
  [ "${there:-$ros}" = "$ros" ] \
    || fail ".venv has the wheels of $there, ROS is $ros; leave ROS out, or start over: make clean, then make setup ROS=$ros"
}

make_venv() {
  "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 15))' \
    || fail "$("$python" --version 2>&1) is not supported; Python 3.10 to 3.14 is: make setup PYTHON=python3.11"
  "$python" -c 'import sysconfig, pathlib, sys
sys.exit(not pathlib.Path(sysconfig.get_paths()["include"], "Python.h").is_file())' \
    || fail "the headers of $("$python" --version) are missing (Debian and Ubuntu: apt-get install python3-dev)"
  "$python" -m venv "$venv"
  "$venv/bin/python" -m pip install -q -c constraints/workspace.txt pip setuptools wheel
}

# Keeps a torch that is already in .venv, for example a machine's own CUDA build.
install_torch() {
  if "$venv/bin/python" -c 'import importlib.metadata as m, sys
sys.exit(tuple(map(int, m.version("torch").split(".")[:2])) < (2, 4))' 2> /dev/null; then
    say "keeping the torch in .venv"
  else
    "$venv/bin/pip" install -q -c constraints/workspace.txt "$(grep '^torch==' constraints/torch.txt)"
  fi
  # Without its dependencies, which would replace a torch that is not torchvision's own.
  if ! "$venv/bin/pip" show -q torchvision 2> /dev/null; then
    "$venv/bin/pip" install -q --no-deps "$(grep '^torchvision==' constraints/torch.txt)"
  fi
  # A torch for CUDA has brought its own triton. There is none for every kind of processor.
  if ! "$venv/bin/pip" show -q triton 2> /dev/null; then
    "$venv/bin/pip" install -q --no-deps "$(grep '^triton==' constraints/torch.txt)" ||
      say "no triton: the tests of GPU kernels are skipped"
  fi
}

install_packages() {
  local extras=dev,ros,workspace_$ros,backbones,demo,export,synthetic,viewer
  mkdir -p "$stamps"
  echo "$ros" > "$stamps/ros"
  PYTHONWARNINGS=ignore "$venv/bin/pip" install -q --no-build-isolation \
    -c constraints/workspace.txt -c "constraints/$ros.txt" -e ".[$extras]" -e ./training
}

adapt_wheels() { "$venv/bin/python" scripts/adapt_wheels.py; }

build_workspace() {
  . "$venv/bin/activate"
  # The message generators are found through the ament index, which the wheels keep in .venv.
  AMENT_PREFIX_PATH=$venv CMAKE_PREFIX_PATH=$venv colcon build
}

# Inputs that a symlinked install does not track: messages, metadata, lists of data files.
workspace_checksum() {
  {
    cat occ_msgs/msg/*.msg occ_msgs/CMakeLists.txt {.,occ_msgs,training}/package.xml \
      {.,training}/setup.{py,cfg} colcon_defaults.yaml "$stamps/packages"
    ls launch config config/rviz config/training
  } | sha256sum | cut -d' ' -f1
}

require_tools
[ -f install/setup.bash ] || rm -f "$stamps/workspace"
choose_python
choose_ros
once venv "$root" make_venv
once torch "$(checksum_of constraints/torch.txt)" install_torch
once packages "$(checksum_of constraints/workspace.txt "constraints/$ros.txt" setup.py training/setup.py)" install_packages
once wheels "$(checksum_of "$stamps/torch" "$stamps/packages" scripts/adapt_wheels.py scripts/torchvision_on_cpu.py)" adapt_wheels
once workspace "$(workspace_checksum)" build_workspace
say "ready; in a shell:  . ./env.sh"
