package daemon

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/api"
	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/launch"
	"github.com/ringfence/ringfence/internal/sshd"
	"github.com/ringfence/ringfence/internal/tty"
)

const (
	// execChunk is how many bytes of output one message has at most.
	execChunk = 32 << 10
	// inputRoom bounds the messages of input that wait for the command to read, and
	// inputBytes what is in them. Signals overtake these, but no more: then the caller
	// waits.
	inputRoom  = 16
	inputBytes = 256 << 10
	// hangUpGrace is how long a command may live on whose caller has gone.
	hangUpGrace = 10 * time.Second
)

// Exec runs a command until its end, or its caller's.
func (s sandboxesService) Exec(stream pb.Sandboxes_ExecServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	if start == nil {
		return api.InvalidArgument("send start before anything else", "the first message starts no command")
	}
	b, err := s.running(start.GetSandbox())
	if err != nil {
		return err
	}
	ctx := stream.Context()
	if d := start.GetTimeout(); d != nil && d.AsDuration() > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.AsDuration())
		defer cancel()
	}
	x := &execution{daemon: s.Daemon, stream: stream, start: start}
	return x.run(ctx, b)
}

// exec starts the command, and records that it did: not at its end, of which an agent
// may never hear.
func (x *execution) exec(ctx context.Context, b *box, l *life, o order) (*launch.Process, error) {
	p, err := x.daemon.exec(ctx, b, l, o)
	x.daemon.record(ctx, &flow.Record{
		Reason: flow.ReasonAPIExec, Sandbox: b.name, Command: commandLine(x.start.GetArgv()),
	}, err)
	return p, err
}

// maxCommand bounds the command line in a record, which the journal keeps: arguments
// can have nearly a MiB.
const maxCommand = 4096

func commandLine(argv []string) string {
	line := strings.Join(argv, " ")
	if len(line) <= maxCommand {
		return line
	}
	return strings.ToValidUTF8(line[:maxCommand], "") + " …"
}

// execution is one command of the API's.
type execution struct {
	daemon *Daemon
	stream pb.Sandboxes_ExecServer
	start  *pb.ExecStart

	mu sync.Mutex // one message at a time is sent
}

func (x *execution) send(m *pb.ExecResponse) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.stream.Send(m)
}

func (x *execution) run(ctx context.Context, b *box) error {
	_, l, _ := x.daemon.fleet.look(b)
	if l == nil {
		return notReady(b.name)
	}
	o := order{
		argv: x.start.GetArgv(), dir: x.start.GetWorkdir(), terminal: x.start.GetTerminal(),
		size: sizeOf(x.start.GetSize()), detached: x.start.GetDetach(),
	}
	for key, value := range x.start.GetEnvironment() {
		o.env = append(o.env, key+"="+value)
	}
	if o.detached {
		return x.detached(ctx, b, l, o)
	}
	defer b.attach()()
	if o.terminal {
		o.term = x.start.GetEnvironment()["TERM"]
		return x.terminal(ctx, b, l, o)
	}
	return x.piped(ctx, b, l, o)
}

// detached starts a command that nobody waits for.
func (x *execution) detached(ctx context.Context, b *box, l *life, o order) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	o.stdio = [3]*os.File{null, null, null}
	p, err := x.exec(ctx, b, l, o)
	if err != nil {
		return x.failed(err)
	}
	return x.send(started(p))
}

// terminal runs a command in a terminal of the sandbox's.
func (x *execution) terminal(ctx context.Context, b *box, l *life, o order) error {
	p, err := x.exec(ctx, b, l, o)
	if err != nil {
		return x.failed(err)
	}
	if err := x.send(started(p)); err != nil {
		p.HangUp(hangUpGrace)
		return err
	}
	var output sync.WaitGroup
	output.Go(func() { x.copyOut(p.Terminal, stdout) })
	// Ctrl-D is the terminal's own end of input: there is no other.
	go x.receive(p, p.Terminal, func() {})
	return x.finish(ctx, p, p.StopReading, &output)
}

// piped runs a command without a terminal.
func (x *execution) piped(ctx context.Context, b *box, l *life, o order) error {
	pipes, err := launch.PipeStdio()
	if err != nil {
		return err
	}
	defer pipes.Close()
	o.stdio = pipes.Stdio
	p, err := x.exec(ctx, b, l, o)
	pipes.Started()
	if err != nil {
		return x.failed(err)
	}
	if err := x.send(started(p)); err != nil {
		p.HangUp(hangUpGrace)
		return err
	}
	var output sync.WaitGroup
	output.Go(func() { x.copyOut(pipes.Stdout, stdout) })
	output.Go(func() { x.copyOut(pipes.Stderr, stderr) })
	go x.receive(p, pipes.Stdin, func() { _ = pipes.Stdin.Close() })
	return x.finish(ctx, p, pipes.StopReading, &output)
}

// finish waits for the end of the command and of its output, and tells of both. A
// caller that has gone, or a time that is over, hangs the command up.
func (x *execution) finish(ctx context.Context, p *launch.Process, stopReading func(), output *sync.WaitGroup) error {
	status, err := p.Wait(ctx)
	if err != nil {
		p.HangUp(hangUpGrace)
		stopReading()
		output.Wait()
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return api.DeadlineExceeded("ask for a longer timeout", "the command was ended: its time is over")
		}
		return err
	}
	stopReading()
	output.Wait()
	if p.Terminal != nil {
		_ = p.Terminal.Close()
	}
	exit := &pb.ExecExit{Code: int32(status.ExitCode())}
	if status.Signal != 0 {
		exit.Signal = strings.TrimPrefix(unix.SignalName(status.Signal), "SIG")
	}
	return x.send(&pb.ExecResponse{Message: &pb.ExecResponse_Exit{Exit: exit}})
}

// receive hands on what the caller sends, until there is no more of it.
func (x *execution) receive(p *launch.Process, in io.Writer, closeIn func()) {
	input, room := make(chan []byte, inputRoom), semaphore.NewWeighted(inputBytes)
	defer close(input)
	go func() {
		defer closeIn()
		for chunk := range input {
			if chunk == nil {
				closeIn()
			}
			// A command that reads no more is no fault of the caller's.
			_, _ = in.Write(chunk)
			room.Release(weightOf(chunk))
		}
	}()
	for {
		m, err := x.stream.Recv()
		if err != nil {
			return
		}
		switch m := m.GetMessage().(type) {
		case *pb.ExecRequest_Stdin:
			// Waits until the command reads, or until its end closes where it is written to.
			if len(m.Stdin) > 0 && room.Acquire(x.stream.Context(), weightOf(m.Stdin)) == nil {
				input <- m.Stdin
			}
		case *pb.ExecRequest_CloseStdin:
			input <- nil
		case *pb.ExecRequest_Resize:
			_ = p.Resize(sizeOf(m.Resize))
		case *pb.ExecRequest_Signal:
			if n := unix.SignalNum("SIG" + strings.TrimPrefix(m.Signal, "SIG")); n != 0 {
				_ = p.Signal(n)
			}
		}
	}
}

// weightOf is how much of the room for input a chunk takes: one that is larger than all
// of it is there alone.
func weightOf(chunk []byte) int64 { return min(int64(len(chunk)), inputBytes) }

// copyOut sends what the command writes. It ends with the command's output, or when
// the caller has gone.
func (x *execution) copyOut(r *os.File, wrap func([]byte) *pb.ExecResponse) {
	buf := make([]byte, execChunk)
	for {
		n, err := r.Read(buf)
		if n > 0 && x.send(wrap(buf[:n])) != nil {
			return
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			launch.ReadRest(r, func(b []byte) error { return x.send(wrap(b)) })
		}
		if err != nil {
			return
		}
	}
}

func stdout(b []byte) *pb.ExecResponse {
	return &pb.ExecResponse{Message: &pb.ExecResponse_Stdout{Stdout: b}}
}

func stderr(b []byte) *pb.ExecResponse {
	return &pb.ExecResponse{Message: &pb.ExecResponse_Stderr{Stderr: b}}
}

func started(p *launch.Process) *pb.ExecResponse {
	return &pb.ExecResponse{Message: &pb.ExecResponse_Started{Started: &pb.ExecStarted{Pid: uint32(p.PID)}}}
}

func sizeOf(size *pb.TerminalSize) tty.Size {
	return tty.Size{Cols: uint16(size.GetColumns()), Rows: uint16(size.GetRows())}
}

// failed tells that the command could not be run, with what a shell would end with.
// Any other error is the agent's.
func (x *execution) failed(err error) error {
	step, ok := errors.AsType[*launch.StepError](err)
	if !ok {
		return err
	}
	return x.send(&pb.ExecResponse{Message: &pb.ExecResponse_Exit{Exit: &pb.ExecExit{
		Code: int32(step.Code), Error: said(step.Error()), Hint: said(step.Hint),
	}}})
}

// IssueCertificate signs a key for some minutes.
func (s sandboxesService) IssueCertificate(ctx context.Context, req *pb.IssueCertificateRequest) (*pb.IssueCertificateResponse, error) {
	b := s.fleet.find(req.GetSandbox())
	if b == nil {
		return nil, noSandbox(req.GetSandbox())
	}
	message, _, _ := s.fleet.look(b)
	key, err := sshd.ParsePublicKey(req.GetPublicKey())
	if err != nil {
		return nil, badKeys(err)
	}
	expires := time.Now().Add(certificateLife)
	certificate, err := sshd.IssueCertificate(s.ssh.authority, key, sshd.CertificateRequest{
		Sandbox: message.GetId(), KeyID: callerOf(ctx), Validity: certificateLife,
	})
	if err != nil {
		return nil, err
	}
	response := &pb.IssueCertificateResponse{
		Certificate: certificate, ExpireTime: api.Time(expires),
		HostKeys: []string{s.ssh.hostKey.Public().String()}, Socket: s.cfg.SSH.Socket,
	}
	if s.ssh.address != nil {
		response.Address = s.ssh.address.String()
	}
	return response, nil
}
