# The development environment of this checkout, for bash and zsh:  source tools/env.sh
# ROS 2 from .venv, kept to this machine. Works from any folder and may be sourced repeatedly.

if [ -n "${BASH_VERSION:-}" ]; then
  _quant_llm_file="${BASH_SOURCE[0]}"
else
  # zsh's own expansion; bash would not even parse it outside of the quotes.
  eval '_quant_llm_file="${(%):-%x}"'
fi
_quant_llm_venv="$(cd "$(dirname "$_quant_llm_file")/.." && pwd -P)/.venv"

if [ ! -x "$_quant_llm_venv/bin/python" ]; then
  echo "$_quant_llm_venv does not exist yet: run \`make setup\` first" >&2
  unset _quant_llm_file _quant_llm_venv
  return 1
fi

# Another ROS 2 that was sourced before must not mix in: its Python modules and libraries have the
# same names as the ones in .venv.
if [ -n "${AMENT_PREFIX_PATH:-}" ] && [ "$AMENT_PREFIX_PATH" != "$_quant_llm_venv" ]; then
  unset PYTHONPATH LD_LIBRARY_PATH COLCON_PREFIX_PATH
fi
# Lets the ROS wheels find their libraries anew where another environment was active.
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE

case ":$PATH:" in
  *":$_quant_llm_venv/bin:"*) ;;
  *) export PATH="$_quant_llm_venv/bin:$PATH" ;;
esac
export AMENT_PREFIX_PATH="$_quant_llm_venv"
export CMAKE_PREFIX_PATH="$_quant_llm_venv"
export ROS_VERSION=2
export ROS_PYTHON_VERSION=3
export ROS_DISTRO=kilted
export RMW_IMPLEMENTATION=rmw_fastrtps_cpp
# Nothing leaves this machine. (Since Jazzy this variable replaces ROS_LOCALHOST_ONLY.)
export ROS_AUTOMATIC_DISCOVERY_RANGE="${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}"
# Shared memory segments of several runs on one machine get into each other's way.
export FASTDDS_BUILTIN_TRANSPORTS="${FASTDDS_BUILTIN_TRANSPORTS:-UDPv4}"
export ROS_LOG_DIR="${ROS_LOG_DIR:-$_quant_llm_venv/ros_log}"
mkdir -p "$ROS_LOG_DIR"

unset _quant_llm_file _quant_llm_venv
