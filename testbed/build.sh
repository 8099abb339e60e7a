#!/usr/bin/env bash
# Builds the test bed into the cache directory, installs the Debian packages that it needs, and prints the path of
# its binary. What was built before from the same sources is used again.
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=testbed/steps.sh
. ./steps.sh

kubernetes=$(sed -n 's/^\tk8s.io\/kubernetes v\(.*\)$/\1/p' go.mod)
modules=$(digest go.mod go.sum build.sh)
sources=$(digest go.mod go.sum build.sh pause/*.go $(ls ./*.go | grep -v _test.go))
servers=$CACHE/testbed/servers-$modules
target=$CACHE/testbed/$sources

install_packages containerd:containerd runc:runc containernetworking-plugins:/usr/lib/cni/ptp iptables:iptables iproute2:ip conntrack:conntrack
mkdir -p "$CACHE/testbed"
exec 9>"$CACHE/testbed/lock"
flock 9

minor=$(cut -d. -f2 <<<"$kubernetes")
helm=$(sed -n 's/^\thelm.sh\/helm\/v3 \(v[0-9.]*\).*$/\1/p' go.mod)
# The versions that the programs report, and that helm templates for when it has no cluster.
versions="-X k8s.io/component-base/version.gitVersion=v$kubernetes
    -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=$minor
    -X helm.sh/helm/v3/internal/version.version=$helm
    -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=$minor
    -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor=$minor"
build() { go build -ldflags "-s -w $versions" -o "$@"; }
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
    ln -s testbed "$target.new/kubectl"
    mv "$target.new" "$target"
fi
touch "$target"
touch "$servers"
# Older builds go, but for the two before this one: a running cluster may still use them.
for kind in '/[0-9a-f]*$' '/servers-[0-9a-f]*$'; do
    find "$CACHE/testbed" -mindepth 1 -maxdepth 1 -type d -printf '%T@ %p\n' | grep "$kind" | sort -rn | tail -n +4 | cut -d' ' -f2- | xargs -r rm -rf
done
echo "$target/testbed"
