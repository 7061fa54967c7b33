package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
)

// MapFate is what became of a map when another build took over.
type MapFate string

// The fates.
const (
	MapKept      MapFate = "kept"      // the very same map
	MapConverted MapFate = "converted" // made anew, its entries copied
	MapEmptied   MapFate = "emptied"   // made anew: nothing that was in it is missed
)

// MapReport says it of one map.
type MapReport struct {
	Name    string
	Fate    MapFate
	Entries int // that were copied
	Lost    int // that could not be: what they are about is rejected
}

// recordMaps count each other's entries: all are kept, or all are converted.
func recordMaps() []string {
	return []string{agentMapSandboxStates, agentMapTasks, agentMapExecs, agentMapLongPaths, agentMapOrigins}
}

// contentsOf says what becomes of the maps whose contents matter; those that are not
// named are emptied. Of the maps that are kept or emptied, a socket's origin is of use
// to its connection, which ended with the agent that it went to, and an asker is
// decoration. Samples in ring buffers have a layout that nothing says: the counters of
// rejections are kept, files are announced anew.
func contentsOf() map[string][]MapFate {
	fates := map[string][]MapFate{
		agentMapSandboxes:   {MapKept, MapConverted},
		agentMapDnsSlots:    {MapKept, MapConverted},
		agentMapDnsServers:  {MapKept, MapConverted},
		agentMapSockOrigins: {MapKept, MapEmptied},
		agentMapDnsAskers:   {MapKept, MapEmptied},
	}
	for _, name := range recordMaps() {
		fates[name] = []MapFate{MapKept, MapConverted}
	}
	return fates
}

// inheritance is what becomes of one map of a predecessor.
type inheritance struct {
	old        *ebpf.Map // nil where it had none, or nothing of it is wanted
	key, value *conversion
	report     MapReport
}

// estate is what becomes of all of them.
type estate struct {
	maps    map[string]*inheritance
	preload renumbering // of exec records
}

// planEstate compares the maps of a predecessor with those of this build. An error
// says that their contents cannot be taken over.
func planEstate(spec *ebpf.CollectionSpec, dir string) (*estate, error) {
	e := &estate{maps: map[string]*inheritance{}}
	var err error
	if e.preload, err = renumberPreload(dir); err != nil {
		return nil, err
	}
	for name, m := range spec.Maps {
		if strings.HasPrefix(name, ".") { // constants of the programs
			continue
		}
		in, err := planMap(name, m, dir)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("take over map %s: %w", name, err), e.Close())
		}
		e.maps[name] = in
	}
	if e.preload != nil || slices.ContainsFunc(recordMaps(), func(name string) bool { return !e.has(name, MapKept) }) {
		for _, name := range recordMaps() {
			e.maps[name].report.Fate = MapConverted
		}
	}
	return e, nil
}

func (e *estate) has(name string, fate MapFate) bool { return e.maps[name].report.Fate == fate }

func planMap(name string, spec *ebpf.MapSpec, dir string) (*inheritance, error) {
	in := &inheritance{report: MapReport{Name: name, Fate: MapEmptied}}
	fates := contentsOf()[name]
	if len(fates) == 0 {
		return in, nil
	}
	old, err := ebpf.LoadPinnedMap(filepath.Join(dir, mapPrefix+name), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return in, nil // this build has a map more
	}
	if err != nil {
		return nil, err
	}
	err = in.compare(old, spec)
	if err == nil && in.key.same && in.value.same && spec.Compatible(old) == nil {
		in.old, in.report.Fate = old, MapKept
		return in, nil
	}
	if !slices.Contains(fates, MapConverted) {
		return in, old.Close()
	}
	if err != nil {
		return nil, errors.Join(err, old.Close())
	}
	in.old, in.report.Fate = old, MapConverted
	return in, nil
}

// compare plans the conversion of keys and values.
func (in *inheritance) compare(old *ebpf.Map, spec *ebpf.MapSpec) error {
	was, err := layoutOf(old)
	if err != nil {
		return err
	}
	if in.key, err = convert(was.key, spec.Key); err != nil {
		return fmt.Errorf("key: %w", err)
	}
	if in.value, err = convert(was.value, spec.Value); err != nil {
		return fmt.Errorf("value: %w", err)
	}
	if in.key.size != int(spec.KeySize) || in.value.size != int(spec.ValueSize) {
		return errors.New("types of other sizes than the map's")
	}
	return nil
}

// kept returns the maps that are loaded into the new programs.
func (e *estate) kept() map[string]*ebpf.Map {
	kept := map[string]*ebpf.Map{}
	for name, in := range e.maps {
		if in.report.Fate == MapKept {
			kept[name] = in.old
		}
	}
	return kept
}

func (e *estate) reports() []MapReport {
	var reports []MapReport
	for _, name := range slices.Sorted(maps.Keys(e.maps)) {
		reports = append(reports, e.maps[name].report)
	}
	return reports
}

// Close closes the predecessor's maps.
func (e *estate) Close() error {
	var errs []error
	for _, in := range e.maps {
		if in.old != nil {
			errs = append(errs, in.old.Close())
		}
	}
	return errors.Join(errs...)
}

// settle fills the maps of this build, which no hook looks into yet. It returns how
// many uses of exec records the predecessor held.
//
// Where something may connect meanwhile, the origins are not copied: the old hook may
// publish another for the same port, and that connection would be taken for this one's.
// (The new hook removes what it finds.)
func (e *estate) settle(dp *Datapath, frozen bool) (held int, err error) {
	for _, in := range []struct {
		name string
		copy func(*inheritance) error
	}{
		{agentMapSandboxes, copyTo[uint64, agentSandbox](dp.objects.Sandboxes)},
		{agentMapDnsSlots, copyTo[agentDnsServer, uint32](dp.objects.DnsSlots)},
		{agentMapDnsServers, copyTo[agentDnsSlot, agentAddress](dp.objects.DnsServers)},
	} {
		if e.has(in.name, MapConverted) {
			if err := in.copy(e.maps[in.name]); err != nil {
				return 0, fmt.Errorf("fill map %s: %w", in.name, err)
			}
		}
	}
	if e.has(agentMapTasks, MapKept) {
		return dp.releaseHeld()
	}
	return e.settleRecords(dp, frozen)
}

func (e *estate) settleRecords(dp *Datapath, frozen bool) (held int, err error) {
	var r records
	var errs [5]error
	r.states, errs[0] = converted[uint64, agentSandboxState](e.maps[agentMapSandboxStates])
	r.tasks, errs[1] = converted[uint32, agentTask](e.maps[agentMapTasks])
	r.execs, errs[2] = converted[agentExecId, agentExecRecord](e.maps[agentMapExecs])
	r.longPaths, errs[3] = converted[agentExecId, agentLongPath](e.maps[agentMapLongPaths])
	r.origins, errs[4] = converted[agentOriginKey, agentOrigin](e.maps[agentMapOrigins])
	if err := errors.Join(errs[:]...); err != nil {
		return 0, err
	}
	if !frozen {
		e.maps[agentMapOrigins].report.Lost += len(r.origins)
		clear(r.origins)
	}
	for id, record := range r.execs {
		held += int(record.Held)
		record.Preload = e.preload.apply(record.Preload)
		r.execs[id] = record
	}
	r.settle()
	return held, errors.Join(
		fill(dp.objects.SandboxStates, r.states, e.maps[agentMapSandboxStates]),
		fill(dp.objects.Execs, r.execs, e.maps[agentMapExecs]),
		fill(dp.objects.LongPaths, r.longPaths, e.maps[agentMapLongPaths]),
		fill(dp.objects.Tasks, r.tasks, e.maps[agentMapTasks]),
		fill(dp.objects.Origins, r.origins, e.maps[agentMapOrigins]),
	)
}

func copyTo[K comparable, V any](m *ebpf.Map) func(*inheritance) error {
	return func(in *inheritance) error {
		entries, err := converted[K, V](in)
		if err != nil {
			return err
		}
		return fill(m, entries, in)
	}
}

// converted reads a map of the predecessor, in this build's layout.
func converted[K comparable, V any](in *inheritance) (map[K]V, error) {
	entries := map[K]V{}
	if in.old == nil {
		return entries, nil
	}
	was, err := snapshot(in.old)
	if err != nil {
		return nil, err
	}
	for oldKey, oldValue := range was {
		key, keyErr := in.key.apply([]byte(oldKey))
		value, valueErr := in.value.apply(oldValue)
		if keyErr != nil || valueErr != nil {
			in.report.Lost++
			continue
		}
		entries[valueAs[K](key)] = valueAs[V](value)
	}
	return entries, nil
}

func fill[K comparable, V any](m *ebpf.Map, entries map[K]V, in *inheritance) error {
	for key, value := range entries {
		if err := m.Put(bytesOf(&key), bytesOf(&value)); err != nil {
			return fmt.Errorf("fill %s: %w", m, err)
		}
	}
	in.report.Entries = len(entries)
	return nil
}

// lookAttempts is how often a table is looked through anew that changes too much
// meanwhile.
const lookAttempts = 10

// snapshot returns the entries of a map, as bytes.
func snapshot(m *ebpf.Map) (map[string][]byte, error) {
	for range lookAttempts {
		entries, err := entriesOf(m)
		if !errors.Is(err, ebpf.ErrIterationAborted) {
			return entries, err
		}
	}
	return nil, fmt.Errorf("read %s: %w", m, ebpf.ErrIterationAborted)
}

func entriesOf(m *ebpf.Map) (map[string][]byte, error) {
	entries := map[string][]byte{}
	var last any // the first key comes after none
	for range 2 * (int(m.MaxEntries()) + 1) {
		key, err := m.NextKeyBytes(last)
		if key == nil || err != nil {
			return entries, err
		}
		value, err := m.LookupBytes(key)
		if err != nil {
			return nil, err
		}
		if value != nil { // else it went meanwhile
			entries[string(key)] = value
		}
		last = key
	}
	return nil, ebpf.ErrIterationAborted
}
