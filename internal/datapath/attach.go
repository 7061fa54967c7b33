package datapath

import (
	"fmt"

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

func (h hook) isTracepoint() bool { return h.attach == ebpf.AttachTraceRawTp }

func (dp *Datapath) attach(cgroup string) error {
	for _, h := range dp.hooks() {
		l, err := h.link(cgroup)
		if err != nil {
			return fmt.Errorf("attach %s: %w", h.name, err)
		}
		dp.links = append(dp.links, l)
		if err := l.Pin(h.linkPin(dp.pinDir, dp.generation)); err != nil {
			return fmt.Errorf("pin %s: %w", h.name, err)
		}
	}
	return nil
}

func (h hook) link(cgroup string) (link.Link, error) {
	if h.isTracepoint() {
		return link.AttachTracing(link.TracingOptions{Program: h.program})
	}
	return link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: h.attach, Program: h.program})
}

// openLinks opens what attach of a predecessor pinned, and makes sure that each link
// is in force: a link outlives the cgroup to which it was attached.
func (dp *Datapath) openLinks(cgroupID uint64) error {
	for _, h := range dp.hooks() {
		l, err := link.LoadPinnedLink(h.linkPin(dp.pinDir, dp.generation), nil)
		if err != nil {
			return fmt.Errorf("open pinned link of %s: %w", h.name, err)
		}
		dp.links = append(dp.links, l)
		if err := h.checkLink(l, cgroupID); err != nil {
			return fmt.Errorf("link of %s: %w", h.name, err)
		}
	}
	return nil
}

// checkLink: a link of a tracepoint is where its program says.
func (h hook) checkLink(l link.Link, cgroupID uint64) error {
	info, err := l.Info()
	if err != nil {
		return err
	}
	if err := h.checkProgram(info.Program); err != nil {
		return err
	}
	if h.isTracepoint() {
		return nil
	}
	at := info.Cgroup()
	if at == nil || at.CgroupId != cgroupID || ebpf.AttachType(at.AttachType) != h.attach {
		return fmt.Errorf("%w: attached at %+v, not at %v of cgroup %d", ErrIncomplete, at, h.attach, cgroupID)
	}
	return nil
}

func (h hook) checkProgram(linked ebpf.ProgramID) error {
	info, err := h.program.Info()
	if err != nil {
		return err
	}
	if own, ok := info.ID(); !ok || own != linked {
		return fmt.Errorf("%w: it has program %d, not %d", ErrIncomplete, linked, own)
	}
	return nil
}
