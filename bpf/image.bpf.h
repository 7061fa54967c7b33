/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What an exec record says of the program image: which file, by what path, and
 * the taints, which say why it is not simply the file that its path names.
 */
#pragma once

struct exec_scratch {
	struct exec_record record;
	struct path_buffer path;
};

/* Only the exec hook uses it; the kernel does not nest one program on a CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct exec_scratch);
} exec_scratches SEC(".maps");

/* Whether the task is in the mount and the user namespace of the sandbox. */
static __always_inline bool in_own_namespaces(struct task_struct *task, const struct sandbox *sb)
{
	return sb->mnt_ns && sb->user_ns &&
	       BPF_CORE_READ(task, nsproxy, mnt_ns, ns.inum) == sb->mnt_ns &&
	       BPF_CORE_READ(task, cred, user_ns, ns.inum) == sb->user_ns;
}

static __always_inline bool is_memfd(struct dentry *dentry)
{
	const void *name = BPF_CORE_READ(dentry, d_name.name);
	__u64 head = 0;

	bpf_probe_read_kernel(&head, 6, name);
	return head == 0x3a64666d656dULL; /* "memfd:" in little endian */
}

/*
 * Fills path, path_len and what taints it; false where a long path finds no room.
 * Not inlined, because the frames of a chain of calls share 512 bytes of stack.
 */
static __noinline bool read_path(struct exec_scratch *scratch, struct task_struct *task,
				      struct file *file, const struct sandbox *sb,
				      struct sandbox_state *state)
{
	struct exec_record *record = &scratch->record;
	struct dentry *dentry = BPF_CORE_READ(file, f_path.dentry);
	struct path root = {
		.mnt = BPF_CORE_READ(task, fs, root.mnt),
		.dentry = BPF_CORE_READ(task, fs, root.dentry),
	};
	struct walk walk = {.user = writer_of(task)};
	__u32 len;

	record->path_len = 0;
	if (!in_own_namespaces(task, sb) || !is_namespace_root(root))
		record->taints |= TAINT_FOREIGN_ROOT;
	if (!record->file.nlink || !BPF_CORE_READ(dentry, d_hash.pprev))
		record->taints |= TAINT_DELETED;
	walk_path(&walk, &scratch->path, file, root);
	if (walk.writable)
		record->taints |= TAINT_WRITABLE;
	if (walk.status != WALK_AT_ROOT) {
		record->taints |= TAINT_NO_PATH;
		if (walk.status == WALK_UNREACHABLE && is_memfd(dentry))
			record->taints |= TAINT_MEMFD;
		return true;
	}
	len = PATH_MAX_BYTES - walk.at;
	if (!len || len > PATH_MAX_BYTES)
		return false;
	record->path_len = len;
	if (len <= PATH_INLINE) {
		__u32 at = walk.at & (PATH_MAX_BYTES - 1);

		bpf_probe_read_kernel(record->path, len, &scratch->path.bytes[at]);
		return true;
	}
	/* The path lies at the end of the bytes that the agent reads. */
	if (state->long_paths >= SANDBOX_LONG_PATHS ||
	    bpf_map_update_elem(&long_paths, &record->id, &scratch->path, BPF_NOEXIST))
		return false;
	__sync_fetch_and_add(&state->long_paths, 1);
	return true;
}

/* A script's interpreter is the image; which script it runs is only noted. */
static __always_inline void read_script(struct exec_record *record, struct linux_binprm *bprm)
{
	const char *filename = BPF_CORE_READ(bprm, filename);
	long len;

	record->script_len = 0;
	if (BPF_CORE_READ(bprm, interp) == filename)
		return;
	record->taints |= TAINT_SCRIPT;
	len = bpf_probe_read_kernel_str(record->script, SCRIPT_INLINE, filename);
	if (len > 1)
		record->script_len = len - 1;
}

/* Fills all but the ids and the counts; false where a long path finds no room. */
static __always_inline bool read_image(struct exec_scratch *scratch, struct task_struct *task,
				       struct linux_binprm *bprm, const struct sandbox *sb,
				       struct sandbox_state *state)
{
	struct exec_record *record = &scratch->record;
	struct file *file = BPF_CORE_READ(bprm, file);
	__u32 mode = BPF_CORE_READ(file, f_inode, i_mode);

	read_file(&record->file, file);
	if (mode & S_ISUID || (mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP))
		record->taints |= TAINT_SETUID;
	read_script(record, bprm);
	record->preload = read_preload(task, &scratch->path);
	if (record->preload)
		record->taints |= TAINT_PRELOAD;
	return read_path(scratch, task, file, sb, state);
}
