/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Programs that the agent runs itself, where a map operation would not do. */
#pragma once

#define TAKEN 0
#define NOT_FOUND 1

/* Looks up and removes an origin. Its use of the exec record passes to the agent. */
SEC("syscall")
int take_origin(struct take_origin_args *args)
{
	struct origin_key key = args->key;
	struct origin *found = bpf_map_lookup_elem(&origins, &key);
	struct origin origin;

	if (!found)
		return NOT_FOUND;
	origin = *found;
	if (!remove_origin(&key, origin.sock.sandbox))
		return NOT_FOUND;
	args->origin = origin;
	return TAKEN;
}

/* Gives back the use of an exec record that came with an origin. */
SEC("syscall")
int drop_exec(struct drop_exec_args *args)
{
	struct exec_id id = args->id;

	drop_user(&id);
	return 0;
}
