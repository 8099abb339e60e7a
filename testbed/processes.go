package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// processes are the long-running children of this process, each with a log file of its own.
type processes struct {
	logs        string
	environment []string
	// endWithParent kills the children when the thread that started them dies: start must then be called by a
	// goroutine that is locked to its thread.
	endWithParent bool

	mu      sync.Mutex
	running map[int]*process
	order   []*process
	// ended receives a process that ended by itself.
	ended chan *process
}

type process struct {
	name     string
	command  *exec.Cmd
	done     chan struct{}
	err      error
	stopping bool
}

func newProcesses(logs string, environment []string) (*processes, error) {
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return nil, err
	}
	return &processes{
		logs: logs, environment: environment,
		running: map[int]*process{}, ended: make(chan *process, 64),
	}, nil
}

// start runs the program that argv[0] names, one of this binary's own or an absolute path.
func (p *processes) start(name string, extraEnvironment []string, argv ...string) error {
	log, err := os.OpenFile(p.log(name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	command := &exec.Cmd{Path: argv[0], Args: argv, Stdout: log, Stderr: log, Dir: "/"}
	if !filepath.IsAbs(argv[0]) {
		if command.Path, err = os.Executable(); err != nil {
			return err
		}
	}
	command.Env = append(append([]string{}, p.environment...), extraEnvironment...)
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if p.endWithParent {
		command.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	child := &process{name: name, command: command, done: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := command.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	p.running[command.Process.Pid] = child
	p.order = append(p.order, child)
	go p.wait(child)
	return nil
}

func (p *processes) wait(child *process) {
	child.err = child.command.Wait()
	p.mu.Lock()
	delete(p.running, child.command.Process.Pid)
	unexpected := !child.stopping
	p.mu.Unlock()
	close(child.done)
	if unexpected {
		p.ended <- child
	}
}

// stop ends all processes, the newest first, and waits for each.
func (p *processes) stop(patience time.Duration) {
	p.mu.Lock()
	order := append([]*process{}, p.order...)
	for _, child := range order {
		child.stopping = true
	}
	p.mu.Unlock()
	for i := len(order) - 1; i >= 0; i-- {
		child := order[i]
		_ = child.command.Process.Signal(syscall.SIGTERM)
		select {
		case <-child.done:
		case <-time.After(patience):
			_ = child.command.Process.Kill()
			<-child.done
		}
	}
}

func (p *processes) log(name string) string { return filepath.Join(p.logs, name+".log") }

// failure says how a process ended, with the last lines that it wrote.
func (p *processes) failure(child *process) error {
	how := "status 0"
	if child.err != nil {
		how = child.err.Error()
	}
	return fmt.Errorf("%s ended: %s\n%s", child.name, how, tail(p.log(child.name), 15))
}

func tail(path string, lines int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return "  | " + strings.Join(strings.Split(string(bytes.Join(all, []byte("\n"))), "\n"), "\n  | ")
}

// startTime is when a process started, in the kernel's ticks since boot: with it a process id names one process
// for good. It is empty when there is no such process.
func startTime(pid int) string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// The second field is the program's name in parentheses and may hold anything.
	after := data[bytes.LastIndexByte(data, ')')+1:]
	fields := strings.Fields(string(after))
	const started, state = 19, 0
	if len(fields) <= started || fields[state] == "Z" {
		return ""
	}
	return fields[started]
}
