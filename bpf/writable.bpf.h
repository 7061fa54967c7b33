/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Who could change what stands at a path: the rules of internal/rootfs, at the
 * moment of exec. The user has no capabilities. Where it is not plain that it may
 * not write, these say that it may: so a read-only mount does not count, for the
 * same file may be writable elsewhere.
 */
#pragma once

#define MAX_GROUPS 32

#define S_IFMT 0170000
#define S_IFDIR 0040000
#define S_ISUID 04000
#define S_ISGID 02000
#define S_ISVTX 01000
#define S_IWGRP 00020
#define S_IXGRP 00010
#define S_IWOTH 00002

struct writer {
	__u32 uid;
	__u32 gid;
	__u64 groups; /* struct group_info * */
};

static __always_inline struct writer writer_of(struct task_struct *task)
{
	return (struct writer){
		.uid = BPF_CORE_READ(task, cred, uid.val),
		.gid = BPF_CORE_READ(task, cred, gid.val),
		.groups = (__u64)BPF_CORE_READ(task, cred, group_info),
	};
}

/*
 * Of more groups than are looked through, the user counts as a member of any. Not
 * static, so that it is verified once: see drop_ref.
 */
__noinline int is_member(const struct writer *user, __u32 gid)
{
	__u32 offset = bpf_core_field_offset(struct group_info, gid), len, member = 0;
	struct group_info *groups;

	if (!user || gid == user->gid)
		return 1;
	groups = (void *)user->groups;
	len = BPF_CORE_READ(groups, ngroups);
	if (len > MAX_GROUPS)
		return 1;
	for (__u32 i = 0; i < MAX_GROUPS; i++) {
		if (i >= len)
			break;
		if (bpf_probe_read_kernel(&member, sizeof(member), (void *)groups + offset + i * sizeof(member)) ||
		    member == gid)
			return 1;
	}
	return 0;
}

/*
 * What an ACL gives to further users stands in the mode's group bits at most. The
 * kernel has looked for one when it walked the path: NULL means that there is none.
 */
static __always_inline bool may_have_acl(struct inode *inode)
{
	struct inode___with_acl *with = (void *)inode;

	return bpf_core_field_exists(with->i_acl) && BPF_CORE_READ(with, i_acl);
}

/* Whether the user can write to a file or directory, or give itself the mode to. */
__noinline int may_write(const struct writer *user, __u64 address)
{
	struct inode *inode = (void *)address;
	__u32 mode;

	if (!user)
		return 1;
	mode = BPF_CORE_READ(inode, i_mode);
	if (!user->uid || BPF_CORE_READ(inode, i_uid.val) == user->uid || mode & S_IWOTH)
		return 1;
	if (!(mode & S_IWGRP))
		return 0;
	return is_member(user, BPF_CORE_READ(inode, i_gid.val)) || may_have_acl(inode);
}

/*
 * Whether the user can put something else in the place of a directory's entry, or
 * have put it there. A sticky directory keeps it from replacing a directory of
 * another's; a file of another's it may have moved there.
 */
static __always_inline bool may_replace(const struct writer *user, struct inode *dir, struct inode *entry)
{
	__u32 uid = user->uid;

	if (!may_write(user, (__u64)dir))
		return false;
	if (!(BPF_CORE_READ(dir, i_mode) & S_ISVTX) ||
	    (BPF_CORE_READ(entry, i_mode) & S_IFMT) != S_IFDIR || may_write(user, (__u64)entry))
		return true;
	return !uid || BPF_CORE_READ(dir, i_uid.val) == uid || BPF_CORE_READ(entry, i_uid.val) == uid;
}
