package datapath

import (
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/testenv"
)

// Padding that nobody wrote down would reach the agent as bytes of the kernel's
// stack, and keys with it would never be found.
func TestNoHiddenPadding(t *testing.T) {
	for _, value := range []any{
		agentSandbox{}, agentSandboxState{}, agentTask{}, agentExecId{}, agentExecRecord{}, agentLongPath{},
		agentAddress{}, agentSockOrigin{}, agentOriginKey{}, agentOrigin{}, agentDnsServer{}, agentDnsSlot{},
		agentRejection{}, agentTakeOriginArgs{}, agentDropExecArgs{},
	} {
		mirror := reflect.TypeOf(value)
		var end uintptr
		for i := range mirror.NumField() {
			field := mirror.Field(i)
			if field.Name == "_" && field.Type.Size() > 0 {
				t.Errorf("%s: padding at %d", mirror.Name(), field.Offset)
			}
			if field.Offset != end {
				t.Errorf("%s.%s is at %d, the field before ends at %d", mirror.Name(), field.Name, field.Offset, end)
			}
			end = field.Offset + field.Type.Size()
		}
		if mirror.Size() != end {
			t.Errorf("%s: its size is %d, its fields end at %d", mirror.Name(), mirror.Size(), end)
		}
	}
}

// Counters are kept by these numbers from one build to the next. A reason that is new
// is added at the end of this list, too; nothing else here ever changes.
func TestReasonsAreOnlyAppended(t *testing.T) {
	for i, reason := range []flow.Reason{
		1:  flow.ReasonUnknownSandbox,
		2:  flow.ReasonForeignNetns,
		3:  flow.ReasonNoIdentity,
		4:  flow.ReasonSocketType,
		5:  flow.ReasonAddressFamily,
		6:  flow.ReasonUDP,
		7:  flow.ReasonUDPConnect,
		8:  flow.ReasonReservedPort,
		9:  flow.ReasonMapFull,
		10: flow.ReasonEgress,
	} {
		if got := reasonOf(agentReject(i)); i > 0 && got != reason {
			t.Errorf("reason %d is %q, it was %q", i, got, reason)
		}
	}
}

func TestTypesArePaddedByHand(t *testing.T) {
	testenv.Require(t, "clang")
	types, err := os.ReadFile("../../bpf/types.h")
	if err != nil {
		t.Fatal(err)
	}
	// The compiler lays out, and warns of, only what is used.
	program := "#include <linux/types.h>\n#include \"types.h\"\n"
	structs := regexp.MustCompile(`(?m)^struct \w+ `).FindAll(types, -1)
	if len(structs) == 0 {
		t.Fatal("no structures in types.h")
	}
	for _, name := range structs {
		program += fmt.Sprintf("_Static_assert(sizeof(%s) > 0, \"\");\n", name)
	}
	cmd := exec.Command("clang", "-target", "bpf", "-x", "c", "-fsyntax-only", "-Wpadded", "-Werror",
		"-I../../bpf/headers", "-I../../bpf", "-")
	cmd.Stdin = strings.NewReader(program)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
