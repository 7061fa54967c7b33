package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/internal/api"
)

const sshConfigLong = `Prints entries of ~/.ssh/config for sandboxes (default: all that there are), so that
ssh, scp, sftp, rsync, git and editors reach each as NAME.ringfence. Append them, or
write them to a file that ~/.ssh/config has an Include of.

Each time that ssh uses an entry it first asks the agent, by "ringfence
ssh-credential", to sign a key for some minutes. The key and what else ssh needs are
files in ~/.ringfence/ssh/NAME; without access to the agent they let nobody in.

Whoever may ask the agent may use the entries: print them as who will run ssh.` + serviceExits

const sshConfigExample = `  ringfence ssh-config web > ~/.ssh/ringfence.conf
  sed -i '1i Include ringfence.conf' ~/.ssh/config
  ssh web.ringfence; scp -r src web.ringfence:; git clone ssh://web.ringfence/home/web/repo`

func newSSHConfig(env Env) *cobra.Command {
	r := &remote{env: env}
	cmd := &cobra.Command{
		Use:     "ssh-config [NAME...]",
		Short:   "Print entries of ~/.ssh/config for sandboxes",
		Long:    sshConfigLong,
		Example: sshConfigExample,
		RunE: func(cmd *cobra.Command, names []string) error {
			if len(names) == 0 {
				err := r.call(func(c *api.Client) error {
					all, err := allSandboxes(cmd.Context(), c, nil)
					for _, s := range all {
						names = append(names, s.GetName())
					}
					return err
				})
				if err != nil {
					return err
				}
			}
			return r.writeConfig(names)
		},
	}
	cmd.SetFlagErrorFunc(unreadFlags)
	r.addTo(cmd.Flags())
	cmd.ValidArgsFunction = completeSandbox(r, anyNumber)
	return cmd
}

func (r *remote) writeConfig(names []string) error {
	home := r.env.variable("HOME")
	if !filepath.IsAbs(home) {
		return unread(errors.New("there is no home directory: HOME is not set"))
	}
	var b strings.Builder
	b.WriteString("# Of \"ringfence ssh-config\", which prints it anew.\n")
	for _, name := range names {
		if !isName(name) {
			return unread(hint(fmt.Errorf("%q is no name of a sandbox", name), "ringfence sandbox list shows the names"))
		}
		entry, err := r.configEntry(name, sshFiles{filepath.Join(home, ".ringfence", "ssh", name)})
		if err != nil {
			return err
		}
		b.WriteString(entry)
	}
	_, err := r.env.Stdout.WriteString(b.String())
	return err
}

// configEntry is the entry of one sandbox. The Match has no lines of its own: it is
// there for its command, which ssh runs before it reads the key.
func (r *remote) configEntry(name string, files sshFiles) (string, error) {
	var socket []string
	if path := r.path(); path != api.DefaultSocket {
		if !filepath.IsAbs(path) {
			path = filepath.Join(r.env.Dir, path)
		}
		socket = []string{"--socket", path}
	}
	proxy, err := proxyCommand(socket...)
	if err != nil {
		return "", err
	}
	program, _, _ := strings.Cut(proxy, " ssh-proxy")
	credential := strings.TrimSpace(program + " " + commandLine(append(append([]string{"ssh-credential"}, socket...), "--directory", files.dir, name)))
	if text := credential + files.dir; strings.ContainsAny(text, "\"\n\\") {
		return "", unread(fmt.Errorf("ssh's configuration cannot hold %q: it has a quote, a backslash or a newline", text))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\nMatch originalhost %s exec \"%s\"\nHost %s\n", hostOf(name), credential, hostOf(name))
	for _, option := range files.options(name, proxy) {
		fmt.Fprintf(&b, "    %s %s\n", option.name, option.value)
	}
	return b.String(), nil
}

// isName reports whether a text can be a sandbox's name: it goes into a file of ssh's,
// and into a command line there.
func isName(text string) bool {
	for label := range strings.SplitSeq(text, ".") {
		if label == "" || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || strings.Trim(label, "-") != label {
			return false
		}
	}
	return len(text) <= 253
}

// newSSHCredential is for the entries of ssh-config.
func newSSHCredential(env Env) *cobra.Command {
	var dir string
	r := &remote{env: env}
	cmd := &cobra.Command{
		Use:    "ssh-credential NAME --directory DIR",
		Short:  "Have a key signed for a sandbox, for ssh",
		Hidden: true,
		Args:   theseArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !filepath.IsAbs(dir) {
				return unread(errors.New("--directory is missing, or not absolute"))
			}
			return r.call(func(c *api.Client) error {
				_, err := sshFiles{dir}.refresh(cmd.Context(), c, args[0])
				return err
			})
		},
	}
	cmd.SetFlagErrorFunc(unreadFlags)
	cmd.Flags().StringVar(&dir, "directory", "", "keep the key and what belongs to it in `DIR`")
	r.addTo(cmd.Flags())
	return cmd
}

// sshSocket asks where the agent's SSH server listens.
func (r *remote) sshSocket(ctx context.Context) (path string, err error) {
	err = r.call(func(c *api.Client) error {
		status, err := c.Agent.GetStatus(ctx, statusRequest())
		if err != nil {
			return err
		}
		if path = status.GetSshSocket(); path == "" {
			return hint(errors.New("the agent has no SSH server"), "its configuration turns it off")
		}
		return nil
	})
	return path, err
}
