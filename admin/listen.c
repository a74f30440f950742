/* SPDX-License-Identifier: MIT */
#include "admin/listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 64

/* With errno; closes fd if there is one. */
static int failed(struct err *err, int fd, const char *where, const char *what)
{
    int sys = errno;
    const char *key = *where == '/' ? "admin.socket" : "admin.http";
    if (sys == EADDRINUSE)
        err_set(err, CAUSE_INTERNAL, STAGE_CONFIG, sys,
                "%s: %.80s is taken by another process: stop it, or write another address", key,
                where);
    else
        err_set(err, CAUSE_INTERNAL, STAGE_CONFIG, sys, "%s: %.80s: %s: %s", key, where, what,
                strerror(sys));
    if (fd >= 0)
        close(fd);
    return -1;
}

static bool make_folder(const char *path)
{
    char folder[sizeof(struct sockaddr_un)];
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) : 0;
    if (n == 0)
        return true;
    CHECK(n < sizeof folder);
    memcpy(folder, path, n);
    folder[n] = '\0';
    return mkdir(folder, 0755) == 0 || errno == EEXIST;
}

/* Is somebody there? Only ECONNREFUSED on a socket says that nobody is. */
static bool is_stale(const struct sockaddr_un *un)
{
    struct stat st;
    if (lstat(un->sun_path, &st) != 0 || !S_ISSOCK(st.st_mode)) {
        errno = EEXIST;
        return false;
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    int sys = connect(fd, (const struct sockaddr *)un, sizeof *un) == 0 ? 0 : errno;
    close(fd);
    errno = EADDRINUSE;
    return sys == ECONNREFUSED;
}

static int bind_unix(int fd, const struct sockaddr_un *un)
{
    if (bind(fd, (const struct sockaddr *)un, sizeof *un) == 0)
        return 0;
    if (errno != EADDRINUSE || !is_stale(un))
        return -1;
    unlink(un->sun_path);
    return bind(fd, (const struct sockaddr *)un, sizeof *un);
}

int listen_unix(const char *path, struct stat *made, struct err *err)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof un.sun_path) {
        errno = ENAMETOOLONG;
        return failed(err, -1, path, "cannot listen");
    }
    memcpy(un.sun_path, path, strlen(path));
    if (!make_folder(path))
        return failed(err, -1, path, "cannot make its folder");
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return failed(err, fd, path, "cannot make a socket");
    /* The file takes the mode of the unbound socket: there is no moment with a wider one. */
    if (fchmod(fd, 0600) != 0 || bind_unix(fd, &un) != 0)
        return failed(err, fd, path, "cannot listen");
    if (chmod(path, 0600) != 0 || stat(path, made) != 0 || listen(fd, BACKLOG) != 0) {
        failed(err, fd, path, "cannot listen");
        unlink(path);
        return -1;
    }
    return fd;
}

void listen_unlink(const char *path, const struct stat *made)
{
    struct stat st;
    if (stat(path, &st) == 0 && st.st_dev == made->st_dev && st.st_ino == made->st_ino)
        unlink(path);
}

static socklen_t address(struct sockaddr_storage *out, const char *host, uint16_t port)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    if (inet_pton(AF_INET, host, &v4.sin_addr) == 1) {
        memcpy(out, &v4, sizeof v4);
        return sizeof v4;
    }
    if (inet_pton(AF_INET6, host, &v6.sin6_addr) == 1) {
        memcpy(out, &v6, sizeof v6);
        return sizeof v6;
    }
    return 0;
}

int listen_tcp(const char *host, uint16_t port, struct err *err)
{
    struct sockaddr_storage addr = {0};
    socklen_t len = address(&addr, host, port);
    char where[96];
    snprintf(where, sizeof where, strchr(host, ':') ? "[%.70s]:%u" : "%.70s:%u", host, port);
    errno = EINVAL;
    if (len == 0)
        return failed(err, -1, where, "not an address");
    int fd = socket(addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int one = 1;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 ||
        (addr.ss_family == AF_INET6 &&
         setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one) != 0) ||
        bind(fd, (const struct sockaddr *)&addr, len) != 0 || listen(fd, BACKLOG) != 0)
        return failed(err, fd, where, "cannot listen");
    return fd;
}
