#!/usr/bin/env bash
# Runs the tests of this runtime; arguments go to pytest (`--ignore tests/test_engine.py` leaves out those that start the engine).
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
mapfile -t environments < <("$here/environment.sh" test)
FINETUNE_ENGINE=${environments[0]} PYTHONDONTWRITEBYTECODE=1 exec "${environments[1]}/bin/python" -m pytest -q -p no:cacheprovider "$here/tests" "$@"
