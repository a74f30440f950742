/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * A socket on a loop: plain or TLS, TCP or Unix, towards clients or servers.
 *
 * An io is embedded in the object it serves and may move to another thread with it: io_detach() on
 * one thread, io_attach() on the other. What cannot move, the loop's source, lives in a separately
 * allocated `watch` that is freed at the end of the turn in which it was left.
 *
 * Callbacks are thin and last: after one returns, io looks only at its watch, never at the io
 * again, so the callback may close and free everything.
 *
 *   on_readable  bytes, end-of-file or an error are waiting: call io_read(). Level-triggered.
 *   on_drained   the queue of unsent bytes has become empty.
 *   on_hangup    once, while reading is paused: the peer has sent its end-of-file or a reset,
 *                behind whatever is still unread. NULL: not of interest.
 *
 * A failed write is not reported where it happens: the peer's last words may still be readable. The
 * queue is dropped, io->broken is set, reading is forced on, and io_read() brings the news.
 */
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "proxy/core/loop.h"
#include "proxy/core/tls.h"

struct io;
struct watch;

struct io_ops {
    void (*on_readable)(struct io *io);
    void (*on_drained)(struct io *io);
    void (*on_hangup)(struct io *io);
};

struct io {
    int fd;         /* -1: closed */
    bool paused;    /* the owner does not want to read now */
    bool truncated; /* TLS ended without close_notify */
    bool sent_fin;
    int broken; /* errno of a failed write, 0 while well */
    struct watch *watch;
    struct loop *loop; /* while attached */
    struct tls_conn *tls;
    const struct io_ops *ops;
    struct bufq out; /* what the peer did not take yet */
};

/* Takes fd over (non-blocking, close-on-exec). tls may be NULL; io owns it from here on. */
void io_init(struct io *io, int fd, struct tls_conn *tls);

/* Starts watching on the caller's loop. False without memory, the kernel's or ours; the io stays
 * detached. */
MUST_USE bool io_attach(struct io *io, struct loop *loop, const struct io_ops *ops);

/* Stops watching; the io may travel. The queue of unsent bytes must be empty. */
void io_detach(struct io *io);

/* Detaches, drops unsent bytes, frees TLS, closes the socket. Idempotent. */
void io_close(struct io *io);

/* As io_close, but leaves the descriptor and returns it: for sockets a library owns. */
int io_release(struct io *io);

/* > 0 bytes; 0 end of file; -EAGAIN nothing now; other negative errno: lost. */
ssize_t io_read(struct io *io, void *buf, size_t cap);

/* Sends, or queues what the peer does not take now. The bytes are copied or gone on return. False:
 * the socket is broken or memory is out; reading will tell. */
bool io_sendv(struct io *io, const struct iovec *iov, int n);
bool io_send(struct io *io, const void *p, size_t n);

/* Only copies to the queue, to be flushed by io_flush(): batches small pieces into one writev. */
bool io_queue(struct io *io, struct span s);
void io_flush(struct io *io);

static inline size_t io_unsent(const struct io *io)
{
    return io->out.len;
}

/* What the peer has not taken yet, the kernel's part included: shrinks while it takes any.
   A system call: for clocks that are about to run out. */
size_t io_untaken(const struct io *io);

/* Stops and starts reading. A broken io ignores the pause. */
void io_pause(struct io *io);
void io_resume(struct io *io);

/* close_notify and end-of-file to the peer; reading goes on. Unsent bytes are dropped. */
void io_shutdown(struct io *io);

enum io_peek { IO_PEEK_QUIET, IO_PEEK_BYTES, IO_PEEK_EOF };

/* Is anything unread? Does not consume. TLS: records without application data (tickets) are
 * quiet. */
enum io_peek io_probe(struct io *io);

/*
 * TLS over an established socket. io_handshake() is called at once and again from on_readable and
 * on_drained until it says done. On failure *err says what to tell people (tls_failed).
 */
enum io_hs { IO_HS_AGAIN, IO_HS_DONE, IO_HS_FAILED };
enum io_hs io_handshake(struct io *io, struct err *err);

/* A non-blocking socket, connecting; on_drained fires when connected or failed: ask
 * io_connect_error(). Negative errno if it cannot even be tried. */
int io_dial(const struct sockaddr *addr, socklen_t len);
/* For an attached io whose fd is still connecting. */
void io_await_connect(struct io *io);
int io_connect_error(const struct io *io);

/* Options of a TCP socket, or of a listening one for those accepted on it; 0: off, or the system's.
 * Errors are ignored, as they are on odd socket types. */
void io_tune(int fd, unsigned keepalive_ms, unsigned user_timeout_ms);

/* "127.0.0.1:5432", "[::1]:5432", "/run/x.sock" into buf; returns buf. */
const char *io_addr_text(const struct sockaddr *addr, socklen_t len, char *buf, size_t cap);
