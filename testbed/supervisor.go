package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
)

// clusterSpec is what the supervisor is told about its cluster.
type clusterSpec struct {
	Name         string            `json:"name"`
	State        string            `json:"state"`
	Link         link              `json:"link"`
	Cgroup       string            `json:"cgroup"`
	Audit        bool              `json:"audit"`
	Volumes      map[string]string `json:"volumes"`
	MlflowPython string            `json:"mlflowPython"`
	Patience     time.Duration     `json:"patience"`
}

// report is one line from the supervisor to the command that started it.
type report struct {
	Step   string `json:"step,omitempty"`
	Ready  bool   `json:"ready,omitempty"`
	Failed string `json:"failed,omitempty"`
}

const (
	startPatience = 3 * time.Minute
	pollInterval  = 50 * time.Millisecond
	// reportFile is the descriptor that reports go to.
	reportFile = 3
)

// supervisor starts everything in a cluster's namespaces and stays as long as the cluster.
type supervisor struct {
	clusterSpec
	children *processes
	reports  *json.Encoder
	mu       sync.Mutex
}

func runSupervise(arguments []string) error {
	if len(arguments) != 1 {
		return errors.New("this command is started by testbed up")
	}
	data, err := os.ReadFile(arguments[0])
	if err != nil {
		return err
	}
	s := &supervisor{reports: json.NewEncoder(os.NewFile(reportFile, "report"))}
	if err := json.Unmarshal(data, &s.clusterSpec); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	if err := s.bringUp(ctx, cancel); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		s.tell(report{Failed: err.Error()})
		return err
	}
	s.tell(report{Ready: true})
	debug.FreeOSMemory()
	// The cluster lives until the first process of the namespace is killed.
	select {}
}

func (s *supervisor) tell(r report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.reports.Encode(r)
}

func (s *supervisor) done(step string) { s.tell(report{Step: step}) }

func (s *supervisor) bringUp(ctx context.Context, cancel context.CancelCauseFunc) error {
	ctx, stop := context.WithTimeout(ctx, s.Patience)
	defer stop()
	if err := isolate(s.State); err != nil {
		return err
	}
	// The command that started this process moves the network interface in and then says so.
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return fmt.Errorf("wait for the network: %w", err)
	}
	if err := s.Link.configure(); err != nil {
		return err
	}
	var err error
	home := filepath.Join(insideState, "home")
	if err := os.MkdirAll(home, 0o755); err != nil {
		return err
	}
	// A clean environment: a proxy that the host uses must not come between the parts.
	environment := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + home}
	if s.children, err = newProcesses(filepath.Join(insideState, "logs"), environment); err != nil {
		return err
	}
	go func() {
		for child := range s.children.ended {
			failure := s.children.failure(child)
			fmt.Fprintln(os.Stderr, failure)
			cancel(failure)
		}
	}()
	s.done("namespaces, mounts and network")

	var background sync.WaitGroup
	problems := make(chan error, 3)
	inBackground := func(work func() error) {
		background.Add(1)
		go func() {
			defer background.Done()
			if err := work(); err != nil {
				problems <- err
				cancel(err)
			}
		}()
	}
	control := &controlPlane{
		directory: filepath.Join(insideState, "control"), address: s.Link.inside(),
		etcdPort: 2379, peerPort: 2380, apiPort: 6443, audit: s.Audit, node: true,
	}
	machine := &node{directory: filepath.Join(insideState, "node"), address: s.Link.inside().String(), cgroup: s.Cgroup, control: control}
	containerd, err := machine.containerd()
	if err != nil {
		return err
	}
	if err := s.children.start("containerd", nil, containerd...); err != nil {
		return err
	}
	if err := s.startControlPlane(ctx, control); err != nil {
		return err
	}
	client, err := connect(control.file("kubeconfig"))
	if err != nil {
		return err
	}
	inBackground(func() error { return s.startS3(ctx) })
	inBackground(func() error { return s.startMlflow(ctx) })
	if err := waitFor(ctx, "the API server", func() error { return apiReady(ctx, client) }); err != nil {
		return err
	}
	s.done("etcd and API server")
	if err := s.startNode(ctx, machine, client); err != nil {
		return err
	}
	background.Wait()
	select {
	case err := <-problems:
		return err
	default:
	}
	return s.writeAccess(control)
}

func (s *supervisor) startControlPlane(ctx context.Context, control *controlPlane) error {
	if err := control.prepare(); err != nil {
		return err
	}
	if err := s.children.start("etcd", nil, control.etcd()...); err != nil {
		return err
	}
	if err := waitFor(ctx, "etcd", func() error { return answers("http://127.0.0.1:2379/readyz") }); err != nil {
		return err
	}
	return s.children.start("kube-apiserver", nil, control.apiServer()...)
}

func (s *supervisor) startNode(ctx context.Context, machine *node, client *kubernetes.Clientset) error {
	controllers, err := machine.control.controllerManager("*", 10257)
	if err != nil {
		return err
	}
	if err := s.children.start("kube-controller-manager", nil, append(controllers, "--use-service-account-credentials=true")...); err != nil {
		return err
	}
	for name, prepare := range map[string]func() ([]string, error){
		"kube-scheduler": machine.control.scheduler, "kubelet": machine.kubelet, "kube-proxy": machine.kubeProxy, "coredns": machine.coreDNS,
	} {
		argv, err := prepare()
		if err != nil {
			return err
		}
		if err := s.children.start(name, nil, argv...); err != nil {
			return err
		}
	}
	if err := allowDNS(ctx, client); err != nil {
		return err
	}
	if err := publishServers(ctx, client, machine.address, s.MlflowPython != ""); err != nil {
		return err
	}
	for name, directory := range s.Volumes {
		if err := makeVolume(ctx, client, name, directory); err != nil {
			return err
		}
	}
	if err := waitFor(ctx, "containerd", dial("unix", containerdSocket)); err != nil {
		return err
	}
	if _, err := pauseImage().load(containerdImport(s.children.environment)); err != nil {
		return err
	}
	s.done("pause image")
	if err := waitFor(ctx, "the node", func() error { return nodeReady(ctx, client) }); err != nil {
		return err
	}
	s.done("node is Ready")
	if err := waitFor(ctx, "the default service account", func() error { return accountReady(ctx, client) }); err != nil {
		return err
	}
	if err := waitFor(ctx, "the DNS server", func() error { return answers("http://127.0.0.1:8181/ready") }); err != nil {
		return err
	}
	s.done("service accounts and DNS")
	return nil
}

func (s *supervisor) startS3(ctx context.Context) error {
	argv, environment := s3Server(insideState)
	if err := s.children.start("s3", environment, argv...); err != nil {
		return err
	}
	host := s.Link.inside().String()
	if err := waitFor(ctx, "the S3 server", func() error { return answers("http://" + s3Address(host) + "/minio/health/ready") }); err != nil {
		return err
	}
	if err := waitFor(ctx, "the S3 server's buckets and users", func() error { return prepareS3(ctx, host) }); err != nil {
		return err
	}
	s.done("S3 server with its buckets and users")
	return nil
}

func (s *supervisor) startMlflow(ctx context.Context) error {
	if s.MlflowPython == "" {
		return nil
	}
	argv, environment, err := mlflowServer(s.MlflowPython, insideState)
	if err != nil {
		return err
	}
	if err := s.children.start("mlflow", environment, argv...); err != nil {
		return err
	}
	health := fmt.Sprintf("http://%s:%d/health", s.Link.inside(), mlflowPort)
	if err := waitFor(ctx, "MLflow", func() error { return answers(health) }); err != nil {
		return err
	}
	s.done("MLflow")
	return nil
}

// writeAccess writes what a person or a test needs to use the cluster.
func (s *supervisor) writeAccess(control *controlPlane) error {
	data, err := os.ReadFile(control.file("kubeconfig"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(insideState, "kubeconfig"), data, 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(insideState, "env"), []byte(s.access()), 0o600)
}

func waitFor(ctx context.Context, what string, check func() error) error {
	var last error
	for {
		if last = check(); last == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited for %s: %w: %w", what, context.Cause(ctx), last)
		case <-time.After(pollInterval):
		}
	}
}

var prober = &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// answers is nil when the URL gives status 200.
func answers(url string) error {
	response, err := prober.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", url, response.Status)
	}
	return nil
}

func dial(network, address string) func() error {
	return func() error {
		connection, err := net.DialTimeout(network, address, time.Second)
		if err != nil {
			return err
		}
		return connection.Close()
	}
}
