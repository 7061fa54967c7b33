package e2e

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/coreos/go-systemd/v22/unit"
)

// unitKeys are the keys of a section of the shipped unit, with what is written for each.
func unitKeys(t *testing.T, section string) map[string][]string {
	t.Helper()
	file, err := os.Open("../../deploy/systemd/ringfence.service")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	options, err := unit.DeserializeOptions(file)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string][]string{}
	for _, o := range options {
		if o.Section == section {
			keys[o.Name] = append(keys[o.Name], o.Value)
		}
	}
	return keys
}

// The unit says what a restart and the sandboxes need, and nothing that would take the
// agent away from the host's mounts, of which it makes those of sandboxes.
func TestServiceUnit(t *testing.T) {
	service := unitKeys(t, "Service")
	for key, want := range map[string]string{
		"Type": "notify", "KillMode": "process", "Delegate": "yes", "Restart": "always",
		"RuntimeDirectory": "ringfence", "RuntimeDirectoryMode": "0700", "RuntimeDirectoryPreserve": "yes",
		"StateDirectory": "ringfence", "StateDirectoryMode": "0700", "ExecStart": "/usr/local/bin/ringfence agent",
	} {
		if got := service[key]; !slices.Equal(got, []string{want}) {
			t.Errorf("%s=%q, want %q", key, got, want)
		}
	}
	// Each of these gives the service namespaces of its own, another user, or a filter:
	// sandboxes would have them too, or could not be made.
	for key := range service {
		for _, prefix := range []string{
			"Private", "Protect", "Restrict", "ReadOnly", "ReadWrite", "Inaccessible", "ExecPaths", "NoExecPaths", "Bind",
			"TemporaryFileSystem", "Root", "Mount", "Extension", "DynamicUser", "User", "Group", "SystemCall", "NoNewPrivileges",
			"LogNamespace", "NetworkNamespacePath", "JoinsNamespaceOf", "AmbientCapabilities", "SecureBits", "IPAddress", "SocketBind",
		} {
			if strings.HasPrefix(key, prefix) {
				t.Errorf("the unit has %s=", key)
			}
		}
	}
	if got := unitKeys(t, "Install")["WantedBy"]; !slices.Equal(got, []string{"multi-user.target"}) {
		t.Errorf("WantedBy=%q", got)
	}
}
