package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/signal"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/agent"
	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/daemon"
	"github.com/ringfence/ringfence/internal/event"
	"github.com/ringfence/ringfence/internal/floor"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/launch"
	"github.com/ringfence/ringfence/internal/source"
	"github.com/ringfence/ringfence/internal/sshd"
	"github.com/ringfence/ringfence/internal/store"
)

const (
	defaultConfigFile = "/etc/ringfence/agent.yaml"
	maxConfigFile     = 1 << 20 // and of ssh-user-ca
	defaultStateDir   = "/var/lib/ringfence"
	defaultRunDir     = "/run/ringfence"
)

const serveLong = `Runs the agent as a service: it keeps sandboxes, over its own restarts too, and
serves them to ringfence sandbox, ringfence ssh and the control API.

Every flag but --config and --check is a key of the configuration file too, with the
same name; what is repeated is a list there. A flag beats the file. The file is YAML:

    policy: [default, /etc/ringfence/work.yaml]
    ssh-listen: 0.0.0.0:2222
    trusted-network: [10.20.0.0/16]

With --check the configuration and the policies are read, and nothing is started.

SIGTERM and SIGINT stop the agent. Its sandboxes go on, fenced: what they try to reach
is refused until the next agent has adopted them. ringfence sandbox delete ends one.

Needs root. Flags marked * may be repeated.`

// serveOptions are the settings of the service: one table, for the flags, the
// configuration file and the documents.
type serveOptions struct {
	config       string
	check        bool
	instance     string
	policies     source.Set
	resolvers    []string
	trusted      []string
	controlPlane string
	maxSandboxes int
	socket       string
	socketGroup  string
	stateDir     string
	sshListen    string
	sshSocket    string
	sshUserCA    string
	sshIdle      time.Duration
	sshLimit     int
	sshSessions  int
	records      string
	recordsSize  int
	recordsKeep  int
	keepRecords  int
	logLevel     string
	logFormat    string
}

func (o *serveOptions) addFlags(f *pflag.FlagSet) {
	f.SortFlags = false
	f.StringVar(&o.config, "config", "", "read the settings of `FILE` (default: "+defaultConfigFile+", if it is there)")
	f.BoolVar(&o.check, "check", false, "tell what is wrong with the configuration and its policies, and start nothing")
	o.addSettings(f)
}

// addSettings are those that the configuration file may hold.
func (o *serveOptions) addSettings(f *pflag.FlagSet) {
	f.StringArrayVar(&o.policies.Specs, "policy", nil, "policy `FILE|NAME` of sandboxes that name none; several make one (default \"default\") *")
	f.StringVar(&o.policies.RegoDir, "rego", "", "narrow every policy by the Rego modules in `DIR`")
	f.StringArrayVar(&o.resolvers, "resolver", nil, "ask `IP[:PORT]` for allowed names (default: the system's) *")
	f.StringArrayVar(&o.trusted, "trusted-network", nil, "let names resolve into `CIDR`, a private network *")
	f.StringVar(&o.controlPlane, "control-plane", "", "allow `HOST:PORT|URL` to every sandbox whatever its policy says")
	f.IntVar(&o.maxSandboxes, "max-sandboxes", 0, "have at most `N` sandboxes (default and most: 1024)")
	f.StringVar(&o.socket, "socket", api.DefaultSocket, "serve the control API at `PATH`")
	f.StringVar(&o.socketGroup, "socket-group", "", "let members of `GROUP` use the control API: they are as good as root")
	f.StringVar(&o.instance, "instance", "agent", "be the agent `NAME`: one that is started again adopts what the one of its name had")
	f.StringVar(&o.stateDir, "state-dir", defaultStateDir, "keep sandboxes, providers and keys in `DIR`")
	f.StringVar(&o.sshListen, "ssh-listen", "127.0.0.1:2222", "serve SSH at `ADDRESS:PORT` too; off: at the Unix socket alone")
	f.StringVar(&o.sshSocket, "ssh-socket", defaultRunDir+"/ssh.sock", "serve SSH at the Unix socket `PATH`")
	f.StringVar(&o.sshUserCA, "ssh-user-ca", "", "trust certificates that the keys in `FILE` have signed, one public key a line")
	limits := sshd.DefaultLimits()
	f.DurationVar(&o.sshIdle, "ssh-idle-timeout", limits.Idle, "end SSH connections on which nothing has moved for `DURATION`")
	f.IntVar(&o.sshLimit, "ssh-max-connections", limits.PerSandbox.Conns, "have at most `N` SSH connections to a sandbox")
	f.IntVar(&o.sshSessions, "ssh-max-sessions", limits.PerSandbox.Sessions, "have at most `N` SSH sessions in a sandbox")
	f.StringVar(&o.records, "records", "", "write a JSON line for each connection to `FILE`, which is rotated")
	f.IntVar(&o.recordsSize, "records-size", 64, "rotate that file at `MiB`")
	f.IntVar(&o.recordsKeep, "records-keep", 5, "keep `N` rotated files")
	f.IntVar(&o.keepRecords, "records-memory", event.DefaultJournalRecords, "keep `N` records for ringfence events, in at most 64 MiB")
	f.StringVar(&o.logLevel, "log-level", "info", "log `LEVEL` and above: debug, info, warn, error")
	f.StringVar(&o.logFormat, "log-format", "text", "log as `FORMAT`: text, json")
}

// addServe makes a command the service's.
func addServe(cmd *cobra.Command, env Env) {
	var o serveOptions
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := o.readFile(cmd.Flags()); err != nil {
			return err
		}
		if o.check {
			return o.checkOnly(env)
		}
		return o.serve(cmd.Context(), env)
	}
	o.addFlags(cmd.Flags())
}

// serve runs the service until it is told to end.
func (o *serveOptions) serve(ctx context.Context, env Env) error {
	if env.UID != 0 {
		return hint(errors.New("the agent needs root, to attach hooks and to make namespaces"), "sudo ringfence agent, or sudo systemctl start ringfence")
	}
	log, err := o.newLog(env)
	if err != nil {
		return err
	}
	cfg, err := o.daemonConfig(env, log)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer stop()
	return withHint(daemon.Run(ctx, cfg))
}

// checkOnly looks at all that can be looked at without a start.
func (o *serveOptions) checkOnly(env Env) error {
	log, err := o.newLog(env)
	if err != nil {
		return err
	}
	cfg, err := o.daemonConfig(env, log)
	if err != nil {
		return err
	}
	warnings, err := daemon.Check(cfg)
	for _, text := range warnings {
		fmt.Fprintf(env.Stderr, "warning: %s\n", event.Prose(text))
	}
	if err != nil {
		return withHint(err)
	}
	fmt.Fprintln(env.Stdout, "ok: the agent can be started with this configuration")
	return nil
}

// eachLine makes an error of several lines one that is reported as such: a policy's, or
// what a machine lacks, are many in one.
func eachLine(err error) error {
	var lines []error
	for line := range strings.SplitSeq(err.Error(), "\n") {
		lines = append(lines, errors.New(line))
	}
	return errors.Join(lines...)
}

// withHint adds what to do where the room in which a start failed has said so in its
// own way, or cannot know of the flags.
func withHint(err error) error {
	var state *store.Error
	var held *agent.HeldError
	var refused *api.Error
	var lacks *floor.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &lacks):
		return hint(eachLine(err), askDoctor)
	case errors.As(err, &state) && state.Hint != "":
		return hint(err, state.Hint)
	case errors.As(err, &held):
		return hint(err, "stop that one first (sudo systemctl stop ringfence), or give this one another instance, state-dir and socket")
	case errors.As(err, &refused) && refused.Hint != "":
		return hint(eachLine(err), refused.Hint)
	case errors.Is(err, unix.EADDRINUSE):
		return hint(err, "ss -ltnp tells who listens there; give ssh-listen another address, or off")
	}
	return err
}

func (o *serveOptions) newLog(env Env) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.logLevel)); err != nil {
		return nil, hint(fmt.Errorf("log-level %q is none", o.logLevel), "write debug, info, warn or error")
	}
	options := &slog.HandlerOptions{Level: level}
	switch o.logFormat {
	case "text":
		return slog.New(slog.NewTextHandler(env.Stderr, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(env.Stderr, options)), nil
	}
	return nil, hint(fmt.Errorf("log-format %q is none", o.logFormat), "write text or json")
}

// daemonConfig checks what can be checked before anything is started.
func (o *serveOptions) daemonConfig(env Env, log *slog.Logger) (cfg daemon.Config, err error) {
	cfg = daemon.Config{
		Version: version(), Instance: o.instance, StateDir: o.stateDir, Socket: o.socket,
		Policy: o.policies, MaxSandboxes: o.maxSandboxes, Log: log,
		SSH: daemon.SSHConfig{
			Socket: o.sshSocket,
			Limits: sshd.Limits{Idle: o.sshIdle, PerSandbox: sshd.Quota{Conns: o.sshLimit, Sessions: o.sshSessions}},
		},
		Records: event.JournalConfig{
			Records: o.keepRecords,
			File:    event.FileConfig{Path: o.records, Bytes: int64(o.recordsSize) << 20, Keep: o.recordsKeep},
			Report:  func(err error) { log.Error("records are lost", "error", err) },
		},
	}
	if cfg.Resolvers, err = parseResolvers(o.resolvers); err != nil {
		return cfg, err
	}
	if cfg.Trusted, err = parsePrefixes(o.trusted); err != nil {
		return cfg, err
	}
	if cfg.ControlPlane, err = controlPlane(o.controlPlane, env); err != nil {
		return cfg, err
	}
	if cfg.ControlPlane != (flow.Target{}) {
		cfg.Endpoint = cmp.Or(o.controlPlane, env.variable("RINGFENCE_ENDPOINT"), env.variable("NAVIGATOR_ENDPOINT"))
	}
	if o.sshListen != "" && o.sshListen != "off" {
		cfg.SSH.Listen = o.sshListen
	}
	if o.sshUserCA != "" {
		if cfg.SSH.UserCA, err = readBounded(o.sshUserCA, maxConfigFile); err != nil {
			return cfg, fmt.Errorf("read ssh-user-ca: %w", err)
		}
	}
	if o.socketGroup != "" {
		gid, err := launch.LookupGroup(o.socketGroup)
		if err != nil {
			return cfg, hint(fmt.Errorf("socket-group %q: %w", o.socketGroup, err), "name a group of this host")
		}
		cfg.SocketGroups = []uint32{gid}
	}
	return cfg, nil
}
