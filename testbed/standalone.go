package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// runControlPlane needs no root and no namespaces.
func runControlPlane(arguments []string) error {
	flags := flag.NewFlagSet("control-plane", flag.ContinueOnError)
	directory := flags.String("dir", "", "directory for its files; kubeconfig, audit.log and logs are found there, the rest is removed at the end")
	controllers := flags.String("controllers", "", "controllers to run, as in job,garbagecollector (default: no controller manager)")
	tokens := flags.String("token-file", "", "file of further users, each line TOKEN,USER,UID,\"GROUP,...\"")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	if *directory == "" || flags.NArg() != 0 {
		return errors.New("give --dir DIR and nothing but flags")
	}
	absolute, err := filepath.Abs(*directory)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	ctx, closed := context.WithCancelCause(ctx)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		closed(errInputClosed)
	}()
	control := &controlPlane{directory: absolute, address: net.IPv4(127, 0, 0, 1).To4(), audit: true}
	if *tokens != "" {
		if control.tokenFile, err = filepath.Abs(*tokens); err != nil {
			return err
		}
	}
	return control.serve(ctx, *controllers)
}

var errInputClosed = errors.New("standard input was closed")

// serve runs until the context ends, which is no failure, or until a process does.
func (c *controlPlane) serve(ctx context.Context, controllers string) error {
	// Children that end with their parent are tied to the thread that started them: it must live as long as this.
	runtime.LockOSThread()
	if err := c.choosePorts(); err != nil {
		return err
	}
	if err := c.clean(); err != nil {
		return err
	}
	defer func() { _ = c.clean() }()
	for _, name := range []string{"audit.log", "kubeconfig"} {
		if err := os.RemoveAll(c.file(name)); err != nil {
			return err
		}
	}
	if err := c.prepare(); err != nil {
		return err
	}
	children, err := newProcesses(c.file("logs"), []string{"PATH=/usr/bin:/bin", "HOME=" + c.directory})
	if err != nil {
		return err
	}
	children.endWithParent = true
	defer children.stop(5 * time.Second)
	started := make(chan error, 1)
	steps, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	next := make(chan []string)
	go func() { started <- c.bringUp(steps, controllers, next) }()
	for {
		select {
		case argv := <-next:
			if err := children.start(argv[0], nil, argv...); err != nil {
				return err
			}
		case err := <-started:
			if ctx.Err() != nil {
				return nil
			}
			if err != nil {
				return err
			}
			fmt.Println("ready")
		case child := <-children.ended:
			return children.failure(child)
		case <-ctx.Done():
			return nil
		}
	}
}

// bringUp says which program to start next and returns once all are usable.
func (c *controlPlane) bringUp(ctx context.Context, controllers string, next chan<- []string) error {
	begin := func(argv []string) {
		select {
		case next <- argv:
		case <-ctx.Done():
		}
	}
	begin(c.etcd())
	ready := fmt.Sprintf("http://127.0.0.1:%d/readyz", c.etcdPort)
	if err := waitFor(ctx, "etcd", func() error { return answers(ready) }); err != nil {
		return err
	}
	begin(c.apiServer())
	client, err := connect(c.file("kubeconfig"))
	if err != nil {
		return err
	}
	if err := waitFor(ctx, "the API server", func() error { return apiReady(ctx, client) }); err != nil {
		return err
	}
	if controllers == "" {
		return nil
	}
	argv, err := c.controllerManager(controllers, 0)
	if err != nil {
		return err
	}
	begin(argv)
	return nil
}

// choosePorts takes ports that are free now. Another program may take one before it is used: the program that
// then fails says so, and nothing is left behind.
func (c *controlPlane) choosePorts() error {
	for _, port := range []*int{&c.etcdPort, &c.peerPort, &c.apiPort} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer listener.Close()
		*port = listener.Addr().(*net.TCPAddr).Port
	}
	return nil
}

// clean removes what a control plane needs only while it runs.
func (c *controlPlane) clean() error {
	for _, name := range []string{"etcd", "pki", "audit-policy.yaml", "controller-manager", "controller-manager.kubeconfig"} {
		if err := os.RemoveAll(c.file(name)); err != nil {
			return err
		}
	}
	return nil
}
