package daemon

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/ringfence/ringfence/internal/api"
	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
)

// agentService serves ringfence.v1.Agent.
type agentService struct {
	pb.UnimplementedAgentServer
	*Daemon
}

// GetStatus tells how the agent is.
func (s agentService) GetStatus(context.Context, *pb.GetStatusRequest) (*pb.AgentStatus, error) {
	status := &pb.AgentStatus{
		Version: s.cfg.Version, Pid: uint32(os.Getpid()), StartTime: api.Time(s.started), State: "serving",
		Sandboxes: uint32(s.fleet.len()), Adopted: uint32(s.adopted), Hooks: s.agent.Hooks(),
		SshSocket: s.cfg.SSH.Socket, SshConnections: uint32(s.ssh.Stats().Conns), ResidentBytes: resident(),
		Records: s.journal.Made(), RecordsLost: s.journal.Lost(), Problems: s.problems(),
	}
	select {
	case <-s.stopping:
		status.State = "stopping"
	default:
	}
	if s.ssh.address != nil {
		status.SshAddress = s.ssh.address.String()
	}
	return status, nil
}

// problems tells what is not as it should be, one sentence each.
func (d *Daemon) problems() []string {
	var problems []string
	boxes, _ := d.fleet.all()
	for _, b := range boxes {
		message, _, _ := d.fleet.look(b)
		switch reason := message.GetStatus().GetReason(); {
		case message.GetStatus().GetPhase() == pb.SandboxStatus_FAILED:
			problems = append(problems, "sandbox "+b.name+" has failed: "+reason)
		case reason != "":
			problems = append(problems, "sandbox "+b.name+" is not served: "+reason)
		}
	}
	if n := d.journal.Lost(); n > 0 {
		problems = append(problems, "records could not be written to their file")
	}
	return slices.Clip(problems)
}

// resident returns the agent's resident memory in bytes.
func resident() uint64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, pages uint64
	if _, err := fmt.Sscan(string(text), &size, &pages); err != nil {
		return 0
	}
	return pages * uint64(os.Getpagesize())
}
