// Command storm is a client without manners. It runs inside a sandbox, does much at
// once for a time, and prints what came of it as one JSON object. What it writes to
// a server says who wrote it and when, so that the server can tell whether that was
// allowed.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// storm is one run of the program.
type storm struct {
	tag   string // of the run, in every line that is written
	until time.Time

	mu     sync.Mutex
	counts map[string]int // what came of everything, "deed outcome" → times
}

// count notes what came of a deed.
func (s *storm) count(deed, outcome string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[deed+" "+outcome]++
}

func (s *storm) over() bool { return !time.Now().Before(s.until) }

func main() {
	tag := flag.String("tag", "", "who writes, in every line")
	lasting := flag.Duration("for", time.Second, "how long")
	seed := flag.Uint64("seed", 1, "of what is chosen")
	n := flag.Int("n", 1, "at once, of each deed; connections of flood; a second of watch")
	flag.Parse()
	s := &storm{tag: *tag, until: time.Now().Add(*lasting), counts: map[string]int{}}
	deeds := s.deeds()
	var all sync.WaitGroup
	for i, arg := range flag.Args() {
		name, target, _ := strings.Cut(arg, "=")
		deed, ok := deeds[name]
		if !ok {
			fmt.Fprintf(os.Stderr, "storm: no deed %q; there are %v\n", name, slices.Sorted(maps.Keys(deeds)))
			os.Exit(2)
		}
		for worker := range deed.workers(*n) {
			random := rand.New(rand.NewPCG(*seed, uint64(i)<<32|uint64(worker)))
			all.Go(func() { deed.do(name, target, *n, random) })
		}
	}
	all.Wait()
	if err := json.NewEncoder(os.Stdout).Encode(s.counts); err != nil {
		os.Exit(1)
	}
}

// deed is one kind of thing to do to a target, HOST:PORT.
type deed struct {
	do   func(name, target string, n int, random *rand.Rand)
	once bool // one worker does n of them, instead of n workers
}

func (d deed) workers(n int) int {
	if d.once {
		return 1
	}
	return n
}

func (s *storm) deeds() map[string]deed {
	return map[string]deed{
		"talk":   {do: s.repeat(s.talk)},
		"denied": {do: s.repeat(s.denied)},
		"pull":   {do: s.repeat(s.pull)},
		"push":   {do: s.repeat(s.push)},
		"burst":  {do: s.repeat(s.burst)},
		"udp":    {do: s.repeat(s.udp)},
		"hail":   {do: s.hail},
		"names":  {do: s.repeat(s.names)},
		"exec":   {do: s.repeat(s.exec)},
		"watch":  {do: s.watch, once: true},
		"flood":  {do: s.flood, once: true},
		"forks":  {do: s.forks, once: true},
	}
}

// repeat does a thing over and over, and once at least.
func (s *storm) repeat(do func(target string, random *rand.Rand) string) func(string, string, int, *rand.Rand) {
	return func(name, target string, _ int, random *rand.Rand) {
		for again := true; again; again = !s.over() {
			s.count(name, do(target, random))
		}
	}
}
