#!/bin/sh
# Prints the first Python that the development environment can be made with, or says what to
# install. Candidates are run, not only looked up: a version manager's stand-in may exist on the
# PATH and fail, and Debian ships a Python without venv and ensurepip.
# PYTHON=/path/to/python makes it the only candidate.

check='
import sys
if not (3, 10) <= sys.version_info[:2] <= (3, 13):
    sys.exit("is Python %d.%d" % sys.version_info[:2])
try:
    import ensurepip, venv
except ImportError:
    sys.exit("cannot make virtual environments (Debian: apt install python%d.%d-venv)" % sys.version_info[:2])
# With .venv activated the answer is the Python that .venv was made with, not .venv itself.
print(getattr(sys, "_base_executable", sys.executable))
'
tried=""
for candidate in ${PYTHON:-python3.11 python3.12 python3.10 python3.13 python3}; do
  if ! command -v "$candidate" >/dev/null 2>&1; then
    tried="$tried
  $candidate: not found"
  elif answer=$("$candidate" -c "$check" 2>&1); then
    echo "$answer"
    exit 0
  else
    tried="$tried
  $candidate: $(echo "$answer" | head -n 1)"
  fi
done
{
  echo "No Python 3.10, 3.11, 3.12 or 3.13 that can make virtual environments:$tried"
  echo "Install one (Debian: apt install python3 python3-venv python3-dev), or name one:"
  echo "  make setup PYTHON=/path/to/python3.11"
} >&2
exit 1
