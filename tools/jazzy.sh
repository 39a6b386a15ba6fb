#!/usr/bin/env bash
# The messages and nodes with ROS 2 Jazzy's wheels, in .venv-jazzy beside .venv (Linux, x86-64):
#   tools/jazzy.sh                                    the tests of messages and parameters
#   tools/jazzy.sh test/test_node.py -k namespaces    those that pytest's arguments say
# Makes the environment the first time (minutes), and anew when what it is made of has changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv="$PWD/.venv-jazzy"
python="$venv/bin/python"
# Nothing of another ROS 2 that was sourced.
unset AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH LD_LIBRARY_PATH PYTHONPATH
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE
export PATH="$venv/bin:$PATH" AMENT_PREFIX_PATH="$venv" CMAKE_PREFIX_PATH="$venv"
export ROS_VERSION=2 ROS_PYTHON_VERSION=3 ROS_DISTRO=jazzy RMW_IMPLEMENTATION=rmw_fastrtps_cpp
export ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST FASTDDS_BUILTIN_TRANSPORTS=UDPv4

made_of=$(cat tools/jazzy.sh requirements/ros-jazzy.txt requirements/runtime.txt setup.py \
  $(find quant_llm_msgs -type f | sort) | sha256sum)
if [ "$(cat "$venv/made_of" 2>/dev/null)" != "$made_of" ]; then
  "$(tools/find_python.sh)" -m venv --clear "$venv"
  "$python" -m pip install --quiet -r requirements/ros-jazzy.txt -r requirements/runtime.txt
  # The wheels' CMake files carry the paths of the machine that built them, as Kilted's do.
  "$python" - "$venv" <<'PYTHON'
from pathlib import Path
import sys

sys.path.insert(0, "tools")
import setup_venv

venv = Path(sys.argv[1])
setup_venv.VENV, setup_venv.PYTHON, setup_venv.SHARE = venv, venv / "bin/python", venv / "share"
setup_venv.relocate_cmake_files(setup_venv.python_version(), venv / "relocated.log")
PYTHON
  colcon --log-base "$venv/colcon_log" build --merge-install --build-base "$venv/colcon_build" \
    --install-base "$venv" --paths quant_llm_msgs
  "$python" -m pip install --quiet --no-deps --no-build-isolation --editable .
  echo "$made_of" > "$venv/made_of"
fi

if [ $# -eq 0 ]; then
  set -- test/test_messages.py test/test_parameters.py test/test_spinning.py test/test_node_errors.py
fi
exec "$python" -m pytest "$@"
