// Command pause does nothing, and buries the children that others leave to it. It is the first process of
// every pod, and with arguments the first process of a cluster: it then starts them as a command and ends with it.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

func main() {
	main := -1
	if len(os.Args) > 1 {
		child := exec.Command(os.Args[1], os.Args[2:]...)
		child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
		child.ExtraFiles = []*os.File{os.NewFile(3, "report")}
		if err := child.Start(); err != nil {
			fmt.Fprintln(os.Stderr, "pause:", err)
			os.Exit(1)
		}
		main = child.Process.Pid
		_ = os.Stdin.Close()
		_ = child.ExtraFiles[0].Close()
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGCHLD, syscall.SIGINT, syscall.SIGTERM)
	for s := range signals {
		if s != syscall.SIGCHLD {
			return
		}
		for {
			var status syscall.WaitStatus
			pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
			if err == syscall.EINTR {
				continue
			}
			if err != nil || pid <= 0 {
				break
			}
			if pid == main {
				os.Exit(status.ExitStatus() & 0xff)
			}
		}
	}
}
