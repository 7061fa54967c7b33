/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which file a file is: see struct file_id. */
#pragma once

static __always_inline void read_file(struct file_id *id, struct file *file)
{
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	struct inode___now *now = (void *)inode;
	struct inode___until_6_10 *until_6_10 = (void *)inode;
	struct inode___until_6_5 *until_6_5 = (void *)inode;

	id->device = BPF_CORE_READ(inode, i_sb, s_dev);
	id->fs_magic = BPF_CORE_READ(inode, i_sb, s_magic);
	id->fs_granularity = BPF_CORE_READ(inode, i_sb, s_time_gran);
	id->inode = BPF_CORE_READ(inode, i_ino);
	id->size = BPF_CORE_READ(inode, i_size);
	id->nlink = BPF_CORE_READ(inode, i_nlink);
	if (bpf_core_field_exists(now->i_ctime_sec)) {
		id->ctime_sec = BPF_CORE_READ(now, i_ctime_sec);
		/* Bit 31 says that the time was asked for, it is no part of it. */
		id->ctime_nsec = BPF_CORE_READ(now, i_ctime_nsec) & 0x7fffffff;
	} else if (bpf_core_field_exists(until_6_10->__i_ctime)) {
		id->ctime_sec = BPF_CORE_READ(until_6_10, __i_ctime.tv_sec);
		id->ctime_nsec = BPF_CORE_READ(until_6_10, __i_ctime.tv_nsec);
	} else {
		id->ctime_sec = BPF_CORE_READ(until_6_5, i_ctime.tv_sec);
		id->ctime_nsec = BPF_CORE_READ(until_6_5, i_ctime.tv_nsec);
	}
}
