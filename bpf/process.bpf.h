/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Exec, fork and exit of tasks in fenced cgroups. A task of an unfenced one
 * costs the walk to the cgroup root, and a look-up at exit.
 *
 * A task that came from outside (the agent's launcher) has an entry with a zero
 * exec id: no identity. It keeps that until it executes a program inside the
 * sandbox's own namespaces, which becomes the first image, without ancestors.
 */
#pragma once

/*
 * The entry of a task, if it is of this very process and this very image: a lost
 * exec or exit must never lend the previous program's identity to the next.
 */
static __always_inline struct task *task_entry(struct task_struct *task, __u64 sandbox,
					       __u64 self_exec_id)
{
	__u32 tgid = BPF_CORE_READ(task, tgid);
	struct task *entry = bpf_map_lookup_elem(&tasks, &tgid);

	if (!entry || entry->sandbox != sandbox || entry->self_exec_id != self_exec_id ||
	    entry->start_boottime != BPF_CORE_READ(task, group_leader, start_boottime))
		return NULL;
	return entry;
}

/* Drops an entry and its use of an exec record; of two racing, one does. */
static __always_inline void forget_task(__u32 tgid)
{
	struct task *entry = bpf_map_lookup_elem(&tasks, &tgid);
	struct sandbox_state *state;
	struct exec_id exec;
	__u64 sandbox;

	if (!entry)
		return;
	exec = entry->exec;
	sandbox = entry->sandbox;
	if (bpf_map_delete_elem(&tasks, &tgid))
		return;
	if (!exec_is_zero(&exec))
		drop_user(&exec);
	state = bpf_map_lookup_elem(&sandbox_states, &sandbox);
	if (state)
		__sync_fetch_and_sub(&state->tasks, 1);
}

/* Publishes what a task runs. The caller has already counted the use of exec. */
static __always_inline bool remember_task(struct task_struct *task, __u64 sandbox, struct exec_id exec,
					  __u32 filters)
{
	struct sandbox_state *state = bpf_map_lookup_elem(&sandbox_states, &sandbox);
	struct task entry = {
		.sandbox = sandbox,
		.start_boottime = BPF_CORE_READ(task, group_leader, start_boottime),
		.self_exec_id = BPF_CORE_READ(task, self_exec_id),
		.exec = exec,
		.filters = filters,
	};
	__u32 tgid = BPF_CORE_READ(task, tgid);

	if (!state || state->tasks >= SANDBOX_TASKS)
		return false;
	if (bpf_map_update_elem(&tasks, &tgid, &entry, BPF_NOEXIST))
		return false;
	__sync_fetch_and_add(&state->tasks, 1);
	return true;
}

static __always_inline __u32 filters_of(struct task_struct *task)
{
	return BPF_CORE_READ(task, seccomp.filter_count.counter);
}

/*
 * How many seccomp filters are the launcher's. One more taints: it may answer for
 * the kernel, and so have a program connect a socket that is somebody else's.
 * Without an entry nobody knows, and every one counts as added.
 */
static __always_inline __u32 launchers_filters(struct task_struct *task, const struct task *entry)
{
	if (!entry)
		return 0;
	return exec_is_zero(&entry->exec) ? filters_of(task) : entry->filters;
}

/*
 * Makes the record of an exec with one user, the task itself. previous is the
 * image before, or zero; the caller still holds its use of that.
 */
static __always_inline bool make_record(struct task_struct *task, struct linux_binprm *bprm,
					__u64 sandbox, const struct sandbox *sb, const struct exec_id *id,
					const struct exec_id *previous, __u32 taints)
{
	struct sandbox_state *state = bpf_map_lookup_elem(&sandbox_states, &sandbox);
	struct exec_scratch *scratch;
	struct exec_record *record;
	__u32 zero = 0;

	scratch = bpf_map_lookup_elem(&exec_scratches, &zero);
	if (!state || !scratch || state->execs >= SANDBOX_EXECS)
		return false;
	record = &scratch->record;
	record->id = *id;
	record->sandbox = sandbox;
	record->users = 1;
	record->refs = 1;
	record->held = 0;
	record->uid = BPF_CORE_READ(task, cred, uid.val);
	record->gid = BPF_CORE_READ(task, cred, gid.val);
	record->ancestors_len = 0;
	record->taints = taints;
	if (!read_image(scratch, task, bprm, sb, state))
		return false;
	if (bpf_map_update_elem(&execs, id, record, BPF_NOEXIST)) {
		if (record->path_len > PATH_INLINE && !bpf_map_delete_elem(&long_paths, id))
			__sync_fetch_and_sub(&state->long_paths, 1);
		return false;
	}
	__sync_fetch_and_add(&state->execs, 1);
	if (exec_is_zero(previous))
		return true;
	record = bpf_map_lookup_elem(&execs, id);
	if (record)
		inherit_ancestors(record, previous);
	return true;
}

/*
 * Tells the agent of a file that is executed in a sandbox for the first time, so
 * that it can be read meanwhile. Lost: it is read when it has to be.
 */
static __noinline int announce_exec(__u64 sandbox, const struct exec_id *id)
{
	struct sandbox_file key = {.sandbox = sandbox};
	struct exec_id own = *id;
	struct exec_record *record = bpf_map_lookup_elem(&execs, &own);
	struct exec_event *event;
	__u8 yes = 1;

	if (!record)
		return 0;
	key.file = record->file;
	if (bpf_map_lookup_elem(&announced, &key))
		return 0;
	event = bpf_ringbuf_reserve(&exec_events, sizeof(*event), 0);
	if (!event)
		return 0;
	event->sandbox = sandbox;
	event->exec = own;
	bpf_ringbuf_submit(event, 0);
	bpf_map_update_elem(&announced, &key, &yes, BPF_ANY);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(process_exec, struct task_struct *task, pid_t old_pid, struct linux_binprm *bprm)
{
	struct exec_id id = {.tgid = BPF_CORE_READ(task, tgid)}, previous = {};
	struct membership m = membership_of(task);
	struct sandbox_state *state;
	struct task *entry;
	struct sandbox *sb;
	__u64 key = m.id;
	__u32 filters, taints;
	bool launcher;

	if (!m.fenced)
		return 0;
	sb = bpf_map_lookup_elem(&sandboxes, &key);
	if (!sb) {
		forget_task(id.tgid);
		return 0;
	}
	/* The kernel has already counted self_exec_id up for this exec. */
	entry = task_entry(task, key, BPF_CORE_READ(task, self_exec_id) - 1);
	launcher = !entry || exec_is_zero(&entry->exec);
	if (launcher && !in_own_namespaces(task, sb)) {
		forget_task(id.tgid);
		remember_task(task, key, previous, 0);
		return 0;
	}
	filters = launchers_filters(task, entry);
	taints = filters_of(task) == filters ? 0 : TAINT_FILTERED;
	if (entry)
		previous = entry->exec;
	id.time = bpf_ktime_get_boot_ns();
	if (!make_record(task, bprm, key, sb, &id, &previous, taints)) {
		/* The previous program's identity must not stay in place. */
		forget_task(id.tgid);
		state = state_of(key);
		if (state)
			__sync_fetch_and_add(&state->execs_lost, 1);
		return 0;
	}
	/* Between these two the task has no identity, and is rejected. */
	forget_task(id.tgid);
	if (!remember_task(task, key, id, filters))
		drop_user(&id);
	else
		announce_exec(key, &id);
	return 0;
}

/* A child runs its parent's image until it executes one. Threads share an entry. */
SEC("tp_btf/sched_process_fork")
int BPF_PROG(process_fork, struct task_struct *parent, struct task_struct *child)
{
	struct exec_id exec = {};
	struct membership m;
	struct task *entry;
	__u32 filters = 0;

	if (BPF_CORE_READ(child, tgid) == BPF_CORE_READ(parent, tgid))
		return 0;
	/* The child's cgroup: clone3 may have put it into another than the parent's. */
	m = membership_of(child);
	if (!m.fenced || !m.id)
		return 0;
	entry = task_entry(parent, m.id, BPF_CORE_READ(parent, self_exec_id));
	if (!entry && membership_of(parent).id == m.id)
		return 0; /* a lost identity is not a launcher's, which has none yet */
	if (entry) {
		exec = entry->exec;
		filters = entry->filters;
	}
	if (!exec_is_zero(&exec) && !add_user(&exec))
		return 0; /* no entry: no identity */
	if (!remember_task(child, m.id, exec, filters) && !exec_is_zero(&exec))
		drop_user(&exec);
	return 0;
}

/* A leader may exit before its threads: only the last of them ends the process. */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(process_exit, struct task_struct *task)
{
	if (BPF_CORE_READ(task, signal, live.counter) == 0)
		forget_task(BPF_CORE_READ(task, tgid));
	return 0;
}

/* The exec that the current task runs; false where that cannot be told. */
static __always_inline bool current_exec(__u64 sandbox, struct exec_id *exec)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct task *entry = task_entry(task, sandbox, BPF_CORE_READ(task, self_exec_id));

	if (!entry || exec_is_zero(&entry->exec))
		return false;
	*exec = entry->exec;
	return true;
}
