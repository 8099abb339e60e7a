package main

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"time"
)

// image is what becomes an OCI image: at most one base layer, then one layer of added files.
type image struct {
	name       string
	base       string
	additions  []addition
	entrypoint []string
	arguments  []string
	variables  []string
	user       string
	directory  string
}

// addition puts a file or a folder of the host at a path in the image.
type addition struct{ source, target string }

// descriptor is how OCI manifests point at a blob.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
	file        string
	content     []byte
}

const (
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	configType   = "application/vnd.oci.image.config.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar"
	nameKey      = "io.containerd.image.name"
)

func runImage(arguments []string) error {
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "usage: testbed image [flags] NAME:TAG    NAME with a host part, as in testbed.local/operator:dev\n"+
			"prints NAME@DIGEST, under which pods find the image too")
		flags.PrintDefaults()
	}
	cluster := flags.String("name", "", "cluster to import into")
	output := flags.String("output", "", "write an OCI archive here instead")
	base := flags.String("from", "scratch", "scratch, or an uncompressed tar of a root file system")
	user := flags.String("user", "65532:65532", "user that the image runs as")
	directory := flags.String("workdir", "/", "working directory")
	var additions, entrypoint, command, variables repeated
	flags.Var(&additions, "add", "SRC:DST, a file or folder (repeatable)")
	flags.Var(&entrypoint, "entrypoint", "one word of the entrypoint (repeatable)")
	flags.Var(&command, "cmd", "one word of the default arguments (repeatable)")
	flags.Var(&variables, "env", "NAME=VALUE (repeatable)")
	name, err := parseWithName(flags, arguments)
	if err != nil {
		return err
	}
	if (*cluster == "") == (*output == "") {
		return errors.New("give either --name CLUSTER or --output FILE")
	}
	picture := image{name: name, base: *base, entrypoint: entrypoint, arguments: command, variables: variables, user: *user, directory: *directory}
	if picture.additions, err = parseAdditions(additions); err != nil {
		return err
	}
	if *output != "" {
		file, err := os.Create(*output)
		if err != nil {
			return err
		}
		digest, err := picture.write(file)
		if err != nil {
			return errors.Join(err, file.Close(), os.Remove(*output))
		}
		fmt.Println(digest)
		return file.Close()
	}
	record, err := liveRecord(*cluster)
	if err != nil {
		return err
	}
	digest, err := picture.load(enterCommand(record, "ctr", "--namespace=k8s.io", "images", "import", "-"))
	if err != nil {
		return err
	}
	fmt.Println(digest)
	return nil
}

// parseWithName lets the one positional argument stand before or after the flags.
func parseWithName(flags *flag.FlagSet, arguments []string) (string, error) {
	var name string
	if len(arguments) > 0 && !strings.HasPrefix(arguments[0], "-") {
		name, arguments = arguments[0], arguments[1:]
	}
	if err := flags.Parse(arguments); err != nil {
		return "", err
	}
	if name == "" && flags.NArg() == 1 {
		return flags.Arg(0), nil
	}
	if name == "" || flags.NArg() != 0 {
		flags.Usage()
		return "", errors.New("give exactly one name")
	}
	return name, nil
}

func parseAdditions(values []string) ([]addition, error) {
	var additions []addition
	for _, value := range values {
		source, target, ok := strings.Cut(value, ":")
		if !ok || source == "" || !path.IsAbs(target) {
			return nil, fmt.Errorf("--add %s: want SRC:DST with an absolute DST", value)
		}
		additions = append(additions, addition{source, path.Clean(target)})
	}
	return additions, nil
}

// load streams the image to the standard input of a command.
func (i *image) load(importer *exec.Cmd) (string, error) {
	input, err := importer.StdinPipe()
	if err != nil {
		return "", err
	}
	var output strings.Builder
	importer.Stdout, importer.Stderr = &output, &output
	if err := importer.Start(); err != nil {
		return "", err
	}
	reference, writeError := i.write(input)
	_ = input.Close()
	if err := importer.Wait(); err != nil {
		return "", fmt.Errorf("import %s: %w: %s", i.name, err, strings.TrimSpace(output.String()))
	}
	return reference, writeError
}

// write produces an OCI archive and returns the image's name with its digest.
func (i *image) write(output io.Writer) (string, error) {
	repository, err := repositoryOf(i.name)
	if err != nil {
		return "", err
	}
	var layers []descriptor
	if i.base != "scratch" {
		layer, err := describeFile(i.base)
		if err != nil {
			return "", err
		}
		layers = append(layers, layer)
	}
	if len(i.additions) > 0 {
		file, err := os.CreateTemp("", "testbed-layer-*.tar")
		if err != nil {
			return "", err
		}
		defer os.Remove(file.Name())
		defer file.Close()
		if err := writeLayer(file, i.additions); err != nil {
			return "", err
		}
		layer, err := describeFile(file.Name())
		if err != nil {
			return "", err
		}
		layers = append(layers, layer)
	}
	config, err := i.config(layers)
	if err != nil {
		return "", err
	}
	manifest, err := describe(manifestType, map[string]any{
		"schemaVersion": 2, "mediaType": manifestType, "config": config, "layers": layers,
	})
	if err != nil {
		return "", err
	}
	reference := repository + "@" + manifest.Digest
	blobs := append(append([]descriptor{}, layers...), config, manifest)
	return reference, writeArchive(output, manifest, blobs, []string{i.name, reference})
}

func (i *image) config(layers []descriptor) (descriptor, error) {
	digests := []string{}
	for _, layer := range layers {
		digests = append(digests, layer.Digest)
	}
	return describe(configType, map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config": map[string]any{
			"Entrypoint": i.entrypoint, "Cmd": i.arguments, "Env": i.variables, "User": i.user, "WorkingDir": i.directory,
		},
		"rootfs": map[string]any{"type": "layers", "diff_ids": digests},
	})
}

// repositoryOf is the name without its tag.
func repositoryOf(name string) (string, error) {
	colon := strings.LastIndexByte(name, ':')
	slash := strings.IndexByte(name, '/')
	if slash < 0 || !strings.ContainsAny(name[:slash], ".:") || colon < slash || strings.Contains(name, "@") {
		return "", fmt.Errorf("the image name %q must be HOST/NAME:TAG, as in testbed.local/operator:dev", name)
	}
	return name[:colon], nil
}

func describe(mediaType string, content any) (descriptor, error) {
	encoded, err := json.Marshal(content)
	if err != nil {
		return descriptor{}, err
	}
	sum := sha256.Sum256(encoded)
	return descriptor{MediaType: mediaType, Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: int64(len(encoded)), content: encoded}, nil
}

func describeFile(name string) (descriptor, error) {
	file, err := os.Open(name)
	if err != nil {
		return descriptor{}, err
	}
	defer file.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, file)
	if err != nil {
		return descriptor{}, err
	}
	return descriptor{MediaType: layerType, Digest: "sha256:" + hex.EncodeToString(sum.Sum(nil)), Size: size, file: name}, nil
}

// writeArchive lists the manifest once for each name.
func writeArchive(output io.Writer, manifest descriptor, blobs []descriptor, names []string) error {
	archive := tar.NewWriter(output)
	layout := []byte(`{"imageLayoutVersion":"1.0.0"}`)
	if err := writeEntry(archive, "oci-layout", layout); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, blob := range blobs {
		if seen[blob.Digest] {
			continue
		}
		seen[blob.Digest] = true
		if err := writeBlob(archive, blob); err != nil {
			return err
		}
	}
	var manifests []descriptor
	for _, name := range names {
		manifests = append(manifests, descriptor{
			MediaType: manifest.MediaType, Digest: manifest.Digest, Size: manifest.Size, Annotations: map[string]string{nameKey: name},
		})
	}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": manifests})
	if err != nil {
		return err
	}
	if err := writeEntry(archive, "index.json", index); err != nil {
		return err
	}
	return archive.Close()
}

func writeBlob(archive *tar.Writer, blob descriptor) error {
	name := "blobs/sha256/" + strings.TrimPrefix(blob.Digest, "sha256:")
	if blob.file == "" {
		return writeEntry(archive, name, blob.content)
	}
	if err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: blob.Size, Format: tar.FormatPAX}); err != nil {
		return err
	}
	file, err := os.Open(blob.file)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.Copy(archive, file)
	return err
}

func writeEntry(archive *tar.Writer, name string, content []byte) error {
	if err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
		return err
	}
	_, err := archive.Write(content)
	return err
}

// layerEntry is one path of a layer; source is empty for a parent folder.
type layerEntry struct {
	source string
	info   fs.FileInfo
}

// writeLayer writes the additions with fixed owner and times, in a fixed order, so that equal files give an equal digest.
func writeLayer(output io.Writer, additions []addition) error {
	entries := map[string]layerEntry{}
	for _, a := range additions {
		for parent := path.Dir(a.target); parent != "/"; parent = path.Dir(parent) {
			if _, ok := entries[parent]; !ok {
				entries[parent] = layerEntry{}
			}
		}
		if err := a.collect(entries); err != nil {
			return err
		}
	}
	targets := sortedKeys(entries)
	sort.Strings(targets)
	archive := tar.NewWriter(output)
	for _, target := range targets {
		if err := writeLayerEntry(archive, target, entries[target]); err != nil {
			return fmt.Errorf("add %s: %w", target, err)
		}
	}
	return archive.Close()
}

func (a addition) collect(entries map[string]layerEntry) error {
	// The named path itself may be a symbolic link; links below a folder stay links.
	source, err := filepath.EvalSymlinks(a.source)
	if err != nil {
		return err
	}
	return filepath.WalkDir(source, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(source, name)
		if err != nil {
			return err
		}
		entries[path.Join(a.target, filepath.ToSlash(relative))] = layerEntry{name, info}
		return nil
	})
}

func writeLayerEntry(archive *tar.Writer, target string, entry layerEntry) error {
	name := strings.TrimPrefix(target, "/")
	header := &tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: time.Unix(0, 0)}
	if entry.info == nil || name == "" {
		if name == "" {
			return nil
		}
		return archive.WriteHeader(header)
	}
	link := ""
	if entry.info.Mode()&fs.ModeSymlink != 0 {
		var err error
		if link, err = os.Readlink(entry.source); err != nil {
			return err
		}
	}
	header, err := tar.FileInfoHeader(entry.info, link)
	if err != nil {
		return err
	}
	*header = tar.Header{Name: name, Typeflag: header.Typeflag, Linkname: link, Mode: header.Mode, Size: header.Size, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
	if header.Typeflag == tar.TypeDir {
		header.Name += "/"
	}
	if err := archive.WriteHeader(header); err != nil || header.Typeflag != tar.TypeReg {
		return err
	}
	file, err := os.Open(entry.source)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.Copy(archive, file)
	return err
}

// pauseImage is what holds a pod's namespaces open.
func pauseImage() *image {
	return &image{name: pauseName, base: "scratch", entrypoint: []string{"/pause"}, user: "65535:65535", directory: "/",
		additions: []addition{{neighbour("pause"), "/pause"}}}
}

func enterCommand(record clusterRecord, argv ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--target", strconv.Itoa(record.Process), "--mount", "--net", "--pid", "--"}, argv...)...)
}

// containerdImport reads an archive from standard input, inside the cluster.
func containerdImport(environment []string) *exec.Cmd {
	command := exec.Command("/usr/bin/ctr", "--namespace=k8s.io", "images", "import", "-")
	command.Env = environment
	return command
}
