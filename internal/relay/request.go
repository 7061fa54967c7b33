package relay

import (
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/sniff"
)

// readRequest reads the request to the explicit proxy and returns the target of
// a CONNECT; what follows the head stays in the inlet.
func (c *conn) readRequest(in *inlet) (flow.Target, *flow.Denial) {
	var scanner sniff.HeadScanner
	for {
		if err := in.fill(); err != nil {
			return flow.Target{}, badRead(err)
		}
		head, err := scanner.Scan(in.bytes())
		if errors.Is(err, sniff.ErrMore) {
			continue
		}
		if err != nil {
			return flow.Target{}, badRequest(err.Error())
		}
		in.drop(head.Size)
		if head.Method == http.MethodConnect {
			c.record.Mode = flow.ModeConnect
			return parseConnect(head)
		}
		return flow.Target{}, c.refuseForward(head)
	}
}

func badRead(err error) *flow.Denial {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &flow.Denial{Engine: flow.EngineProxy, Reason: flow.ReasonTimeout, Detail: "the request took too long"}
	case errors.Is(err, io.EOF):
		return badRequest("the connection ended before a request did")
	}
	return badRequest(err.Error())
}

func badRequest(detail string) *flow.Denial {
	return &flow.Denial{Engine: flow.EngineProxy, Reason: flow.ReasonMalformedRequest, Detail: detail}
}

// parseConnect returns the target of a CONNECT. A Host field is not needed, but
// may not say anything else.
func parseConnect(head sniff.Head) (flow.Target, *flow.Denial) {
	target, err := flow.ParseTarget(head.Target)
	if err != nil {
		return flow.Target{}, badRequest(err.Error())
	}
	if head.HasHost && !agrees(head.Host, target) {
		return flow.Target{}, badRequest("the Host field is not the target")
	}
	return target, nil
}

// agrees compares a Host field, whose port may be left out.
func agrees(host string, target flow.Target) bool {
	for _, text := range []string{host, host + ":" + strconv.Itoa(int(target.Port))} {
		if t, err := flow.ParseTarget(text); err == nil && t == target {
			return true
		}
	}
	return false
}

// refuseForward refuses a request that is no CONNECT. One in absolute form is
// well understood, but not served.
func (c *conn) refuseForward(head sniff.Head) *flow.Denial {
	scheme, rest, ok := strings.Cut(head.Target, "://")
	scheme = strings.ToLower(scheme)
	if !ok || scheme != "http" && scheme != "https" {
		return badRequest("only CONNECT is served here")
	}
	c.record.Mode = flow.ModeForward
	authority := rest
	if end := strings.IndexAny(rest, "/?#"); end >= 0 {
		authority = rest[:end]
	}
	target, err := parseAuthority(authority, scheme)
	if err != nil {
		return badRequest(err.Error())
	}
	c.record.SetTarget(target)
	if scheme == "https" {
		return badRequest("an https URL is asked for by CONNECT")
	}
	return &flow.Denial{Engine: flow.EngineProxy, Reason: flow.ReasonForwardProxy, Detail: "plain HTTP is not served by the proxy"}
}

// parseAuthority reads the authority of a URL, which may leave out the scheme's
// port. Userinfo is refused, as no host holds an "@".
func parseAuthority(authority, scheme string) (flow.Target, error) {
	if target, err := flow.ParseTarget(authority); err == nil {
		return target, nil
	}
	port := map[string]string{"http": ":80", "https": ":443"}[scheme]
	return flow.ParseTarget(authority + port)
}
