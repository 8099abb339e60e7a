package main

import (
	"reflect"
	"strings"
	"testing"
)

func TestCgroupHierarchiesAreReadFromMountinfo(t *testing.T) {
	for name, test := range map[string]struct {
		mounts  string
		want    []hierarchy
		unified bool
	}{
		"systemd with cgroup v2": {
			"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n" +
				"28 24 0:25 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate",
			[]hierarchy{{path: "/sys/fs/cgroup", unified: true}}, true,
		},
		"hybrid": {
			"30 24 0:25 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n" +
				"31 30 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n" +
				"32 30 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n" +
				"33 30 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw",
			[]hierarchy{
				{path: "/sys/fs/cgroup/cpu,cpuacct", controllers: []string{"rw", "cpu", "cpuacct"}},
				{path: "/sys/fs/cgroup/systemd", controllers: []string{"rw", "name=systemd"}},
				{path: "/sys/fs/cgroup/unified", unified: true},
			}, false,
		},
		"a cgroup file system elsewhere": {"31 30 0:26 / /other rw - cgroup2 cgroup2 rw", nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			groups := cgroups{hierarchies: findHierarchies(strings.Split(test.mounts, "\n"))}
			if !reflect.DeepEqual(groups.hierarchies, test.want) || groups.unifiedOnly() != test.unified {
				t.Fatalf("got %+v, unified %v", groups.hierarchies, groups.unifiedOnly())
			}
		})
	}
}
