package bypass

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// doorsGroup: sockets of the host's services (row 11). The test listens itself
// where such services do, and makes sure from outside that it can be reached.
func doorsGroup() group {
	return group{name: "doors", runner: client, stage: openDoors, attempts: func() []attempt {
		const gone = "ENOENT EACCES ECONNREFUSED"
		return []attempt{
			{row: 11, name: "below_run", want: gone, try: func(in *intruder) string { return knock(doorBelow("/run", in.dir)) }},
			{row: 11, name: "below_tmp", want: gone, try: func(in *intruder) string { return knock(doorBelow("/tmp", in.dir)) }},
			{row: 11, name: "below_var_tmp", want: gone, try: func(in *intruder) string { return knock(doorBelow("/var/tmp", in.dir)) }},
			{row: 11, name: "below_dev_shm", want: gone, try: func(in *intruder) string { return knock(doorBelow("/dev/shm", in.dir)) }},
			{row: 11, name: "by_the_root_of_init", want: gone, try: func(in *intruder) string {
				return knock("/proc/1/root" + doorBelow("/run", in.dir))
			}},
			{row: 11, name: "by_own_root", want: gone, try: func(in *intruder) string {
				return knock("/proc/self/root" + doorBelow("/run", in.dir))
			}},
			{row: 11, name: "abstract", want: gone + " EPERM", try: func(in *intruder) string { return knock(abstractDoor(in.dir)) }},
			{row: 11, name: "well_known", want: "none", try: knownDoors},
			{row: 11, name: "listed", want: "none", try: listedDoors},
			{row: 11, name: "environment", want: "none", try: doorVariables},
		}
	}}
}

func doorBelow(dir, work string) string {
	return filepath.Join(dir, filepath.Base(work)+"-door", "docker.sock")
}

func abstractDoor(work string) string { return "@" + filepath.Base(work) }

// openDoors listens on the host.
func openDoors(s *stage) error {
	var paths []string
	for _, dir := range []string{"/run", "/tmp", "/var/tmp", "/dev/shm"} {
		if _, err := os.Stat(dir); err != nil {
			continue // a small machine has not all: the attempt then shows little
		}
		path := doorBelow(dir, s.dir)
		if err := errors.Join(os.Mkdir(filepath.Dir(path), 0o755), os.Chmod(filepath.Dir(path), 0o755)); err != nil {
			return err
		}
		s.atEnd(func() error { return os.RemoveAll(filepath.Dir(path)) })
		paths = append(paths, path)
	}
	paths = append(paths, abstractDoor(s.dir))
	// An abstract name is of a network namespace: here that of the agent.
	return s.env.Do(func() error {
		for _, path := range paths {
			listener, err := net.Listen("unix", path)
			if err != nil {
				return err
			}
			s.atEnd(listener.Close)
			if path[0] == '/' {
				if err := os.Chmod(path, 0o777); err != nil {
					return err
				}
			}
			if got := knock(path); got != ok {
				return fmt.Errorf("%s cannot be reached from outside: %s", path, got)
			}
		}
		return nil
	})
}

// knock connects to a Unix socket, as a stream and as what D-Bus and its like do not
// speak.
func knock(path string) string {
	words := ""
	for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_SEQPACKET} {
		fd, err := socket(unix.AF_UNIX, kind, 0)
		if err != nil {
			return word(err)
		}
		words = word(unix.Connect(fd, &unix.SockaddrUnix{Name: path}))
		_ = unix.Close(fd)
		if words != "EPROTOTYPE" {
			return words
		}
	}
	return words
}

// knownDoors tries where services usually listen.
func knownDoors(*intruder) string {
	var found []string
	for _, path := range []string{
		"/run/docker.sock", "/var/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock",
		"/run/crio/crio.sock", "/run/dbus/system_bus_socket", "/run/systemd/private", "/run/systemd/journal/socket",
		"/run/systemd/resolve/io.systemd.Resolve", "/run/systemd/notify", "/run/udev/control", "/var/run/nscd/socket",
		"/run/snapd.socket", "/run/user/0/bus", "/run/user/1000/bus", "/run/user/1000/podman/podman.sock", "/tmp/.X11-unix/X0",
		"/dev/log", "/run/ringfence", "@/tmp/.X11-unix/X0", "@/tmp/dbus-test", "@/org/kernel/linux/storage/multipathd",
	} {
		if got := knock(path); got == ok {
			found = append(found, path)
		}
	}
	return listOr(found, "none")
}

// listedDoors looks for names of sockets in what the kernel shows: those of other
// network namespaces are not there.
func listedDoors(*intruder) string {
	text, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return word(err)
	}
	return listOr(namesOfSockets(string(text)), "none")
}

// doorVariables are the addresses of doors in the environment.
func doorVariables(*intruder) string {
	var found []string
	for _, name := range []string{
		"SSH_AUTH_SOCK", "DBUS_SESSION_BUS_ADDRESS", "DOCKER_HOST", "CONTAINER_HOST", "DISPLAY", "WAYLAND_DISPLAY",
		"XDG_RUNTIME_DIR", "NOTIFY_SOCKET", "GPG_AGENT_INFO", "TMUX",
	} {
		if os.Getenv(name) != "" {
			found = append(found, name)
		}
	}
	return listOr(found, "none")
}

// namesOfSockets returns the names in a listing of /proc/net/unix.
func namesOfSockets(text string) []string {
	var names []string
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) > 7 && fields[0] != "Num" {
			names = append(names, fields[7])
		}
	}
	return names
}
