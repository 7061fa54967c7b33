package datapath

import (
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"reflect"

	"github.com/cilium/ebpf"
)

// What lies in a pin directory:
//
//	about               which object made the rest; pinned last
//	link_HOOK           the links of cgroup hooks, whose programs can be replaced
//	gen_N/link_HOOK     the links of tracepoints, whose programs cannot
//	gen_N/map_MAP       every map
//	gen_N/prog_PROGRAM  every program
//
// A generation is what one load made, and there is one, but while another build takes
// over. A map, a link or a program is whatever has its name: no name has a dot, which
// the file system refuses.
const (
	aboutName        = "about"
	generationPrefix = "gen_"
	mapPrefix        = "map_"
	programPrefix    = "prog_"
	linkPrefix       = "link_"
)

// generation is a number from 1 on.
type generation uint32

func (g generation) dir(pinDir string) string {
	return filepath.Join(pinDir, fmt.Sprint(generationPrefix, uint32(g)))
}

func (h hook) linkPin(pinDir string, g generation) string {
	if h.isTracepoint() {
		pinDir = g.dir(pinDir)
	}
	return filepath.Join(pinDir, linkPrefix+h.name)
}

// named returns the fields of a generated struct (of maps, of programs) under the
// names that they have in the object.
func named[T any](objects any) iter.Seq2[string, *T] {
	return func(yield func(string, *T) bool) {
		fields := reflect.ValueOf(objects).Elem()
		for i := range fields.NumField() {
			field := fields.Field(i).Addr().Interface().(*T)
			if !yield(fields.Type().Field(i).Tag.Get("ebpf"), field) {
				return
			}
		}
	}
}

// pinObjects pins every map and every program of a new generation.
func (dp *Datapath) pinObjects() error {
	dir := dp.generation.dir(dp.pinDir)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make directory of pins: %w", err)
	}
	for name, m := range named[*ebpf.Map](&dp.objects.agentMaps) {
		if err := (*m).Pin(filepath.Join(dir, mapPrefix+name)); err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
	}
	for name, p := range named[*ebpf.Program](&dp.objects.agentPrograms) {
		if err := (*p).Pin(filepath.Join(dir, programPrefix+name)); err != nil {
			return fmt.Errorf("pin program %s: %w", name, err)
		}
	}
	return nil
}

// openObjects opens what pinObjects of a predecessor pinned.
func (dp *Datapath) openObjects() error {
	dir := dp.generation.dir(dp.pinDir)
	var err error
	for name, m := range named[*ebpf.Map](&dp.objects.agentMaps) {
		if *m, err = ebpf.LoadPinnedMap(filepath.Join(dir, mapPrefix+name), nil); err != nil {
			return fmt.Errorf("open pinned map %s: %w", name, err)
		}
	}
	for name, p := range named[*ebpf.Program](&dp.objects.agentPrograms) {
		if *p, err = ebpf.LoadPinnedProgram(filepath.Join(dir, programPrefix+name), nil); err != nil {
			return fmt.Errorf("open pinned program %s: %w", name, err)
		}
	}
	return nil
}
