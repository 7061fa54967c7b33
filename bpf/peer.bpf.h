/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * recvmsg4/6 and getpeername4/6: a program sees the address that it asked for,
 * not the listener that answered. Neither can refuse anything.
 */
#pragma once

static __always_inline int on_recvmsg(struct bpf_sock_addr *ctx, bool ipv6)
{
	__u64 id;
	struct sandbox *sb = current_sandbox(&id);
	struct address from = get_address(ctx, ipv6);
	struct address *server;

	if (!sb || get_port(ctx) != sb->dns_port)
		return ALLOW;
	server = server_of(bpf_get_netns_cookie(ctx), &from);
	if (server)
		set_address(ctx, ipv6, server, DNS_PORT);
	return ALLOW;
}

static __always_inline int on_getpeername(struct bpf_sock_addr *ctx, bool ipv6)
{
	__u64 id;
	struct sandbox *sb = current_sandbox(&id);
	struct sock_origin *origin;

	if (!sb || !ctx->sk || !is_reserved(sb, get_port(ctx)))
		return ALLOW;
	origin = bpf_sk_storage_get(&sock_origins, ctx->sk, 0, 0);
	if (origin)
		set_address(ctx, ipv6, &origin->destination, origin->port);
	return ALLOW;
}

SEC("cgroup/recvmsg4")
int recvmsg4(struct bpf_sock_addr *ctx)
{
	return on_recvmsg(ctx, false);
}

SEC("cgroup/recvmsg6")
int recvmsg6(struct bpf_sock_addr *ctx)
{
	return on_recvmsg(ctx, true);
}

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	return on_getpeername(ctx, false);
}

SEC("cgroup/getpeername6")
int getpeername6(struct bpf_sock_addr *ctx)
{
	return on_getpeername(ctx, true);
}
