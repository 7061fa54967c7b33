package policy

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/ringfence/ringfence/internal/flow"
)

// hint says what to do about a denial; empty where it is none. Paths are quoted,
// for they are the sandbox's own bytes.
func hint(d *flow.Decision, id *flow.Identity, target flow.Target) string {
	switch d.Reason {
	case flow.ReasonNoEndpoint:
		if target.Addr.IsValid() && flow.ClassOf(target.Addr) == flow.ClassRefused {
			return target.Host + " is never dialled, whatever a policy says"
		}
		return fmt.Sprintf("no policy names %s; add an endpoint {host: %q, port: %d} to one whose binaries hold %s",
			target.Host, target.Host, target.Port, quotePath(id.Path))
	case flow.ReasonWrongPort:
		return fmt.Sprintf("policy %s names %s, but not port %d; add it to the endpoint's ports",
			d.Policy, target.Host, target.Port)
	case flow.ReasonWrongBinary:
		return fmt.Sprintf("policy %s opens %s for other programs; add {path: %s} to its binaries",
			d.Policy, target, quotePath(id.Path))
	case flow.ReasonTaintedBinary:
		return fmt.Sprintf("policy %s would match, but %s", d.Policy, taintedImage(id))
	case flow.ReasonPortRefused:
		return fmt.Sprintf("port %d governs a cluster and is never opened by addresses alone; add an endpoint with host %q",
			target.Port, target.Host)
	case flow.ReasonInspectionUnavailable:
		return fmt.Sprintf("policy %s asks for its requests to be inspected, which this version does not do; "+
			"remove protocol, tls, access and rules to decide by host and port only", d.Policy)
	}
	return ""
}

// taintedImage names the image that keeps an identity from matching.
func taintedImage(id *flow.Identity) string {
	images := append([]flow.Image{id.Image}, id.Ancestors...)
	for i, image := range images {
		if image.Taints == 0 {
			continue
		}
		who := "the program"
		if i > 0 {
			who = "its ancestor"
		}
		return fmt.Sprintf("%s %s is tainted (%s)", who, quotePath(image.Path), strings.Join(image.Taints.Names(), ", "))
	}
	return "an image is tainted"
}

// quotePath bounds and quotes a path: hints are shown on terminals and cached.
func quotePath(path string) string {
	const shown = 256
	if len(path) > shown {
		path = path[:shown] + "…"
	}
	return strconv.QuoteToASCII(path)
}
