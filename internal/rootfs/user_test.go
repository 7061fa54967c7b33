package rootfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/testenv"
)

const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
)

// acl is an ACL in the kernel's form: what the owner may is all, others may read.
func acl(user, userPerm, group, mask uint16) []byte {
	data := binary.LittleEndian.AppendUint32(nil, 2)
	add := func(tag, perm uint16, id uint32) {
		data = binary.LittleEndian.AppendUint16(data, tag)
		data = binary.LittleEndian.AppendUint16(data, perm)
		data = binary.LittleEndian.AppendUint32(data, id)
	}
	const none = ^uint32(0)
	add(0x01, 7, none)
	add(0x02, userPerm, uint32(user))
	add(0x04, group, none)
	add(0x10, mask, none)
	add(0x20, 5, none)
	return data
}

func (t *tree) acl(name, kind string, data []byte) {
	t.tb.Helper()
	err := unix.Setxattr(t.path(name), kind, data, 0)
	if errors.Is(err, unix.EOPNOTSUPP) {
		testenv.SkipOn(t.tb, &testenv.Skip{Reason: "the file system has no ACLs"})
	}
	t.must(err)
}

func TestWritable(t *testing.T) {
	const user, group, other = 4001, 4002, 4003
	for _, test := range []struct {
		name  string
		setup func(*tree)
		want  bool
	}{
		{"all is root's", func(*tree) {}, false},
		{"all is another's", func(t *tree) {
			for _, name := range []string{"", "bin", "bin/py", "opt", "opt/py3"} {
				t.own(name, other, other, 0o755)
			}
		}, false},
		{"the link", func(t *tree) { t.own("bin/py", user, user, 0) }, false},

		{"owns the root", func(t *tree) { t.own("", user, 0, 0o755) }, true},
		{"owns the link's directory", func(t *tree) { t.own("bin", user, 0, 0o755) }, true},
		{"owns it, and may not write yet", func(t *tree) { t.own("bin", user, 0, 0o555) }, true},
		{"owns the target's directory", func(t *tree) { t.own("opt", user, 0, 0o755) }, true},
		{"anybody's root", func(t *tree) { t.own("", 0, 0, 0o777) }, true},
		{"anybody's link directory", func(t *tree) { t.own("bin", 0, 0, 0o757) }, true},
		{"anybody's target directory", func(t *tree) { t.own("opt", 0, 0, 0o777) }, true},
		{"anybody's, unsearchable", func(t *tree) { t.own("opt", 0, 0, 0o756) }, true},

		{"own group's directory", func(t *tree) { t.own("bin", 0, user, 0o775) }, true},
		{"own further group's directory", func(t *tree) { t.own("bin", 0, group, 0o775) }, true},
		{"own group's for reading", func(t *tree) { t.own("bin", 0, group, 0o755) }, false},
		{"another group's directory", func(t *tree) { t.own("bin", 0, other, 0o775) }, false},
		{"an ACL for the user", func(t *tree) { t.acl("bin", aclAccess, acl(user, 7, 5, 7)) }, true},
		{"an ACL for another", func(t *tree) { t.acl("bin", aclAccess, acl(other, 7, 5, 7)) }, true},
		{"an ACL under a mask", func(t *tree) { t.acl("bin", aclAccess, acl(user, 7, 5, 5)) }, false},
		{"a default ACL", func(t *tree) { t.acl("bin", aclDefault, acl(user, 7, 5, 7)) }, false},
		{"a file's ACL", func(t *tree) { t.acl("opt/py3", aclAccess, acl(user, 7, 5, 7)) }, true},

		// Nobody can replace it there; but who made it appear may not be its owner.
		{"sticky, a link that may have been moved there", func(t *tree) { t.own("bin", 0, 0, 0o777|os.ModeSticky) }, true},
		{"sticky, a directory of another's", func(t *tree) { t.own("", 0, 0, 0o777|os.ModeSticky) }, false},
		{"sticky, owns the link", func(t *tree) { t.own("bin", 0, 0, 0o777|os.ModeSticky); t.own("bin/py", user, 0, 0) }, true},
		{"sticky, another owns the link", func(t *tree) { t.own("bin", 0, 0, 0o777|os.ModeSticky); t.own("bin/py", other, 0, 0) }, true},
		{"sticky, owns the directory", func(t *tree) { t.own("bin", user, 0, 0o777|os.ModeSticky) }, true},
		{"sticky, owns a directory in it", func(t *tree) { t.own("", 0, 0, 0o777|os.ModeSticky); t.own("opt", user, 0, 0o755) }, true},
		{"sticky, owned link, closed", func(t *tree) { t.own("bin", 0, 0, 0o755|os.ModeSticky); t.own("bin/py", user, 0, 0) }, false},

		{"owns the target", func(t *tree) { t.own("opt/py3", user, 0, 0o555) }, true},
		{"anybody's target", func(t *tree) { t.own("opt/py3", 0, 0, 0o757) }, true},
		{"own group's target", func(t *tree) { t.own("opt/py3", 0, group, 0o775) }, true},
		{"another group's target", func(t *tree) { t.own("opt/py3", 0, other, 0o775) }, false},
		{"directories off the way", func(t *tree) { t.add("bin/sub/"); t.own("bin/sub", user, user, 0o777) }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			tree := plant(t, "opt/py3", "bin/py -> ../opt/py3")
			test.setup(tree)
			got, err := tree.root.Follow("/bin/py", User{UID: user, GID: user, Groups: []uint32{group}}, nil)
			if err != nil || got.Target != "/opt/py3" || got.Writable != test.want {
				t.Errorf("%+v, %v; want writable %v", got, err, test.want)
			}
			if got, err := tree.root.Follow("/bin/py", User{}, nil); err != nil || !got.Writable {
				t.Errorf("for root: %+v, %v", got, err)
			}
		})
	}
}

// Whatever the kernel lets a user do to a path, Follow has said that it can. It
// may say so of more.
func TestWritableAgainstKernel(t *testing.T) {
	const seed = 1
	random := rand.New(rand.NewPCG(seed, seed))
	pick := func(from ...int) int { return from[random.IntN(len(from))] }
	denied, allowed := 0, 0
	for round := range 300 {
		tree := plant(t, "opt/py3", "bin/py -> ../opt/py3")
		setup := ""
		for _, name := range []string{"", "bin", "bin/py", "opt", "opt/py3"} {
			uid, gid := pick(0, 0, 0, 0, 4001, 4003), pick(0, 0, 4001, 4002, 4003)
			mode := os.FileMode(pick(0o755, 0o755, 0o755, 0o755, 0o755, 0o775, 0o757, 0o777))
			if random.IntN(3) == 0 {
				mode |= os.ModeSticky
			}
			tree.own(name, uid, gid, mode)
			setup += fmt.Sprintf("\n/%s: %v %d:%d", name, mode, uid, gid)
			if name != "bin/py" && random.IntN(4) == 0 {
				tree.acl(name, aclAccess, acl(4001, uint16(pick(5, 7)), uint16(pick(5, 7)), uint16(pick(5, 7))))
				setup += " ACL"
			}
		}
		link, err := tree.root.Follow("/bin/py", nobody, nil)
		tree.must(err)
		done, err := tree.tryAll(nobody)
		tree.must(err)
		if done != "" && !link.Writable {
			t.Errorf("round %d: the user could %s%s", round, done, setup)
		}
		if link.Writable {
			allowed++
		} else {
			denied++
		}
	}
	if allowed < 20 || denied < 20 {
		t.Errorf("%d writable, %d not: this tests little", allowed, denied)
	}
}

// tryAll returns what the user can do about /bin/py -> ../opt/py3, as the kernel
// has it.
func (t *tree) tryAll(user User) (done string, err error) {
	result := make(chan struct{})
	go func() { // on a thread that ends with its ids
		defer close(result)
		runtime.LockOSThread()
		dirs := make(map[string]int)
		for _, name := range []string{"", "bin", "opt"} {
			fd, openErr := unix.Open(t.path(name), unix.O_PATH|unix.O_CLOEXEC, 0)
			if openErr != nil {
				err = openErr
				return
			}
			defer unix.Close(fd)
			dirs[name] = fd
		}
		groups := make([]int, len(user.Groups))
		for i, g := range user.Groups {
			groups[i] = int(g)
		}
		// File system ids: with them go the capabilities about files.
		if err = errors.Join(unix.Setgroups(groups), unix.Setfsgid(int(user.GID)), unix.Setfsuid(int(user.UID))); err != nil {
			return
		}
		for _, entry := range [][2]string{{"", "bin"}, {"", "opt"}, {"bin", "py"}, {"opt", "py3"}} {
			dir := dirs[entry[0]]
			if unix.Renameat(dir, entry[1], dir, "moved") == nil {
				done = "rename " + entry[1]
				err = unix.Renameat(dir, "moved", dir, entry[1])
				return
			}
		}
		if fd, err := unix.Openat(dirs["opt"], "py3", unix.O_WRONLY|unix.O_CLOEXEC, 0); err == nil {
			unix.Close(fd)
			done = "write to the target"
		}
	}()
	<-result
	return done, err
}

// Root opens a directory, the user turns the link, root turns it back and closes
// the directory. A walk that saw the user's link must not say that the directory
// is closed.
func TestWritableWhileItChanges(t *testing.T) {
	testenv.RequireKernel(t, "telling changes within a tick apart", 6, 13)
	tree := plant(t, "good", "bad", "bin/py -> ../good", "bin/keep/")
	stop, stopped := make(chan struct{}), make(chan error, 1)
	turn := func(text string) error {
		return errors.Join(os.Symlink(text, tree.path("bin/keep/new")), os.Rename(tree.path("bin/keep/new"), tree.path("bin/py")))
	}
	go func() {
		for {
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
			if err := errors.Join(os.Chmod(tree.path("bin"), 0o777), turn("../bad"), turn("../good"), os.Chmod(tree.path("bin"), 0o755)); err != nil {
				stopped <- err
				return
			}
		}
	}()
	seen := make(map[Link]int)
	for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); {
		link, err := tree.root.Follow("/bin/py", nobody, nil)
		if err != nil {
			t.Error(err)
			break
		}
		seen[link]++
	}
	close(stop)
	tree.must(<-stopped)
	if n := seen[Link{Target: "/bad", Hops: 1}]; n > 0 {
		t.Errorf("%d times nobody could have done this: %v", n, seen)
	}
	t.Log(seen)
}
