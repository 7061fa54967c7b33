// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Calls each function of verdict.bpf.h with what a test puts in. The hooks
 * themselves cannot be run so: the kernel refuses to test-run their types.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/in.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "../types.h"
#include "../verdict.bpf.h"

struct call {
	/* in */
	struct sandbox sandbox;
	struct address address;
	__u32 port;
	__u32 otherwise;
	__u32 family;
	__u32 type;
	__u32 protocol;
	__u32 slot;
	/* out */
	struct verdict verdict;
	struct address slot_address;
	__u32 slot_of;
	__u8 v4;
	__u8 loopback;
	__u8 unspecified;
	__u8 reserved;
};

SEC("syscall")
int tcp(struct call *c)
{
	c->verdict = judge_tcp(&c->sandbox, &c->address, c->port);
	return 0;
}

SEC("syscall")
int udp(struct call *c)
{
	c->verdict = judge_udp(&c->sandbox, &c->address, c->port, c->otherwise);
	return 0;
}

SEC("syscall")
int bind(struct call *c)
{
	c->verdict = judge_bind(&c->sandbox, c->port);
	return 0;
}

SEC("syscall")
int socket(struct call *c)
{
	c->verdict = judge_socket(c->family, c->type, c->protocol);
	return 0;
}

SEC("syscall")
int packet(struct call *c)
{
	c->verdict = judge_packet(&c->address, c->protocol);
	return 0;
}

SEC("syscall")
int classify(struct call *c)
{
	c->v4 = is_v4(&c->address);
	c->loopback = is_loopback(&c->address);
	c->unspecified = is_unspecified(&c->address);
	c->reserved = is_reserved(&c->sandbox, c->port);
	c->slot_of = slot_of(&c->address);
	return 0;
}

SEC("syscall")
int slots(struct call *c)
{
	c->slot_address = slot_address(c->slot, c->family == AF_INET6);
	c->slot_of = slot_of(&c->slot_address);
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";

const struct call *export_call __attribute__((unused));
const enum outcome *export_outcome __attribute__((unused));
