package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// clusterRecord is what is needed to end a cluster, also after a crash. It lies outside the state directory.
type clusterRecord struct {
	Name  string `json:"name"`
	State string `json:"state"`
	Link  link   `json:"link"`
	// Process is the first process of the cluster's namespaces; all others end with it.
	Process int    `json:"process"`
	Started string `json:"started"`
	Boot    string `json:"boot"`
}

const recordsDirectory = "/run/testbed"

// A cluster's name becomes part of cgroup and file names.
var clusterName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

func runUp(arguments []string) error {
	began := time.Now()
	flags := flag.NewFlagSet("up", flag.ContinueOnError)
	var spec clusterSpec
	var volumes repeated
	flags.StringVar(&spec.Name, "name", "demo", "the cluster's name; an old cluster of that name is ended first")
	flags.StringVar(&spec.State, "state", "", "directory for all its files (default: clusters/NAME in the cache directory)")
	flags.BoolVar(&spec.Audit, "audit", false, "write an audit log, STATE/control/audit.log")
	flags.StringVar(&spec.MlflowPython, "mlflow-python", "", "Python with mlflow; without it no MLflow server is started")
	flags.DurationVar(&spec.Patience, "timeout", startPatience, "how long to wait for all parts")
	flags.Var(&volumes, "host-path-pv", "NAME=DIR: a PersistentVolume that shows a directory of the host (repeatable)")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	if err := spec.complete(volumes); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("a cluster needs root: run it with sudo")
	}
	if err := endCluster(spec.Name); err != nil {
		return fmt.Errorf("end the old cluster: %w", err)
	}
	if err := os.MkdirAll(spec.State, 0o755); err != nil {
		return err
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, syscall.SIGINT, syscall.SIGTERM)
	finished := make(chan error, 1)
	go func() { finished <- spec.start(began) }()
	var err error
	select {
	case err = <-finished:
	case s := <-interrupted:
		return errors.Join(fmt.Errorf("interrupted: %s", s), endCluster(spec.Name))
	}
	if err != nil {
		// The logs stay, so that the failure can be looked into.
		return errors.Join(err, stopCluster(spec.Name), fmt.Errorf("logs: %s", filepath.Join(spec.State, "logs")))
	}
	fmt.Printf("cluster %s is up after %.1f s; use it with: . %s\n", spec.Name, time.Since(began).Seconds(), filepath.Join(spec.State, "env"))
	return nil
}

// complete checks and fills in what the command line left open.
func (s *clusterSpec) complete(volumes []string) error {
	if !clusterName.MatchString(s.Name) {
		return fmt.Errorf("the name %q must be 1 to 32 of a-z, 0-9 and -", s.Name)
	}
	if s.State == "" {
		s.State = defaultState(s.Name)
	}
	var err error
	if s.State, err = filepath.Abs(s.State); err != nil {
		return err
	}
	s.Cgroup = "testbed-" + s.Name
	s.Volumes = map[string]string{}
	for _, volume := range volumes {
		name, directory, ok := strings.Cut(volume, "=")
		if !ok || name == "" {
			return fmt.Errorf("--host-path-pv %s: want NAME=DIR", volume)
		}
		if directory, err = filepath.Abs(directory); err != nil {
			return err
		}
		if info, err := os.Stat(directory); err != nil || !info.IsDir() {
			return fmt.Errorf("--host-path-pv %s: %s is no directory", volume, directory)
		}
		s.Volumes[name] = directory
	}
	if s.MlflowPython != "" {
		if s.MlflowPython, err = filepath.Abs(s.MlflowPython); err != nil {
			return err
		}
		if _, err := os.Stat(s.MlflowPython); err != nil {
			return fmt.Errorf("--mlflow-python: %w", err)
		}
	}
	return nil
}

// start brings the cluster up and prints each step with the time since the beginning.
func (s *clusterSpec) start(began time.Time) error {
	groups, err := hostCgroups(s.Name)
	if err != nil {
		return err
	}
	if err := groups.create(); err != nil {
		return err
	}
	reports, err := s.launch()
	if err != nil {
		return err
	}
	defer reports.Close()
	decoder := json.NewDecoder(reports)
	for {
		var r report
		if err := decoder.Decode(&r); err != nil {
			return fmt.Errorf("the cluster's first process ended\n%s", tail(filepath.Join(s.State, "supervisor.log"), 20))
		}
		switch {
		case r.Failed != "":
			return errors.New(r.Failed)
		case r.Ready:
			return nil
		default:
			fmt.Printf("%6.1f s  %s\n", time.Since(began).Seconds(), r.Step)
		}
	}
}

// launch starts the first process of the namespaces, writes the record and moves the network interface in.
func (s *clusterSpec) launch() (io.ReadCloser, error) {
	unlock, err := lockRecords()
	if err != nil {
		return nil, err
	}
	defer unlock()
	record := clusterRecord{Name: s.Name, State: s.State, Boot: bootID()}
	if record.Link, err = chooseLink(); err != nil {
		return nil, err
	}
	s.Link = record.Link
	for _, directory := range mountPoints {
		if err := os.MkdirAll(directory, 0o755); err != nil {
			return nil, err
		}
	}
	specFile := filepath.Join(s.State, "spec.json")
	if err := writeJSON(specFile, s); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(s.State, "supervisor.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer writer.Close()
	command := exec.Command(neighbour("pause"), self, "supervise", specFile)
	command.Stdout, command.Stderr, command.ExtraFiles, command.Dir = log, log, []*os.File{writer}, "/"
	command.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true, Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET,
	}
	input, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	defer input.Close()
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("start the cluster's first process: %w", err)
	}
	go func() { _ = command.Wait() }()
	record.Process, record.Started = command.Process.Pid, startTime(command.Process.Pid)
	if err := writeJSON(recordFile(s.Name), record); err != nil {
		return nil, errors.Join(err, command.Process.Kill())
	}
	if err := record.Link.connect(record.Process); err != nil {
		return nil, err
	}
	_, err = input.Write([]byte("connected\n"))
	return reader, err
}

func chooseLink() (link, error) {
	networks, err := hostNetworks()
	if err != nil {
		return link{}, err
	}
	records, err := allRecords()
	if err != nil {
		return link{}, err
	}
	taken := map[int]bool{}
	for _, record := range records {
		taken[record.Link.Number] = true
	}
	return freeLink(networks, taken)
}

func runDown(arguments []string) error {
	flags := flag.NewFlagSet("down", flag.ContinueOnError)
	name := flags.String("name", "demo", "cluster")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	if !clusterName.MatchString(*name) {
		return fmt.Errorf("no such name: %q", *name)
	}
	began := time.Now()
	if err := endCluster(*name); err != nil {
		return err
	}
	fmt.Printf("cluster %s is gone after %.1f s\n", *name, time.Since(began).Seconds())
	return nil
}

// endCluster removes everything that a cluster of that name left, whether it runs, crashed or never was.
func endCluster(name string) error {
	state := defaultState(name)
	if record, err := readRecord(name); err == nil {
		state = record.State
	}
	if err := stopCluster(name); err != nil {
		return err
	}
	return removeState(state)
}

// stopCluster ends a cluster and removes all of it but its state directory.
func stopCluster(name string) error {
	unlock, err := lockRecords()
	if err != nil {
		return err
	}
	defer unlock()
	record, err := readRecord(name)
	if err == nil {
		if err := record.kill(); err != nil {
			return err
		}
		if err := record.Link.disconnect(); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	groups, err := hostCgroups(name)
	if err != nil {
		return err
	}
	if err := groups.remove(); err != nil {
		return err
	}
	if err := os.Remove(recordFile(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if records, err := allRecords(); err == nil && len(records) == 0 {
		// Only what is empty goes: the host may have its own use for these.
		for _, directory := range append(slices.Clone(mountPoints), filepath.Join(recordsDirectory, "lock"), recordsDirectory) {
			_ = os.Remove(directory)
		}
	}
	return nil
}

// alive tells whether the recorded process is still that same process.
func (r *clusterRecord) alive() bool {
	return r.Process > 1 && r.Boot == bootID() && r.Started != "" && startTime(r.Process) == r.Started
}

// kill ends the first process of the namespace; the kernel then ends all others in it.
func (r *clusterRecord) kill() error {
	if !r.alive() {
		return nil
	}
	if err := syscall.Kill(r.Process, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	for range 500 {
		if !r.alive() {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("process %d of the cluster %s does not end", r.Process, r.Name)
}

// stateFiles are what a state directory may hold; nothing else is ever removed.
var stateFiles = []string{
	"spec.json", "supervisor.log", "kubeconfig", "env", "logs", "home", "control", "node", "host", "s3", "mlflow", "mlflow-artifacts",
}

func removeState(state string) error {
	for _, name := range stateFiles {
		if err := os.RemoveAll(filepath.Join(state, name)); err != nil {
			return err
		}
	}
	if err := os.Remove(state); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) {
		return err
	}
	return nil
}

func runList(arguments []string) error {
	if len(arguments) != 0 {
		return errors.New("this command takes no arguments")
	}
	records, err := allRecords()
	if err != nil {
		return err
	}
	for _, record := range records {
		state := "dead"
		if record.alive() {
			state = "alive"
		}
		fmt.Printf("%s\t%s\t%s\t%s\n", record.Name, state, record.Link.inside(), record.State)
	}
	return nil
}

func runEnter(arguments []string) error {
	flags := flag.NewFlagSet("enter", flag.ContinueOnError)
	name := flags.String("name", "demo", "cluster")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return errors.New("give a command to run")
	}
	record, err := liveRecord(*name)
	if err != nil {
		return err
	}
	command := enterCommand(record, flags.Args()...)
	path, err := exec.LookPath(command.Args[0])
	if err != nil {
		return err
	}
	return syscall.Exec(path, command.Args, os.Environ())
}

func cacheDirectory() string {
	if directory := os.Getenv("FINETUNE_CACHE"); directory != "" {
		return directory
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = "/root"
	}
	return filepath.Join(home, ".cache", "finetune-operator")
}

func defaultState(name string) string { return filepath.Join(cacheDirectory(), "clusters", name) }

func recordFile(name string) string { return filepath.Join(recordsDirectory, name+".json") }

func readRecord(name string) (clusterRecord, error) {
	var record clusterRecord
	data, err := os.ReadFile(recordFile(name))
	if err != nil {
		return record, err
	}
	if err := json.Unmarshal(data, &record); err != nil {
		return record, fmt.Errorf("%s: %w", recordFile(name), err)
	}
	return record, nil
}

func liveRecord(name string) (clusterRecord, error) {
	record, err := readRecord(name)
	if err != nil || !record.alive() {
		return record, fmt.Errorf("no cluster %q runs here: start it with testbed up --name %s", name, name)
	}
	return record, nil
}

func allRecords() ([]clusterRecord, error) {
	files, err := filepath.Glob(filepath.Join(recordsDirectory, "*.json"))
	if err != nil {
		return nil, err
	}
	var records []clusterRecord
	for _, file := range files {
		record, err := readRecord(strings.TrimSuffix(filepath.Base(file), ".json"))
		if err != nil {
			return nil, err
		}
		records = append(records, record)
	}
	return records, nil
}

// lockRecords lets one command at a time choose or give back addresses.
func lockRecords() (func(), error) {
	name := filepath.Join(recordsDirectory, "lock")
	for {
		if err := os.MkdirAll(recordsDirectory, 0o755); err != nil {
			return nil, err
		}
		file, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
			return nil, errors.Join(err, file.Close())
		}
		// The end of the last cluster removes the file: a lock on a removed one keeps nobody out.
		held, heldError := file.Stat()
		if current, err := os.Stat(name); err == nil && heldError == nil && os.SameFile(held, current) {
			return func() { _ = file.Close() }, nil
		}
		_ = file.Close()
	}
}

func bootID() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}
