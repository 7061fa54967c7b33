package datapath

import (
	"fmt"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// hook is one program and where it is attached. A program is named after it.
type hook struct {
	name    string
	program *ebpf.Program
	attach  ebpf.AttachType // of a cgroup hook; AttachTraceRawTp: a tracepoint
}

// hooks lists every hook in the order of attachment: identity first, so that no
// connection is ever seen without it.
func (dp *Datapath) hooks() []hook {
	p := &dp.objects.agentPrograms
	return []hook{
		{agentProgProcessExec, p.ProcessExec, ebpf.AttachTraceRawTp},
		{agentProgProcessFork, p.ProcessFork, ebpf.AttachTraceRawTp},
		{agentProgProcessExit, p.ProcessExit, ebpf.AttachTraceRawTp},
		{agentProgSockCreate, p.SockCreate, ebpf.AttachCGroupInetSockCreate},
		{agentProgBind4, p.Bind4, ebpf.AttachCGroupInet4Bind},
		{agentProgBind6, p.Bind6, ebpf.AttachCGroupInet6Bind},
		{agentProgPostBind4, p.PostBind4, ebpf.AttachCGroupInet4PostBind},
		{agentProgPostBind6, p.PostBind6, ebpf.AttachCGroupInet6PostBind},
		{agentProgConnect4, p.Connect4, ebpf.AttachCGroupInet4Connect},
		{agentProgConnect6, p.Connect6, ebpf.AttachCGroupInet6Connect},
		{agentProgSendmsg4, p.Sendmsg4, ebpf.AttachCGroupUDP4Sendmsg},
		{agentProgSendmsg6, p.Sendmsg6, ebpf.AttachCGroupUDP6Sendmsg},
		{agentProgRecvmsg4, p.Recvmsg4, ebpf.AttachCGroupUDP4Recvmsg},
		{agentProgRecvmsg6, p.Recvmsg6, ebpf.AttachCGroupUDP6Recvmsg},
		{agentProgGetpeername4, p.Getpeername4, ebpf.AttachCgroupInet4GetPeername},
		{agentProgGetpeername6, p.Getpeername6, ebpf.AttachCgroupInet6GetPeername},
		{agentProgSockOps, p.SockOps, ebpf.AttachCGroupSockOps},
		{agentProgEgress, p.Egress, ebpf.AttachCGroupInetEgress},
	}
}

func (dp *Datapath) attach(cgroup string) error {
	for _, h := range dp.hooks() {
		l, err := h.link(cgroup)
		if err != nil {
			return fmt.Errorf("attach %s: %w", h.name, err)
		}
		dp.links = append(dp.links, l)
		if err := l.Pin(filepath.Join(dp.pinDir, "link_"+h.name)); err != nil {
			return fmt.Errorf("pin %s: %w", h.name, err)
		}
	}
	return nil
}

func (h hook) link(cgroup string) (link.Link, error) {
	if h.attach == ebpf.AttachTraceRawTp {
		return link.AttachTracing(link.TracingOptions{Program: h.program})
	}
	return link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: h.attach, Program: h.program})
}
