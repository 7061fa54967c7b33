package sshd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ringfence/ringfence/internal/event"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/launch"
)

// session is one session channel: what was asked for, and the command once it runs.
// Its fields but the counts belong to the goroutine that takes its requests.
type session struct {
	conn     *conn
	channel  ssh.Channel
	env      []string
	terminal *terminal

	command Command
	started bool
	process *launch.Process // nil where none was started
	streams *streams
	begun   time.Time
	done    chan struct{} // closed when all of the session has

	received, sent atomic.Int64
}

// serveSession serves a session channel until the client's side of it is closed and
// its command has ended.
func (c *conn) serveSession(opened ssh.NewChannel) {
	channel, requests, err := opened.Accept()
	if err != nil {
		return
	}
	s := &session{conn: c, channel: channel, done: make(chan struct{})}
	for request := range requests {
		s.take(request)
	}
	_ = channel.Close()
	if s.process != nil {
		s.hangUp()
	}
}

// take does what a request asks for, and answers it.
func (s *session) take(request *ssh.Request) {
	switch request.Type {
	case "shell", "exec", "subsystem":
		s.start(request)
		return
	}
	err := s.prepare(request)
	if err != nil {
		s.conn.server.counters.denied.Add(1)
	}
	_ = request.Reply(err == nil, nil)
}

// prepare does what needs no answer but yes or no.
func (s *session) prepare(request *ssh.Request) error {
	switch request.Type {
	case "env":
		return s.setVariable(request.Payload)
	case "pty-req":
		return s.setTerminal(request.Payload)
	case "window-change":
		return s.resize(request.Payload)
	case "signal":
		return s.signal(request.Payload)
	}
	return fmt.Errorf("requests of type %q are not served", clip(request.Type, 64))
}

func (s *session) setVariable(payload []byte) error {
	variable, err := parseVariable(payload)
	if err != nil {
		return err
	}
	if s.started || len(s.env) == maxVariables {
		return errors.New("no variable can be set any more")
	}
	s.env = append(s.env, variable)
	return nil
}

func (s *session) setTerminal(payload []byte) error {
	if s.started || s.terminal != nil || !s.conn.who.terminals {
		return errors.New("there can be no terminal")
	}
	terminal, err := parseTerminal(payload)
	if err != nil {
		return err
	}
	s.terminal = terminal
	return nil
}

// resize is about this channel's own terminal, whatever others the connection has.
func (s *session) resize(payload []byte) error {
	if s.terminal == nil {
		return errors.New("there is no terminal")
	}
	size, err := parseWindow(payload)
	if err != nil {
		return err
	}
	s.terminal.size = size
	if s.process == nil {
		return nil
	}
	return s.process.Resize(size)
}

func (s *session) signal(payload []byte) error {
	number, err := parseSignal(payload)
	if err != nil {
		return err
	}
	if s.process == nil {
		return errors.New("nothing runs")
	}
	return s.process.Signal(number)
}

// start starts the session's one command.
func (s *session) start(request *ssh.Request) {
	command, err := commandOf(request)
	if err != nil || s.started {
		s.conn.server.counters.denied.Add(1)
		_ = request.Reply(false, nil)
		return
	}
	s.started = true
	s.begun = time.Now()
	command.Env = s.env
	if s.terminal != nil && command.Kind != KindSFTP {
		command.Terminal, command.Size = true, s.terminal.size
		if s.terminal.term != "" {
			command.Env = append(command.Env, "TERM="+s.terminal.term)
		}
	}
	command.OnTransfer = s.recordTransfer
	s.command = command
	err = s.exec()
	// The answer comes before the first byte of output.
	_ = request.Reply(true, nil)
	if err != nil {
		s.fail(err)
		return
	}
	s.conn.server.counters.sessions.Add(1)
	go s.attend()
}

// commandOf returns what a request asks to be run.
func commandOf(request *ssh.Request) (Command, error) {
	switch request.Type {
	case "shell":
		return Command{Kind: KindShell}, nil
	case "exec":
		line, err := parseString(request.Payload)
		if err != nil {
			return Command{}, fmt.Errorf("read exec: %w", err)
		}
		return Command{Kind: KindExec, Line: line}, nil
	}
	name, err := parseString(request.Payload)
	if err != nil {
		return Command{}, fmt.Errorf("read subsystem: %w", err)
	}
	if name != "sftp" {
		return Command{}, fmt.Errorf("subsystem %q is not served", clip(name, 64))
	}
	return Command{Kind: KindSFTP}, nil
}

// exec starts the command in the sandbox.
func (s *session) exec() (err error) {
	if s.streams, err = newStreams(&s.command); err != nil {
		return err
	}
	process, err := s.conn.target.Exec(s.conn.ctx, s.command)
	s.streams.started(process)
	if err == nil && s.command.Terminal {
		err = setModes(process.Terminal, s.terminal.modes)
	}
	if err != nil {
		s.streams.close()
		if process != nil {
			_ = process.Signal(syscall.SIGKILL)
		}
		return err
	}
	s.process = process
	return nil
}

// fail tells of a command that could not be started, as a shell does: on stderr, and
// by its exit status.
func (s *session) fail(err error) {
	code := launch.ExitRingfence
	text := "ringfence: " + event.Prose(err.Error()) + "\r\n"
	if step := (*launch.StepError)(nil); errors.As(err, &step) {
		code = step.Code
		if step.Hint != "" {
			text += "hint: " + event.Prose(step.Hint) + "\r\n"
		}
	}
	s.record(launch.Status{Code: code}, err.Error())
	go func() { // the client may not read
		_, _ = io.WriteString(s.channel.Stderr(), text)
		s.tell(launch.Status{Code: code})
		_ = s.channel.CloseWrite()
		_ = s.channel.Close()
	}()
}

// attend is with a running command: it copies, waits, and tells how it ended. What was
// left behind in the background, and holds on to the output, holds the channel too, as
// it does in sshd; but not of a terminal, which ends with the command.
func (s *session) attend() {
	defer close(s.done)
	go s.copyIn()
	copied := s.copyOut()
	status, err := s.process.Wait(context.Background())
	if err != nil {
		status = launch.Status{Code: launch.ExitRingfence}
	}
	s.tell(status)
	s.streams.drain()
	<-copied
	s.streams.close()
	_ = s.channel.CloseWrite()
	_ = s.channel.Close()
	s.record(status, "")
}

// tell sends how the command ended.
func (s *session) tell(status launch.Status) {
	if status.Signal == 0 {
		_, _ = s.channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(status.Code)}))
		return
	}
	_, _ = s.channel.SendRequest("exit-signal", false, ssh.Marshal(struct {
		Name    string
		Core    bool
		Message string
		Tag     string
	}{Name: signalName(status.Signal), Message: status.Signal.String()}))
}

// hangUp ends what a channel that is gone leaves behind.
func (s *session) hangUp() {
	s.streams.close()
	s.process.HangUp(s.conn.server.limits.Linger)
	<-s.done
}

// record tells of the session, at its end.
func (s *session) record(status launch.Status, why string) {
	r := &flow.Record{
		Time: s.begun, Duration: time.Since(s.begun), Verdict: flow.Allow,
		Sent: s.sent.Load(), Received: s.received.Load(),
		Reason: flow.ReasonSSHSession, Detail: fmt.Sprintf("exit status %d", status.Code),
	}
	if status.Signal != 0 {
		r.Detail = "ended by signal " + strconv.Itoa(int(status.Signal)) + ", " + status.Signal.String()
	}
	if why != "" {
		r.Detail = why
	}
	switch s.command.Kind {
	case KindExec:
		r.Reason, r.Command = flow.ReasonSSHExec, clip(s.command.Line, maxLine)
	case KindSFTP:
		r.Command = "sftp"
	}
	s.conn.emit(r)
}

// recordTransfer tells of a file. It is a process of the sandbox that says so.
func (s *session) recordTransfer(t launch.Transfer) {
	r := &flow.Record{
		Verdict: flow.Allow, Reason: flow.ReasonSSHTransfer, Command: string(t.Op), Object: t.Path,
	}
	if t.Op == launch.TransferWrite {
		r.Received = int64(t.Bytes)
	} else {
		r.Sent = int64(t.Bytes)
	}
	switch {
	case t.Last:
		r.Detail = "no more of this session are told"
	case t.Cut:
		r.Detail = "the session ended before the file was closed"
	}
	s.conn.emit(r)
}
