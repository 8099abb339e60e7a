package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// contents reads a tar; folders, links and files are told apart by a prefix.
func contents(t *testing.T, archive []byte) map[string]string {
	t.Helper()
	found := map[string]string{}
	for reader := tar.NewReader(bytes.NewReader(archive)); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		if header.Uid != 0 || header.Gid != 0 || header.ModTime.After(time.Unix(0, 0)) {
			t.Errorf("%s has owner %d:%d and time %s", header.Name, header.Uid, header.Gid, header.ModTime)
		}
		switch header.Typeflag {
		case tar.TypeDir:
			found[header.Name] = "folder"
		case tar.TypeSymlink:
			found[header.Name] = "link to " + header.Linkname
		default:
			found[header.Name] = "file: " + string(data)
		}
	}
}

func write(t *testing.T, path, content string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestALayerHoldsTheAddedFilesWithTheirParentsAndNothingOfTheHost(t *testing.T) {
	folder := t.TempDir()
	program := write(t, filepath.Join(folder, "program"), "code")
	write(t, filepath.Join(folder, "tree", "a", "b"), "text")
	if err := os.Symlink("a/b", filepath.Join(folder, "tree", "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(program, filepath.Join(folder, "alias")); err != nil {
		t.Fatal(err)
	}
	var layer bytes.Buffer
	err := writeLayer(&layer, []addition{{filepath.Join(folder, "alias"), "/usr/bin/program"}, {filepath.Join(folder, "tree"), "/opt/tree"}})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"usr/": "folder", "usr/bin/": "folder", "usr/bin/program": "file: code",
		"opt/": "folder", "opt/tree/": "folder", "opt/tree/a/": "folder", "opt/tree/a/b": "file: text", "opt/tree/link": "link to a/b",
	}
	if got := contents(t, layer.Bytes()); !reflect.DeepEqual(got, want) {
		t.Fatalf("got %v", got)
	}
}

func TestAnArchiveNamesTheImageByTagAndByDigestAndIsTheSameEachTime(t *testing.T) {
	folder := t.TempDir()
	picture := image{name: "testbed.local/thing:dev", base: write(t, filepath.Join(folder, "base.tar"), "base layer"), user: "65532", directory: "/",
		additions: []addition{{write(t, filepath.Join(folder, "file"), "text"), "/file"}}, entrypoint: []string{"/file"}}
	var first, second bytes.Buffer
	reference, err := picture.write(&first)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := picture.write(&second); err != nil || again != reference || !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Fatalf("the second archive differs: %s, %v", again, err)
	}
	files := contents(t, first.Bytes())
	blob := func(digest string) string {
		content, ok := strings.CutPrefix(files["blobs/sha256/"+strings.TrimPrefix(digest, "sha256:")], "file: ")
		sum := sha256.Sum256([]byte(content))
		if !ok || "sha256:"+hex.EncodeToString(sum[:]) != digest {
			t.Fatalf("the blob %s is missing or wrong", digest)
		}
		return content
	}
	var index struct{ Manifests []descriptor }
	if err := json.Unmarshal([]byte(strings.TrimPrefix(files["index.json"], "file: ")), &index); err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, manifest := range index.Manifests {
		names = append(names, manifest.Annotations[nameKey])
		if reference != "testbed.local/thing@"+manifest.Digest {
			t.Errorf("the manifest %s is not that of %s", manifest.Digest, reference)
		}
	}
	if want := []string{"testbed.local/thing:dev", reference}; !reflect.DeepEqual(names, want) {
		t.Errorf("got the names %v", names)
	}
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	if err := json.Unmarshal([]byte(blob(index.Manifests[0].Digest)), &manifest); err != nil {
		t.Fatal(err)
	}
	var config struct {
		Config struct {
			Entrypoint []string
			User       string
		}
		Rootfs struct {
			Digests []string `json:"diff_ids"`
		}
	}
	if err := json.Unmarshal([]byte(blob(manifest.Config.Digest)), &config); err != nil {
		t.Fatal(err)
	}
	if len(manifest.Layers) != 2 || blob(manifest.Layers[0].Digest) != "base layer" {
		t.Fatalf("got the layers %v", manifest.Layers)
	}
	if want := []string{manifest.Layers[0].Digest, manifest.Layers[1].Digest}; !reflect.DeepEqual(config.Rootfs.Digests, want) {
		t.Errorf("got the layer digests %v", config.Rootfs.Digests)
	}
	if config.Config.User != "65532" || !reflect.DeepEqual(config.Config.Entrypoint, []string{"/file"}) {
		t.Errorf("got the config %+v", config.Config)
	}
	if got := contents(t, []byte(blob(manifest.Layers[1].Digest))); !reflect.DeepEqual(got, map[string]string{"file": "file: text"}) {
		t.Errorf("got the layer %v", got)
	}
}

func TestAnImageNameWithoutHostOrTagIsRefused(t *testing.T) {
	for _, name := range []string{"thing", "thing:dev", "team/thing:dev", "testbed.local/thing", "testbed.local:5000/thing", "testbed.local/thing@sha256:00"} {
		if repository, err := repositoryOf(name); err == nil {
			t.Errorf("%s was taken as %s", name, repository)
		}
	}
	if repository, err := repositoryOf("testbed.local:5000/team/thing:dev"); err != nil || repository != "testbed.local:5000/team/thing" {
		t.Errorf("got %s, %v", repository, err)
	}
}
