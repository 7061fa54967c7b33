/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The decisions of the hooks as pure functions: no map, no helper, no context,
 * so that tests/verdict.bpf.c can call each with any input. The zero verdict
 * rejects.
 */
#pragma once

#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define SOCK_DGRAM 2

#define DNS_PORT 53

enum outcome {
	OUTCOME_REJECT = 0,
	OUTCOME_PASS,    /* the sandbox's own loopback */
	OUTCOME_CAPTURE, /* to the capture listener */
	OUTCOME_PROXY,   /* already goes to the explicit proxy: remember, do not rewrite */
	OUTCOME_DNS,     /* to the DNS listener */
};

struct verdict {
	__u32 outcome; /* enum outcome */
	__u32 reason;  /* enum reject; set where the outcome is a rejection */
};

static __always_inline struct verdict verdict_of(enum outcome outcome)
{
	return (struct verdict){.outcome = outcome, .reason = REJECT_NONE};
}

static __always_inline struct verdict reject_for(enum reject reason)
{
	return (struct verdict){.outcome = OUTCOME_REJECT, .reason = reason};
}

static __always_inline struct address address_v4(__be32 ip)
{
	return (struct address){.words = {0, 0, bpf_htonl(0x0000ffff), ip}};
}

static __always_inline bool is_v4(const struct address *a)
{
	return !a->words[0] && !a->words[1] &&
	       a->words[2] == bpf_htonl(0x0000ffff);
}

/* The kernel takes 0.0.0.0 and :: for its loopback when it connects or sends. */
static __always_inline bool is_loopback(const struct address *a)
{
	__u32 last = bpf_ntohl(a->words[3]);

	if (is_v4(a))
		return (last >> 24) == 127 || last == 0;
	return !a->words[0] && !a->words[1] && !a->words[2] && last <= 1;
}

static __always_inline bool is_unspecified(const struct address *a)
{
	if (a->words[3])
		return false;
	return is_v4(a) || is_loopback(a);
}

/* Ports on which the agent listens inside the sandbox; 0 is no listener's. */
static __always_inline bool is_reserved(const struct sandbox *sb, __u16 port)
{
	if (!port)
		return false;
	return port == sb->capture_port || port == sb->dns_port || port == sb->proxy_port;
}

/* TCP: everything is captured, but for the sandbox's own loopback. */
static __always_inline struct verdict judge_tcp(const struct sandbox *sb, const struct address *to,
						__u16 port)
{
	if (port == DNS_PORT)
		return verdict_of(OUTCOME_DNS);
	if (!is_loopback(to))
		return verdict_of(OUTCOME_CAPTURE);
	if (!is_reserved(sb, port))
		return verdict_of(OUTCOME_PASS);
	if (port == sb->proxy_port)
		return verdict_of(OUTCOME_PROXY);
	return reject_for(REJECT_RESERVED_PORT);
}

/* UDP: DNS is answered, loopback passes, nothing else leaves. */
static __always_inline struct verdict judge_udp(const struct sandbox *sb, const struct address *to,
						__u16 port, enum reject otherwise)
{
	if (port == DNS_PORT)
		return verdict_of(OUTCOME_DNS);
	if (!is_loopback(to))
		return reject_for(otherwise);
	if (is_reserved(sb, port))
		return reject_for(REJECT_RESERVED_PORT);
	return verdict_of(OUTCOME_PASS);
}

/* A listener's port is not to be had, whether asked for or picked (port 0). */
static __always_inline struct verdict judge_bind(const struct sandbox *sb, __u16 port)
{
	return is_reserved(sb, port) ? reject_for(REJECT_RESERVED_PORT) : verdict_of(OUTCOME_PASS);
}

/*
 * TCP and UDP over IPv4 and IPv6. MPTCP is refused because getpeername of such a
 * socket would show the capture listener; clients fall back to TCP.
 */
static __always_inline struct verdict judge_socket(__u32 family, __u32 type, __u32 protocol)
{
	if (family != AF_INET && family != AF_INET6)
		return reject_for(REJECT_ADDRESS_FAMILY);
	if (type == SOCK_STREAM && (protocol == 0 || protocol == IPPROTO_TCP))
		return verdict_of(OUTCOME_PASS);
	if (type == SOCK_DGRAM && (protocol == 0 || protocol == IPPROTO_UDP))
		return verdict_of(OUTCOME_PASS);
	return reject_for(REJECT_SOCKET_TYPE);
}

/* DNS slots, see dns.bpf.h: 127.83.0.0/16 and fd52:696e:67fe:53::/64. */
#define SLOT_V4 0x7f530000
#define SLOT_V4_MASK 0xffff0000
#define SLOT_V6_0 0xfd52696e
#define SLOT_V6_1 0x67fe0053

static __always_inline struct address slot_address(__u32 slot, bool ipv6)
{
	if (!ipv6)
		return address_v4(bpf_htonl(SLOT_V4 | (slot & ~SLOT_V4_MASK)));
	return (struct address){
		.words = {bpf_htonl(SLOT_V6_0), bpf_htonl(SLOT_V6_1), 0, bpf_htonl(slot)},
	};
}

/* The slot that an address stands for; 0 for none. */
static __always_inline __u32 slot_of(const struct address *a)
{
	__u32 last = bpf_ntohl(a->words[3]);

	if (is_v4(a))
		return (last & SLOT_V4_MASK) == SLOT_V4 ? last & ~SLOT_V4_MASK : 0;
	if (a->words[0] == bpf_htonl(SLOT_V6_0) && a->words[1] == bpf_htonl(SLOT_V6_1) &&
	    !a->words[2])
		return last;
	return 0;
}

/* What may leave a socket of the sandbox as a packet: TCP and UDP on loopback. */
static __always_inline struct verdict judge_packet(const struct address *to, __u32 protocol)
{
	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
		return reject_for(REJECT_EGRESS);
	if (!is_loopback(to) && !slot_of(to))
		return reject_for(REJECT_EGRESS);
	return verdict_of(OUTCOME_PASS);
}
