package flow

import (
	"slices"
	"strings"
)

// Variables is a set of environment variables by which a program loads code that
// is not its own. An empty value does nothing, and does not count.
type Variables uint64

// VariablesUnread is set for an environment that could not be read to its end, so that any
// of them may be set.
const VariablesUnread Variables = 1 << 63

// preloadVariables: the number of a variable is its bit. At most 63, of at most 23
// bytes each, that begin with a letter or an underscore.
var preloadVariables = []string{
	// The dynamic loader and the C library, so almost every program.
	"LD_PRELOAD", "LD_AUDIT", "LD_LIBRARY_PATH", "GCONV_PATH", "NIX_LD", "NIX_LD_LIBRARY_PATH",
	// Libraries that load what they are told: OpenSSL its configuration's, engines and
	// providers; Kerberos and SASL mechanisms; GIO modules. curl, git and wget have them.
	"OPENSSL_CONF", "OPENSSL_ENGINES", "OPENSSL_MODULES", "GSS_MECH_CONFIG", "SASL_PATH", "GIO_EXTRA_MODULES", "GIO_MODULE_DIR",
	// What node and bun run before the program, and what makes bun of a program that it
	// compiled. Not NODE_PATH, which the scripts that pnpm installs set: it adds a place
	// to look for modules that are found nowhere else.
	"NODE_OPTIONS", "BUN_OPTIONS", "BUN_BE_BUN",
	"PYTHONPATH", "PYTHONSTARTUP", "PYTHONHOME", "PYTHONUSERBASE", "PYTHONPYCACHEPREFIX", "PYTHONPLATLIBDIR",
	"PERL5OPT", "PERL5LIB", "PERLLIB", "PERL5DB",
	"RUBYOPT", "RUBYLIB",
	"JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS",
	"DOTNET_STARTUP_HOOKS", "PHPRC", "PHP_INI_SCAN_DIR",
	"LUA_INIT", "LUA_INIT_5_3", "LUA_INIT_5_4", "LUA_PATH", "LUA_CPATH",
	// What git runs in its own name. Not GIT_ASKPASS, which editors set in their
	// terminals, nor GIT_EXEC_PATH, which git sets for its own parts: like its
	// configuration they choose a program that git then is an ancestor of, no more.
	"GIT_SSH_COMMAND", "GIT_SSH", "GIT_PROXY_COMMAND",
	"BASH_ENV",
}

// PreloadVariables returns the names of all variables; the place of each is the
// number of its bit.
func PreloadVariables() []string { return slices.Clone(preloadVariables) }

// PreloadIn returns the variables that an environment sets, as "NAME=value" each.
func PreloadIn(env []string) Variables {
	var found Variables
	for _, text := range env {
		name, value, _ := strings.Cut(text, "=")
		if i := slices.Index(preloadVariables, name); i >= 0 && value != "" {
			found |= 1 << i
		}
	}
	return found
}

// Names returns the names of the variables that are set; nil for none.
func (v Variables) Names() []string {
	var names []string
	for i, name := range preloadVariables {
		if v&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	if v&^(1<<len(preloadVariables)-1) != 0 {
		names = append(names, "(an environment that is too large to be read)")
	}
	return names
}
