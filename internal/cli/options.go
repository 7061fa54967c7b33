package cli

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/ringfence/ringfence/internal/agent"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/launch"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/source"
)

// maxCAFile bounds --upstream-ca: the bundles of distributions have 250 KiB.
const maxCAFile = 1 << 20

// runOptions are the flags of run as they were typed.
type runOptions struct {
	policies     source.Set
	resolvers    []string
	upstreamCA   string
	trusted      []string
	controlPlane string
	records      string
	user         string
	workdir      string
	env          []string
	agent        string
	verbose      bool
}

func (o *runOptions) addFlags(f *pflag.FlagSet) {
	f.SortFlags = false
	f.SetInterspersed(false) // what follows COMMAND is COMMAND's
	f.StringArrayVar(&o.policies.Specs, "policy", nil, "policy `FILE|NAME`; several make one (default \"default\", which is shipped) *")
	f.StringVar(&o.policies.RegoDir, "rego", "", "narrow the policy by the Rego modules in `DIR`")
	f.StringArrayVar(&o.resolvers, "resolver", nil, "ask `IP[:PORT]` for allowed names (default: the system's) *")
	f.StringVar(&o.upstreamCA, "upstream-ca", "", "`FILE` (PEM) of further CAs for upstream servers: checked, and without effect until TLS is terminated")
	f.StringArrayVar(&o.trusted, "trusted-network", nil, "let names resolve into `CIDR`, a private network *")
	f.StringVar(&o.controlPlane, "control-plane", "", "allow `HOST:PORT|URL` whatever the policy says\n(default: $RINGFENCE_ENDPOINT, $NAVIGATOR_ENDPOINT)")
	f.StringVar(&o.records, "records", "", "write a JSON line for each connection to `FILE|-`")
	f.StringVar(&o.user, "user", "", "run as `NAME|UID`; not root")
	f.StringVar(&o.workdir, "workdir", "", "work in `DIR` (default: the current one)")
	f.StringArrayVar(&o.env, "env", nil, "set `K=V` in the command's environment *")
	f.StringVar(&o.agent, "agent", agentAuto, "run in the agent at `auto|never|SOCKET`; auto: in one that is there, else in its own")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "tell what the agent does")
}

// settings are the flags, checked and turned into what they mean.
type settings struct {
	policy       *policy.Policy
	feed         agent.PolicyFeed
	resolvers    []netip.AddrPort
	trusted      []netip.Prefix
	controlPlane flow.Target
	records      string
	user         *launch.User // nil: one that is reserved for the sandbox
	userFlag     bool         // --user names it
	workdir      string
	env          []string
}

// resolve checks everything that can be checked before anything is started.
func (o *runOptions) resolve(env Env, log *slog.Logger) (*settings, error) {
	s := &settings{records: o.records, env: o.env, userFlag: o.user != ""}
	var err error
	s.feed.Set = o.policies
	if s.policy, s.feed.Now, err = loadPolicies(o.policies, log); err != nil {
		return nil, err
	}
	if s.resolvers, err = parseResolvers(o.resolvers); err != nil {
		return nil, err
	}
	if s.trusted, err = parsePrefixes(o.trusted); err != nil {
		return nil, err
	}
	if s.controlPlane, err = controlPlane(o.controlPlane, env); err != nil {
		return nil, err
	}
	if s.user, err = chooseUser(o.user, s.policy, env); err != nil {
		return nil, err
	}
	if s.workdir, err = resolveDir(env.Dir, o.workdir); err != nil {
		return nil, err
	}
	if _, err := launch.Environment(launch.EnvConfig{Extra: o.env}); err != nil {
		return nil, hint(fmt.Errorf("--env: %w", err), "write --env NAME=VALUE; names that begin with RINGFENCE_ are the sandbox's own")
	}
	return s, checkUpstreamCA(o.upstreamCA, log)
}

func parseResolvers(texts []string) ([]netip.AddrPort, error) {
	var servers []netip.AddrPort
	for _, text := range texts {
		server, ok := parseResolver(text)
		if !ok {
			return nil, hint(
				fmt.Errorf("--resolver %q is not the address of a server", text),
				"write 192.0.2.53, 192.0.2.53:5353, 2001:db8::53 or [2001:db8::53]:5353")
		}
		servers = append(servers, server)
	}
	return servers, nil
}

// parseResolver reads an address with or without a port; an IPv6 address may
// stand in brackets, and must where a port follows.
func parseResolver(text string) (netip.AddrPort, bool) {
	if server, err := netip.ParseAddrPort(text); err == nil {
		return server, server.Port() != 0 && isServer(server.Addr())
	}
	bare := text
	if strings.HasPrefix(text, "[") && strings.HasSuffix(text, "]") {
		bare = text[1 : len(text)-1]
	}
	addr, err := netip.ParseAddr(bare)
	if err != nil || bare != text && !addr.Is6() {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(addr, 53), isServer(addr)
}

func isServer(addr netip.Addr) bool { return !addr.IsUnspecified() && !addr.IsMulticast() }

func parsePrefixes(texts []string) ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	for _, text := range texts {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, hint(fmt.Errorf("--trusted-network %q is not a network", text), "write 10.20.0.0/16, or 10.20.30.40/32 for one address")
		}
		if masked := prefix.Masked(); prefix != masked {
			return nil, hint(fmt.Errorf("--trusted-network %q has bits set beyond its length", text), fmt.Sprintf("did you mean %s?", masked))
		}
		if refused := flow.RefusedOverlap(prefix); refused.IsValid() {
			return nil, hint(fmt.Errorf("--trusted-network %q overlaps %s, which is never dialled", text, refused), "name private networks only")
		}
		prefixes = append(prefixes, prefix)
	}
	return prefixes, nil
}

// checkUpstreamCA reads the file, so that a mistake in it is told now. Nothing
// terminates TLS yet.
func checkUpstreamCA(path string, log *slog.Logger) error {
	if path == "" {
		return nil
	}
	pem, err := readBounded(path, maxCAFile)
	if err != nil {
		return fmt.Errorf("read --upstream-ca: %w", err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(pem) {
		return hint(fmt.Errorf("--upstream-ca %s holds no certificate", path), "it must be a PEM file")
	}
	log.Warn("--upstream-ca has no effect yet: no connection's TLS is terminated")
	return nil
}

// realDir follows the links of a working directory here and now, for the person who
// has named it: a sandbox is shown no directory by a link that others may change.
func realDir(dir string) string {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return dir // which has the better error later
	}
	return real
}

// resolveDir returns the absolute working directory. Whether the sandbox's user
// may enter it is for that user to find out.
func resolveDir(current, dir string) (string, error) {
	if current == "" && !filepath.IsAbs(dir) {
		return "", hint(errors.New("the current directory is gone"), "name another with --workdir")
	}
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(current, dir)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return "", fmt.Errorf("--workdir: %w", err)
	}
	if !info.IsDir() {
		return "", fmt.Errorf("--workdir: %s is not a directory", dir)
	}
	return filepath.Clean(dir), nil
}
