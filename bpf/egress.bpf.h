/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * cgroup_skb egress: the backstop behind the other hooks. A local sandbox has
 * only loopback, so no other packet of its sockets is due. It also notes who
 * asks the DNS listener, because here a datagram's source port is known.
 */
#pragma once

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd

/* Of RFC 2675; the kernel's name for it is not in its uapi headers. */
struct jumbo_header {
	__u8 nexthdr;
	__u8 length;
	__u8 option;
	__u8 option_length;
	__be32 payload;
};
#define HOP_BY_HOP 0
#define OPTION_JUMBO 0xc2

struct packet {
	struct address from;
	struct address to;
	__u32 protocol;
	__u32 transport; /* offset of the transport header, bytes */
};

/*
 * A TCP packet of 64 KiB and more, which is what bulk over the loopback's large
 * MTU comes in, has a hop-by-hop header of the kernel's own making. (A program
 * needs a capability to add one.)
 */
static __always_inline void skip_jumbo(struct __sk_buff *skb, struct packet *p)
{
	struct jumbo_header jumbo;

	if (bpf_skb_load_bytes(skb, p->transport, &jumbo, sizeof(jumbo)) || jumbo.length ||
	    jumbo.option != OPTION_JUMBO)
		return;
	p->protocol = jumbo.nexthdr;
	p->transport += sizeof(jumbo);
}

static __always_inline bool read_packet(struct __sk_buff *skb, struct packet *p)
{
	struct iphdr v4;
	struct ipv6hdr v6;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (bpf_skb_load_bytes(skb, 0, &v4, sizeof(v4)))
			return false;
		p->from = address_v4(v4.saddr);
		p->to = address_v4(v4.daddr);
		p->protocol = v4.protocol;
		p->transport = v4.ihl * 4;
		return true;
	}
	if (skb->protocol != bpf_htons(ETH_P_IPV6) || bpf_skb_load_bytes(skb, 0, &v6, sizeof(v6)))
		return false;
	__builtin_memcpy(&p->from, &v6.saddr, sizeof(p->from));
	__builtin_memcpy(&p->to, &v6.daddr, sizeof(p->to));
	/* Extension headers are not walked: no program of a sandbox needs one to leave. */
	p->protocol = v6.nexthdr;
	p->transport = sizeof(v6);
	if (v6.nexthdr == HOP_BY_HOP && !v6.payload_len)
		skip_jumbo(skb, p);
	return true;
}

static __always_inline void note_asker(struct __sk_buff *skb, const struct packet *p,
				       const struct sandbox *sb)
{
	struct origin_key key = {.netns_cookie = sb->netns_cookie, .source = p->from};
	struct sock_origin *origin;
	struct bpf_sock *sk = skb->sk;
	struct udphdr udp;

	if (p->protocol != IPPROTO_UDP || bpf_skb_load_bytes(skb, p->transport, &udp, sizeof(udp)) ||
	    bpf_ntohs(udp.dest) != sb->dns_port)
		return;
	if (!sk)
		return;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return;
	origin = bpf_sk_storage_get(&sock_origins, sk, 0, 0);
	if (!origin)
		return;
	key.port = bpf_ntohs(udp.source);
	bpf_map_update_elem(&dns_askers, &key, &origin->exec, BPF_ANY);
}

SEC("cgroup_skb/egress")
int egress(struct __sk_buff *skb)
{
	__u64 id = bpf_skb_cgroup_id(skb);
	struct sandbox *sb = bpf_map_lookup_elem(&sandboxes, &id);
	struct rejection r = {.sandbox = id};
	struct packet p = {};
	struct verdict v;

	if (!read_packet(skb, &p))
		v = reject_for(REJECT_EGRESS);
	else
		v = judge_packet(&p.to, p.protocol);
	if (v.outcome == OUTCOME_PASS) {
		if (sb)
			note_asker(skb, &p, sb);
		return ALLOW;
	}
	/* Packets leave in the context of any task, or of none: only the socket tells. */
	r.uid = bpf_get_socket_uid(skb);
	r.destination = p.to;
	r.has_destination = 1;
	r.reason = v.reason;
	count_rejection(&r);
	return REJECT;
}
