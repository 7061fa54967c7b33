/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every map, with its writer, its reader and its bound. The agent makes them
 * smaller where it is to have few sandboxes.
 */
#pragma once

/* Written by the agent, read by every hook. No entry: everything is rejected. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_SANDBOXES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64); /* cgroup id */
	__type(value, struct sandbox);
} sandboxes SEC(".maps");

/* Made by the agent before its sandbox, counted up and down by the hooks. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_SANDBOXES + 1); /* and one for unknown sandboxes */
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64); /* cgroup id; 0: unknown */
	__type(value, struct sandbox_state);
} sandbox_states SEC(".maps");

/*
 * Written by the exec, fork and exit hooks, read by the connect hooks. Keyed by
 * tgid because task storage cannot be read in connect hooks before 6.16.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 20);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32); /* tgid */
	__type(value, struct task);
} tasks SEC(".maps");

/* Written by the exec hook, freed by whoever drops the last count. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 20);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct exec_id);
	__type(value, struct exec_record);
} execs SEC(".maps");

/* The few paths that do not fit into their record. Same life as the record. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 16);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct exec_id);
	__type(value, struct long_path);
} long_paths SEC(".maps");

/* Written by the connect hooks, read by sockops and getpeername. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct sock_origin);
} sock_origins SEC(".maps");

/* Published by sockops before the SYN leaves, taken once by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 20);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct origin_key);
	__type(value, struct origin);
} origins SEC(".maps");

/* Written and read by the UDP hooks: server → slot, and back. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_SANDBOXES * SANDBOX_DNS_SLOTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct dns_server);
	__type(value, __u32);
} dns_slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_SANDBOXES * SANDBOX_DNS_SLOTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct dns_slot);
	__type(value, struct address);
} dns_servers SEC(".maps");

/*
 * Who sent the last datagram to the DNS listener from this address: decoration
 * for the record of a refused name, so that losing one is no harm.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct origin_key);
	__type(value, struct exec_id);
} dns_askers SEC(".maps");

/* Written by every hook that rejects, read by the agent. Full: only counted. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} rejections SEC(".maps");

/* Written by the exec hook, read by the agent. Full: the agent learns later. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} exec_events SEC(".maps");

/*
 * Written and read by the exec hook: files that it has announced. One that is
 * forgotten is announced again, which is no harm.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct sandbox_file);
	__type(value, __u8);
} announced SEC(".maps");
