package main

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	// insideState is where a cluster sees its own state directory: short, because socket paths are limited.
	insideState = "/run/testbed"
)

// mountPoints are the only directories that have to be made on the host: the CNI library and the kubelet write there
// whatever they are told. A cluster sees directories of its own in their place.
var mountPoints = []string{"/var/lib/cni", "/var/lib/kubelet"}

// kernelSettings are those that the kubelet insists on. They belong to the whole host, so the cluster is shown
// files with these values instead.
var kernelSettings = map[string]string{
	"vm/overcommit_memory":      "1",
	"vm/panic_on_oom":           "0",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/keys/root_maxbytes": "25000000",
}

// isolate makes this process's mount namespace its own: nothing that is mounted or written below /run, /var/log
// and the mount points from now on reaches the host.
func isolate(state string) error {
	// Mounts made on the host later are seen here, ours are not seen there; among themselves ours propagate, as pods may ask for.
	for _, propagation := range []uintptr{unix.MS_SLAVE, unix.MS_SHARED} {
		if err := unix.Mount("", "/", "", propagation|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("separate the mounts: %w", err)
		}
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	opened, err := os.Open(state)
	if err != nil {
		return err
	}
	defer opened.Close()
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	// Through the open file, because the state directory may lie below /run itself.
	if err := bind(fmt.Sprintf("/proc/self/fd/%d", opened.Fd()), insideState, true); err != nil {
		return err
	}
	for _, target := range append([]string{"/var/log"}, mountPoints...) {
		source := filepath.Join(insideState, "host", target)
		if err := os.MkdirAll(source, 0o755); err != nil {
			return err
		}
		if err := bind(source, target, false); err != nil {
			return err
		}
	}
	return pretendSettings()
}

func pretendSettings() error {
	for name, value := range kernelSettings {
		target := filepath.Join("/proc/sys", name)
		if _, err := os.Stat(target); err != nil {
			continue
		}
		source := filepath.Join("/run/kernel-settings", name)
		if err := os.MkdirAll(filepath.Dir(source), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(source, []byte(value+"\n"), 0o444); err != nil {
			return err
		}
		if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("show a value of its own for %s: %w", target, err)
		}
	}
	return nil
}

func bind(source, target string, makeTarget bool) error {
	if makeTarget {
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount %s at %s: %w", source, target, err)
	}
	return nil
}
