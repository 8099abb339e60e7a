package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/minio/madmin-go/v3"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

const (
	servicesNamespace = "demo-services"
	s3Port            = 9000
	mlflowPort        = 5000
	s3AdminKey        = "testbed-admin"
	s3AdminSecret     = "testbed-admin-secret-key"
	readOnlyPolicy    = "testbed-read-only"
)

// s3User is a key of the S3 server and what it may do: readwrite or readonly.
type s3User struct{ access, secret, policy string }

var (
	firstUsers = []s3User{
		{"finetune", "finetune-secret-key", "readwrite"},
		{"readonly", "readonly-secret-key", "readonly"},
	}
	firstBuckets = []string{"data", "models", "out"}
)

// readOnlyRules also lets the key list, which the server's own readonly policy does not.
const readOnlyRules = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow",
"Action":["s3:GetObject","s3:ListBucket","s3:GetBucketLocation"],"Resource":["arn:aws:s3:::*"]}]}`

func s3Server(directory string) (argv, environment []string) {
	return []string{neighbour("minio"), "server", "--quiet", "--address", fmt.Sprintf(":%d", s3Port), filepath.Join(directory, "s3")},
		[]string{"MINIO_ROOT_USER=" + s3AdminKey, "MINIO_ROOT_PASSWORD=" + s3AdminSecret, "MINIO_BROWSER=off", "MINIO_CI_CD=on"}
}

func s3Address(host string) string { return fmt.Sprintf("%s:%d", host, s3Port) }

// prepareS3 makes the buckets and the first users of a new server.
func prepareS3(ctx context.Context, host string) error {
	client, err := minio.New(s3Address(host), &minio.Options{Creds: credentials.NewStaticV4(s3AdminKey, s3AdminSecret, "")})
	if err != nil {
		return err
	}
	for _, bucket := range firstBuckets {
		if err := client.MakeBucket(ctx, bucket, minio.MakeBucketOptions{}); err != nil {
			return fmt.Errorf("make the bucket %s: %w", bucket, err)
		}
	}
	for _, user := range firstUsers {
		if err := addS3User(ctx, host, user); err != nil {
			return err
		}
	}
	return nil
}

func addS3User(ctx context.Context, host string, user s3User) error {
	admin, err := madmin.New(s3Address(host), s3AdminKey, s3AdminSecret, false)
	if err != nil {
		return err
	}
	policy := user.policy
	switch policy {
	case "readwrite":
	case "readonly":
		policy = readOnlyPolicy
		if err := admin.AddCannedPolicy(ctx, policy, []byte(readOnlyRules)); err != nil {
			return fmt.Errorf("make the policy %s: %w", policy, err)
		}
	default:
		return fmt.Errorf("unknown policy %q: use readwrite or readonly", policy)
	}
	if err := admin.AddUser(ctx, user.access, user.secret); err != nil {
		return fmt.Errorf("add the S3 user %s: %w", user.access, err)
	}
	_, err = admin.AttachPolicy(ctx, madmin.PolicyAssociationReq{Policies: []string{policy}, User: user.access})
	if err != nil && madmin.ToErrorResponse(err).Code != "XMinioAdminPolicyChangeAlreadyApplied" {
		return fmt.Errorf("give the S3 user %s its policy: %w", user.access, err)
	}
	return nil
}

func runS3User(arguments []string) error {
	flags := flag.NewFlagSet("s3-user", flag.ContinueOnError)
	name := flags.String("name", "", "cluster")
	var user s3User
	flags.StringVar(&user.access, "access", "", "access key")
	flags.StringVar(&user.secret, "secret", "", "secret key, at least 8 characters")
	flags.StringVar(&user.policy, "policy", "readwrite", "readwrite or readonly")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	if user.access == "" || user.secret == "" {
		return errors.New("give --access and --secret")
	}
	record, err := liveRecord(*name)
	if err != nil {
		return err
	}
	return addS3User(context.Background(), record.Link.inside().String(), user)
}

func mlflowServer(python, directory string) (argv, environment []string, err error) {
	home := filepath.Join(directory, "mlflow")
	if err := os.MkdirAll(home, 0o755); err != nil {
		return nil, nil, err
	}
	return []string{
		python, "-m", "mlflow", "server", "--host", "0.0.0.0", "--port", fmt.Sprint(mlflowPort), "--workers", "1",
		"--backend-store-uri", "sqlite:///" + filepath.Join(home, "mlflow.db"),
		"--serve-artifacts", "--artifacts-destination", filepath.Join(directory, "mlflow-artifacts"),
	}, []string{"GIT_PYTHON_REFRESH=quiet", "PYTHONDONTWRITEBYTECODE=1", "LANG=C.UTF-8"}, nil
}
