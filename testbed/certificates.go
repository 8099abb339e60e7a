package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// authority signs every certificate of one cluster. Its key never leaves memory.
type authority struct {
	directory   string
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	encoded     []byte
}

// identity is a certificate with its key, as PEM and as files.
type identity struct {
	certificateFile, keyFile string
	certificate, key         []byte
}

const certificateLife = 365 * 24 * time.Hour

func newAuthority(directory string) (*authority, error) {
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "testbed"},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := sign(template, template, key, key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	encoded := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	a := &authority{directory: directory, certificate: certificate, key: key, encoded: encoded}
	return a, os.WriteFile(a.file(), encoded, 0o644)
}

func (a *authority) file() string { return filepath.Join(a.directory, "ca.crt") }

// issue makes a certificate that serves for clients and servers alike.
func (a *authority) issue(file, user string, groups []string, addresses []net.IP, names []string) (identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return identity{}, err
	}
	der, err := sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: user, Organization: groups},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		IPAddresses: addresses,
		DNSNames:    names,
	}, a.certificate, key, a.key)
	if err != nil {
		return identity{}, err
	}
	id := identity{
		certificateFile: filepath.Join(a.directory, file+".crt"),
		keyFile:         filepath.Join(a.directory, file+".key"),
		certificate:     pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
	}
	if id.key, err = encodeKey(key); err != nil {
		return identity{}, err
	}
	if err := os.WriteFile(id.certificateFile, id.certificate, 0o644); err != nil {
		return identity{}, err
	}
	return id, os.WriteFile(id.keyFile, id.key, 0o600)
}

// kubeconfig writes a file with which the user reaches the server.
func (a *authority) kubeconfig(path, server, user string, groups ...string) error {
	id, err := a.issue("client-"+filepath.Base(path), user, groups, nil, nil)
	if err != nil {
		return err
	}
	config := api.NewConfig()
	config.Clusters["testbed"] = &api.Cluster{Server: server, CertificateAuthorityData: a.encoded}
	config.AuthInfos[user] = &api.AuthInfo{ClientCertificateData: id.certificate, ClientKeyData: id.key}
	config.Contexts["testbed"] = &api.Context{Cluster: "testbed", AuthInfo: user}
	config.CurrentContext = "testbed"
	return clientcmd.WriteToFile(*config, path)
}

// signingKey writes a key for service account tokens and returns its file.
func (a *authority) signingKey() (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	encoded, err := encodeKey(key)
	if err != nil {
		return "", err
	}
	path := filepath.Join(a.directory, "service-accounts.key")
	return path, os.WriteFile(path, encoded, 0o600)
}

func sign(template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	template.NotBefore = time.Now().Add(-time.Hour)
	template.NotAfter = time.Now().Add(certificateLife)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate of %s: %w", template.Subject.CommonName, err)
	}
	return der, nil
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}
