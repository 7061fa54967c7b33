package datapath

import "slices"

// records are the entries that count each other: which process runs what, and what of
// it is still wanted. Hooks keep their counts right, one entry at a time; a copy that
// is made meanwhile has to be put right as a whole.
type records struct {
	states    map[uint64]agentSandboxState
	tasks     map[uint32]agentTask
	execs     map[agentExecId]agentExecRecord
	longPaths map[agentExecId]agentLongPath
	origins   map[agentOriginKey]agentOrigin
}

// settle drops what refers to something that is not there, and counts anew. Whatever a
// copy missed, no identity is kept by it that nothing would ever free, and none goes
// while it is in use. Uses that the predecessor held are not counted.
func (r *records) settle() {
	for id, record := range r.execs {
		_, hasState := r.states[record.Sandbox]
		_, hasPath := r.longPaths[id]
		if !hasState || int(record.PathLen) > pathInline && !hasPath {
			delete(r.execs, id)
		}
	}
	users := r.countUsers()
	refs := r.countRefs(users)
	for id, record := range r.execs {
		if record.Users, record.Refs, record.Held = users[id], refs[id], 0; record.Refs == 0 {
			delete(r.execs, id)
			continue
		}
		r.execs[id] = record
	}
	for id := range r.longPaths {
		if record, ok := r.execs[id]; !ok || int(record.PathLen) <= pathInline {
			delete(r.longPaths, id)
		}
	}
	r.countBounds()
}

// countUsers drops the tasks and origins whose exec is not there.
func (r *records) countUsers() map[agentExecId]uint32 {
	users := map[agentExecId]uint32{}
	for tgid, task := range r.tasks {
		_, hasState := r.states[task.Sandbox]
		_, hasExec := r.execs[task.Exec]
		switch {
		case !hasState || !hasExec && task.Exec != agentExecId{}:
			delete(r.tasks, tgid)
		case hasExec:
			users[task.Exec]++
		}
	}
	for key, origin := range r.origins {
		_, hasState := r.states[origin.Sock.Sandbox]
		if _, ok := r.execs[origin.Sock.Exec]; !ok || !hasState {
			delete(r.origins, key)
			continue
		}
		users[origin.Sock.Exec]++
	}
	return users
}

// countRefs counts descendants that have a user; the others have let go. A list of
// ancestors ends where one is not there.
func (r *records) countRefs(users map[agentExecId]uint32) map[agentExecId]uint32 {
	refs := map[agentExecId]uint32{}
	for id, record := range r.execs {
		ancestors := record.Ancestors[:min(int(record.AncestorsLen), len(record.Ancestors))]
		if end := slices.IndexFunc(ancestors, func(a agentExecId) bool {
			_, ok := r.execs[a]
			return !ok
		}); end >= 0 {
			record.AncestorsLen = uint16(end)
			r.execs[id] = record
			ancestors = ancestors[:end]
		}
		if users[id] == 0 {
			continue
		}
		refs[id]++
		for _, a := range ancestors {
			refs[a]++
		}
	}
	return refs
}

// countBounds counts what each sandbox has, against its bounds. The slots of its DNS
// servers are numbers that were given out, not entries: that count stays.
func (r *records) countBounds() {
	for id, s := range r.states {
		s.Tasks, s.Execs, s.LongPaths, s.Origins = 0, 0, 0, 0
		r.states[id] = s
	}
	count := func(sandbox uint64, add func(*agentSandboxState)) {
		s := r.states[sandbox]
		add(&s)
		r.states[sandbox] = s
	}
	for _, task := range r.tasks {
		count(task.Sandbox, func(s *agentSandboxState) { s.Tasks++ })
	}
	for _, record := range r.execs {
		count(record.Sandbox, func(s *agentSandboxState) { s.Execs++ })
	}
	for id := range r.longPaths {
		count(r.execs[id].Sandbox, func(s *agentSandboxState) { s.LongPaths++ })
	}
	for _, origin := range r.origins {
		count(origin.Sock.Sandbox, func(s *agentSandboxState) { s.Origins++ })
	}
}
