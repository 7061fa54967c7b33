/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Environment variables by which a program loads code that is not its own, as the
 * environment is at exec: nobody else can change it from then on. What cannot be
 * read, or is too long to be, counts as set.
 */
#pragma once

#define MAX_VARIABLES 16384

/* Written by the agent before the hooks are attached: name -> bit number. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__uint(map_flags, BPF_F_RDONLY_PROG);
	__type(key, struct variable);
	__type(value, __u32);
} preload_variables SEC(".maps");

/* Set by the loader: a bit for each first letter of theirs, from '@' on. */
volatile const __u64 preload_initials;

struct environment {
	struct path_buffer *buffer;
	__u64 at;
	__u64 end;
	__u64 found;
	__u32 inside; /* at is inside of a string whose start was looked at */
	__u32 pad;
};

/*
 * The bit number, plus one, of a string "NAME=value" with a value; 0 for any other.
 * Not static, so that it is verified once: see drop_ref.
 */
__noinline int variable_number(const struct path_buffer *buffer)
{
	struct variable key = {};
	const __u8 *text;
	__u8 initial;
	__u32 *bit;

	if (!buffer)
		return 0;
	text = buffer->bytes;
	initial = text[0] - '@';
	if (initial > 63 || !(preload_initials & (1ull << initial)))
		return 0;
	for (__u32 i = 0; i < VARIABLE_MAX; i++) {
		if (!text[i])
			return 0;
		if (text[i] != '=') {
			key.name[i] = text[i];
			continue;
		}
		if (!text[i + 1])
			return 0;
		bit = bpf_map_lookup_elem(&preload_variables, &key);
		return bit ? (*bit & 63) + 1 : 0;
	}
	return 0;
}

static long variable_step(__u32 index, void *data)
{
	struct environment *env = data;
	struct path_buffer *buffer = env->buffer;
	int number = 0;
	long len;

	if (env->at >= env->end)
		return 1;
	len = bpf_probe_read_user_str(buffer->bytes, PATH_MAX_BYTES, (const void *)env->at);
	if (!len)
		len = 1; /* an empty string; older kernels do not count its end */
	if (len < 0) {
		env->found |= PRELOAD_UNREAD;
		env->at = env->end;
		return 1;
	}
	if (!env->inside)
		number = variable_number(buffer);
	if (number)
		env->found |= 1ull << ((number - 1) & 63);
	/* The last byte of a full buffer is a zero of the helper's. */
	env->inside = len == PATH_MAX_BYTES;
	env->at += env->inside ? len - 1 : len;
	return 0;
}

/* The bits of the variables that are set; the buffer is free afterwards. */
static __noinline __u64 read_preload(struct task_struct *task, struct path_buffer *buffer)
{
	struct environment env = {
		.buffer = buffer,
		.at = BPF_CORE_READ(task, mm, env_start),
		.end = BPF_CORE_READ(task, mm, env_end),
	};

	bpf_loop(MAX_VARIABLES, variable_step, &env, 0);
	if (env.at < env.end)
		env.found |= PRELOAD_UNREAD;
	return env.found;
}
