package launch

import (
	"fmt"
	"strings"
)

// EnvConfig says what a command's environment is made of.
type EnvConfig struct {
	// Inherit is the environment of the person who runs the command, or nil where
	// nobody does (a daemon's sandbox): the agent's own is nobody's.
	Inherit []string
	User    User
	Sandbox string
	// Proxy is the URL of the sandbox's explicit proxy; empty for none.
	Proxy string
	// Extra are K=V that win over everything else but RINGFENCE_ names.
	Extra []string

	// The rest is for ServiceEnvironment alone.

	// Term is the TERM of the command's terminal; empty for none.
	Term string
	// Requested is what a client asks for, K=V: AllowedEnv and MaxRequestedEnv say
	// what of it is taken.
	Requested []string
	// Endpoint is where a program in the sandbox finds the control plane, and
	// SandboxID what the sandbox is called there; each is set where it is not empty.
	Endpoint, SandboxID string
}

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Environment returns a command's environment.
//
// On a laptop the command belongs to the person at the keyboard, whose settings,
// locale and keys it is meant to have: so what is inherited is all, without what
// would lie. LD_PRELOAD and its like stay: the program is no more theirs than it
// was, and whoever is inside can set them anyway. What goes is the agent's own (RINGFENCE_*),
// what sudo left, the addresses of doors that the sandbox has masked, and proxies
// that cannot be reached. Where the caller's environment holds secrets that the
// command must not have, the caller must not pass it as Inherit.
func Environment(c EnvConfig) ([]string, error) {
	var e environment
	e.set("PATH", defaultPath)
	for _, kv := range c.Inherit {
		if key, value, ok := strings.Cut(kv, "="); ok && key != "" && !isDropped(key) {
			e.set(key, value)
		}
	}
	e.setUser(c.User)
	if c.Proxy != "" {
		e.setProxy(c.Proxy)
	}
	if err := e.setExtra(c.Extra); err != nil {
		return nil, err
	}
	e.set("RINGFENCE_SANDBOX", c.Sandbox)
	return e.list, nil
}

const agentPrefix = "RINGFENCE_"

func (e *environment) setUser(u User) {
	name := u.Name
	if name == "" {
		name = fmt.Sprint(u.UID)
	}
	e.set("HOME", u.Home)
	e.set("USER", name)
	e.set("LOGNAME", name)
	e.set("SHELL", u.Shell)
}

func (e *environment) setExtra(extra []string) error {
	for _, kv := range extra {
		key, value, ok := strings.Cut(kv, "=")
		if !ok || !isName(key) || strings.HasPrefix(key, agentPrefix) || strings.ContainsRune(value, 0) {
			return fmt.Errorf("environment variable %q: want NAME=VALUE, not %s*: %w", kv, agentPrefix, ErrBadCommand)
		}
		e.set(key, value)
	}
	return nil
}

// setProxy sets the variables of the explicit proxy, which knows CONNECT only.
// HTTP_PROXY and http_proxy would send it absolute-form requests, and so would
// ALL_PROXY: plain HTTP goes by capture.
func (e *environment) setProxy(url string) {
	for _, key := range []string{"HTTPS_PROXY", "https_proxy", "grpc_proxy"} {
		e.set(key, url)
	}
	for _, key := range []string{"NO_PROXY", "no_proxy"} {
		e.set(key, "127.0.0.1,localhost,::1")
	}
	e.set("NODE_USE_ENV_PROXY", "1")
}

// isDropped reports whether an inherited variable does not go into a sandbox.
func isDropped(key string) bool {
	if strings.HasPrefix(key, agentPrefix) || strings.HasPrefix(key, "SUDO_") {
		return true
	}
	switch key {
	case "NAVIGATOR_ENDPOINT", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", // the agent's own
		"SSH_AUTH_SOCK", "SSH_AGENT_PID", "GPG_AGENT_INFO", "DBUS_SESSION_BUS_ADDRESS", "DBUS_SYSTEM_BUS_ADDRESS", // masked doors
		"XDG_RUNTIME_DIR", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "DOCKER_HOST", "CONTAINER_HOST",
		"TMUX", "TMUX_PANE", "STY", "TMPDIR", "TMP", "TEMP",
		"PWD", "OLDPWD": // of another directory, perhaps
		return true
	}
	switch strings.ToLower(key) {
	case "http_proxy", "https_proxy", "all_proxy", "ftp_proxy", "grpc_proxy", "no_proxy", "node_use_env_proxy":
		return true
	}
	return false
}

// environment is a list of K=V in which each key stands once.
type environment struct {
	list  []string
	index map[string]int
}

func (e *environment) set(key, value string) {
	kv := key + "=" + value
	if i, ok := e.index[key]; ok {
		e.list[i] = kv
		return
	}
	if e.index == nil {
		e.index = make(map[string]int)
	}
	e.index[key] = len(e.list)
	e.list = append(e.list, kv)
}

func isName(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_'
		if !letter && (i == 0 || c < '0' || '9' < c) {
			return false
		}
	}
	return s != ""
}
