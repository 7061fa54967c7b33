package cli

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/launch"
	"github.com/ringfence/ringfence/internal/tty"
)

// Values of --agent, beside the path of a socket.
const (
	agentAuto  = "auto"
	agentNever = "never"
)

// removeTimeout bounds the wait for the agent to remove a run's sandbox.
const removeTimeout = 30 * time.Second

// The most that the API takes as the environment of a command: beyond it, an agent of
// the run's own takes all.
const (
	maxVariables    = 128
	maxVariable     = 8192
	maxVariableName = 256
	maxEnvironment  = 256 << 10
)

// chooseAgent returns the socket of the agent to run in; empty for one of our own. A
// run that only an agent of its own can be asked for gets that, and is told why.
func (r *run) chooseAgent(flags *pflag.FlagSet, choice string) (string, error) {
	socket := cmp.Or(r.env.variable("RINGFENCE_SOCKET"), api.DefaultSocket)
	switch choice {
	case agentNever:
		return "", nil
	case agentAuto:
		there, err := api.Probe(socket)
		if err != nil && r.env.UID != 0 {
			return "", refused(err)
		}
		if !there {
			return "", nil
		}
	default:
		socket = choice
	}
	why := r.ownOnly(flags)
	switch {
	case why == "":
		return socket, nil
	case choice == agentAuto:
		r.log.Warn("it runs in an agent of its own, and not in the one that is there", "reason", why)
		return "", nil
	}
	return "", hint(fmt.Errorf("--agent %s: %s", choice, why), "leave --agent out: then the run has an agent of its own")
}

// ownOnly says why a running agent cannot be asked for this run; empty where it can.
func (r *run) ownOnly(flags *pflag.FlagSet) string {
	for _, name := range []string{"rego", "resolver", "trusted-network", "upstream-ca"} {
		if flags.Changed(name) {
			return "--" + name + " is for the agent as a whole"
		}
	}
	terminals := 0
	for _, file := range r.streams() {
		if tty.IsTerminal(file) {
			terminals++
		}
	}
	if terminals > 0 && terminals < len(r.streams()) {
		return "some of its streams are a terminal, and some are not"
	}
	size, environ := 0, r.variables()
	for key, value := range environ {
		size += len(key) + len(value)
		if len(key) > maxVariableName || len(value) > maxVariable {
			return "the variable " + key + " is too long for the API"
		}
	}
	if len(environ) > maxVariables || size > maxEnvironment {
		return "the environment is too large for the API"
	}
	return ""
}

// variables is the caller's environment, as far as a command in a sandbox gets it. What
// depends on the sandbox or on its user is left to the agent.
func (r *run) variables() map[string]string {
	list, err := launch.Environment(launch.EnvConfig{Inherit: r.env.Environ, Extra: r.settings.env})
	if err != nil {
		return nil // the flags were checked
	}
	given := make(map[string]bool, len(r.settings.env))
	for _, kv := range r.settings.env {
		key, _, _ := strings.Cut(kv, "=")
		given[key] = true
	}
	environ := make(map[string]string, len(list))
	for _, kv := range list {
		key, value, _ := strings.Cut(kv, "=")
		theirs := slices.Contains([]string{"HOME", "USER", "LOGNAME", "SHELL", "RINGFENCE_SANDBOX"}, key) && !given[key]
		// A shell's functions have names that are none, and may have lines: bash makes
		// them anew from files.
		if !theirs && isVariable(key) && !strings.ContainsAny(value, "\r\n") {
			environ[key] = value
		}
	}
	return environ
}

func isVariable(name string) bool {
	return name != "" && (name[0] < '0' || name[0] > '9') && !strings.ContainsFunc(name, func(r rune) bool {
		return r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	})
}

// inService runs the command in a sandbox of a running agent, which is deleted when the
// command has ended.
func (r *run) inService(ctx context.Context, socket string) (status int, err error) {
	client, err := api.Dial(socket)
	if err != nil {
		return 0, ownFailure(refused(err))
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	name := "run-" + strings.ToLower(rand.Text()[:12])
	if tty.IsTerminal(r.env.Stderr) {
		fmt.Fprintf(r.env.Stderr, "ringfence: in sandbox %s of the agent at %s\n", name, quoted(socket))
	}
	r.log.Info("the command runs in the agent that is there", "socket", socket, "sandbox", name)
	records := &remoteRecords{client: client, recorder: r.recorder, sandbox: name, log: r.log}
	// Also where making it was interrupted: it may be there all the same.
	defer func() { err = errors.Join(err, r.removeRemote(client, name), records.finish()) }()
	_, err = client.Sandboxes.CreateSandbox(ctx, &ringfencev1.CreateSandboxRequest{Name: name, Spec: r.spec()})
	if err != nil {
		return 0, r.ended(ctx, err)
	}
	records.start(ctx)
	stop := r.followRemote(ctx, client, name)
	defer stop()
	start := &ringfencev1.ExecStart{Sandbox: name, Argv: r.argv, Environment: r.variables(), Workdir: r.settings.workdir}
	r.tellPreload(pairsOf(start.GetEnvironment()))
	if start.Terminal = tty.IsTerminal(r.env.Stdout); start.Terminal {
		start.Size = terminalSize(r.env)
	}
	status, err = (&execution{env: r.env, start: start, interrupted: r.interrupted}).run(ctx, client)
	return status, r.ended(ctx, err)
}

// spec is the sandbox of the run.
func (r *run) spec() *ringfencev1.SandboxSpec {
	spec := &ringfencev1.SandboxSpec{
		Policy: sourceOf(r.settings.feed.Now), Workdir: realDir(r.settings.workdir), Visible: []string{realDir(r.settings.workdir)},
		Labels:    map[string]string{"ringfence.run": strconv.Itoa(r.env.UID)},
		Ephemeral: true, // it ends with this process, also where that is killed
	}
	if r.settings.controlPlane != (flow.Target{}) {
		spec.ControlPlane = r.settings.controlPlane.String()
	}
	// Of a policy's process the agent reads user and group itself.
	user, group := r.settings.policy.Process()
	if u := r.settings.user; u != nil && (r.settings.userFlag || user == "" && group == "") {
		spec.User = strconv.FormatUint(uint64(u.UID), 10)
	}
	return spec
}

// ended returns the signal that ended a call, instead of what the call says of it.
func (r *run) ended(ctx context.Context, err error) error {
	if ended := (*signalError)(nil); err != nil && errors.As(context.Cause(ctx), &ended) {
		return ended
	}
	return ownFailure(refused(err))
}

// removeRemote deletes the sandbox, however the run came to its end.
func (r *run) removeRemote(client *api.Client, name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), removeTimeout)
	defer cancel()
	_, err := client.Sandboxes.DeleteSandbox(ctx, &ringfencev1.DeleteSandboxRequest{Name: name, AllowMissing: true})
	if err != nil {
		e := api.ErrorOf(err)
		return hint(fmt.Errorf("delete sandbox %s: %w", name, e), "try: ringfence sandbox delete "+name)
	}
	return nil
}

// followRemote hands changes of the policy's files to the agent, which does not read
// them itself. What is refused is told, and the policy of before stays.
func (r *run) followRemote(parent context.Context, client *api.Client, name string) (stop func()) {
	ctx, cancel := context.WithCancel(parent)
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.settings.feed.Reload = r.interrupted.reload
		follow(ctx, r.settings.feed, r.log, func(next *ringfencev1.PolicySource) {
			_, err := client.Policies.SetPolicy(ctx, &ringfencev1.SetPolicyRequest{Sandbox: name, Source: next})
			switch {
			case err != nil && ctx.Err() == nil:
				r.log.Error("the policy that was read is refused, the one of before stays", "error", api.ErrorOf(err).Message)
			case err == nil:
				r.log.Info("the policy was read and is in force")
			}
		})
	}()
	return func() {
		cancel()
		<-done
	}
}

func pairsOf(environ map[string]string) (list []string) {
	for key, value := range environ {
		list = append(list, key+"="+value)
	}
	return list
}
