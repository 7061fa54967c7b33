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

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/launch"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/policies"
)

// runOptions are the flags of run as they were typed.
type runOptions struct {
	policies     []string
	resolvers    []string
	upstreamCA   string
	trusted      []string
	controlPlane string
	records      string
	user         string
	workdir      string
	env          []string
	verbose      bool
}

func (o *runOptions) addFlags(f *pflag.FlagSet) {
	f.SortFlags = false
	f.StringArrayVar(&o.policies, "policy", nil, "policy `FILE` or the name of a shipped one; may be repeated (default: default)")
	f.StringArrayVar(&o.resolvers, "resolver", nil, "DNS server `IP[:PORT]` for allowed names; may be repeated (default: the system's)")
	f.StringVar(&o.upstreamCA, "upstream-ca", "", "PEM `FILE` of further CAs for upstream servers, where TLS is terminated")
	f.StringArrayVar(&o.trusted, "trusted-network", nil, "private network `CIDR` that allowed names may resolve to; may be repeated")
	f.StringVar(&o.controlPlane, "control-plane", "", "`HOST:PORT` or URL that every program may reach without the policy (default: $RINGFENCE_ENDPOINT, $NAVIGATOR_ENDPOINT)")
	f.StringVar(&o.records, "records", "", "write a JSON record of each connection to `FILE`, - for stdout")
	f.StringVar(&o.user, "user", "", "run as this `NAME` or uid; not root")
	f.StringVar(&o.workdir, "workdir", "", "working `DIR` inside the sandbox (default: the current one)")
	f.StringArrayVar(&o.env, "env", nil, "set `K=V` in the command's environment; may be repeated")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "tell what the agent does")
}

// settings are the flags, checked and turned into what they mean.
type settings struct {
	policy       *policy.Policy
	resolvers    []netip.AddrPort
	trusted      []netip.Prefix
	controlPlane flow.Target
	records      string
	userSpec     string
	workdir      string
	env          []string
	environ      []string
}

// resolve checks everything that can be checked before anything is started.
func (o *runOptions) resolve(env Env, argv []string) (*run, error) {
	level := slog.LevelWarn
	if o.verbose {
		level = slog.LevelInfo
	}
	r := &run{env: env, argv: argv, log: newLog(env.Stderr, level)}
	s := &r.settings
	s.records, s.userSpec, s.env, s.environ = o.records, o.user, o.env, env.Environ
	var err error
	for _, step := range []func() error{
		func() error { s.workdir, err = absolute(env.Dir, o.workdir); return err },
		func() error { s.policy, err = loadPolicies(o.policies, r.log); return err },
		func() error { s.resolvers, err = parseResolvers(o.resolvers); return err },
		func() error { s.trusted, err = parsePrefixes(o.trusted); return err },
		func() error { s.controlPlane, err = controlPlane(o.controlPlane, env.Environ); return err },
		func() error { return checkUpstreamCA(o.upstreamCA, r.log) },
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// loadPolicies reads the policies that --policy names, or the embedded default.
func loadPolicies(specs []string, log *slog.Logger) (*policy.Policy, error) {
	if len(specs) == 0 {
		specs = []string{"default"}
	}
	var sources []policy.Source
	for _, spec := range specs {
		source, err := readPolicy(spec)
		if err != nil {
			return nil, err
		}
		sources = append(sources, source)
	}
	p, warnings, err := policy.Load(sources...)
	if err != nil {
		return nil, err
	}
	for _, w := range warnings {
		log.Warn(w.String())
	}
	return p, nil
}

// readPolicy takes what looks like a path, or is one, for a file.
func readPolicy(spec string) (policy.Source, error) {
	isFile := strings.ContainsRune(spec, '/') || strings.HasSuffix(spec, ".yaml") || strings.HasSuffix(spec, ".yml")
	if !isFile && spec == "default" {
		return policy.Source{Name: spec, Data: policies.Default}, nil
	}
	if !isFile && !exists(spec) {
		return policy.Source{}, &hintedError{
			fmt.Errorf("--policy %q: no shipped policy has this name", spec),
			"shipped policies: default; write ./" + spec + " for a file",
		}
	}
	data, err := readBounded(spec, policy.MaxFile)
	if err != nil {
		return policy.Source{}, fmt.Errorf("read policy: %w", err)
	}
	return policy.Source{Name: spec, Data: data}, nil
}

func parseResolvers(texts []string) ([]netip.AddrPort, error) {
	var servers []netip.AddrPort
	for _, text := range texts {
		server, err := netip.ParseAddrPort(text)
		if err != nil {
			var addr netip.Addr
			if addr, err = netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
				server = netip.AddrPortFrom(addr, 53)
			}
		}
		if err != nil || server.Port() == 0 {
			return nil, &hintedError{fmt.Errorf("--resolver %q is not an address", text), "write 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:53"}
		}
		servers = append(servers, server)
	}
	return servers, nil
}

func parsePrefixes(texts []string) ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	for _, text := range texts {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, &hintedError{fmt.Errorf("--trusted-network %q is not a network", text), "write 10.20.0.0/16"}
		}
		if prefix != prefix.Masked() {
			return nil, &hintedError{fmt.Errorf("--trusted-network %q has bits set beyond its length", text), "did you mean " + prefix.Masked().String() + "?"}
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
	pem, err := readBounded(path, 1<<20)
	if err != nil {
		return fmt.Errorf("read --upstream-ca: %w", err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(pem) {
		return &hintedError{fmt.Errorf("--upstream-ca %s holds no certificate", path), "it must be a PEM file"}
	}
	log.Warn("--upstream-ca has no effect yet: no connection's TLS is terminated")
	return nil
}

func absolute(dir, path string) (string, error) {
	if path == "" {
		path = dir
	}
	if path == "" || (!filepath.IsAbs(path) && dir == "") {
		return "", &hintedError{errors.New("the current directory is gone"), "name one with --workdir"}
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("--workdir: %w", err)
	}
	if !info.IsDir() {
		return "", fmt.Errorf("--workdir: %s is not a directory", path)
	}
	return filepath.Clean(path), nil
}

// user says who the command runs as: the most explicit of what names somebody.
func (s *settings) user(number uint32) (launch.User, error) {
	if s.userSpec != "" {
		return launch.LookupUser(s.userSpec)
	}
	if user, group := s.policy.Process(); user != "" || group != "" {
		return policyUser(user, group)
	}
	if uid := lookupEnv(s.environ, "SUDO_UID"); uid != "" && uid != "0" {
		return launch.LookupUser(uid)
	}
	return launch.ReservedUser(number)
}
