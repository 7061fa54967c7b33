/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The kernel structures that Ringfence reads, with only the fields it reads.
 * The loader relocates every access to the running kernel's layout (CO-RE), so
 * neither the order nor the completeness of a structure matters here.
 */
#pragma once

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct kernfs_node {
	__u64 id;
};

struct cgroup;

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
};

struct cgroup {
	struct cgroup_subsys_state self;
	struct kernfs_node *kn;
};

struct css_set {
	struct cgroup *dfl_cgrp;
};

typedef struct {
	int counter;
} atomic_t;

struct signal_struct {
	atomic_t live;
};

typedef struct {
	__u32 val;
} kuid_t;

typedef struct {
	__u32 val;
} kgid_t;

struct ns_common {
	__u32 inum;
};

struct user_namespace {
	struct ns_common ns;
};

struct group_info {
	int ngroups;
	kgid_t gid[0];
};

struct cred {
	kuid_t uid;
	kgid_t gid;
	struct group_info *group_info;
	struct user_namespace *user_ns;
};

struct mnt_namespace {
	struct ns_common ns;
};

struct nsproxy {
	struct mnt_namespace *mnt_ns;
};

struct super_block {
	__u32 s_dev;
	unsigned long s_magic;
	__u32 s_time_gran;
};

struct timespec64 {
	__s64 tv_sec;
	long tv_nsec;
};

struct inode {
	unsigned short i_mode;
	kuid_t i_uid;
	kgid_t i_gid;
	struct super_block *i_sb;
	unsigned long i_ino;
	unsigned int i_nlink;
	__s64 i_size;
};

struct posix_acl;

/* Not in a kernel that is built without ACLs. */
struct inode___with_acl {
	struct posix_acl *i_acl;
};

/* The time of the last change has had three layouts since 6.1. */
struct inode___until_6_5 {
	struct timespec64 i_ctime;
};

struct inode___until_6_10 {
	struct timespec64 __i_ctime;
};

struct inode___now {
	__s64 i_ctime_sec;
	__u32 i_ctime_nsec;
};

struct qstr {
	__u32 len;
	const unsigned char *name;
};

struct hlist_bl_node {
	struct hlist_bl_node **pprev;
};

struct dentry {
	struct hlist_bl_node d_hash;
	struct dentry *d_parent;
	struct inode *d_inode;
	struct qstr d_name;
};

struct vfsmount {
	struct dentry *mnt_root;
};

/* How a mount maps users has had three layouts since 6.1. */
struct vfsmount___until_6_2 {
	struct user_namespace *mnt_userns;
};

struct uid_gid_map {
	__u32 nr_extents;
};

struct mnt_idmap {
	struct uid_gid_map uid_map;
};

struct mnt_idmap___until_6_4 {
	struct user_namespace *owner;
};

struct vfsmount___now {
	struct mnt_idmap *mnt_idmap;
};

struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
};

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};

struct file {
	struct path f_path;
	struct inode *f_inode;
};

struct fs_struct {
	struct path root;
};

struct linux_binprm {
	struct file *file;
	const char *filename; /* as named to execve */
	const char *interp; /* what runs it: another pointer for a script */
};

struct mm_struct {
	unsigned long env_start;
	unsigned long env_end;
};

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

struct seccomp {
	atomic_t filter_count;
};

struct task_struct {
	__u32 tgid;
	__u64 start_boottime;
	__u64 self_exec_id;
	struct task_struct *group_leader;
	struct signal_struct *signal;
	struct css_set *cgroups;
	struct fs_struct *fs;
	struct files_struct *files;
	struct mm_struct *mm;
	struct nsproxy *nsproxy;
	const struct cred *cred;
	struct seccomp seccomp;
};

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};

#pragma clang attribute pop
