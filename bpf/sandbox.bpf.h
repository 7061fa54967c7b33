/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which sandbox a task belongs to, and how a rejection is counted and told. */
#pragma once

#define MAX_CGROUP_DEPTH 16

/* The first samples of a reason come at once, later ones at most this often. */
#define SAMPLE_BURST 16
#define SAMPLE_INTERVAL_NS 100000000ULL

/* Set by the loader: id of the cgroup whose children are the sandboxes. */
volatile const __u64 parent_cgroup;

struct membership {
	bool fenced; /* at or below the parent cgroup */
	__u64 id;    /* the child of the parent on the task's path; 0: the parent itself */
};

/*
 * Walks up from the task's cgroup to the parent cgroup. A task deeper than the
 * bound is taken for unfenced here, which the hooks reject: they run for sockets
 * of fenced cgroups only.
 *
 * Here and elsewhere a task is read by helper: at each direct access the verifier
 * searches the kernel's types by name, and loading takes three times as long.
 */
static __always_inline struct membership membership_of(struct task_struct *task)
{
	struct cgroup *cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp);
	struct membership m = {};

	for (int i = 0; i < MAX_CGROUP_DEPTH; i++) {
		struct cgroup_subsys_state *up;
		__u64 id = BPF_CORE_READ(cgroup, kn, id);

		if (id == parent_cgroup) {
			m.fenced = true;
			return m;
		}
		m.id = id;
		up = BPF_CORE_READ(cgroup, self.parent);
		if (!up)
			break;
		cgroup = BPF_CORE_READ(up, cgroup);
	}
	m.id = 0;
	return m;
}

/*
 * The sandbox of the current task and its key, or none. Most tasks are in the
 * cgroup of the sandbox itself: only those in one below it need the walk.
 */
static __always_inline struct sandbox *current_sandbox(__u64 *key)
{
	struct sandbox *sb;
	struct membership m;

	*key = bpf_get_current_cgroup_id();
	sb = bpf_map_lookup_elem(&sandboxes, key);
	if (sb)
		return sb;
	m = membership_of(bpf_get_current_task_btf());
	*key = m.fenced ? m.id : 0;
	return bpf_map_lookup_elem(&sandboxes, key);
}

static __always_inline struct sandbox_state *state_of(__u64 sandbox)
{
	__u64 unknown = 0;
	struct sandbox_state *state = bpf_map_lookup_elem(&sandbox_states, &sandbox);

	return state ?: bpf_map_lookup_elem(&sandbox_states, &unknown);
}

/*
 * Counts a rejection, and tells the agent of it unless there were too many. The
 * caller says all but the count.
 */
__noinline int count_rejection(const struct rejection *r)
{
	__u64 now = bpf_ktime_get_boot_ns();
	struct sandbox_state *state;
	struct rejection *event;
	__u32 reason;
	__u64 count;

	if (!r)
		return 0;
	state = state_of(r->sandbox);
	reason = r->reason;
	if (!state || reason >= REJECT_MAX)
		return 0;
	count = __sync_fetch_and_add(&state->rejected[reason], 1) + 1;
	if (count > SAMPLE_BURST && now - state->sampled_at[reason] < SAMPLE_INTERVAL_NS)
		return 0;
	state->sampled_at[reason] = now;
	event = bpf_ringbuf_reserve(&rejections, sizeof(*event), 0);
	if (!event)
		return 0; /* still counted above */
	*event = *r;
	event->count = count;
	bpf_ringbuf_submit(event, 0);
	return 0;
}
