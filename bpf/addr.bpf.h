/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The addresses of a sock_addr context, in the one form the verdicts know. */
#pragma once

#define ALLOW 1
#define REJECT 0

/*
 * The family is the hook's, never the context's: an unconnected send of a
 * v4-mapped address runs the IPv4 hook with ctx->family AF_INET6.
 */
static __always_inline struct address get_address(const struct bpf_sock_addr *ctx, bool ipv6)
{
	if (!ipv6)
		return address_v4(ctx->user_ip4);
	return (struct address){
		.words = {ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]},
	};
}

static __always_inline void set_address(struct bpf_sock_addr *ctx, bool ipv6, const struct address *a,
					__u16 port)
{
	ctx->user_port = bpf_htons(port);
	if (!ipv6) {
		ctx->user_ip4 = a->words[3];
		return;
	}
	ctx->user_ip6[0] = a->words[0];
	ctx->user_ip6[1] = a->words[1];
	ctx->user_ip6[2] = a->words[2];
	ctx->user_ip6[3] = a->words[3];
}

static __always_inline __u16 get_port(const struct bpf_sock_addr *ctx)
{
	return bpf_ntohs((__u16)ctx->user_port);
}

/* The loopback address of the same family as a: the listeners hear on both. */
static __always_inline struct address loopback_like(const struct address *a)
{
	if (is_v4(a))
		return address_v4(bpf_htonl(0x7f000001));
	return (struct address){.words = {[3] = bpf_htonl(1)}};
}
