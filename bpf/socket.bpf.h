/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* sock_create, bind4/6 and post_bind4/6: which sockets there may be, and where. */
#pragma once

static __always_inline int refuse(__u64 sandbox, __u32 reason)
{
	struct rejection r = {
		.sandbox = sandbox,
		.reason = reason,
		.pid = bpf_get_current_pid_tgid() >> 32,
		.uid = bpf_get_current_uid_gid(),
	};

	current_exec(sandbox, &r.exec);
	count_rejection(&r);
	return REJECT;
}

SEC("cgroup/sock_create")
int sock_create(struct bpf_sock *ctx)
{
	struct verdict v;
	__u64 id;

	if (!current_sandbox(&id))
		return refuse(id, REJECT_UNKNOWN_SANDBOX);
	v = judge_socket(ctx->family, ctx->type, ctx->protocol);
	return v.outcome == OUTCOME_PASS ? ALLOW : refuse(id, v.reason);
}

static __always_inline int on_bind(__u16 port)
{
	__u64 id;
	struct sandbox *sb = current_sandbox(&id);
	struct verdict v;

	if (!sb)
		return refuse(id, REJECT_UNKNOWN_SANDBOX);
	v = judge_bind(sb, port);
	return v.outcome == OUTCOME_PASS ? ALLOW : refuse(id, v.reason);
}

SEC("cgroup/bind4")
int bind4(struct bpf_sock_addr *ctx)
{
	return on_bind(get_port(ctx));
}

SEC("cgroup/bind6")
int bind6(struct bpf_sock_addr *ctx)
{
	return on_bind(get_port(ctx));
}

/* bind sees port 0 where the kernel picks: this sees what it picked. */
SEC("cgroup/post_bind4")
int post_bind4(struct bpf_sock *ctx)
{
	return on_bind(ctx->src_port);
}

SEC("cgroup/post_bind6")
int post_bind6(struct bpf_sock *ctx)
{
	return on_bind(ctx->src_port);
}
