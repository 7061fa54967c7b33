package launch

import "strings"

// MaxRequestedEnv bounds the variables that a client asks for: the bytes of all names
// and values.
const MaxRequestedEnv = 32 << 10

// maxTerm is longer than the names of terminals are.
const maxTerm = 128

// ServiceEnvironment returns the environment of a command in a daemon's sandbox,
// which may be started by somebody far away: nothing is inherited. What a client asks
// for is taken where AllowedEnv knows the name, and comes before all the rest, so it
// changes nothing of the sandbox's. Inherit must be empty.
func ServiceEnvironment(c EnvConfig) ([]string, error) {
	var e environment
	e.set("PATH", defaultPath)
	e.setRequested(c.Requested)
	if c.Term != "" && len(c.Term) <= maxTerm && isOneLine(c.Term) {
		e.set("TERM", c.Term)
	}
	e.setUser(c.User)
	if c.Proxy != "" {
		e.setProxy(c.Proxy)
	}
	if err := e.setExtra(c.Extra); err != nil {
		return nil, err
	}
	for _, own := range []struct{ key, value string }{
		{"RINGFENCE_ENDPOINT", c.Endpoint},
		{"NAVIGATOR_ENDPOINT", c.Endpoint}, // by the name that clients of the interface know
		{"RINGFENCE_SANDBOX_ID", c.SandboxID},
		{"NAVIGATOR_SANDBOX_ID", c.SandboxID},
	} {
		if own.value != "" {
			e.set(own.key, own.value)
		}
	}
	e.set("RINGFENCE_SANDBOX", c.Sandbox)
	return e.list, nil
}

// setRequested leaves out what it does not take: a client asks, and is not told more
// than that (SSH calls its answer a failure, and goes on).
func (e *environment) setRequested(requested []string) {
	room := MaxRequestedEnv
	for _, kv := range requested {
		key, value, ok := strings.Cut(kv, "=")
		if !ok || !AllowedEnv(key) || !isOneLine(value) {
			continue
		}
		if room -= len(kv); room < 0 {
			return
		}
		e.set(key, value)
	}
}

// AllowedEnv reports whether a client may set a variable of its command. It is a list
// of what is harmless and no list of what is not: a variable that a loader, a shell
// or an interpreter runs code by is any that somebody thinks of.
func AllowedEnv(name string) bool {
	switch name {
	case "LANG", "TERM", "COLORTERM", "GIT_PROTOCOL":
		return true
	}
	for _, prefix := range []string{"LC_", "GIT_AUTHOR_", "GIT_COMMITTER_"} {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			return isUpper(rest)
		}
	}
	return false
}

func isUpper(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'A' || 'Z' < c) && c != '_' {
			return false
		}
	}
	return s != ""
}

func isOneLine(value string) bool { return !strings.ContainsAny(value, "\x00\r\n") }
