"""Executes a copy of a program that has no name: unnamed.py memfd|deleted PROGRAM ARG..."""
import os
import shutil
import sys

how, program, *args = sys.argv[1:]
if how == "memfd":
    fd = os.memfd_create("copy")
    with open(program, "rb") as f, os.fdopen(os.dup(fd), "wb") as to:
        shutil.copyfileobj(f, to)
else:
    # A writable copy at the very path that the policy names, deleted when it runs.
    fd = os.open(program, os.O_RDONLY)
    os.unlink(program)
os.execve(fd, [program, *args], os.environ)
