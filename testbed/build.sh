#!/usr/bin/env bash
# Builds the test bed into the cache directory, installs the Debian packages that it needs, and prints the path of
# its binary. What was built before from the same sources is used again.
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=testbed/steps.sh
. ./steps.sh

kubernetes=$(sed -n 's/^\tk8s.io\/kubernetes v\(.*\)$/\1/p' go.mod)
modules=$(digest go.mod go.sum)
sources=$(digest go.mod go.sum build.sh ./*.go pause/*.go)
servers=$CACHE/testbed/servers-$modules
target=$CACHE/testbed/$sources

install_packages containerd runc containernetworking-plugins iptables iproute2 conntrack
mkdir -p "$CACHE/testbed"
exec 9>"$CACHE/testbed/lock"
flock 9

# The same flags everywhere: each other set of flags would compile a thousand packages anew.
export CGO_ENABLED=0 GOFLAGS='-trimpath -buildvcs=false -mod=readonly'
build() {
    go build -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=v$kubernetes
        -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=$(cut -d. -f2 <<<"$kubernetes")" -o "$1" "${@:2}"
}
if [ ! -e "$target" ]; then
    rm -rf "$target.new"
    mkdir "$target.new"
    step "build Kubernetes $kubernetes (10 minutes at the first time)" build "$target.new/testbed" .
    step "build pause" build "$target.new/pause" ./pause
    if [ ! -e "$servers" ]; then
        rm -rf "$servers.new"
        mkdir "$servers.new"
        step "build the S3 server" build "$servers.new/minio" github.com/minio/minio
        step "build helm" build "$servers.new/helm" helm.sh/helm/v3/cmd/helm
        mv "$servers.new" "$servers"
    fi
    ln -s "$servers/minio" "$servers/helm" "$target.new/"
    mv "$target.new" "$target"
fi
touch "$target"
# Older builds go, but for the two newest: a running cluster may still use one.
find "$CACHE/testbed" -mindepth 1 -maxdepth 1 -type d -printf '%T@ %p\n' | grep -v /servers- | sort -rn | tail -n +4 | cut -d' ' -f2- | xargs -r rm -rf
echo "$target/testbed"
