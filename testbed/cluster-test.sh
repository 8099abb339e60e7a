#!/usr/bin/env bash
# Proves on this machine what docs/testbed.md promises: a Job runs and reaches Services by name, two clusters live side
# by side, and the end of a cluster, also of a killed one, leaves nothing. Needs root.
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=testbed/steps.sh
. ./steps.sh
install_packages busybox-static:/bin/busybox
testbed=$(./build.sh)
first=check-$$-a second=check-$$-b

# All of the host that a cluster could have touched.
host() {
    echo "== interfaces" && ip -o link | awk '{print $2}'
    echo "== routes" && ip route
    echo "== packet filter" && { iptables-save 2>/dev/null | grep -v '^#' || true; }
    echo "== mounts" && awk '{print $5}' /proc/self/mountinfo
    echo "== network namespaces" && ip netns
    echo "== cgroups" && { find /sys/fs/cgroup -type d -name "testbed-check-$$-*" || true; }
    echo "== settings" && cat /proc/sys/vm/overcommit_memory /proc/sys/vm/panic_on_oom /proc/sys/kernel/panic /proc/sys/kernel/panic_on_oops \
        /proc/sys/kernel/keys/root_max* /proc/sys/net/ipv4/ip_forward /proc/sys/net/netfilter/nf_conntrack_max 2>/dev/null
    echo "== directories" && ls -d /run/testbed/check-$$-* /var/lib/cni/* /var/lib/kubelet/* /var/log/pods /var/log/containers "$CACHE"/clusters/check-$$-* 2>/dev/null
    echo "== processes" && { pgrep -af "check-$$-|/run/testbed/" | grep -v cluster-test || true; }
} 2>&1

finish() {
    "$testbed" down --name "$first" >/dev/null
    "$testbed" down --name "$second" >/dev/null
}
trap finish EXIT
before=$(host)

"$testbed" up --name "$first" &
"$testbed" up --name "$second"
wait %1
"$testbed" list
for cluster in "$first" "$second"; do
    # shellcheck disable=SC1090,SC1091
    . "$CACHE/clusters/$cluster/env"
    image=$("$testbed" image testbed.local/busybox:1 --name "$cluster" --add /bin/busybox:/bin/busybox --add /bin/busybox:/bin/sh)
    "$testbed" kubectl create -f - <<YAML
apiVersion: batch/v1
kind: Job
metadata: {name: check}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      securityContext: {runAsNonRoot: true, runAsUser: 65532, fsGroup: 65532, seccompProfile: {type: RuntimeDefault}}
      containers:
      - name: check
        image: $image
        command:
        - sh
        - -ec
        - |
          b=/bin/busybox
          test "\$(\$b wc -c < /token/token)" -gt 100
          \$b wget -q -O /dev/null http://s3.demo-services.svc:9000/minio/health/live
          \$b nslookup kubernetes.default.svc.cluster.local
          ! \$b nslookup example.com
          echo cluster $cluster
        securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
        volumeMounts: [{name: token, mountPath: /token}, {name: memory, mountPath: /dev/shm}]
      volumes:
      - name: token
        projected: {sources: [{serviceAccountToken: {path: token, audience: finetune.dev, expirationSeconds: 600}}]}
      - {name: memory, emptyDir: {medium: Memory}}
YAML
    "$testbed" kubectl wait --for=condition=Complete job/check --timeout=60s || { "$testbed" kubectl describe pods; "$testbed" kubectl logs job/check; exit 1; }
    "$testbed" kubectl logs job/check | grep -qx "cluster $cluster"
done

"$testbed" down --name "$first"
"$testbed" kubectl get --raw /readyz >/dev/null # the second one is not disturbed
kill -9 "$(sed -n 's/.*"process": \([0-9]*\),.*/\1/p' "/run/testbed/$second.json")"
"$testbed" down --name "$second"
after=$(host)
[ "$before" = "$after" ] || { say "testbed: the host is not as it was:"; diff <(echo "$before") <(echo "$after"); exit 1; }
say "testbed: the host is as it was"
