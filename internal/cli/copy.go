package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/internal/cli/transfer"
	"github.com/ringfence/ringfence/internal/event"
)

const copyLong = `Copies files and directories to or from a sandbox: one of SOURCE and TARGET is
NAME:PATH, and the other a path here, or "-". It is SFTP over "ringfence ssh", so
that nothing is needed in the sandbox, and files are its user's there.

A directory is copied with all that is in it. Where the target is a directory, the copy
goes into it; with "/." at the end of the source, what is in the source does. "-" is
the standard input or output, for one file. A PATH of the sandbox's that is not
absolute begins where an SSH session does. A local path with a colon is written
./a:b.

What comes out of a sandbox stays below the target. Symbolic links, devices and
their like are left out, and told.` + serviceExits

const copyExample = `  ringfence sandbox cp web:build/app.tar.gz .
  ringfence sandbox cp src web:
  tar c . | ringfence sandbox cp - web:all.tar`

// place is a path here, or in a sandbox.
type place struct {
	sandbox string // empty: here
	path    string
}

// parsePlace reads NAME:PATH, or a path. What has a slash before the colon is a path.
func parsePlace(text string) place {
	name, path, found := strings.Cut(text, ":")
	if !found || strings.Contains(name, "/") || name == "" {
		return place{path: text}
	}
	if path == "" {
		path = "."
	}
	return place{name, path}
}

// parsePlaces reads both, of which one must be in a sandbox.
func parsePlaces(args []string) (from, to place, err error) {
	from, to = parsePlace(args[0]), parsePlace(args[1])
	switch {
	case from.sandbox == "" && to.sandbox == "":
		err = hint(errors.New("neither SOURCE nor TARGET is in a sandbox"), "write NAME:PATH for the one that is")
	case from.sandbox != "" && to.sandbox != "":
		err = hint(errors.New("both SOURCE and TARGET are in a sandbox"), "copy to this host first, and from there")
	case from.path == "" || to.path == "":
		err = errors.New("a path is empty")
	}
	return from, to, unread(err)
}

func newCopy(env Env) *cobra.Command {
	r := &remote{env: env}
	cmd := &cobra.Command{
		Use:     "cp SOURCE TARGET",
		Aliases: []string{"copy"},
		Short:   "Copy files to or from a sandbox",
		Long:    copyLong,
		Example: copyExample,
		Args:    theseArgs("SOURCE", "TARGET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, to, err := parsePlaces(args)
			if err != nil {
				return err
			}
			ctx, interrupted := catchInterrupts(cmd.Context())
			defer interrupted.stop()
			err = copyFiles(ctx, r, from, to)
			if ended := (*signalError)(nil); err != nil && errors.As(context.Cause(ctx), &ended) {
				return ended
			}
			return refused(err)
		},
	}
	r.addTo(cmd.Flags())
	cmd.ValidArgsFunction = completeCopy(r)
	return cmd
}

// completeCopy completes paths, and names with a colon.
func completeCopy(r *remote) completer {
	sandboxes := completeSandbox(r, 2)
	return func(cmd *cobra.Command, args []string, text string) ([]cobra.Completion, cobra.ShellCompDirective) {
		names, _ := sandboxes(cmd, args, text)
		for i := range names {
			names[i] += ":"
		}
		return names, cobra.ShellCompDirectiveNoSpace
	}
}

func copyFiles(ctx context.Context, r *remote, from, to place) (err error) {
	name := from.sandbox + to.sandbox
	l, err := newLogin(ctx, r, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.remove()) }()
	cmd, err := l.command(ctx, "-T", "-s", hostOf(name), "sftp")
	if err != nil {
		return err
	}
	cmd.Stderr, cmd.Env = r.env.Stderr, r.env.Environ
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start ssh: %w", err)
	}
	defer func() {
		_ = in.Close()
		if waitErr := cmd.Wait(); errors.Is(err, transfer.ErrStart) && waitErr != nil {
			err = fmt.Errorf("ssh: %w", waitErr) // it has said why
		}
	}()
	c, end, err := transfer.Start(out, in, func(what string) {
		fmt.Fprintf(r.env.Stderr, "warning: %s\n", event.Prose(what))
	})
	if err != nil {
		return err
	}
	defer func() { _ = end() }() // it only says that the pipe is closed
	shown := startProgress(r.env.Stderr, func() string {
		file, bytes := c.Done()
		return fmt.Sprintf("copied %s … %s", size(bytes), file)
	})
	defer shown.end()
	switch {
	case from.path == "-" && from.sandbox == "":
		return c.From(r.env.Stdin, to.path)
	case to.path == "-" && to.sandbox == "":
		return c.To(r.env.Stdout, from.path)
	case from.sandbox == "":
		return c.Upload(absolute(r.env, from.path), to.path)
	}
	return c.Download(from.path, absolute(r.env, to.path))
}

// size is a number of bytes for a person.
func size(bytes int64) string {
	switch {
	case bytes < 10<<10:
		return fmt.Sprintf("%d B", bytes)
	case bytes < 10<<20:
		return fmt.Sprintf("%.1f KiB", float64(bytes)/(1<<10))
	case bytes < 10<<30:
		return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30))
}
