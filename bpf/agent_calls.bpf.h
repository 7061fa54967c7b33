/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Programs that the agent runs itself, where a map operation would not do. */
#pragma once

#define TAKEN 0
#define FOUND 0
#define NOT_FOUND 1

/*
 * Looks up and removes an origin. Its use of the exec record passes to the agent, and
 * is noted as held: a program runs to its end, also when the agent is killed.
 */
SEC("syscall")
int take_origin(struct take_origin_args *args)
{
	struct origin_key key = args->key;
	struct origin *found = bpf_map_lookup_elem(&origins, &key);
	struct exec_record *record;
	struct origin origin;

	if (!found)
		return NOT_FOUND;
	origin = *found;
	if (!remove_origin(&key, origin.sock.sandbox))
		return NOT_FOUND;
	record = bpf_map_lookup_elem(&execs, &origin.sock.exec);
	if (record)
		__sync_fetch_and_add(&record->held, 1);
	args->origin = origin;
	return TAKEN;
}

/* Gives back the use of an exec record that came with an origin. */
SEC("syscall")
int drop_exec(struct drop_exec_args *args)
{
	struct exec_id id = args->id;
	struct exec_record *record = bpf_map_lookup_elem(&execs, &id);

	if (record)
		__sync_fetch_and_sub(&record->held, 1);
	drop_user(&id);
	return 0;
}

/*
 * Says of a file that the caller has open what an exec record says of an image's:
 * the kernel's own words, which stat's are not (on overlayfs they differ).
 */
SEC("syscall")
int identify_file(struct identify_file_args *args)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct fdtable *fdt = BPF_CORE_READ(task, files, fdt);
	struct file *file = NULL;
	__u32 fd = args->fd;

	if (fd >= BPF_CORE_READ(fdt, max_fds) ||
	    bpf_probe_read_kernel(&file, sizeof(file), BPF_CORE_READ(fdt, fd) + fd) || !file)
		return NOT_FOUND;
	read_file(&args->file, file);
	return FOUND;
}

/*
 * Writes down every process that lives and has an entry which is its own. An exit that
 * no hook saw, while one build takes over from another, leaves one without a process.
 */
SEC("iter/task")
int list_tasks(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct task_key key = {};
	struct task *entry;

	if (!task || BPF_CORE_READ(task, group_leader) != task)
		return 0;
	key.tgid = BPF_CORE_READ(task, tgid);
	entry = bpf_map_lookup_elem(&tasks, &key.tgid);
	if (!entry || BPF_CORE_READ(task, signal, live.counter) == 0)
		return 0;
	key.start_boottime = BPF_CORE_READ(task, start_boottime);
	key.self_exec_id = BPF_CORE_READ(task, self_exec_id);
	bpf_seq_write(ctx->meta->seq, &key, sizeof(key));
	return 0;
}

/* Drops the entry of a process that ended, unless another has taken its place. */
SEC("syscall")
int drop_task(struct task_key *args)
{
	__u32 tgid = args->tgid;
	struct task *entry = bpf_map_lookup_elem(&tasks, &tgid);

	if (!entry || entry->start_boottime != args->start_boottime ||
	    entry->self_exec_id != args->self_exec_id)
		return NOT_FOUND;
	forget_task(tgid);
	return FOUND;
}
