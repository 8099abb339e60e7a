package main

import (
	"context"
	"os"
	"path/filepath"
	"syscall"

	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/template"
	"go.etcd.io/etcd/server/v3/etcdmain"
	_ "k8s.io/client-go/plugin/pkg/client/auth"
	"k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// programs are what this binary can be, by the name that it is called with. helm and minio are binaries of
// their own in the same directory: helm's command cannot be imported, and minio reads its environment at start.
var programs = map[string]func(){
	"etcd":                    func() { etcdmain.Main(os.Args) },
	"kube-apiserver":          func() { os.Exit(cli.Run(apiserver.NewAPIServerCommand())) },
	"kube-controller-manager": func() { os.Exit(cli.Run(controllers.NewControllerManagerCommand())) },
	"kube-scheduler":          func() { os.Exit(cli.Run(scheduler.NewSchedulerCommand())) },
	"kube-proxy":              func() { os.Exit(cli.Run(proxy.NewProxyCommand())) },
	"kubelet":                 func() { os.Exit(cli.Run(kubelet.NewKubeletCommand(context.Background()))) },
	"kubectl":                 runKubectl,
	"coredns":                 coremain.Run,
	"helm":                    runNeighbour,
	"minio":                   runNeighbour,
}

func runKubectl() {
	_, _ = logs.GlogSetter(kubectl.GetLogVerbosity(os.Args))
	if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
		kubectlutil.CheckErr(err)
	}
}

// runNeighbour becomes the program of that name in this binary's directory.
func runNeighbour() {
	path := neighbour(filepath.Base(os.Args[0]))
	err := syscall.Exec(path, os.Args, os.Environ())
	_, _ = os.Stderr.WriteString("testbed: cannot run " + path + ": " + err.Error() + "\n")
	os.Exit(1)
}

// neighbour is the path of a file in this binary's directory.
func neighbour(name string) string {
	self, err := os.Executable()
	if err != nil {
		return name
	}
	return filepath.Join(filepath.Dir(self), name)
}

// runProgram does not return when this binary's own name or its first argument names a program.
func runProgram() {
	if run, ok := programs[filepath.Base(os.Args[0])]; ok {
		run()
		os.Exit(0)
	}
	if len(os.Args) < 2 {
		return
	}
	if run, ok := programs[os.Args[1]]; ok {
		os.Args = os.Args[1:]
		run()
		os.Exit(0)
	}
}
