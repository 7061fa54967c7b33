package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/tty"
)

// Exec runs the command on this host.
func (d *double) Exec(stream ringfencev1.Sandboxes_ExecServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	d.mu.Lock()
	_, err = d.sandbox(start.GetSandbox())
	for i, mode := range []string{"api", "connect", "connect"} { // it is run, and reaches something
		d.records = append(d.records, &ringfencev1.Record{
			Cursor: strconv.Itoa(len(d.records) + 1), Sandbox: start.GetSandbox(), Verdict: "deny",
			Json: fmt.Sprintf(`{"sandbox":%q,"verdict":"deny","reason":"no_endpoint","mode":%q,"binary":"/usr/bin/tool\\xff","host":"h%d.test","port":443}`, start.GetSandbox(), mode, i),
		})
	}
	d.mu.Unlock()
	if err != nil {
		return err
	}
	argv := start.GetArgv()
	if len(argv) == 0 {
		argv = []string{"/bin/sh"}
	}
	cmd := exec.CommandContext(stream.Context(), argv[0], argv[1:]...)
	cmd.Dir = start.GetWorkdir()
	for key, value := range start.GetEnvironment() {
		cmd.Env = append(cmd.Env, key+"="+value)
	}
	cmd.Env = append(cmd.Env, "PATH="+os.Getenv("PATH"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	run := &doubleExec{stream: stream, cmd: cmd}
	if start.GetTerminal() {
		return run.onTerminal(start)
	}
	return run.onPipes(start)
}

type doubleExec struct {
	stream ringfencev1.Sandboxes_ExecServer
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	master *os.File // of a terminal

	mu      sync.Mutex // guards sends
	outputs sync.WaitGroup
}

func (x *doubleExec) send(m *ringfencev1.ExecResponse) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.stream.Send(m)
}

func (x *doubleExec) onPipes(start *ringfencev1.ExecStart) error {
	var err error
	if x.stdin, err = x.cmd.StdinPipe(); err != nil {
		return err
	}
	stdout, _ := x.cmd.StdoutPipe()
	stderr, _ := x.cmd.StderrPipe()
	if err := x.begin(); err != nil {
		return err
	}
	x.outputs.Add(2)
	go x.copy(stdout, func(p []byte) *ringfencev1.ExecResponse {
		return &ringfencev1.ExecResponse{Message: &ringfencev1.ExecResponse_Stdout{Stdout: p}}
	})
	go x.copy(stderr, func(p []byte) *ringfencev1.ExecResponse {
		return &ringfencev1.ExecResponse{Message: &ringfencev1.ExecResponse_Stderr{Stderr: p}}
	})
	if start.GetDetach() {
		return nil
	}
	return x.attend()
}

func (x *doubleExec) onTerminal(start *ringfencev1.ExecStart) error {
	master, slave, err := tty.Open()
	if err != nil {
		return err
	}
	defer master.Close()
	x.master, x.stdin = master, master
	_ = tty.SetSize(master, tty.Size{Rows: uint16(start.GetSize().GetRows()), Cols: uint16(start.GetSize().GetColumns())})
	x.cmd.Stdin, x.cmd.Stdout, x.cmd.Stderr = slave, slave, slave
	x.cmd.SysProcAttr.Setctty = true
	err = x.begin()
	_ = slave.Close()
	if err != nil {
		return err
	}
	x.outputs.Add(1)
	go x.copy(master, func(p []byte) *ringfencev1.ExecResponse {
		return &ringfencev1.ExecResponse{Message: &ringfencev1.ExecResponse_Stdout{Stdout: p}}
	})
	return x.attend()
}

func (x *doubleExec) begin() error {
	if err := x.cmd.Start(); err != nil {
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
			return x.send(&ringfencev1.ExecResponse{Message: &ringfencev1.ExecResponse_Exit{Exit: &ringfencev1.ExecExit{Code: 127, Error: err.Error(), Hint: "look at its name"}}})
		}
		return api.FailedPrecondition("run something else", "start: %v", err)
	}
	return x.send(&ringfencev1.ExecResponse{Message: &ringfencev1.ExecResponse_Started{Started: &ringfencev1.ExecStarted{Pid: uint32(x.cmd.Process.Pid)}}})
}

func (x *doubleExec) copy(from io.Reader, message func([]byte) *ringfencev1.ExecResponse) {
	defer x.outputs.Done()
	for {
		buf := make([]byte, 4096)
		n, err := from.Read(buf)
		if n > 0 && x.send(message(buf[:n])) != nil || err != nil {
			return
		}
	}
}

func (x *doubleExec) attend() error {
	if x.cmd.Process == nil {
		return nil
	}
	go x.take()
	x.outputs.Wait()
	_ = x.cmd.Wait()
	exit := &ringfencev1.ExecExit{Code: int32(x.cmd.ProcessState.ExitCode())}
	if ws := x.cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() {
		exit.Code = 128 + int32(ws.Signal())
	}
	return x.send(&ringfencev1.ExecResponse{Message: &ringfencev1.ExecResponse_Exit{Exit: exit}})
}

// take does what the client asks for.
func (x *doubleExec) take() {
	for {
		message, err := x.stream.Recv()
		if err != nil {
			return
		}
		switch m := message.GetMessage().(type) {
		case *ringfencev1.ExecRequest_Stdin:
			_, _ = x.stdin.Write(m.Stdin)
		case *ringfencev1.ExecRequest_CloseStdin:
			if x.master == nil {
				_ = x.stdin.Close()
			}
		case *ringfencev1.ExecRequest_Resize:
			_ = tty.SetSize(x.master, tty.Size{Rows: uint16(m.Resize.GetRows()), Cols: uint16(m.Resize.GetColumns())})
		case *ringfencev1.ExecRequest_Signal:
			_ = syscall.Kill(-x.cmd.Process.Pid, unix.SignalNum("SIG"+m.Signal))
		}
	}
}
