package event

import (
	"slices"
	"strings"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// Filter says which records are wanted. What is empty asks for nothing.
type Filter struct {
	Sandbox  string
	Verdicts []flow.Verdict // one of them
	Reasons  []flow.Reason  // likewise
	Modes    []flow.Mode    // likewise
	// Host is a host, or with a dot before it every host below: ".example.com" stands
	// for www.example.com and not for example.com.
	Host   string
	Binary string // the program's path, as raw bytes
	// Since and Until bound the time of the start; Until is the first moment that does
	// not count.
	Since, Until time.Time
}

// Match reports whether a record is wanted.
func (f *Filter) Match(r *flow.Record) bool {
	switch {
	case f.Sandbox != "" && r.Sandbox != f.Sandbox:
	case f.Binary != "" && r.Binary != f.Binary:
	case len(f.Verdicts) > 0 && !slices.Contains(f.Verdicts, r.Verdict):
	case len(f.Reasons) > 0 && !slices.Contains(f.Reasons, r.Reason):
	case len(f.Modes) > 0 && !slices.Contains(f.Modes, r.Mode):
	case f.Host != "" && !f.matchHost(r.Host):
	case !f.Since.IsZero() && r.Time.Before(f.Since):
	case !f.Until.IsZero() && !r.Time.Before(f.Until):
	default:
		return true
	}
	return false
}

func (f *Filter) matchHost(host string) bool {
	if !strings.HasPrefix(f.Host, ".") {
		return strings.EqualFold(host, f.Host)
	}
	// Bytes are compared: a fold that changes the length is none of a host's.
	return len(host) > len(f.Host) && strings.EqualFold(host[len(host)-len(f.Host):], f.Host)
}
