package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestTheFileForShellsQuotesWhatItExports(t *testing.T) {
	spec := clusterSpec{Name: "x", State: "/tmp/it's $HOME", Link: link{Number: 3}}
	file := write(t, filepath.Join(t.TempDir(), "env"), spec.access())
	output, err := exec.Command("sh", "-c", `. "$1"; printf '%s|%s|%s' "$KUBECONFIG" "$TESTBED_S3_URL" "${TESTBED_MLFLOW_URL-none}"`, "sh", file).Output()
	if want := "/tmp/it's $HOME/kubeconfig|http://10.201.3.2:9000|none"; err != nil || string(output) != want {
		t.Fatalf("got %q, %v", output, err)
	}
}

func TestARecordNamesOneProcessForGood(t *testing.T) {
	self := clusterRecord{Process: os.Getpid(), Started: startTime(os.Getpid()), Boot: bootID()}
	if !self.alive() {
		t.Error("this process counts as ended")
	}
	for name, other := range map[string]clusterRecord{
		"another process with the same id": {Process: self.Process, Started: self.Started + "0", Boot: self.Boot},
		"before the machine was restarted": {Process: self.Process, Started: self.Started, Boot: "other"},
		"no process was ever recorded":     {Boot: self.Boot},
	} {
		if other.alive() {
			t.Errorf("%s: counts as alive", name)
		}
	}
}

func TestRemovingAStateDirectoryLeavesWhatItDidNotMake(t *testing.T) {
	state := t.TempDir()
	foreign := write(t, filepath.Join(state, "precious"), "text")
	write(t, filepath.Join(state, "control", "etcd", "db"), "")
	if err := removeState(state); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(state)
	if err != nil || len(entries) != 1 || entries[0].Name() != filepath.Base(foreign) {
		t.Fatalf("left: %v, %v", entries, err)
	}
}
