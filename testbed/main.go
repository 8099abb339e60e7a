// Command testbed is a whole Kubernetes on one Linux machine, without Docker: it starts clusters and
// control planes, and it is itself every Kubernetes program that they run.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"sort"
)

// command is one word of the command line.
type command struct {
	summary string
	run     func(arguments []string) error
}

var commands map[string]command

func init() {
	commands = map[string]command{
		"up":            {"start a cluster in a network, mount and process namespace of its own", runUp},
		"down":          {"end a cluster and remove all that it left", runDown},
		"list":          {"show the clusters of this machine", runList},
		"enter":         {"run a command inside a cluster's namespaces", runEnter},
		"image":         {"build an image from files and import it into a cluster", runImage},
		"s3-user":       {"add a key to a cluster's S3 server", runS3User},
		"control-plane": {"run etcd and an API server on loopback ports until standard input closes", runControlPlane},
		"supervise":     {"(internal) the first process of a cluster", runSupervise},
	}
}

func main() {
	runProgram()
	if len(os.Args) < 2 {
		usage()
		os.Exit(2)
	}
	chosen, ok := commands[os.Args[1]]
	if !ok {
		fmt.Fprintf(os.Stderr, "testbed: unknown command %q\n", os.Args[1])
		usage()
		os.Exit(2)
	}
	switch err := chosen.run(os.Args[2:]); {
	case err == nil:
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	default:
		fmt.Fprintf(os.Stderr, "testbed %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: testbed COMMAND [flags]    (testbed COMMAND --help lists the flags)")
	for _, name := range sortedKeys(commands) {
		fmt.Fprintf(os.Stderr, "  %-14s %s\n", name, commands[name].summary)
	}
	fmt.Fprint(os.Stderr, "or one of the programs in this binary:")
	for _, name := range sortedKeys(programs) {
		fmt.Fprintf(os.Stderr, " %s", name)
	}
	fmt.Fprintln(os.Stderr)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}

// repeated is a flag that may be given several times.
type repeated []string

func (r *repeated) String() string { return fmt.Sprint([]string(*r)) }

func (r *repeated) Set(value string) error {
	*r = append(*r, value)
	return nil
}
