/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Exec records: which program image a process runs. Made at exec, shared at
 * fork, freed by their last user. See struct exec_record for the two counts.
 *
 * A count that has reached zero is never raised again, so it needs no lock: a user
 * is added by a task that itself holds one (add_user), or by an attempt that fails
 * on zero (add_user_of_other).
 */
#pragma once

/* Each failed attempt means that another CPU's succeeded. */
#define MAX_ADD_ATTEMPTS 64

static __always_inline bool exec_is_zero(const struct exec_id *id)
{
	return !id->tgid && !id->time;
}

/*
 * A function that is not static is verified once, not anew at each call, which
 * makes loading faster. It must check its pointers, and copies a key to its own
 * stack, because 6.1 takes it from nowhere else.
 */
__noinline int drop_ref(const struct exec_id *id)
{
	struct exec_record *record;
	struct sandbox_state *state;
	bool has_long_path;
	struct exec_id own;

	if (!id)
		return 0;
	own = *id;
	record = bpf_map_lookup_elem(&execs, &own);
	if (!record || __sync_fetch_and_sub(&record->refs, 1) != 1)
		return 0;
	state = bpf_map_lookup_elem(&sandbox_states, &record->sandbox);
	has_long_path = record->path_len > PATH_INLINE;
	if (has_long_path)
		bpf_map_delete_elem(&long_paths, &own);
	bpf_map_delete_elem(&execs, &own);
	if (!state)
		return 0;
	__sync_fetch_and_sub(&state->execs, 1);
	if (has_long_path)
		__sync_fetch_and_sub(&state->long_paths, 1);
	return 0;
}

/* The ids are copied first: the record may be deleted while they are dropped. */
__noinline int drop_user(const struct exec_id *id)
{
	struct exec_id own, ancestors[MAX_ANCESTORS];
	struct exec_record *record;
	__u32 len;

	if (!id)
		return 0;
	own = *id;
	record = bpf_map_lookup_elem(&execs, &own);
	if (!record || __sync_fetch_and_sub(&record->users, 1) != 1)
		return 0;
	len = record->ancestors_len;
	__builtin_memcpy(ancestors, record->ancestors, sizeof(ancestors));
	for (__u32 i = 0; i < MAX_ANCESTORS; i++) {
		if (i >= len)
			break;
		drop_ref(&ancestors[i]);
	}
	drop_ref(&own);
	return 0;
}

/* Only for a caller that knows of a user: itself, or the task that it is. */
static __always_inline bool add_user(const struct exec_id *id)
{
	struct exec_record *record = bpf_map_lookup_elem(&execs, id);

	if (!record)
		return false;
	__sync_fetch_and_add(&record->users, 1);
	return true;
}

/*
 * For a caller that knows of no user: whether there still is one, who counts now.
 * A connect may be put off until its first data (TCP Fast Open), and the program
 * that asked for it may have ended meanwhile. A count of zero stays.
 */
static __always_inline bool add_user_of_other(const struct exec_id *id)
{
	struct exec_record *record = bpf_map_lookup_elem(&execs, id);
	__u32 users, seen;

	if (!record)
		return false;
	users = *(volatile __u32 *)&record->users;
	for (int i = 0; i < MAX_ADD_ATTEMPTS && users; i++) {
		seen = __sync_val_compare_and_swap(&record->users, users, users + 1);
		if (seen == users)
			return true;
		users = seen;
	}
	return false;
}

/* Like add_user: whether there was a record to count one more descendant of. */
__noinline int add_ref(const struct exec_id *id)
{
	struct exec_record *record;
	struct exec_id own;

	if (!id)
		return 0;
	own = *id;
	record = bpf_map_lookup_elem(&execs, &own);
	if (!record)
		return 0;
	__sync_fetch_and_add(&record->refs, 1);
	return 1;
}

/*
 * Lists the previous image and its ancestors in a new record that nobody sees
 * yet. The caller holds a user of the previous one, and so all of these live.
 */
static __always_inline void inherit_ancestors(struct exec_record *record, const struct exec_id *previous)
{
	struct exec_record *parent = bpf_map_lookup_elem(&execs, previous);

	if (!parent)
		return;
	__sync_fetch_and_add(&parent->refs, 1);
	record->ancestors[0] = *previous;
	record->ancestors_len = 1;
	for (__u32 i = 1; i < MAX_ANCESTORS; i++) {
		if (i > parent->ancestors_len || !add_ref(&parent->ancestors[i - 1]))
			break;
		record->ancestors[i] = parent->ancestors[i - 1];
		record->ancestors_len = i + 1;
	}
}
