package launch

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// etcDir holds the sandbox's own copies; /run is a mask, so it is writable here
// and read by everyone.
const etcDir = "/run/ringfence"

// nameService gives the sandbox its own files of name resolution, and of users, by
// mounts over the host's. The DNS server answers every address that is asked; 127.0.0.1 is
// only a name for it.
func (v *view) nameService() error {
	nsswitch, err := hostsFromFiles("/etc/nsswitch.conf")
	if err != nil {
		return err
	}
	files := []etcFile{
		{"/etc/resolv.conf", "nameserver 127.0.0.1\noptions edns0\n"},
		{"/etc/hosts", hostsFile(v.order.Name)},
	}
	if nsswitch != "" {
		files = append(files, etcFile{"/etc/nsswitch.conf", nsswitch})
	}
	users, err := userFiles(v.order.User)
	if err != nil {
		return err
	}
	files = append(files, users...)
	if err := os.Mkdir(etcDir, 0o755); err != nil {
		return err
	}
	for _, f := range files {
		if err := os.WriteFile(f.copy(), []byte(f.text), 0o644); err != nil {
			return err
		}
	}
	for _, f := range files {
		err := f.cover()
		if errors.Is(err, fs.ErrNotExist) {
			return overlayEtc(files, f.path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

type etcFile struct{ path, text string }

func (f etcFile) copy() string { return filepath.Join(etcDir, filepath.Base(f.path)) }

// cover mounts the copy over the file. A symlink is followed; where it leads into
// a mask (as systemd's resolv.conf does), its target is made there.
func (f etcFile) cover() error {
	target, err := follow(f.path)
	if err != nil {
		return err
	}
	if isMasked(target) {
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		if err := touch(target); err != nil {
			return err
		}
	}
	return pathError("cover", target, unix.Mount(f.copy(), target, "", unix.MS_BIND, ""))
}

// follow returns where a path leads, whether or not a file is there.
func follow(path string) (string, error) {
	for range 40 { // as many as the kernel follows
		dir, err := filepath.EvalSymlinks(filepath.Dir(path))
		if errors.Is(err, fs.ErrNotExist) {
			return path, nil // the mount will say so, or a mask will make it
		}
		if err != nil {
			return "", err
		}
		path = filepath.Join(dir, filepath.Base(path))
		link, err := os.Readlink(path)
		if err != nil { // not a symlink, or nothing
			return path, nil
		}
		if !filepath.IsAbs(link) {
			link = filepath.Join(dir, link)
		}
		path = link
	}
	return "", pathError("follow", path, unix.ELOOP)
}

// overlayEtc lays the files over /etc, for a host that lacks one of them: there is
// nothing to mount over, and nothing may be written to the host. All of them,
// because the overlay shows no mount that was made below.
func overlayEtc(files []etcFile, missing string) error {
	layer := etcDir + "/etc"
	if err := os.Mkdir(layer, 0o755); err != nil {
		return err
	}
	for _, f := range files {
		if err := os.WriteFile(filepath.Join(layer, filepath.Base(f.path)), []byte(f.text), 0o644); err != nil {
			return err
		}
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV
	if err := unix.Mount("overlay", "/etc", "overlay", flags, "lowerdir="+layer+":/etc"); err != nil {
		return &StepError{
			Step: "add " + missing, Err: err, Code: ExitRingfence,
			Hint: fmt.Sprintf("make an empty %s on the host, or load the overlay module", missing),
		}
	}
	return nil
}

func hostsFile(name string) string {
	return "127.0.0.1\tlocalhost " + name + "\n::1\tlocalhost ip6-localhost ip6-loopback\n"
}

// hostsFromFiles returns the text of an nsswitch.conf whose hosts come from files
// and DNS only: other sources (resolve, mdns, myhostname) answer past the
// sandbox's DNS or hang on a masked socket. It is empty where there is no file:
// the C library's own default is good then.
func hostsFromFiles(path string) (string, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return rewriteHosts(string(text)), nil
}

func rewriteHosts(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(strings.TrimSpace(line), "hosts:") {
			continue
		}
		out.WriteString(line)
	}
	if out.Len() > 0 && !strings.HasSuffix(out.String(), "\n") {
		out.WriteByte('\n')
	}
	out.WriteString("hosts: files dns\n")
	return out.String()
}
