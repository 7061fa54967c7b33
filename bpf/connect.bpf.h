/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* connect4/6 and sendmsg4/6: redirect, remember, or reject. */
#pragma once

/* What every hook on an address must know before it judges. */
struct scene {
	__u64 sandbox;
	struct sandbox *config;
	__u64 netns_cookie;
	struct address to;
	__u16 port;
};

/* Finds the sandbox of the current task. No entry, or not its netns: reject. */
static __always_inline enum reject set_scene(struct scene *s, struct bpf_sock_addr *ctx, bool ipv6)
{
	s->to = get_address(ctx, ipv6);
	s->port = get_port(ctx);
	s->config = current_sandbox(&s->sandbox);
	if (!s->config)
		return REJECT_UNKNOWN_SANDBOX;
	s->netns_cookie = bpf_get_netns_cookie(ctx);
	if (s->netns_cookie != s->config->netns_cookie)
		return REJECT_FOREIGN_NETNS;
	return REJECT_NONE;
}

static __always_inline int reject(const struct scene *s, const struct exec_id *exec, __u32 reason)
{
	struct rejection r = {
		.sandbox = s->sandbox,
		.exec = *exec,
		.destination = s->to,
		.port = s->port,
		.has_destination = 1,
		.reason = reason,
		.pid = bpf_get_current_pid_tgid() >> 32,
		.uid = bpf_get_current_uid_gid(),
	};

	count_rejection(&r);
	return REJECT;
}

/* Remembers on the socket what was asked for, for sockops and getpeername. */
static __always_inline bool remember_origin(struct bpf_sock_addr *ctx, const struct scene *s,
					    const struct exec_id *exec, __u32 outcome)
{
	struct sock_origin *origin;

	if (!ctx->sk)
		return false;
	origin = bpf_sk_storage_get(&sock_origins, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!origin)
		return false;
	origin->exec = *exec;
	origin->destination = s->to;
	origin->port = s->port;
	origin->sandbox = s->sandbox;
	origin->cookie = bpf_get_socket_cookie(ctx);
	origin->uid = bpf_get_current_uid_gid();
	origin->publish = outcome != OUTCOME_DNS;
	origin->proxy = outcome == OUTCOME_PROXY;
	return true;
}

/* Own loopback: nothing to remember, and nothing of an earlier connect may stay. */
static __always_inline int pass_loopback(struct bpf_sock_addr *ctx, const struct scene *s, bool ipv6)
{
	struct address loopback = loopback_like(&s->to);

	if (ctx->sk)
		bpf_sk_storage_delete(&sock_origins, ctx->sk);
	/* 0.0.0.0 and :: name the loopback; the packet check knows only its address. */
	if (is_unspecified(&s->to))
		set_address(ctx, ipv6, &loopback, s->port);
	return ALLOW;
}

static __always_inline bool has_room_for_origin(const struct scene *s)
{
	struct sandbox_state *state = bpf_map_lookup_elem(&sandbox_states, &s->sandbox);

	return state && state->origins < SANDBOX_ORIGINS;
}

static __always_inline int connect_tcp(struct bpf_sock_addr *ctx, const struct scene *s, bool ipv6)
{
	struct verdict v = judge_tcp(s->config, &s->to, s->port);
	struct address listener = loopback_like(&s->to);
	struct exec_id exec = {};
	bool known;

	if (v.outcome == OUTCOME_PASS)
		return pass_loopback(ctx, s, ipv6);
	known = current_exec(s->sandbox, &exec);
	if (v.outcome == OUTCOME_REJECT)
		return reject(s, &exec, v.reason);
	if (!known)
		return reject(s, &exec, REJECT_NO_IDENTITY);
	if (!has_room_for_origin(s) || !remember_origin(ctx, s, &exec, v.outcome))
		return reject(s, &exec, REJECT_MAP_FULL);
	switch (v.outcome) {
	case OUTCOME_CAPTURE:
		set_address(ctx, ipv6, &listener, s->config->capture_port);
		return ALLOW;
	case OUTCOME_DNS:
		set_address(ctx, ipv6, &listener, s->config->dns_port);
		return ALLOW;
	case OUTCOME_PROXY:
		set_address(ctx, ipv6, &listener, s->config->proxy_port);
		return ALLOW;
	}
	return REJECT; /* an outcome that this hook does not know */
}

/* connect and send of UDP: they differ in what a refusal is called. */
static __always_inline int direct_udp(struct bpf_sock_addr *ctx, const struct scene *s, bool ipv6,
				      enum reject otherwise)
{
	struct verdict v = judge_udp(s->config, &s->to, s->port, otherwise);
	struct exec_id exec = {};
	struct address slot_addr;
	__u32 slot;

	if (v.outcome == OUTCOME_PASS)
		return pass_loopback(ctx, s, ipv6);
	current_exec(s->sandbox, &exec);
	if (v.outcome == OUTCOME_REJECT)
		return reject(s, &exec, v.reason);
	if (v.outcome != OUTCOME_DNS)
		return REJECT; /* an outcome that this hook does not know */
	slot = slot_for(s->sandbox, s->netns_cookie, &s->to);
	if (!slot || !remember_origin(ctx, s, &exec, OUTCOME_DNS))
		return reject(s, &exec, REJECT_MAP_FULL);
	slot_addr = slot_address(slot, !is_v4(&s->to));
	set_address(ctx, ipv6, &slot_addr, s->config->dns_port);
	return ALLOW;
}

static __always_inline int on_connect(struct bpf_sock_addr *ctx, bool ipv6)
{
	struct exec_id none = {};
	struct scene s = {};
	enum reject bad = set_scene(&s, ctx, ipv6);

	if (bad)
		return reject(&s, &none, bad);
	if (ctx->protocol == IPPROTO_TCP)
		return connect_tcp(ctx, &s, ipv6);
	if (ctx->protocol == IPPROTO_UDP)
		return direct_udp(ctx, &s, ipv6, REJECT_UDP_CONNECT);
	return reject(&s, &none, REJECT_SOCKET_TYPE);
}

static __always_inline int on_sendmsg(struct bpf_sock_addr *ctx, bool ipv6)
{
	struct exec_id none = {};
	struct scene s = {};
	enum reject bad = set_scene(&s, ctx, ipv6);

	if (bad)
		return reject(&s, &none, bad);
	return direct_udp(ctx, &s, ipv6, REJECT_UDP);
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	return on_connect(ctx, false);
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	return on_connect(ctx, true);
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	return on_sendmsg(ctx, false);
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	return on_sendmsg(ctx, true);
}
