/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The path of a program image, by a walk up its dentries and across mounts to
 * the task's root. Only what the kernel executed counts, never an argument.
 */
#pragma once

#define MAX_COMPONENTS 4096
#define NAME_MAX_BYTES 255

/* Names are written from the end towards the start; the slack takes the last one. */
struct path_buffer {
	__u8 bytes[PATH_MAX_BYTES + NAME_MAX_BYTES + 1];
};

enum walk_status {
	WALK_GOING = 0,
	WALK_AT_ROOT,
	WALK_UNREACHABLE, /* another mount tree: unmounted, memfd, or above a chroot */
	WALK_TOO_LONG,
};

struct walk {
	struct path_buffer *buffer;
	struct dentry *dentry;
	struct mount *mount;
	struct dentry *root_dentry;
	struct mount *root_mount;
	__u32 at; /* start of what is written so far */
	__u32 status;
	struct writer user;
	__u32 writable; /* the user can put another file in the place of this one */
	__u32 pad;
};

static __always_inline struct mount *mount_of(struct vfsmount *mnt)
{
	return (void *)mnt - bpf_core_field_offset(struct mount, mnt);
}

/* Inode number of the first user namespace: a mount that it owns is not idmapped. */
#define INIT_USER_NS 0xEFFFFFFDU

/*
 * Whether a mount shows other owners than its files have. Then who can write them
 * is not to be told here, and everybody counts as able to.
 */
static __always_inline bool is_idmapped(struct mount *mount)
{
	struct vfsmount___now *now = (void *)mount + bpf_core_field_offset(struct mount, mnt);
	struct vfsmount___until_6_2 *before = (void *)now;
	struct mnt_idmap *map;

	if (!bpf_core_field_exists(now->mnt_idmap))
		return BPF_CORE_READ(before, mnt_userns, ns.inum) != INIT_USER_NS;
	map = BPF_CORE_READ(now, mnt_idmap);
	if (bpf_core_field_exists(map->uid_map))
		return BPF_CORE_READ(map, uid_map.nr_extents) != 0;
	return BPF_CORE_READ((struct mnt_idmap___until_6_4 *)map, owner, ns.inum) != INIT_USER_NS;
}

static __always_inline void prepend_name(struct walk *w, struct dentry *dentry)
{
	__u32 len = BPF_CORE_READ(dentry, d_name.len) & NAME_MAX_BYTES;
	const void *name = BPF_CORE_READ(dentry, d_name.name);
	__u32 at = w->at;

	if (at < len + 1) {
		w->status = WALK_TOO_LONG;
		return;
	}
	at -= len + 1;
	w->at = at;
	at &= PATH_MAX_BYTES - 1;
	w->buffer->bytes[at] = '/';
	bpf_probe_read_kernel(&w->buffer->bytes[at + 1], len, name);
}

/* Fields of w are copied out first: a CO-RE read relocates its whole expression. */
static long walk_step(__u32 index, void *data)
{
	struct walk *w = data;
	struct dentry *dentry = w->dentry, *parent;
	struct mount *mount = w->mount;

	if (dentry == w->root_dentry && mount == w->root_mount) {
		w->status = WALK_AT_ROOT;
		return 1;
	}
	if (dentry == BPF_CORE_READ(mount, mnt.mnt_root)) {
		struct mount *below = BPF_CORE_READ(mount, mnt_parent);

		if (is_idmapped(mount))
			w->writable = 1;
		if (below == mount) {
			w->status = WALK_UNREACHABLE;
			return 1;
		}
		w->dentry = BPF_CORE_READ(mount, mnt_mountpoint);
		w->mount = below;
		return 0;
	}
	parent = BPF_CORE_READ(dentry, d_parent);
	if (parent == dentry) {
		w->status = WALK_UNREACHABLE;
		return 1;
	}
	if (may_replace(&w->user, BPF_CORE_READ(parent, d_inode), BPF_CORE_READ(dentry, d_inode)))
		w->writable = 1;
	prepend_name(w, dentry);
	w->dentry = parent;
	return w->status != WALK_GOING;
}

/*
 * Writes the file's path relative to root to the end of the buffer; w->at is
 * where it starts. Anything but WALK_AT_ROOT is no path. On the way it looks
 * whether w->user, which the caller sets, could change what is at that path.
 */
static __always_inline __u32 walk_path(struct walk *w, struct path_buffer *buffer, struct file *file,
				       struct path root)
{
	w->buffer = buffer;
	w->dentry = BPF_CORE_READ(file, f_path.dentry);
	w->mount = mount_of(BPF_CORE_READ(file, f_path.mnt));
	w->root_dentry = root.dentry;
	w->root_mount = mount_of(root.mnt);
	w->at = PATH_MAX_BYTES;
	w->status = WALK_GOING;
	w->writable = may_write(&w->user, (__u64)BPF_CORE_READ(file, f_inode));
	bpf_loop(MAX_COMPONENTS, walk_step, w, 0);
	return w->status;
}

/*
 * Whether a root is the root of its whole mount namespace: the root of its
 * mount, which is mounted on the root of another, and so on to the top. A chroot
 * into a directory, or into a mount on one, is not.
 */
static __always_inline bool is_namespace_root(struct path root)
{
	struct mount *mount = mount_of(root.mnt);

	if (root.dentry != BPF_CORE_READ(mount, mnt.mnt_root))
		return false;
	for (int i = 0; i < 8; i++) {
		struct mount *below = BPF_CORE_READ(mount, mnt_parent);

		if (below == mount)
			return true;
		if (BPF_CORE_READ(mount, mnt_mountpoint) != BPF_CORE_READ(below, mnt.mnt_root))
			return false;
		mount = below;
	}
	return false;
}
