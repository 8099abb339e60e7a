package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

const (
	nodeName         = "testbed"
	pauseName        = "testbed.local/pause:1"
	containerdSocket = "/run/containerd/containerd.sock"
	dnsServer        = "system:coredns"
)

// node is the one machine of the cluster: containerd, the kubelet, kube-proxy and the cluster's DNS server. All its
// paths are those inside the cluster's mount namespace.
type node struct {
	directory string
	address   string
	cgroup    string
	control   *controlPlane
}

func (n *node) file(name string) string { return filepath.Join(n.directory, name) }

func (n *node) containerd() ([]string, error) {
	networks := n.file("cni/net.d")
	if err := os.MkdirAll(networks, 0o755); err != nil {
		return nil, err
	}
	// Every pod gets a link of its own to the node, so that all traffic passes the node's packet filter;
	// behind a bridge, pods would reach Services only with the br_netfilter module loaded.
	pods := map[string]any{
		"cniVersion": "0.4.0",
		"name":       "pods",
		"plugins": []any{
			map[string]any{"type": "ptp", "ipMasq": false, "ipam": map[string]any{
				"type": "host-local", "dataDir": n.file("cni/addresses"),
				"ranges": []any{[]any{map[string]any{"subnet": podSubnet}}},
				"routes": []any{map[string]any{"dst": "0.0.0.0/0"}},
			}},
			map[string]any{"type": "portmap", "capabilities": map[string]any{"portMappings": true}},
		},
	}
	if err := writeJSON(filepath.Join(networks, "10-pods.conflist"), pods); err != nil {
		return nil, err
	}
	// restrict_oom_score_adj: without CAP_SYS_RESOURCE runc may not lower it and no pod would start.
	config := fmt.Sprintf(`version = 2
root = %q
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
  address = %q
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = %q
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
`, n.file("containerd"), containerdSocket, pauseName, networks)
	path := n.file("containerd.toml")
	return []string{"/usr/bin/containerd", "--config", path}, os.WriteFile(path, []byte(config), 0o644)
}

func (n *node) kubelet() ([]string, error) {
	serving, err := n.control.ca.issue("kubelet", nodeName, nil, ips(n.address), []string{nodeName})
	if err != nil {
		return nil, err
	}
	kubeconfig := n.file("kubelet.kubeconfig")
	if err := n.control.ca.kubeconfig(kubeconfig, n.control.url(), "system:node:"+nodeName, "system:nodes"); err != nil {
		return nil, err
	}
	resolver := n.file("resolv.conf")
	if err := os.WriteFile(resolver, []byte("nameserver "+dnsServiceIP+"\n"), 0o644); err != nil {
		return nil, err
	}
	config := map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1",
		"kind":       "KubeletConfiguration",
		"authentication": map[string]any{
			"anonymous": map[string]any{"enabled": false},
			"webhook":   map[string]any{"enabled": true},
			"x509":      map[string]any{"clientCAFile": n.control.ca.file()},
		},
		"authorization":                 map[string]any{"mode": "Webhook"},
		"tlsCertFile":                   serving.certificateFile,
		"tlsPrivateKeyFile":             serving.keyFile,
		"containerRuntimeEndpoint":      "unix://" + containerdSocket,
		"cgroupDriver":                  "cgroupfs",
		"cgroupRoot":                    "/" + n.cgroup,
		"failCgroupV1":                  false,
		"failSwapOn":                    false,
		"enforceNodeAllocatable":        []string{},
		"protectKernelDefaults":         true,
		"evictionHard":                  map[string]string{"memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%"},
		"imageGCHighThresholdPercent":   100,
		"serializeImagePulls":           false,
		"clusterDNS":                    []string{dnsServiceIP},
		"clusterDomain":                 clusterDomain,
		"resolvConf":                    resolver,
		"volumePluginDir":               n.file("kubelet/volume-plugins"),
		"healthzBindAddress":            "127.0.0.1",
		"nodeStatusReportFrequency":     "5m",
		"shutdownGracePeriod":           "0s",
		"containerLogMaxSize":           "50Mi",
		"registerWithTaints":            []any{},
		"localStorageCapacityIsolation": true,
	}
	path := n.file("kubelet.json")
	return []string{
		"kubelet", "--config=" + path, "--kubeconfig=" + kubeconfig, "--root-dir=" + n.file("kubelet"), "--cert-dir=" + n.file("kubelet/pki"),
		"--hostname-override=" + nodeName, "--node-ip=" + n.address,
	}, writeJSON(path, config)
}

func (n *node) kubeProxy() ([]string, error) {
	kubeconfig := n.file("kube-proxy.kubeconfig")
	if err := n.control.ca.kubeconfig(kubeconfig, n.control.url(), "system:kube-proxy"); err != nil {
		return nil, err
	}
	// The connection tracking limits belong to the host and are read-only in a network namespace.
	return []string{
		"kube-proxy", "--kubeconfig=" + kubeconfig, "--hostname-override=" + nodeName, "--proxy-mode=iptables", "--cluster-cidr=" + podSubnet,
		"--conntrack-max-per-core=0", "--conntrack-min=0", "--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0",
		"--iptables-min-sync-period=100ms",
	}, nil
}

// coreDNS serves the cluster's names; any other name does not exist, for there is no network beyond.
func (n *node) coreDNS() ([]string, error) {
	kubeconfig := n.file("coredns.kubeconfig")
	if err := n.control.ca.kubeconfig(kubeconfig, n.control.url(), dnsServer); err != nil {
		return nil, err
	}
	config := fmt.Sprintf(`%[1]s in-addr.arpa ip6.arpa {
  bind %[2]s
  errors
  ready 127.0.0.1:8181
  kubernetes %[1]s in-addr.arpa ip6.arpa {
    kubeconfig %[3]s
  }
}
. {
  bind %[2]s
  errors
  template ANY ANY {
    rcode NXDOMAIN
  }
}
`, clusterDomain, n.address, kubeconfig)
	path := n.file("Corefile")
	return []string{"coredns", "-conf", path}, os.WriteFile(path, []byte(config), 0o644)
}

func writeJSON(path string, content any) error {
	encoded, err := json.MarshalIndent(content, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(encoded, '\n'), 0o644)
}
