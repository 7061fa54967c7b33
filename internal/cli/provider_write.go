package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/api/ringfencev1"
)

const howToGive = `A credential is given as one of
  KEY=@FILE   what FILE holds, without the newlines at its end
  KEY=-       likewise, of the standard input
  KEY         the variable KEY of the environment
  KEY=VALUE   VALUE itself; others can read it in the list of processes, and the
              shell keeps it in its history`

// maxSecret bounds what a credential is read from: the API takes 8 KiB.
const maxSecret = 8192 + 2

// providerOptions are the flags of create and update as they were typed.
type providerOptions struct {
	kind        string
	credentials []string
	config      []string
}

func (o *providerOptions) addTo(f *pflag.FlagSet, verb, config string) {
	f.SortFlags = false
	f.StringVar(&o.kind, "type", "", verb+" the `TYPE`, such as anthropic, openai, github")
	f.StringArrayVar(&o.credentials, "credential", nil, verb+" the credential `KEY=@FILE|KEY=-|KEY|KEY=VALUE` *")
	f.StringArrayVar(&o.config, "config", nil, config+" *")
}

// secrets reads the credentials. None of their values stands in an error.
func (o *providerOptions) secrets(env Env) (map[string]string, error) {
	read := make(map[string]string, len(o.credentials))
	stdin := false
	for _, text := range o.credentials {
		key, value, given := strings.Cut(text, "=")
		if key == "" {
			return nil, unread(hint(errors.New("--credential has no KEY"), "write --credential KEY=@FILE"))
		}
		var err error
		switch {
		case !given:
			value, err = secretVariable(key, env)
		case value == "-":
			if stdin {
				return nil, unread(errors.New("the standard input can be one credential, not two"))
			}
			stdin = true
			value, err = readSecret(env.Stdin, key)
		case strings.HasPrefix(value, "@"):
			value, err = secretFile(value[1:], key)
		default:
			fmt.Fprintf(env.Stderr, "ringfence: the value of --credential %s stands on the command line, where others can read it\nhint: %s=@FILE or %s=- keep it to yourself\n",
				quoted(key), quoted(key), quoted(key))
		}
		if err != nil {
			return nil, unread(fmt.Errorf("--credential %s: %w", key, err))
		}
		read[key] = value
	}
	return read, nil
}

func secretVariable(key string, env Env) (string, error) {
	value := env.variable(key)
	if value == "" {
		return "", hint(fmt.Errorf("the environment has no %s", key), "sudo does not hand it on; KEY=@FILE reads a file")
	}
	return value, nil
}

func secretFile(path, key string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	return readSecret(file, key)
}

func readSecret(in io.Reader, key string) (string, error) {
	data, err := io.ReadAll(io.LimitReader(in, maxSecret+1))
	if err != nil {
		return "", err
	}
	if len(data) > maxSecret {
		return "", fmt.Errorf("it has more than %d bytes", maxSecret)
	}
	value := strings.TrimRight(string(data), "\r\n")
	if value == "" {
		return "", fmt.Errorf("there is nothing to be read for %s", key)
	}
	return value, nil
}

func newProviderCreate(env Env) *cobra.Command {
	var opts providerOptions
	var out output
	r := &remote{env: env}
	cmd := &cobra.Command{
		Use:   "create NAME --type TYPE",
		Short: "Keep credentials for a service",
		Long:  "Keeps credentials for a service under a name.\n\n" + howToGive + "\n\nFlags marked * may be repeated." + serviceExits,
		Example: `  ringfence provider create claude --type anthropic --credential api_key=@key.txt
  gh auth token | ringfence provider create github --type github --credential token=-`,
		Args: theseArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := out.check(); err != nil {
				return err
			}
			if opts.kind == "" {
				return unread(hint(errors.New("--type is missing"), "write --type anthropic, or what else the service is"))
			}
			p := &ringfencev1.Provider{Name: args[0], Type: opts.kind}
			var err error
			if p.Config, err = pairs("--config", opts.config); err != nil {
				return err
			}
			if p.Credentials, err = opts.secrets(env); err != nil {
				return err
			}
			return r.call(func(c *api.Client) error {
				made, err := c.Providers.CreateProvider(cmd.Context(), &ringfencev1.CreateProviderRequest{Provider: p})
				if err != nil {
					return err
				}
				return showProvider(env, &out, made)
			})
		},
	}
	opts.addTo(cmd.Flags(), "set", "set the setting `K=V`")
	out.addTo(cmd.Flags(), nounFormats()...)
	r.addTo(cmd.Flags())
	return cmd
}

func showProvider(env Env, out *output, p *ringfencev1.Provider) error {
	return out.show(env.Stdout, withoutSecrets(p), func(t *table, wide bool) { providerRows(t, wide, p) })
}

const providerUpdateLong = `Changes a provider. Its settings are changed one by one: KEY=VALUE sets, and KEY-
removes. Credentials are replaced, all of them: the agent shows none that could be
kept.

` + howToGive + `

Flags marked * may be repeated.` + serviceExits

func newProviderUpdate(env Env) *cobra.Command {
	var opts providerOptions
	var out output
	r := &remote{env: env}
	cmd := &cobra.Command{
		Use:     "update NAME",
		Short:   "Replace a provider's credentials, or change its settings",
		Long:    providerUpdateLong,
		Example: `  ringfence provider update claude --credential api_key=@new.txt`,
		Args:    theseArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := out.check(); err != nil {
				return err
			}
			if opts.kind == "" && len(opts.credentials) == 0 && len(opts.config) == 0 {
				return unread(hint(errors.New("nothing is to be changed"), cmd.CommandPath()+" --help lists what can be"))
			}
			credentials, err := opts.secrets(env)
			if err != nil {
				return err
			}
			return r.call(func(c *api.Client) error {
				changed, err := opts.update(cmd.Context(), c, args[0], credentials)
				if err != nil {
					return err
				}
				return showProvider(env, &out, changed)
			})
		},
	}
	opts.addTo(cmd.Flags(), "replace", "set the setting `K=V`, or remove K-")
	out.addTo(cmd.Flags(), nounFormats()...)
	r.addTo(cmd.Flags())
	cmd.ValidArgsFunction = completeProvider(r)
	return cmd
}

// update reads, changes and writes, and does so anew where another wrote in between.
func (o *providerOptions) update(ctx context.Context, c *api.Client, name string, credentials map[string]string) (*ringfencev1.Provider, error) {
	for try := 1; ; try++ {
		present, err := c.Providers.GetProvider(ctx, &ringfencev1.GetProviderRequest{Name: name})
		if err != nil {
			return nil, err
		}
		p := &ringfencev1.Provider{Name: name, Type: o.kind, Credentials: credentials}
		request := &ringfencev1.UpdateProviderRequest{Provider: p, Version: present.GetVersion()}
		if o.kind != "" {
			request.Fields = append(request.Fields, "type")
		}
		if len(credentials) > 0 {
			request.Fields = append(request.Fields, "credentials")
		}
		if len(o.config) > 0 {
			request.Fields = append(request.Fields, "config")
			if p.Config, err = merge("--config", present.GetConfig(), o.config); err != nil {
				return nil, err
			}
		}
		changed, err := c.Providers.UpdateProvider(ctx, request)
		if conflicts(err) && try < updateTries {
			continue
		}
		return changed, err
	}
}
