#!/bin/sh
# Runs a command in a mount namespace where /proc shows only the processes that it
# may trace, and without the capability to trace others.
set -eu
mount -t proc -o hidepid=ptraceable proc /proc
exec setpriv --bounding-set=-sys_ptrace --inh-caps=-sys_ptrace "$@"
