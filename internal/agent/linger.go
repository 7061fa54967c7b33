package agent

import "time"

const (
	// lingerTimeout bounds how long connections outlive their sandbox's programs.
	lingerTimeout = time.Second
	lingerPoll    = 2 * time.Millisecond
)

// linger waits, once no program is left, for what they sent before they ended: a
// program may connect, send, close and exit before its connection is accepted.
// Their ends of the connections are closed now, so that a server which answers the
// end with its own makes this a matter of a round trip.
func (sb *Sandbox) linger() {
	poll := time.NewTicker(lingerPoll)
	defer poll.Stop()
	for end := time.Now().Add(lingerTimeout); sb.busy() && time.Now().Before(end); {
		<-poll.C
	}
}

// busy reports whether a connection is there or about to be accepted. An origin is
// taken after its connection began to count, so none is missed in between.
func (sb *Sandbox) busy() bool {
	stats, err := sb.agent.datapath.Stats(sb.CgroupID())
	return err == nil && stats.Origins > 0 || sb.relay.Live() > 0
}
