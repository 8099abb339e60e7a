package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
)

const (
	serviceSubnet    = "10.96.0.0/16"
	apiServiceIP     = "10.96.0.1"
	dnsServiceIP     = "10.96.0.10"
	podSubnet        = "10.244.0.0/16"
	clusterDomain    = "cluster.local"
	administrator    = "testbed-admin"
	administrators   = "system:masters"
	serviceIssuer    = "https://kubernetes.default.svc." + clusterDomain
	controllerServer = "127.0.0.1"
)

// controlPlane is etcd, an API server and what else reaches the cluster only through it.
type controlPlane struct {
	directory  string
	address    net.IP
	etcdPort   int
	peerPort   int
	apiPort    int
	tokenFile  string
	audit      bool
	node       bool
	ca         *authority
	signingKey string
	server     identity
	toKubelet  identity
}

func (c *controlPlane) file(name string) string { return filepath.Join(c.directory, name) }

func (c *controlPlane) url() string { return fmt.Sprintf("https://%s:%d", c.address, c.apiPort) }

// prepare writes the certificates, the audit policy and the administrator's kubeconfig.
func (c *controlPlane) prepare() error {
	var err error
	if c.ca, err = newAuthority(c.file("pki")); err != nil {
		return err
	}
	if c.signingKey, err = c.ca.signingKey(); err != nil {
		return err
	}
	addresses := []net.IP{c.address, net.ParseIP("127.0.0.1"), net.ParseIP(apiServiceIP)}
	names := []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + clusterDomain}
	if c.server, err = c.ca.issue("apiserver", "kube-apiserver", nil, addresses, names); err != nil {
		return err
	}
	if c.toKubelet, err = c.ca.issue("apiserver-to-kubelet", "kube-apiserver", []string{administrators}, nil, nil); err != nil {
		return err
	}
	if c.audit {
		if err := os.WriteFile(c.file("audit-policy.yaml"), []byte(auditPolicy), 0o644); err != nil {
			return err
		}
	}
	return c.ca.kubeconfig(c.file("kubeconfig"), c.url(), administrator, administrators)
}

func (c *controlPlane) etcd() []string {
	client := fmt.Sprintf("http://127.0.0.1:%d", c.etcdPort)
	peer := fmt.Sprintf("http://127.0.0.1:%d", c.peerPort)
	return []string{
		"etcd", "--name=testbed", "--data-dir=" + c.file("etcd"), "--log-level=warn", "--unsafe-no-fsync",
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=testbed=" + peer,
	}
}

func (c *controlPlane) apiServer() []string {
	arguments := []string{
		"kube-apiserver",
		fmt.Sprintf("--etcd-servers=http://127.0.0.1:%d", c.etcdPort),
		"--bind-address=" + c.address.String(), fmt.Sprintf("--secure-port=%d", c.apiPort),
		"--advertise-address=" + c.address.String(),
		"--tls-cert-file=" + c.server.certificateFile, "--tls-private-key-file=" + c.server.keyFile,
		"--client-ca-file=" + c.ca.file(),
		"--service-account-issuer=" + serviceIssuer,
		"--service-account-signing-key-file=" + c.signingKey, "--service-account-key-file=" + c.signingKey,
		"--service-cluster-ip-range=" + serviceSubnet,
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true", "--profiling=false",
	}
	if c.node {
		arguments = append(arguments,
			"--kubelet-client-certificate="+c.toKubelet.certificateFile, "--kubelet-client-key="+c.toKubelet.keyFile,
			"--kubelet-certificate-authority="+c.ca.file(), "--kubelet-preferred-address-types=InternalIP")
	} else {
		// An endpoint with a loopback address is refused, so nobody shall try to write one.
		arguments = append(arguments, "--endpoint-reconciler-type=none")
	}
	if c.tokenFile != "" {
		arguments = append(arguments, "--token-auth-file="+c.tokenFile)
	}
	if c.audit {
		arguments = append(arguments, "--audit-policy-file="+c.file("audit-policy.yaml"), "--audit-log-path="+c.file("audit.log"),
			"--audit-log-mode=blocking", "--audit-log-maxsize=2048")
	}
	return arguments
}

// controllerManager runs the named controllers; securePort 0 serves nothing.
func (c *controlPlane) controllerManager(controllers string, securePort int) ([]string, error) {
	kubeconfig := c.file("controller-manager.kubeconfig")
	if err := c.ca.kubeconfig(kubeconfig, c.url(), "system:kube-controller-manager", administrators); err != nil {
		return nil, err
	}
	return []string{
		"kube-controller-manager", "--kubeconfig=" + kubeconfig,
		"--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=" + controllerServer, fmt.Sprintf("--secure-port=%d", securePort),
		"--cert-dir=" + c.file("controller-manager"),
		"--service-account-private-key-file=" + c.signingKey, "--root-ca-file=" + c.ca.file(),
		"--leader-elect=false", "--profiling=false", "--kube-api-qps=200", "--kube-api-burst=400", "--controllers=" + controllers,
	}, nil
}

func (c *controlPlane) scheduler() ([]string, error) {
	kubeconfig := c.file("scheduler.kubeconfig")
	if err := c.ca.kubeconfig(kubeconfig, c.url(), "system:kube-scheduler"); err != nil {
		return nil, err
	}
	return []string{
		"kube-scheduler", "--kubeconfig=" + kubeconfig,
		"--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=" + controllerServer, "--cert-dir=" + c.file("scheduler"), "--leader-elect=false", "--profiling=false",
	}, nil
}

// auditPolicy keeps whole objects of the kinds that the operator writes, and who did what for the rest.
var auditPolicy = strings.TrimLeft(`
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: ["system:kube-scheduler", "system:apiserver", "system:kube-proxy", "system:coredns"]
  verbs: [get, list, watch]
- level: RequestResponse
  omitManagedFields: true
  resources:
  - group: finetune.dev
  - group: batch
  - group: ""
    resources: [pods, "pods/*", events, configmaps]
  - group: events.k8s.io
- level: Metadata
`, "\n")
