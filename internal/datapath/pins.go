package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
)

// What lies in a pin directory:
//
//	about               which object made the rest; pinned last
//	link_HOOK           the links of cgroup hooks, whose programs can be replaced
//	gen_N/link_HOOK     the links of tracepoints, whose programs cannot
//	gen_N/hook_HOOK     the programs of all hooks
//	gen_N/call_PROGRAM  the programs that the agent runs
//	gen_N/map_MAP       every map
//
// A generation is what one load made, and there is one, but while another build takes
// over. A map, a link or a program is whatever has its name: no name has a dot, which
// the file system refuses.
const (
	aboutName        = "about"
	generationPrefix = "gen_"
	mapPrefix        = "map_"
	hookPrefix       = "hook_"
	callPrefix       = "call_"
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

// programPin returns under what name a program is pinned.
func (dp *Datapath) programPin(name string) string {
	if slices.ContainsFunc(dp.hooks(), func(h hook) bool { return h.name == name }) {
		return hookPrefix + name
	}
	return callPrefix + name
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
		if err := (*p).Pin(filepath.Join(dir, dp.programPin(name))); err != nil {
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
		if *p, err = ebpf.LoadPinnedProgram(filepath.Join(dir, dp.programPin(name)), nil); err != nil {
			return fmt.Errorf("open pinned program %s: %w", name, err)
		}
	}
	return nil
}

// otherGenerations returns the directories of all generations but one: what a change
// of builds left behind, or did not bring to its end.
func otherGenerations(pinDir string, g generation) ([]string, error) {
	dirs, err := filepath.Glob(filepath.Join(pinDir, generationPrefix+"*"))
	if err != nil {
		return nil, fmt.Errorf("look for pins: %w", err)
	}
	return slices.DeleteFunc(dirs, func(dir string) bool { return dir == g.dir(pinDir) }), nil
}

func removeOtherGenerations(pinDir string, g generation) error {
	dirs, err := otherGenerations(pinDir, g)
	errs := []error{err}
	for _, dir := range dirs {
		errs = append(errs, Unpin(dir))
	}
	return errors.Join(errs...)
}

// pinsOf returns what is pinned in a directory under a prefix, by its name without.
func pinsOf(dir, prefix string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("look for pins: %w", err)
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutPrefix(e.Name(), prefix); ok {
			names = append(names, name)
		}
	}
	return names, nil
}

func isPinned(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func unpin(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove pin: %w", err)
	}
	return nil
}
