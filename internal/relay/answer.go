package relay

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

const (
	lingerTime  = time.Second
	lingerBytes = 64 << 10
)

// answer is the body that a refused client of the explicit proxy gets.
type answer struct {
	Error  string      `json:"error"`
	Detail string      `json:"detail"`
	Reason flow.Reason `json:"reason"`
	Hint   string      `json:"hint,omitempty"`
}

// refuse answers a request with why it is refused.
func (c *conn) refuse(d *flow.Denial) {
	c.settle(denied(d))
	status, kind := classify(d)
	body := answer{Error: kind, Detail: d.Detail, Reason: d.Reason, Hint: c.record.Hint}
	if body.Detail == "" {
		hostPort := net.JoinHostPort(c.record.Host, strconv.Itoa(int(c.record.Port)))
		body.Detail = "CONNECT " + hostPort + " not permitted by policy"
	}
	if body.Hint == "" {
		body.Hint = hint(d.Reason)
	}
	text, err := json.Marshal(body)
	if err != nil { // never: strings only
		text = []byte("{}")
	}
	fmt.Fprintf(c.client, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		status, http.StatusText(status), len(text), text)
	c.linger()
}

// classify returns the status of the answer and its error word.
func classify(d *flow.Denial) (status int, kind string) {
	switch d.Reason {
	case flow.ReasonMalformedRequest:
		return http.StatusBadRequest, string(d.Reason)
	case flow.ReasonTimeout:
		return http.StatusRequestTimeout, string(d.Reason)
	case flow.ReasonForwardProxy:
		return http.StatusNotImplemented, string(d.Reason)
	case flow.ReasonUpstreamUnreachable, flow.ReasonResolveFailed:
		return http.StatusBadGateway, string(flow.ReasonUpstreamUnreachable)
	}
	if d.Engine == flow.EngineSSRF {
		return http.StatusForbidden, "ssrf_denied"
	}
	return http.StatusForbidden, "policy_denied"
}

// linger lets the client read the answer: closing while bytes of it are unread
// (what it pipelined) would reset the connection and may destroy the answer.
func (c *conn) linger() {
	c.client.CloseWrite()
	c.client.SetReadDeadline(time.Now().Add(lingerTime))
	_, _ = io.CopyN(io.Discard, c.client, lingerBytes) // it is closed next, whatever came
}
