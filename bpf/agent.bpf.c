// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The kernel side of Ringfence, in the order in which data flows: a program is
 * started (process), it connects (connect), the connection is published to the
 * agent (publish), which takes it (agent_calls). Each header owns one idea.
 */
#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

typedef int pid_t;

#include "headers/kernel.h"
#include "types.h"
#include "maps.bpf.h"
#include "verdict.bpf.h"
#include "sandbox.bpf.h"
#include "file.bpf.h"
#include "writable.bpf.h"
#include "path.bpf.h"
#include "preload.bpf.h"
#include "image.bpf.h"
#include "exec.bpf.h"
#include "process.bpf.h"
#include "addr.bpf.h"
#include "dns.bpf.h"
#include "connect.bpf.h"
#include "peer.bpf.h"
#include "socket.bpf.h"
#include "publish.bpf.h"
#include "egress.bpf.h"
#include "agent_calls.bpf.h"

char _license[] SEC("license") = "Dual BSD/GPL";

/* The compiler describes to the agent only types that a global names. */
const struct rejection *export_rejection __attribute__((unused));
const struct take_origin_args *export_take_origin_args __attribute__((unused));
const enum bound *export_bound __attribute__((unused));
const struct drop_exec_args *export_drop_exec_args __attribute__((unused));
const struct file_id *export_file_id __attribute__((unused));
const struct exec_event *export_exec_event __attribute__((unused));
const struct identify_file_args *export_identify_file_args __attribute__((unused));
const struct task_key *export_task_key __attribute__((unused));
