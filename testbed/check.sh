#!/usr/bin/env bash
# Checks the test bed's own code: its format and its tests. With --vet also go vet, which has to look into every
# package of Kubernetes at the first time (4 minutes).
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=testbed/steps.sh
. ./steps.sh

unformatted=$(gofmt -l .)
[ -z "$unformatted" ] || { say "testbed: gofmt would change: $unformatted"; exit 1; }
if [ "${1:-}" = --vet ]; then go vet ./...; fi
go test -vet=off ./...
