/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The ABI between the kernel side and the agent. The agent's Go types are
 * generated from these, so that each is declared once. Widths are fixed and
 * padding is written out. An IPv4 address stands in its v4-mapped form; ports are
 * in host order.
 */
#pragma once

#define MAX_ANCESTORS 16
#define PATH_INLINE 256
#define PATH_MAX_BYTES 4096
#define SCRIPT_INLINE 128
#define VARIABLE_MAX 24

/*
 * Another build's layout, for tests of a change of builds: members that are new and
 * move the others, a wider one, longer arrays. Nothing reads what is added.
 */
#ifdef OTHER_LAYOUT
#define OTHER_MEMBER __u64 other;
#define OTHER_REASON REJECT_OTHER,
#else
#define OTHER_MEMBER
#define OTHER_REASON
#endif

/* At a bound of one sandbox that sandbox is refused, no other one is. */
enum bound {
	MAX_SANDBOXES = 1024,
	SANDBOX_TASKS = 16384,
	SANDBOX_EXECS = 16384,
	SANDBOX_LONG_PATHS = 512,
	SANDBOX_ORIGINS = 8192,
	SANDBOX_DNS_SLOTS = 250,
};

/* Bits of exec_record.taints, only ever added to; internal/flow names them. */
#define TAINT_FOREIGN_ROOT (1u << 0)
#define TAINT_DELETED (1u << 1)
#define TAINT_MEMFD (1u << 2)
#define TAINT_NO_PATH (1u << 3)
#define TAINT_FILTERED (1u << 4)
#define TAINT_WRITABLE (1u << 5)
#define TAINT_LOADER (1u << 6) /* the agent's: by the name of the file */
#define TAINT_PRELOAD (1u << 7)
#define TAINT_SETUID (1u << 8)
#define TAINT_SCRIPT (1u << 9)
/* 1u << 10 is the agent's too: changed, against what it knew of the path. */

/* Bit of exec_record.preload: the environment could not be read to its end. */
#define PRELOAD_UNREAD (1ull << 63)

struct address {
	__be32 words[4]; /* network order */
};

/* Names one exec: never reused, even when the pid is. */
struct exec_id {
	__u32 tgid;
	__u32 pad;
	__u64 time; /* CLOCK_BOOTTIME, ns */
};

/* What the agent says of one sandbox. */
struct sandbox {
	OTHER_MEMBER
	__u64 netns_cookie;
	__u32 mnt_ns;  /* inode numbers; 0 until its init has made the namespaces: */
	__u32 user_ns; /* until then no task of it gets an identity */
	__u16 capture_port;
	__u16 dns_port;
	__u16 proxy_port;
	__u16 pad;
};

/*
 * Why a hook refused. 0 means that it did not. Counters are kept by these numbers,
 * also from one build to the next: a reason is only ever appended (before REJECT_MAX).
 */
enum reject {
	REJECT_NONE = 0,
	REJECT_UNKNOWN_SANDBOX,
	REJECT_FOREIGN_NETNS,
	REJECT_NO_IDENTITY,
	REJECT_SOCKET_TYPE,
	REJECT_ADDRESS_FAMILY,
	REJECT_UDP,
	REJECT_UDP_CONNECT,
	REJECT_RESERVED_PORT,
	REJECT_MAP_FULL,
	REJECT_EGRESS,
	OTHER_REASON
	REJECT_MAX,
};

/* What the hooks count for one sandbox. */
struct sandbox_state {
	OTHER_MEMBER
	__u32 tasks;
	__u32 execs;
	__u32 long_paths;
	__u32 origins;
	__u32 dns_slots;
	__u32 execs_lost; /* execs that got no record, for want of room */
	__u64 rejected[REJECT_MAX];
	__u64 sampled_at[REJECT_MAX]; /* ns since boot of the last sample sent */
};

/* The program that a process runs now, kept by tgid. */
struct task {
	__u64 sandbox;
	__u64 start_boottime; /* of the thread group leader */
	__u64 self_exec_id;
	struct exec_id exec; /* zero for the launcher, which has no identity */
#ifdef OTHER_LAYOUT
	__u64 filters; /* no member more: on 6.1 the exec hook has no stack for it */
#else
	__u32 filters; /* seccomp filters that the launcher set */
	__u32 pad;
#endif
};

/* Tells one file from every other, and one content of it from the next. */
struct file_id {
	__u64 device; /* s_dev as the kernel has it, not stat's st_dev */
	__u64 inode;
	__s64 size;
	__s64 ctime_sec;
	__u32 ctime_nsec;
	__u32 nlink;
	__u32 fs_magic;
	__u32 fs_granularity; /* of its times, ns */
};

/*
 * One exec. It has two counts because an ancestor must outlive its processes
 * without keeping its own ancestors alive, or a chain would never end:
 * users: processes that run it, origins that wait, and those that the agent took;
 * refs:  one while there are users, and one for each descendant that lists it.
 * At users == 0 it lets go of its ancestors, at refs == 0 it is deleted.
 */
struct exec_record {
	OTHER_MEMBER
	struct exec_id id;
	__u64 sandbox;
	__u32 users;
	__u32 refs;
	__u32 uid;
	__u32 gid;
	struct file_id file;
	__u64 preload; /* bits of preload_variables that the environment sets */
	__u32 taints;
	__u32 script_len; /* of a script, as it was named to execve, cut to its start */
	__u16 path_len; /* over PATH_INLINE: the path is in long_paths */
	__u16 ancestors_len;
	__u32 held; /* of the users, the agent's: its successor gives them back */
	struct exec_id ancestors[MAX_ANCESTORS]; /* nearest first */
	__u8 path[PATH_INLINE];
	__u8 script[SCRIPT_INLINE];
};

struct long_path {
	__u8 bytes[PATH_MAX_BYTES];
};

/* What a connect hook remembered on the socket. */
struct sock_origin {
	OTHER_MEMBER
	struct exec_id exec;
	struct address destination;
	__u64 sandbox;
	__u64 cookie; /* of the socket */
	__u32 uid;
	__u16 port;
	__u8 publish; /* an accepting side will take it */
	__u8 proxy;   /* a connect to the explicit proxy */
};

/* Where the accepting side finds an origin. */
struct origin_key {
	OTHER_MEMBER
	__u64 netns_cookie;
	struct address source;
	__u16 port;
	__u8 pad[6];
};

struct origin {
	struct sock_origin sock;
	__u64 time; /* ns since boot */
};

/* Tells the servers that one socket asks apart: see dns.bpf.h. */
struct dns_server {
	OTHER_MEMBER
	__u64 netns_cookie;
	struct address address;
};

struct dns_slot {
	OTHER_MEMBER
	__u64 netns_cookie;
	__u32 slot;
	__u32 ipv6;
};

/* The name of an environment variable, filled up with zeros. */
struct variable {
	__u8 name[VARIABLE_MAX];
};

/* One exec that got a record, the first of its file in a sandbox. */
struct exec_event {
	__u64 sandbox;
	struct exec_id exec;
};

/* A file that was executed in a sandbox. */
struct sandbox_file {
	__u64 sandbox;
	struct file_id file;
};

/* One sampled rejection. */
struct rejection {
	__u64 sandbox;
	struct exec_id exec;
	struct address destination;
	__u64 count; /* of this reason in this sandbox so far */
	__u32 pid; /* 0: not known, a packet was refused */
	__u32 uid;
	enum reject reason;
	__u16 port;
	__u8 has_destination;
	__u8 pad;
};

/* Argument of the take_origin program. */
struct take_origin_args {
	struct origin_key key;
	struct origin origin;
};

/* Argument of the drop_exec program. */
struct drop_exec_args {
	struct exec_id id;
};

/* Argument of the identify_file program. */
struct identify_file_args {
	struct file_id file;
	__u32 fd; /* of the caller's */
	__u32 pad;
};

/* Argument of the drop_task program, and what list_tasks writes. */
struct task_key {
	__u32 tgid;
	__u32 pad;
	__u64 start_boottime;
};
