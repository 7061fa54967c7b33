package policy

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"

	"github.com/ringfence/ringfence/internal/flow"
)

// Host is the host of an endpoint: a name, a wildcard or an IP literal. The zero
// value is none.
type Host struct {
	text string     // canonical, with * and ** where it is a wildcard
	addr netip.Addr // valid where the host is an IP literal
}

func (h Host) wildcard() bool { return strings.Contains(h.text, "*") }

// IsZero makes the host one that omitempty leaves out.
func (h Host) IsZero() bool { return h == Host{} }

// MarshalText writes the canonical form.
func (h Host) MarshalText() ([]byte, error) { return []byte(h.text), nil }

// read takes a name, a wildcard or an IP literal. The empty text is no host;
// whether there may be none is for the endpoint to say.
func (h *Host) read(r *reader, n *yaml.Node, field string) {
	text, ok := r.text(n, field, 253)
	if !ok || text == "" {
		return
	}
	if addr, err := netip.ParseAddr(text); err == nil {
		*h = r.literal(n, field, addr)
		return
	}
	if strings.Contains(text, "*") {
		if why := wildcardFault(text); why != "" {
			r.fail(n, field, "%q %s", text, why)
			return
		}
		h.text = strings.ToLower(text)
		return
	}
	name, err := flow.CanonicalHost(text)
	if err != nil {
		r.fail(n, field, "%s", HostFault(text, err))
		return
	}
	h.text = name
}

// HostFault says what is wrong with a text that is no host, and how to write what
// was probably meant.
func HostFault(text string, err error) string {
	if strings.ContainsFunc(text, func(c rune) bool { return c > unicode.MaxASCII }) {
		return fmt.Sprintf("%q is not a host name: write it in its ASCII form (xn--…)", text)
	}
	if meant := hostMeant(text); meant != "" {
		return fmt.Sprintf("%q is not a host name; did you mean %s?", text, meant)
	}
	return err.Error()
}

// hostMeant returns what was probably meant: people paste URLs.
func hostMeant(text string) string {
	if _, rest, ok := strings.Cut(text, "://"); ok {
		text = rest
	}
	host, rest, _ := strings.Cut(text, "/")
	name, port, _ := strings.Cut(host, ":")
	name, err := flow.CanonicalHost(strings.TrimSuffix(name, "."))
	switch {
	case err != nil:
		return ""
	case port != "":
		return fmt.Sprintf("host %s with port %.5s", name, port)
	case rest != "":
		return fmt.Sprintf("host %s with a path in its rules", name)
	}
	return name
}

func (r *reader) literal(n *yaml.Node, field string, addr netip.Addr) Host {
	switch {
	case addr.Zone() != "":
		r.fail(n, field, "an address with a zone never matches")
	case addr.Is4In6():
		r.fail(n, field, "%s has two readings; write %s", addr, addr.Unmap())
	case flow.RefusedOverlap(netip.PrefixFrom(addr, addr.BitLen())).IsValid():
		r.warn(n, field, "%s is an address that is always refused (loopback, link-local, multicast, reserved)", addr)
	}
	return Host{text: addr.String(), addr: addr}
}

// wildcardFault says what is wrong with a wildcard; empty for nothing.
func wildcardFault(text string) string {
	labels := strings.Split(text, ".")
	if len(labels) < 3 {
		return "is too broad: a wildcard has three labels or more, as in *.example.com"
	}
	for i, label := range labels {
		switch {
		case !strings.Contains(label, "*"):
		case i >= len(labels)-2:
			// Whoever registers a name would choose what *.com or a.*.com means.
			return "is too broad: the last two labels must be written out"
		case i == 0 && label == "**", label == "*":
		case strings.Contains(label, "**"):
			return "may have ** only as the whole first label"
		case i > 0:
			return "may have * within a label only in the first; elsewhere it is the whole label"
		}
	}
	// With a letter for each wildcard it must be a name, or it matches none.
	stars := strings.NewReplacer("**", "a", "*", "a")
	if _, err := flow.CanonicalHost(stars.Replace(text)); err != nil {
		return "never matches: " + err.Error()
	}
	return ""
}

// matches reports whether the pattern stands for a host in canonical form.
func (h Host) matches(host string) bool {
	if !h.wildcard() {
		return h.text == host
	}
	return regexp.MustCompile(h.expression()).MatchString(host)
}

// suffix returns the labels behind the last wildcard, by which a wildcard is
// indexed, and how many they are.
func (h Host) suffix() (suffix string, labels int) {
	_, suffix, _ = strings.Cut(h.text[strings.LastIndexByte(h.text, '*'):], ".")
	return suffix, strings.Count(suffix, ".") + 1
}

// expression returns the anchored regular expression that matches what the
// wildcard matches. It and the map of exact hosts are the only matcher of hosts.
func (h Host) expression() string {
	rest, many := strings.CutPrefix(h.text, "**.")
	labels := strings.Split(rest, ".")
	for i, label := range labels {
		if label == "*" {
			labels[i] = `[^.]+`
			continue
		}
		labels[i] = strings.ReplaceAll(regexp.QuoteMeta(label), `\*`, `[^.]*`)
	}
	expression := strings.Join(labels, `\.`)
	if many {
		expression = `(?:[^.]+\.)+` + expression
	}
	return `^` + expression + `$`
}

// literals counts the bytes that a pattern writes out: the more, the more
// specific it is.
func (h Host) literals() int { return len(h.text) - strings.Count(h.text, "*") }

// class orders patterns from the most specific to the least: names and addresses,
// wildcards of a known depth, wildcards of any depth, no host.
func (h Host) class() int {
	switch {
	case h.text == "":
		return 3
	case strings.HasPrefix(h.text, "**"):
		return 2
	case h.wildcard():
		return 1
	}
	return 0
}
