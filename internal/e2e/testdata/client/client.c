/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A client as C programs are: getaddrinfo, connect, read. It prints one JSON
 * object that says how far it came, why it ended and how long the connect and the
 * first read took together, so that the start of a process is not in it.
 *
 *   client [-4|-6|-m] [-l] [-w] [-f] [-c] [-s TEXT] HOST PORT [PROGRAM ARG...]
 *
 *   -4 -6      one family; -m: IPv4 through an IPv6 socket (v4-mapped)
 *   -l         only list what getaddrinfo returns
 *   -w         wait for a line on stdin before the connect, having said "ready"
 *   -f         connect in a forked child that never executes anything
 *   -s TEXT    send TEXT after the connect
 *   -c         close without reading
 *   PROGRAM    executed right after the connect, with the connection as its stdin
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *peer = "";
static double started;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static void end(const char *stage, int error, const char *data)
{
	printf("{\"stage\":\"%s\",\"errno\":%d,\"ms\":%.3f,\"peer\":\"%s\",\"data\":\"", stage,
	       error, started ? now() - started : 0, peer);
	for (; *data; data++)
		putchar(*data < ' ' || *data == '"' || *data == '\\' ? '.' : *data);
	printf("\"}\n");
	exit(error != 0);
}

/* The v4-mapped form of an IPv4 address. */
static struct sockaddr_in6 mapped(const struct sockaddr_in *in)
{
	struct sockaddr_in6 out = {.sin6_family = AF_INET6, .sin6_port = in->sin_port};

	out.sin6_addr.s6_addr[10] = out.sin6_addr.s6_addr[11] = 0xff;
	memcpy(&out.sin6_addr.s6_addr[12], &in->sin_addr, 4);
	return out;
}

static int list(const struct addrinfo *all)
{
	char text[INET6_ADDRSTRLEN];

	for (const struct addrinfo *a = all; a; a = a->ai_next) {
		getnameinfo(a->ai_addr, a->ai_addrlen, text, sizeof(text), NULL, 0, NI_NUMERICHOST);
		puts(text);
	}
	return 0;
}

/* The peer as the program is told, by getpeername. */
static const char *peer_of(int fd)
{
	static char text[INET6_ADDRSTRLEN];
	struct sockaddr_storage s;
	socklen_t len = sizeof(s);

	if (getpeername(fd, (struct sockaddr *)&s, &len) ||
	    getnameinfo((struct sockaddr *)&s, len, text, sizeof(text), NULL, 0, NI_NUMERICHOST))
		return "unknown";
	return text;
}

static int open_socket(const struct addrinfo *to, bool v4_mapped)
{
	struct sockaddr_in6 m;
	int fd = socket(v4_mapped ? AF_INET6 : to->ai_family, SOCK_STREAM, 0);

	if (fd < 0)
		end("socket", errno, "");
	started = now();
	if (v4_mapped) {
		m = mapped((struct sockaddr_in *)to->ai_addr);
		if (connect(fd, (struct sockaddr *)&m, sizeof(m)))
			end("connect", errno, "");
	} else if (connect(fd, to->ai_addr, to->ai_addrlen)) {
		end("connect", errno, "");
	}
	return fd;
}

static void in_child(void)
{
	int status = 0;

	if (fork() == 0)
		return;
	wait(&status);
	exit(WEXITSTATUS(status));
}

int main(int argc, char **argv)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG}, *to;
	bool v4_mapped = false, listing = false, waiting = false, forking = false, closing = false;
	const char *text = NULL;
	char data[256] = "";
	int opt, fd, error;
	ssize_t n;

	while ((opt = getopt(argc, argv, "+46mlwfcs:")) != -1) {
		switch (opt) {
		case '4': hints.ai_family = AF_INET; break;
		case '6': hints.ai_family = AF_INET6; break;
		case 'm': hints.ai_family = AF_INET; v4_mapped = true; break;
		case 'l': listing = true; break;
		case 'w': waiting = true; break;
		case 'f': forking = true; break;
		case 'c': closing = true; break;
		case 's': text = optarg; break;
		default: return 2;
		}
	}
	argv += optind;
	if (argc - optind < 2)
		return 2;
	error = getaddrinfo(argv[0], argv[1], &hints, &to);
	if (error)
		end("resolve", error, gai_strerror(error));
	if (listing)
		return list(to);
	if (waiting) {
		puts("ready");
		fflush(stdout);
		if (!fgets(data, sizeof(data), stdin))
			return 2;
	}
	if (forking)
		in_child();
	fd = open_socket(to, v4_mapped);
	if (argv[2]) {
		dup2(fd, 0);
		close(fd);
		execv(argv[2], argv + 2);
		end("exec", errno, "");
	}
	peer = peer_of(fd);
	if (text && send(fd, text, strlen(text), MSG_NOSIGNAL) < 0)
		end("send", errno, "");
	if (closing) {
		close(fd);
		end("closed", 0, "");
	}
	n = read(fd, data, sizeof(data) - 1);
	if (n < 0)
		end("read", errno, "");
	data[n] = 0;
	end(n ? "done" : "eof", 0, data);
}
