package api

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
)

// callEnv has this test binary make one call on a socket, and say how it ended.
const callEnv = "RINGFENCE_TEST_CALL"

func TestMain(m *testing.M) {
	if socket := os.Getenv(callEnv); socket != "" {
		fmt.Print(callOnce(socket))
		return
	}
	os.Exit(m.Run())
}

func callOnce(socket string) string {
	client, err := Dial(socket)
	if err == nil {
		defer client.Close()
		_, err = client.Agent.GetStatus(context.Background(), &pb.GetStatusRequest{})
	}
	if err == nil {
		return "OK"
	}
	e := ErrorOf(err)
	return e.Code.String() + ": " + e.Message
}

// callAs makes a call as another user, and wants it to end so: what the kernel says
// of a peer is not to be had otherwise.
func callAs(t *testing.T, socket string, who syscall.Credential, want string) {
	t.Helper()
	command := exec.CommandContext(t.Context(), "/proc/self/exe")
	command.Env = append(os.Environ(), callEnv+"="+socket)
	command.SysProcAttr = &syscall.SysProcAttr{Credential: &who}
	out, err := command.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), want) {
		t.Errorf("as uid %d, gid %d, groups %v: %q, %v, want %q", who.Uid, who.Gid, who.Groups, out, err, want)
	}
}
