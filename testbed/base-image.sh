#!/usr/bin/env bash
# Makes a root file system with this distribution's Python, in which a virtual environment of this host's
# /usr/bin/python3 runs when it is mounted, and prints the path of its tar. Made once.
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=testbed/steps.sh
. ./steps.sh

suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
packages=python3,libgomp1,ca-certificates
target=$CACHE/testbed/base-$suite-$({ cat base-image.sh; echo "$suite $packages"; } | sha256sum | cut -c1-16).tar
if [ ! -e "$target" ]; then
    install_packages mmdebstrap:mmdebstrap
    mkdir -p "$CACHE/testbed"
    build() {
        # The host's own package sources; a user by name, because some libraries look theirs up; /root open, because
        # a virtual environment below it is mounted at the path that it has on the host.
        as_root mmdebstrap --quiet --format=tar --variant=minbase --include="$packages" --skip=output/dev --skip=cleanup/apt/lists \
            --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
            --customize-hook='echo "nonroot:x:65532:65532::/tmp:/usr/sbin/nologin" >> "$1/etc/passwd"' \
            --customize-hook='echo "nonroot:x:65532:" >> "$1/etc/group"' \
            --customize-hook='chmod 755 "$1/root"' \
            --customize-hook='rm -rf "$1/var/lib/apt/lists" "$1/var/cache/apt" "$1/var/log/apt"' \
            "$suite" "$target.new" "$@"
    }
    sources=$(mktemp)
    trap 'rm -f "$sources"' EXIT
    # shellcheck disable=SC2016
    as_root apt-get indextargets --format '$(SITE) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' | sort -u | { grep -E "^\S+ $suite(-security|-updates)? " || true; } |
        awk '{print "deb " $1 " " $2 " " $3}' > "$sources"
    if [ -s "$sources" ]; then set -- "$sources"; fi
    step "build the base image ($suite)" build "$@"
    as_root chown "$(id -u):$(id -g)" "$target.new"
    mv "$target.new" "$target"
fi
echo "$target"
