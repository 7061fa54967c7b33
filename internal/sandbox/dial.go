package sandbox

import (
	"context"
	"net"

	"github.com/ringfence/ringfence/internal/launch"
)

// Dial connects to what listens in the sandbox, see launch.Namespaces.Dial. What is
// the sandbox's own and what is the agent's is filled in here.
func (sb *Sandbox) Dial(ctx context.Context, config launch.DialConfig) (net.Conn, error) {
	config.Own = nil
	for _, prefix := range ownAddresses {
		config.Own = append(config.Own, prefix.Addr())
	}
	config.Refused = []uint16{capturePort, dnsPort, proxyPort}
	return sb.space.Dial(ctx, config)
}
