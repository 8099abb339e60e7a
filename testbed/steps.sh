# Sourced by the scripts here: the cache directory, steps with their times, and Debian packages.
CACHE=${FINETUNE_CACHE:-$HOME/.cache/finetune-operator}

say() { printf '%s\n' "$*" >&2; }

# step TITLE COMMAND... runs the command and says how long it took; its output goes to standard error.
step() {
    local title=$1 began=$SECONDS
    shift
    say "testbed: $title ..."
    "$@" >&2
    say "testbed: $title: $((SECONDS - began)) s"
}

# digest FILE... is a short hash of the files, the Go version and the machine's kind.
digest() { { go env GOVERSION GOARCH && sha256sum "$@"; } | sha256sum | cut -c1-16; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# install_packages NAME... installs those Debian packages that are missing.
install_packages() {
    local name missing=()
    for name in "$@"; do
        dpkg-query -W -f '${db:Status-Status}\n' "$name" 2>/dev/null | grep -qx installed || missing+=("$name")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || { say "testbed: install these packages first: ${missing[*]}"; return 1; }
    step "update the package lists" as_root apt-get -qq update
    step "install ${missing[*]}" as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "${missing[@]}"
}
