/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program that no policy names, and what it tries to speak as one that is
 * allowed. It starts PROGRAM, and prints one line of what came of it.
 *
 *   intruder memory PROGRAM ARG...   writes into its memory; PROGRAM reads stdin first
 *   intruder filter PROGRAM ARG...   has it connect the intruder's own socket
 *   intruder sibling                 leaves a child to its own parent, the agent
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int outcome(const char *what, int error)
{
	printf("%s: %s\n", what, error ? strerror(error) : "done");
	return 0;
}

static int memory(char **argv)
{
	int in[2], fd, error;
	char path[64];
	pid_t pid;

	if (pipe(in))
		return 1;
	pid = fork();
	if (!pid) {
		dup2(in[0], 0);
		close(in[1]);
		execv(argv[0], argv);
		_exit(127);
	}
	sleep(1); /* by then it waits for its input */
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	fd = open(path, O_RDWR);
	error = fd < 0 ? errno : 0;
	kill(pid, SIGKILL);
	wait(NULL);
	return outcome("open memory", error);
}

/* socket(2) of TCP over IPv4 answers 0, and does nothing. */
static int answer_socket_with_0(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_socket, 0, 6),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_INET, 0, 4),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
		BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xf),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SOCK_STREAM, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog filter = {sizeof(code) / sizeof(*code), code};

	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter);
}

static int filter(char **argv)
{
	static const char request[] = "GET /intruder HTTP/1.0\r\n\r\n";
	int s = socket(AF_INET, SOCK_STREAM, 0);
	char data[64];

	if (!fork()) {
		dup2(s, 0);
		if (answer_socket_with_0())
			_exit(1);
		execv(argv[0], argv);
		_exit(127);
	}
	wait(NULL);
	if (send(s, request, sizeof(request) - 1, MSG_NOSIGNAL) < 0)
		return outcome("use the connection", errno);
	return outcome("use the connection", read(s, data, sizeof(data)) > 0 ? 0 : errno ?: EPIPE);
}

static int sibling(void)
{
	long pid = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);

	if (pid == 0)
		_exit(0);
	return outcome("make a sibling", pid < 0 ? errno : 0);
}

int main(int argc, char **argv)
{
	if (argc > 2 && !strcmp(argv[1], "memory"))
		return memory(argv + 2);
	if (argc > 2 && !strcmp(argv[1], "filter"))
		return filter(argv + 2);
	if (argc == 2 && !strcmp(argv[1], "sibling"))
		return sibling();
	return 2;
}
