/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * sockops: the source port is known once the connection starts. Publishing the
 * origin before the SYN leaves means that the accepting side always finds it.
 */
#pragma once

/*
 * A connection to a v4-mapped address is an IPv4 one on the wire. Its IPv6 view
 * may not be filled in yet, so the destination that was remembered tells.
 */
static __always_inline struct origin_key key_of(struct bpf_sock_ops *ctx, const struct sock_origin *from)
{
	struct origin_key key = {.netns_cookie = bpf_get_netns_cookie(ctx), .port = ctx->local_port};
	/* Volatile, or the compiler reads two words at once, which this context forbids. */
	volatile __u32 *local = ctx->local_ip6;

	if (is_v4(&from->destination)) {
		key.source = address_v4(ctx->local_ip4);
		return key;
	}
	key.source = (struct address){.words = {local[0], local[1], local[2], local[3]}};
	return key;
}

/* Takes an origin out of the table. Of several takers one gets it. */
static __always_inline bool remove_origin(const struct origin_key *key, __u64 sandbox)
{
	struct sandbox_state *state;

	if (bpf_map_delete_elem(&origins, key))
		return false;
	state = bpf_map_lookup_elem(&sandbox_states, &sandbox);
	if (state)
		__sync_fetch_and_sub(&state->origins, 1);
	return true;
}

/* Removes an origin that nobody will take, and its use of the exec record. */
static __always_inline void discard_origin(const struct origin_key *key, const struct origin *found)
{
	struct exec_id exec = found->sock.exec;

	if (remove_origin(key, found->sock.sandbox))
		drop_user(&exec);
}

static __always_inline void publish(struct bpf_sock_ops *ctx, struct sock_origin *from)
{
	struct origin value = {.sock = *from, .time = bpf_ktime_get_boot_ns()};
	struct origin_key key = key_of(ctx, from);
	struct sandbox_state *state;
	struct origin *stale;

	/*
	 * Left by a connection of the same port that was never accepted. It goes first:
	 * whatever fails below, the accepting side must not take it for this one's.
	 */
	stale = bpf_map_lookup_elem(&origins, &key);
	if (stale)
		discard_origin(&key, stale);
	if (!add_user_of_other(&value.sock.exec))
		return; /* the accepting side finds nothing, and closes */
	state = bpf_map_lookup_elem(&sandbox_states, &value.sock.sandbox);
	if (!state || bpf_map_update_elem(&origins, &key, &value, BPF_NOEXIST)) {
		drop_user(&value.sock.exec);
		return;
	}
	__sync_fetch_and_add(&state->origins, 1);
	/* To hear of a connect that fails, whose origin nobody will take. */
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
}

static __always_inline void retract(struct bpf_sock_ops *ctx, struct sock_origin *from)
{
	struct origin_key key = key_of(ctx, from);
	struct origin *found = bpf_map_lookup_elem(&origins, &key);

	if (found && found->sock.cookie == from->cookie)
		discard_origin(&key, found);
}

SEC("sockops")
int sock_ops(struct bpf_sock_ops *ctx)
{
	struct sock_origin *origin;
	bool failed = ctx->op == BPF_SOCK_OPS_STATE_CB && ctx->args[0] == BPF_TCP_SYN_SENT &&
		      ctx->args[1] == BPF_TCP_CLOSE;

	if (ctx->op != BPF_SOCK_OPS_TCP_CONNECT_CB && !failed)
		return 1;
	if (!ctx->sk)
		return 1;
	origin = bpf_sk_storage_get(&sock_origins, ctx->sk, 0, 0);
	if (!origin || !origin->publish)
		return 1;
	if (failed)
		retract(ctx, origin);
	else
		publish(ctx, origin);
	return 1;
}
