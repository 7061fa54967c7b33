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
		allowed := ""
		if target.Addr.IsValid() && flow.ClassOf(target.Addr) == flow.ClassSpecial {
			allowed = fmt.Sprintf(", allowed_ips: [%q]", target.Host)
		}
		return fmt.Sprintf("no policy names %s; add an endpoint {host: %q, port: %d%s} to one whose binaries hold %s",
			target.Host, target.Host, target.Port, allowed, quotePath(id.Path))
	case flow.ReasonWrongPort:
		return fmt.Sprintf("policy %s names %s, but not port %d; add it to the endpoint's ports",
			d.Policy, target.Host, target.Port)
	case flow.ReasonWrongBinary:
		if BinaryPath(id.Path).IsGlob() {
			return fmt.Sprintf("policy %s opens %s for other programs, and a binary cannot name %s: its star would stand for other files too",
				d.Policy, target, quotePath(id.Path))
		}
		return fmt.Sprintf("policy %s opens %s for other programs; add {path: %s} to its binaries",
			d.Policy, target, quotePath(id.Path))
	case flow.ReasonTaintedBinary:
		return fmt.Sprintf("policy %s would match, but %s", d.Policy, taintedImage(id))
	case flow.ReasonHashMismatch:
		return fmt.Sprintf("policy %s would match, but the file is another than its sha256 says; if it was updated, write the new one", d.Policy)
	case flow.ReasonHashUnavailable:
		return fmt.Sprintf("policy %s would match, but for the sha256 it asks for: what is in the file that runs cannot be told (it was changed just before or after its start, is over 1 GiB, or its user can write it where writes leave no trace); start the program again, or have root install it", d.Policy)
	case flow.ReasonHashChanged:
		return fmt.Sprintf("policy %s would match, but %s is another file than the one that was first used under that path; "+
			"if it was updated, write its sha256, or allow_taints: [changed] where it may change", d.Policy, quotePath(changedPath(id)))
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
		taints := image.Taints &^ flow.NotedTaints
		if taints == 0 {
			continue
		}
		who := "the program"
		if i > 0 {
			who = "its ancestor"
		}
		text := fmt.Sprintf("%s %s is tainted (%s)", who, quotePath(image.Path), strings.Join(taints.Names(), ", "))
		if taints.Has(flow.TaintPreload) && image.Preload != 0 {
			text += "; its environment sets " + strings.Join(image.Preload.Names(), ", ")
		}
		if !taints.Liftable() {
			return text + ", which no binary can put up with"
		}
		return text + "; the binary may put up with it by allow_taints"
	}
	return "the policy names the program by a symbolic link that the sandbox can change; " +
		"add allow_taints: [writable] to the binary if it may, or name the file it leads to"
}

// changedPath returns the path under which another file was used first.
func changedPath(id *flow.Identity) string {
	for _, image := range append([]flow.Image{id.Image}, id.Ancestors...) {
		if image.Taints.Has(flow.TaintChanged) {
			return image.Path
		}
	}
	return id.Path
}

// requestHint says what to do about a request that was not allowed.
func requestHint(d *flow.Decision, id *flow.Identity, target flow.Target, request flow.Request) string {
	switch d.Reason {
	case flow.ReasonNoRule:
		return fmt.Sprintf("policy %s does not allow %s %s; add a rule for it, or widen access, in %s",
			d.Policy, quotePath(request.Method), quotePath(request.Path), d.Endpoint)
	case flow.ReasonDenyRule:
		return fmt.Sprintf("policy %s refuses it by %s of %s", d.Policy, d.Rule, d.Endpoint)
	case flow.ReasonEncodedSlash:
		return fmt.Sprintf("the path holds %%2F, which some servers read as a slash; policy %s must say allow_encoded_slash", d.Policy)
	case flow.ReasonInspectionUnavailable:
		return fmt.Sprintf("policy %s asks for messages of a protocol to be inspected that this version does not read", d.Policy)
	}
	return hint(d, id, target)
}

// objectionHint tells what the operator's modules said.
func objectionHint(objections []any) string {
	const shown = 3
	var texts []string
	for i, objection := range objections {
		if i == shown {
			texts = append(texts, fmt.Sprintf("and %d more", len(objections)-shown))
			break
		}
		text, _ := objection.(string)
		texts = append(texts, quotePath(text))
	}
	return "denied by a rule of the operator's: " + strings.Join(texts, ", ")
}

// quotePath bounds and quotes a path: hints are shown on terminals and cached.
func quotePath(path string) string {
	const shown = 256
	if len(path) > shown {
		path = path[:shown] + "…"
	}
	return strconv.QuoteToASCII(path)
}
