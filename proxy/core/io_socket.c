/* SPDX-License-Identifier: MIT */
/* Sockets as io.h has them that need no io: connecting, options, addresses in words. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/un.h>
#include <unistd.h>

#include "proxy/core/io.h"

int io_dial(const struct sockaddr *addr, socklen_t len)
{
    int fd = socket(addr->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, addr, len) != 0 && errno != EINPROGRESS) {
        int e = errno;
        close(fd);
        return -e;
    }
    return fd;
}

int io_connect_error(const struct io *io)
{
    int e = 0;
    socklen_t n = sizeof e;
    if (getsockopt(io->fd, SOL_SOCKET, SO_ERROR, &e, &n) != 0)
        return errno;
    return e;
}

void io_tune(int fd, unsigned keepalive_ms, unsigned user_timeout_ms)
{
    int one = 1, keep = keepalive_ms > 0;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &keep, sizeof keep);
    if (keep) {
        int secs = (int)(keepalive_ms / 1000) > 0 ? (int)(keepalive_ms / 1000) : 1;
        int gap = secs > 30 ? secs / 3 : (secs > 3 ? secs / 3 : 1), tries = 3;
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &secs, sizeof secs);
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &gap, sizeof gap);
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &tries, sizeof tries);
    }
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout_ms, sizeof user_timeout_ms);
}

const char *io_addr_text(const struct sockaddr *addr, socklen_t len, char *buf, size_t cap)
{
    char host[INET6_ADDRSTRLEN] = "?";
    switch (addr->sa_family) {
    case AF_INET: {
        struct sockaddr_in in;
        memcpy(&in, addr, sizeof in);
        inet_ntop(AF_INET, &in.sin_addr, host, sizeof host);
        snprintf(buf, cap, "%s:%u", host, (unsigned)ntohs(in.sin_port));
        break;
    }
    case AF_INET6: {
        struct sockaddr_in6 in;
        memcpy(&in, addr, sizeof in);
        inet_ntop(AF_INET6, &in.sin6_addr, host, sizeof host);
        snprintf(buf, cap, "[%s]:%u", host, (unsigned)ntohs(in.sin6_port));
        break;
    }
    case AF_UNIX: {
        struct sockaddr_un un = {.sun_family = AF_UNIX};
        memcpy(&un, addr, len < sizeof un ? len : sizeof un);
        snprintf(buf, cap, "unix:%.*s", (int)sizeof un.sun_path, un.sun_path);
        break;
    }
    default:
        snprintf(buf, cap, "?");
    }
    return buf;
}
