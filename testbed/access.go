package main

import (
	"fmt"
	"path/filepath"
	"strings"
)

func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// access is a shell file that exports how to reach the cluster and its servers. Names with _IN_CLUSTER are for pods.
func (s *clusterSpec) access() string {
	host := s.Link.inside().String()
	values := [][2]string{
		{"KUBECONFIG", filepath.Join(s.State, "kubeconfig")},
		{"TESTBED_NAME", s.Name},
		{"TESTBED_STATE", s.State},
		{"TESTBED_ADDRESS", host},
		{"TESTBED_NODE", nodeName},
		{"TESTBED_AUDIT_LOG", filepath.Join(s.State, "control", "audit.log")},
		{"TESTBED_S3_URL", "http://" + s3Address(host)},
		{"TESTBED_S3_URL_IN_CLUSTER", "http://" + s3Address("s3."+servicesNamespace+".svc")},
		{"TESTBED_S3_ADMIN_KEY", s3AdminKey},
		{"TESTBED_S3_ADMIN_SECRET", s3AdminSecret},
		{"TESTBED_S3_KEY", firstUsers[0].access},
		{"TESTBED_S3_SECRET", firstUsers[0].secret},
		{"TESTBED_S3_READONLY_KEY", firstUsers[1].access},
		{"TESTBED_S3_READONLY_SECRET", firstUsers[1].secret},
	}
	if s.MlflowPython != "" {
		values = append(values,
			[2]string{"TESTBED_MLFLOW_URL", fmt.Sprintf("http://%s:%d", host, mlflowPort)},
			[2]string{"TESTBED_MLFLOW_URL_IN_CLUSTER", fmt.Sprintf("http://mlflow.%s.svc:%d", servicesNamespace, mlflowPort)})
	}
	var text strings.Builder
	for _, pair := range values {
		fmt.Fprintf(&text, "export %s=%s\n", pair[0], quote(pair[1]))
	}
	fmt.Fprintf(&text, "export PATH=%s:\"$PATH\"\n", quote(filepath.Dir(neighbour("kubectl"))))
	fmt.Fprintf(&text, "export NO_PROXY=\"${NO_PROXY:+$NO_PROXY,}%[1]s\" no_proxy=\"${no_proxy:+$no_proxy,}%[1]s\"\n", host)
	return text.String()
}
