# Puts the built workspace into the current shell (bash or zsh):  . ./env.sh
#
# Afterwards `occ`, `occupancy_node`, `python -m occ_perception.ros.node` and `import occ_msgs.msg`
# work, and DDS participants started here have room for camera-sized messages.
# `make setup` builds what this file activates.

_occ_root="$(cd "$(dirname "${BASH_SOURCE[0]:-$0}")" && pwd)"

if [ ! -f "$_occ_root/.venv/bin/activate" ] || [ ! -f "$_occ_root/install/setup.bash" ]; then
  echo "env.sh: $_occ_root is not set up yet; run: make -C $_occ_root setup" >&2
  unset _occ_root
  return 1
fi

. "$_occ_root/.venv/bin/activate"
if [ -n "${ZSH_VERSION:-}" ]; then
  . "$_occ_root/install/setup.zsh"
else
  . "$_occ_root/install/setup.bash"
fi

# The ROS wheels keep their ament index in the virtual environment.
export AMENT_PREFIX_PATH="${AMENT_PREFIX_PATH:+$AMENT_PREFIX_PATH:}$VIRTUAL_ENV"
# Kilted renamed the variable. If both are set, Fast DDS reads the file twice and refuses it.
if [ "$(cat "$VIRTUAL_ENV/.setup/ros" 2>/dev/null)" = jazzy ]; then
  export FASTRTPS_DEFAULT_PROFILES_FILE="${FASTRTPS_DEFAULT_PROFILES_FILE:-$_occ_root/config/fastdds.xml}"
else
  export FASTDDS_DEFAULT_PROFILES_FILE="${FASTDDS_DEFAULT_PROFILES_FILE:-$_occ_root/config/fastdds.xml}"
fi
unset _occ_root
