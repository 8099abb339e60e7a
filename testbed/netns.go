package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
)

// link is the pair of interfaces between the host and one cluster: 10.201.N.1 outside, 10.201.N.2 inside.
type link struct {
	Number int `json:"number"`
}

const (
	insideInterface  = "eth0"
	outsideInterface = "testbed"
	linkPrefix       = 24
	linkNumbers      = 256
)

func (l link) outsideName() string { return fmt.Sprintf("%s%d", outsideInterface, l.Number) }
func (l link) outside() net.IP     { return net.IPv4(10, 201, byte(l.Number), 1).To4() }
func (l link) inside() net.IP      { return net.IPv4(10, 201, byte(l.Number), 2).To4() }
func (l link) subnet() *net.IPNet {
	return &net.IPNet{IP: net.IPv4(10, 201, byte(l.Number), 0).To4(), Mask: net.CIDRMask(linkPrefix, 32)}
}

// freeLink is the first link whose subnet touches none of the given networks and which no other cluster has.
func freeLink(used []*net.IPNet, taken map[int]bool) (link, error) {
	for number := range linkNumbers {
		candidate := link{Number: number}
		if !taken[number] && !overlapsAny(candidate.subnet(), used) {
			return candidate, nil
		}
	}
	return link{}, errors.New("no free subnet in 10.201.0.0/16: end a cluster with testbed down")
}

func overlapsAny(subnet *net.IPNet, others []*net.IPNet) bool {
	for _, other := range others {
		if other.Contains(subnet.IP) || subnet.Contains(other.IP) {
			return true
		}
	}
	return false
}

// hostNetworks are the networks that the host has a route or an address in, its default route aside.
func hostNetworks() ([]*net.IPNet, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list the host's routes: %w", err)
	}
	var networks []*net.IPNet
	for _, route := range routes {
		if route.Dst == nil {
			continue
		}
		if ones, _ := route.Dst.Mask.Size(); ones > 0 {
			networks = append(networks, route.Dst)
		}
	}
	addresses, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list the host's addresses: %w", err)
	}
	for _, address := range addresses {
		networks = append(networks, address.IPNet)
	}
	return networks, nil
}

// connect makes the pair and gives its inner end to the network namespace of the process.
func (l link) connect(pid int) error {
	attributes := netlink.NewLinkAttrs()
	attributes.Name = l.outsideName()
	pair := &netlink.Veth{LinkAttrs: attributes, PeerName: insideInterface, PeerNamespace: netlink.NsPid(pid)}
	if err := netlink.LinkAdd(pair); err != nil {
		return fmt.Errorf("make the interface %s: %w", l.outsideName(), err)
	}
	address := &netlink.Addr{IPNet: &net.IPNet{IP: l.outside(), Mask: net.CIDRMask(linkPrefix, 32)}}
	if err := netlink.AddrAdd(pair, address); err != nil {
		return fmt.Errorf("give %s its address: %w", l.outsideName(), err)
	}
	if err := netlink.LinkSetUp(pair); err != nil {
		return fmt.Errorf("start %s: %w", l.outsideName(), err)
	}
	return nil
}

// disconnect removes the pair and waits until it is gone.
func (l link) disconnect() error {
	for range 50 {
		pair, err := netlink.LinkByName(l.outsideName())
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := netlink.LinkDel(pair); err != nil && !strings.Contains(err.Error(), "no such device") {
			return fmt.Errorf("remove %s: %w", l.outsideName(), err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("the interface %s does not go away", l.outsideName())
}

// configure sets up the network from inside the namespace.
func (l link) configure() error {
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(loopback); err != nil {
		return fmt.Errorf("start lo: %w", err)
	}
	inner, err := netlink.LinkByName(insideInterface)
	if err != nil {
		return err
	}
	address := &netlink.Addr{IPNet: &net.IPNet{IP: l.inside(), Mask: net.CIDRMask(linkPrefix, 32)}}
	if err := netlink.AddrAdd(inner, address); err != nil {
		return fmt.Errorf("give %s its address: %w", insideInterface, err)
	}
	if err := netlink.LinkSetUp(inner); err != nil {
		return fmt.Errorf("start %s: %w", insideInterface, err)
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: inner.Attrs().Index, Gw: l.outside()}); err != nil {
		return fmt.Errorf("set the default route: %w", err)
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644)
}

func ips(addresses ...string) []net.IP {
	var parsed []net.IP
	for _, address := range addresses {
		parsed = append(parsed, net.ParseIP(address))
	}
	return parsed
}
