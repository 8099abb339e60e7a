package main

import (
	"context"
	"errors"
	"fmt"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	rbac "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

func connect(kubeconfig string) (*kubernetes.Clientset, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = 100, 200
	return kubernetes.NewForConfig(config)
}

// apiReady is nil once the API server has done all that it does at its start.
func apiReady(ctx context.Context, client *kubernetes.Clientset) error {
	_, err := client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
	return err
}

func nodeReady(ctx context.Context, client *kubernetes.Clientset) error {
	machine, err := client.CoreV1().Nodes().Get(ctx, nodeName, meta.GetOptions{})
	if err != nil {
		return err
	}
	for _, condition := range machine.Status.Conditions {
		if condition.Type == core.NodeReady && condition.Status == core.ConditionTrue {
			return nil
		}
		if condition.Type == core.NodeReady {
			err = errors.New(condition.Message)
		}
	}
	return fmt.Errorf("the node %s is not ready: %w", nodeName, err)
}

// accountReady is nil once pods may be made in the namespace.
func accountReady(ctx context.Context, client *kubernetes.Clientset) error {
	_, err := client.CoreV1().ServiceAccounts(meta.NamespaceDefault).Get(ctx, "default", meta.GetOptions{})
	return err
}

// outsidePort is a port of a server that is no pod, under the name that pods know it by.
type outsidePort struct {
	name     string
	number   int32
	protocol core.Protocol
}

// publish makes a Service whose only endpoint is a server on the cluster's own address.
func publish(ctx context.Context, client *kubernetes.Clientset, namespace, name, clusterIP, address string, ports ...outsidePort) error {
	service := &core.Service{ObjectMeta: meta.ObjectMeta{Name: name}, Spec: core.ServiceSpec{ClusterIP: clusterIP}}
	ready := true
	slice := &discovery.EndpointSlice{
		ObjectMeta:  meta.ObjectMeta{Name: name, Labels: map[string]string{discovery.LabelServiceName: name, discovery.LabelManagedBy: "testbed"}},
		AddressType: discovery.AddressTypeIPv4,
		Endpoints:   []discovery.Endpoint{{Addresses: []string{address}, Conditions: discovery.EndpointConditions{Ready: &ready}}},
	}
	for _, port := range ports {
		service.Spec.Ports = append(service.Spec.Ports, core.ServicePort{Name: port.name, Port: port.number, Protocol: port.protocol})
		slice.Ports = append(slice.Ports, discovery.EndpointPort{Name: &port.name, Port: &port.number, Protocol: &port.protocol})
	}
	if _, err := client.CoreV1().Services(namespace).Create(ctx, service, meta.CreateOptions{}); err != nil {
		return fmt.Errorf("make the Service %s/%s: %w", namespace, name, err)
	}
	if _, err := client.DiscoveryV1().EndpointSlices(namespace).Create(ctx, slice, meta.CreateOptions{}); err != nil {
		return fmt.Errorf("make the endpoints of %s/%s: %w", namespace, name, err)
	}
	return nil
}

// publishServers makes the names of the DNS server, the S3 server and MLflow.
func publishServers(ctx context.Context, client *kubernetes.Clientset, address string, mlflow bool) error {
	dns := []outsidePort{{"dns", 53, core.ProtocolUDP}, {"dns-tcp", 53, core.ProtocolTCP}}
	if err := publish(ctx, client, meta.NamespaceSystem, "kube-dns", dnsServiceIP, address, dns...); err != nil {
		return err
	}
	namespace := &core.Namespace{ObjectMeta: meta.ObjectMeta{Name: servicesNamespace}}
	if _, err := client.CoreV1().Namespaces().Create(ctx, namespace, meta.CreateOptions{}); err != nil {
		return fmt.Errorf("make the namespace %s: %w", servicesNamespace, err)
	}
	if err := publish(ctx, client, servicesNamespace, "s3", "", address, outsidePort{"http", s3Port, core.ProtocolTCP}); err != nil {
		return err
	}
	if !mlflow {
		return nil
	}
	return publish(ctx, client, servicesNamespace, "mlflow", "", address, outsidePort{"http", mlflowPort, core.ProtocolTCP})
}

// allowDNS lets the DNS server see what it answers from.
func allowDNS(ctx context.Context, client *kubernetes.Clientset) error {
	read := []string{"list", "watch"}
	role := &rbac.ClusterRole{ObjectMeta: meta.ObjectMeta{Name: dnsServer}, Rules: []rbac.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"services", "namespaces", "pods", "endpoints"}, Verbs: read},
		{APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}, Verbs: read},
	}}
	if _, err := client.RbacV1().ClusterRoles().Create(ctx, role, meta.CreateOptions{}); err != nil {
		return fmt.Errorf("make the role of the DNS server: %w", err)
	}
	binding := &rbac.ClusterRoleBinding{
		ObjectMeta: meta.ObjectMeta{Name: dnsServer},
		RoleRef:    rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "ClusterRole", Name: dnsServer},
		Subjects:   []rbac.Subject{{APIGroup: rbac.GroupName, Kind: rbac.UserKind, Name: dnsServer}},
	}
	if _, err := client.RbacV1().ClusterRoleBindings().Create(ctx, binding, meta.CreateOptions{}); err != nil {
		return fmt.Errorf("bind the role of the DNS server: %w", err)
	}
	return nil
}

// makeVolume makes a volume that shows a directory of the host to many pods.
func makeVolume(ctx context.Context, client *kubernetes.Clientset, name, directory string) error {
	kind := core.HostPathDirectory
	volume := &core.PersistentVolume{ObjectMeta: meta.ObjectMeta{Name: name}, Spec: core.PersistentVolumeSpec{
		Capacity:                      core.ResourceList{core.ResourceStorage: resource.MustParse("100Gi")},
		AccessModes:                   []core.PersistentVolumeAccessMode{core.ReadOnlyMany},
		PersistentVolumeReclaimPolicy: core.PersistentVolumeReclaimRetain,
		PersistentVolumeSource:        core.PersistentVolumeSource{HostPath: &core.HostPathVolumeSource{Path: directory, Type: &kind}},
	}}
	if _, err := client.CoreV1().PersistentVolumes().Create(ctx, volume, meta.CreateOptions{}); err != nil {
		return fmt.Errorf("make the volume %s: %w", name, err)
	}
	return nil
}
