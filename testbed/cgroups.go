package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroups is the group below which all pods of one cluster lie, in every hierarchy of the host.
type cgroups struct {
	name        string
	hierarchies []hierarchy
}

// hierarchy is one mounted cgroup file system.
type hierarchy struct {
	path        string
	unified     bool
	controllers []string
}

var (
	// neededControllers must be there for the kubelet to start.
	neededControllers = []string{"cpu", "cpuset", "memory", "pids"}
	// usedControllers are used when they are there.
	usedControllers = append(slices.Clone(neededControllers), "hugetlb")
)

func hostCgroups(cluster string) (*cgroups, error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var lines []string
	for scanner := bufio.NewScanner(file); scanner.Scan(); {
		lines = append(lines, scanner.Text())
	}
	groups := &cgroups{name: "testbed-" + cluster, hierarchies: findHierarchies(lines)}
	if len(groups.hierarchies) == 0 {
		return nil, errors.New("no cgroup file system is mounted below /sys/fs/cgroup")
	}
	return groups, nil
}

// findHierarchies reads lines of mountinfo, whose fields are explained in proc(5).
func findHierarchies(lines []string) []hierarchy {
	var found []hierarchy
	for _, line := range lines {
		before, after, ok := strings.Cut(line, " - ")
		fields, tailFields := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(tailFields) < 3 || !strings.HasPrefix(fields[4], "/sys/fs/cgroup") {
			continue
		}
		switch tailFields[0] {
		case "cgroup2":
			found = append(found, hierarchy{path: fields[4], unified: true})
		case "cgroup":
			found = append(found, hierarchy{path: fields[4], controllers: strings.Split(tailFields[2], ",")})
		}
	}
	return found
}

// unifiedOnly tells cgroup v2 from v1, pure or hybrid.
func (c *cgroups) unifiedOnly() bool {
	return len(c.hierarchies) == 1 && c.hierarchies[0].unified
}

// create makes the group and, on cgroup v2, hands the controllers down to it.
func (c *cgroups) create() error {
	for _, h := range c.hierarchies {
		path := filepath.Join(h.path, c.name)
		if c.unifiedOnly() {
			if err := delegate(h.path); err != nil {
				return err
			}
		}
		if err := os.MkdirAll(path, 0o755); err != nil {
			return fmt.Errorf("make the cgroup %s: %w", path, err)
		}
		if c.unifiedOnly() {
			if err := delegate(path); err != nil {
				return err
			}
		}
		if slices.Contains(h.controllers, "cpuset") {
			if err := inheritSets(h.path, path); err != nil {
				return err
			}
		}
	}
	return nil
}

// delegate lets the children of a group use the controllers that the kubelet uses.
func delegate(path string) error {
	data, err := os.ReadFile(filepath.Join(path, "cgroup.controllers"))
	if err != nil {
		return err
	}
	available := strings.Fields(string(data))
	for _, needed := range neededControllers {
		if !slices.Contains(available, needed) {
			return fmt.Errorf("the cgroup %s lacks the controller %s (it has: %s)", path, needed, strings.Join(available, " "))
		}
	}
	for _, controller := range usedControllers {
		err := os.WriteFile(filepath.Join(path, "cgroup.subtree_control"), []byte("+"+controller), 0o644)
		if err != nil && slices.Contains(neededControllers, controller) {
			return fmt.Errorf("hand the controller %s down in %s: %w", controller, path, err)
		}
	}
	return nil
}

// inheritSets copies what cgroup v1 leaves empty in a new group; nothing can run in it before.
func inheritSets(from, to string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		data, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// remove deletes the groups, which must hold no process any more, the deepest first.
func (c *cgroups) remove() error {
	for _, h := range c.hierarchies {
		if err := removeGroup(filepath.Join(h.path, c.name)); err != nil {
			return err
		}
	}
	return nil
}

func removeGroup(path string) error {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeGroup(filepath.Join(path, entry.Name())); err != nil {
				return err
			}
		}
	}
	for range 100 {
		err = unix.Rmdir(path)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("remove the cgroup %s: %w", path, err)
}
