#!/usr/bin/env bash
# Makes .venv with everything that the project needs: finds a suitable Python and runs install.py with it.
# PYTHON=... takes that interpreter. STACK=cpu or STACK=gpu overrides the search for a GPU.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

for python in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; then
        exec "$python" scripts/install.py
    fi
done
echo "set-up: no Python from 3.11 to 3.14 among '${PYTHON:-python3 python3.13 python3.12 python3.11}'; install one (Debian, Ubuntu: sudo apt-get install python3.11 python3.11-venv python3.11-dev) or name it: make PYTHON=/path/to/python3.11" >&2
exit 1
