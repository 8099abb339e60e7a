# Sourced by the scripts here: the cache directory, steps with their times, and Debian packages.
CACHE=${FINETUNE_CACHE:-$HOME/.cache/finetune-operator}

# The same flags everywhere: each other set of flags would compile a thousand packages anew.
export CGO_ENABLED=0 GOFLAGS='-trimpath -buildvcs=false -mod=readonly'

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

# install_packages NAME:COMMAND... installs each Debian package whose command (or file) is missing. The command counts,
# not the package: with Docker's own packages installed, Debian's containerd would push them out.
install_packages() {
    local wanted missing=()
    for wanted in "$@"; do
        PATH=$PATH:/usr/sbin:/sbin command -v "${wanted#*:}" >/dev/null || missing+=("${wanted%%:*}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || { say "testbed: install these first, as your distribution calls them: ${missing[*]}"; return 1; }
    step "update the package lists" as_root apt-get -qq update
    step "install ${missing[*]}" as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "${missing[@]}"
}
