/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * One unconnected socket may ask several DNS servers, and takes an answer only
 * from one that it asked. So each server gets a slot: a local address of its own
 * on which the agent's DNS listener hears too. The answer comes back from the
 * slot, and the receive hook turns it into the server again.
 */
#pragma once

/* The slot of a server, made at its first use; 0 where there is no room. */
static __always_inline __u32 slot_for(__u64 sandbox, __u64 netns_cookie, const struct address *server)
{
	struct dns_server key = {.netns_cookie = netns_cookie, .address = *server};
	struct sandbox_state *state = bpf_map_lookup_elem(&sandbox_states, &sandbox);
	__u32 *found = bpf_map_lookup_elem(&dns_slots, &key);
	struct dns_slot back = {.netns_cookie = netns_cookie, .ipv6 = !is_v4(server)};
	__u32 slot;

	if (found)
		return *found;
	if (!state || state->dns_slots >= SANDBOX_DNS_SLOTS)
		return 0;
	slot = __sync_fetch_and_add(&state->dns_slots, 1) + 1;
	if (slot > SANDBOX_DNS_SLOTS)
		return 0;
	back.slot = slot;
	/* The way back first: the entry below is what publishes the slot. */
	if (bpf_map_update_elem(&dns_servers, &back, server, BPF_NOEXIST))
		return 0;
	if (!bpf_map_update_elem(&dns_slots, &key, &slot, BPF_NOEXIST))
		return slot;
	/* Another task was first. This slot stays unused. */
	found = bpf_map_lookup_elem(&dns_slots, &key);
	return found ? *found : 0;
}

static __always_inline struct address *server_of(__u64 netns_cookie, const struct address *from)
{
	struct dns_slot key = {.netns_cookie = netns_cookie, .slot = slot_of(from), .ipv6 = !is_v4(from)};

	if (!key.slot)
		return NULL;
	return bpf_map_lookup_elem(&dns_servers, &key);
}
