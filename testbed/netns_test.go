package main

import (
	"net"
	"testing"
)

func network(t *testing.T, text string) *net.IPNet {
	t.Helper()
	_, parsed, err := net.ParseCIDR(text)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func TestTheFirstLinkThatNeitherTheHostNorAClusterUsesIsChosen(t *testing.T) {
	for name, test := range map[string]struct {
		used  []string
		taken map[int]bool
		want  int
	}{
		"nothing is used":                        {nil, nil, 0},
		"the host is in the first subnet":        {[]string{"10.201.0.17/32"}, nil, 1},
		"clusters have the first two":            {nil, map[int]bool{0: true, 1: true}, 2},
		"the host's network covers several":      {[]string{"10.201.0.0/21", "192.168.0.0/16"}, nil, 8},
		"the host and a cluster use one each":    {[]string{"10.201.0.0/24"}, map[int]bool{1: true}, 2},
		"a network around it begins before it":   {[]string{"10.200.0.0/13"}, nil, -1},
		"every subnet belongs to the host's own": {[]string{"10.0.0.0/8"}, nil, -1},
	} {
		t.Run(name, func(t *testing.T) {
			var used []*net.IPNet
			for _, text := range test.used {
				used = append(used, network(t, text))
			}
			got, err := freeLink(used, test.taken)
			if test.want < 0 {
				if err == nil {
					t.Fatalf("got link %d, want an error", got.Number)
				}
				return
			}
			if err != nil || got != (link{Number: test.want}) {
				t.Fatalf("got link %d and %v, want %d", got.Number, err, test.want)
			}
		})
	}
}
