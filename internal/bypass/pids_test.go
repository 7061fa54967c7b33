package bypass

import (
	"fmt"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// pidsGroup: processes that are gone, or others, when the decision is made (row 28).
func pidsGroup() group {
	return group{name: "pids", runner: stranger, attempts: func() []attempt {
		return []attempt{
			{row: 28, name: "storm", want: "each-its-own", told: by(stranger), try: storm},
			{row: 28, name: "gone_at_once", want: quiet, told: by(stranger), try: goneAtOnce},
			{row: 28, name: "other_thread", want: reset, told: by(stranger), try: func(in *intruder) string {
				got := make(chan string)
				go func() {
					runtimeLock() // the thread ends with this goroutine
					got <- connectName(in.open, portEcho)
				}()
				return <-got
			}},
			{row: 28, name: "exec_chain", want: reset, told: by(stranger), try: func(in *intruder) string {
				return in.run(in.stranger(), "again", "40", in.open)
			}},
			{row: 28, name: "orphan", want: reset, told: by(stranger), try: func(in *intruder) string {
				return in.run(in.stranger(), "orphan", in.stranger(), in.open)
			}},
		}
	}}
}

// storm runs allowed and denied programs against each other, while pids are used
// up beside them.
func storm(in *intruder) string {
	const rounds = 12
	var mu sync.Mutex
	count := map[string]int{}
	var wg sync.WaitGroup
	start := func(who, path string) {
		wg.Go(func() {
			got := in.run(path, "connect", in.open, "7")
			mu.Lock()
			defer mu.Unlock()
			count[who+" "+got]++
		})
	}
	for range rounds {
		start(client, in.client())
		start(stranger, in.stranger())
		for range 50 {
			if err := forkNothing(); err != nil {
				return word(err)
			}
		}
	}
	wg.Wait()
	if len(count) == 2 && count[client+" "+data] == rounds && count[stranger+" "+reset] == rounds {
		return "each-its-own"
	}
	return fmt.Sprint(count)
}

// forkNothing uses up a pid.
func forkNothing() error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return fork(fd, [4]byte{})
}

// fork has a child connect (what the socket is not for fails), and waits for its
// end.
func fork(fd int, addr [4]byte) error {
	done := make(chan error)
	go func() {
		pid, err := forkConnect(fd, addr)
		if err == nil {
			_, err = unix.Wait4(pid, nil, 0, nil)
		}
		done <- err
	}()
	return <-done
}

// goneAtOnce connects from processes that end with the call.
func goneAtOnce(in *intruder) string {
	addr, err := lookUp(in.open, "ip4")
	if err != nil {
		return word(err)
	}
	for range 100 {
		fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return word(err)
		}
		if err := fork(fd, addr.As4()); err != nil {
			return word(err)
		}
		got := talk(fd)
		_ = unix.Close(fd)
		if got != reset {
			return got
		}
	}
	return quiet
}

// again executes itself so many times, and connects then: longer than any ancestry.
func again(a []string) string {
	n, err := strconv.Atoi(a[0])
	if err != nil || n == 0 {
		return connectName(a[1], portEcho)
	}
	runtimeLock()
	return "exec: " + word(unix.Exec("/proc/self/exe", []string{stranger, actCommand, "again", strconv.Itoa(n - 1), a[1]}, os.Environ()))
}

// orphan connects from a process whose parent has ended.
func orphan(a []string) string {
	r, w, err := os.Pipe()
	if err != nil {
		return word(err)
	}
	defer r.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return word(err)
	}
	defer null.Close()
	// A middle process starts it, and does not wait.
	middle, err := os.StartProcess(a[0], []string{a[0], actCommand, "leave", a[0], a[1]}, &os.ProcAttr{Files: []*os.File{null, null, os.Stderr, w}})
	if err != nil {
		return word(err)
	}
	_ = w.Close()
	if _, err := middle.Wait(); err != nil {
		return word(err)
	}
	return readLine(r)
}

// leave starts a program with its standard output at descriptor 3, and ends.
func leave(a []string) string {
	out := os.NewFile(3, "out")
	_, err := os.StartProcess(a[0], []string{a[0], actCommand, "connect", a[1], "7"}, &os.ProcAttr{Files: []*os.File{nil, out, os.Stderr}})
	return word(err)
}
