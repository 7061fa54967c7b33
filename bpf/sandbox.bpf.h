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
 */
static __always_inline struct membership membership_of(struct task_struct *task)
{
	struct membership m = {};
	struct cgroup *cgroup = task->cgroups->dfl_cgrp;

	for (int i = 0; i < MAX_CGROUP_DEPTH; i++) {
		struct cgroup_subsys_state *up;
		__u64 id = cgroup->kn->id;

		if (id == parent_cgroup) {
			m.fenced = true;
			return m;
		}
		m.id = id;
		up = cgroup->self.parent;
		if (!up)
			break;
		cgroup = up->cgroup;
	}
	m.id = 0;
	return m;
}

static __always_inline struct sandbox_state *state_of(__u64 sandbox)
{
	__u64 unknown = 0;
	struct sandbox_state *state = bpf_map_lookup_elem(&sandbox_states, &sandbox);

	return state ?: bpf_map_lookup_elem(&sandbox_states, &unknown);
}

/* One rejection to be counted, and perhaps told to the agent. */
struct refusal {
	__u64 sandbox;
	struct exec_id exec;
	const struct address *destination; /* may be NULL */
	__u16 port;
	__u32 reason;
	__u32 pid; /* 0 where it is no task that is refused, but a packet */
	__u32 uid;
};

static __always_inline void count_rejection(const struct refusal *refusal)
{
	struct sandbox_state *state = state_of(refusal->sandbox);
	__u32 reason = refusal->reason;
	__u64 now = bpf_ktime_get_boot_ns();
	struct rejection *event;
	__u64 count;

	if (!state || reason >= REJECT_MAX)
		return;
	count = __sync_fetch_and_add(&state->rejected[reason], 1) + 1;
	if (count > SAMPLE_BURST && now - state->sampled_at[reason] < SAMPLE_INTERVAL_NS)
		return;
	state->sampled_at[reason] = now;
	event = bpf_ringbuf_reserve(&rejections, sizeof(*event), 0);
	if (!event)
		return; /* still counted above */
	__builtin_memset(event, 0, sizeof(*event));
	event->sandbox = refusal->sandbox;
	event->exec = refusal->exec;
	event->count = count;
	event->pid = refusal->pid;
	event->uid = refusal->uid;
	event->reason = reason;
	if (refusal->destination) {
		event->destination = *refusal->destination;
		event->port = refusal->port;
		event->has_destination = 1;
	}
	bpf_ringbuf_submit(event, 0);
}
