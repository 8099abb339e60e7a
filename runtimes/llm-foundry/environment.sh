#!/usr/bin/env bash
# Makes the engine's Python environment and prints its path; with `test`, also the small one that the tests run in.
# A path is named by the hash of its lock file, so an environment never changes once it is complete.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cache=${FINETUNE_CACHE:-$HOME/.cache/finetune-operator}
# Pods mount the environment and bring Debian's interpreter at this path.
python=/usr/bin/python3.11
uv_version=0.13.9

say() { echo "$*" >&2; }

install_python() {
    "$python" -c 'import ensurepip, venv' 2>/dev/null && return
    say "installing python3.11-venv"
    local sudo=()
    [ "$(id -u)" -eq 0 ] || sudo=(sudo)
    "${sudo[@]}" apt-get install -y -q python3.11 python3.11-venv >&2 || {
        say "python3.11 with its venv module is needed at $python: install Debian's packages python3.11 and python3.11-venv"
        exit 1
    }
}

uv() {
    if [ ! -x "$cache/uv-$uv_version/bin/uv" ]; then
        "$python" -m venv "$cache/uv-$uv_version"
        "$cache/uv-$uv_version/bin/pip" install -q --disable-pip-version-check "uv==$uv_version" >&2
    fi
    "$cache/uv-$uv_version/bin/uv" "$@"
}

# make NAME LOCK: prints the path of a complete environment with exactly what the lock file lists.
make() {
    local path
    path=$cache/$1-$(sha256sum "$2" | cut -c1-12)
    if [ ! -e "$path/.complete" ]; then
        say "making $path"
        rm -rf "$path"
        uv venv -q --python "$python" "$path" >&2
        uv pip install -q --no-deps --python "$path/bin/python" -r "$2" >&2
        uv pip check -q --python "$path/bin/python" >&2
        # Read-only mounts keep no bytecode; importing the engine without it takes twice as long.
        "$path/bin/python" -m compileall -q -j 0 --invalidation-mode unchecked-hash "$path/lib" >/dev/null 2>&1 || true
        touch "$path/.complete"
    fi
    echo "$path"
}

mkdir -p "$cache"
exec 9>"$cache/llm-foundry.flock"
flock 9
install_python
make llm-foundry "$here/requirements.lock"
if [ "${1:-}" = test ]; then
    make llm-foundry-test "$here/requirements-test.lock"
fi
