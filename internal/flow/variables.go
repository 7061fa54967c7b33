package flow

import (
	"slices"
	"strings"
)

// Variables is a set of environment variables by which a program loads code that
// is not its own. An empty value does nothing, and does not count.
type Variables uint32

// VariablesUnread is set for an environment that could not be read to its end, so that any
// of them may be set.
const VariablesUnread Variables = 1 << 31

// preloadVariables: the number of a variable is its bit. At most 31, of at most 23
// bytes each.
var preloadVariables = []string{
	// The dynamic loader and the C library, so almost every program.
	"LD_PRELOAD", "LD_AUDIT", "LD_LIBRARY_PATH", "GCONV_PATH",
	// What node and bun run before the program. Not NODE_PATH, which the scripts that
	// pnpm installs set: it adds a place to look for modules that are found nowhere else.
	"NODE_OPTIONS", "BUN_OPTIONS",
	"PYTHONPATH", "PYTHONSTARTUP", "PYTHONHOME", "PYTHONUSERBASE",
	"PERL5OPT", "PERL5LIB", "PERL5DB",
	"RUBYOPT", "RUBYLIB",
	"JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS",
	"DOTNET_STARTUP_HOOKS", "LUA_INIT",
	// What git runs in its own name. Not GIT_ASKPASS, which editors set in their
	// terminals, nor GIT_EXEC_PATH, which git sets for its own parts: like its
	// configuration they choose a program that git then is an ancestor of, no more.
	"GIT_SSH_COMMAND", "GIT_SSH", "GIT_PROXY_COMMAND",
	"BASH_ENV",
	// OpenSSL loads the engines and providers that its configuration names.
	"OPENSSL_CONF",
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
