/* Mock OpenAI upstream for gateway benchmarks: one thread, epoll, HTTP/1.1 keep-alive.
 *
 *   cc -O2 -o upstream upstream.c && ./upstream [port=9100]
 *
 * POST .../embeddings                   one 1536-float embedding (~20 KB JSON)
 *     and model containing "small"      one 16-float embedding (~0.3 KB JSON)
 * POST .../chat/completions             ~600 B JSON
 *   with "stream":true                  100 SSE chunks, each its own send(); usage chunk and [DONE] at the end
 *     and model containing "paced-N"    one chunk every N ms instead of back to back (one N at a time, see enqueue)
 * Every SSE delta's content is the CLOCK_MONOTONIC nanosecond at which it was sent, so a client on
 * the same machine reads each chunk's transit time directly.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CHUNKS = 100, INBUF = 1 << 20 };

struct conn {
    int fd, left, pace_ms;        /* left: SSE events still to send */
    long long due;
    size_t n, cap, out_n, out_cap;
    char *in, *out;
    struct conn *next;            /* pace queue: one interval for all, so FIFO is due order */
};

static int ep;
static struct conn *q_head, *q_tail;
static char chat[2048], *emb, *emb_small;
static size_t chat_n, emb_n, emb_small_n;

static long long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void send_all(struct conn *c, const char *p, size_t n) {
    if (!c->out_n) {
        ssize_t w = send(c->fd, p, n, MSG_NOSIGNAL);
        if (w < 0) { if (errno != EAGAIN) return; w = 0; }
        p += w; n -= (size_t)w;
        if (!n) return;
        struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
        epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
    }
    if (c->out_n + n > c->out_cap) c->out = realloc(c->out, c->out_cap = 2 * (c->out_n + n));
    memcpy(c->out + c->out_n, p, n);
    c->out_n += n;
}

static void sse_event(struct conn *c) {
    char d[512], f[600];
    int i = CHUNKS - c->left, n;
    const char *head = "{\"id\":\"chatcmpl-mock0123456789abcdef\",\"object\":\"chat.completion.chunk\","
                       "\"created\":1730000000,\"model\":\"gpt-4o-mini\",\"choices\":[";
    if (i < CHUNKS - 1)
        n = sprintf(d, "data: %s{\"index\":0,\"delta\":{%s\"content\":\"%lld \"},\"finish_reason\":null}]}\n\n", head,
                    i ? "" : "\"role\":\"assistant\",", now_ns());
    else
        n = sprintf(d, "data: %s],\"usage\":{\"prompt_tokens\":57,\"completion_tokens\":99,\"total_tokens\":156}}\n\n"
                       "data: [DONE]\n\n", head);
    n = sprintf(f, "%x\r\n%s\r\n%s", n, d, i < CHUNKS - 1 ? "" : "0\r\n\r\n");
    send_all(c, f, (size_t)n);
    c->left--;
}

static void enqueue(struct conn *c) {
    c->due = now_ns() + c->pace_ms * 1000000LL;
    c->next = NULL;
    if (q_tail) q_tail->next = c; else q_head = c;
    q_tail = c;
}

static void answer(struct conn *c, const char *req, const char *body, size_t body_n) {
    if (memmem(req, 64, "/embeddings", 11)) {
        if (memmem(body, body_n, "small", 5)) send_all(c, emb_small, emb_small_n);
        else send_all(c, emb, emb_n);
        return;
    }
    if (!memmem(body, body_n, "\"stream\":true", 13) && !memmem(body, body_n, "\"stream\": true", 14)) {
        send_all(c, chat, chat_n);
        return;
    }
    static const char h[] = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    send_all(c, h, sizeof h - 1);
    c->left = CHUNKS;
    const char *paced = memmem(body, body_n, "paced-", 6);
    if (paced) { c->pace_ms = atoi(paced + 6); sse_event(c); enqueue(c); }
    else while (c->left) sse_event(c);
}

static void drop(struct conn *c) {
    for (struct conn **p = &q_head, *prev = NULL; *p; prev = *p, p = &(*p)->next)
        if (*p == c) { *p = c->next; if (q_tail == c) q_tail = prev; break; }
    close(c->fd);
    free(c->in); free(c->out); free(c);
}

static int on_readable(struct conn *c) {
    if (c->cap - c->n < 65536 && c->cap < INBUF) c->in = realloc(c->in, c->cap = c->cap ? c->cap * 2 : 131072);
    ssize_t r = recv(c->fd, c->in + c->n, c->cap - c->n - 1, 0);
    if (r == 0 || (r < 0 && errno != EAGAIN)) return -1;
    if (r > 0) c->n += (size_t)r;
    for (;;) {
        c->in[c->n] = 0;
        char *end = memmem(c->in, c->n, "\r\n\r\n", 4);
        if (!end) return c->n >= INBUF - 1 ? -1 : 0;
        size_t head = (size_t)(end - c->in) + 4, len = 0;
        *end = 0;
        char *cl = strcasestr(c->in, "\ncontent-length:"), *te = strcasestr(c->in, "\ntransfer-encoding:");
        *end = '\r';
        if (te) {
            char *z = memmem(c->in + head, c->n - head, "\r\n0\r\n\r\n", 7);
            if (!z) return 0;
            len = (size_t)(z - c->in) + 7 - head;
        } else if (cl) len = strtoul(cl + 16, NULL, 10);
        if (c->n < head + len) return 0;
        answer(c, c->in, c->in + head, len);
        memmove(c->in, c->in + head + len, c->n -= head + len);
    }
}

static char *embedding(int floats, size_t *reply_n) {
    char *e = malloc(40000), *p = e, *reply = malloc(41000);
    p += sprintf(p, "{\"object\":\"list\",\"data\":[{\"object\":\"embedding\",\"index\":0,\"embedding\":[");
    for (int i = 0; i < floats; i++) p += sprintf(p, "%s%.10f", i ? "," : "", (rand() / (double)RAND_MAX - 0.5) / 8);
    p += sprintf(p, "]}],\"model\":\"text-embedding-3-small\",\"usage\":{\"prompt_tokens\":8,\"total_tokens\":8}}");
    *reply_n = (size_t)sprintf(reply, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zd\r\n\r\n%s", p - e, e);
    free(e);
    return reply;
}

int main(int argc, char **argv) {
    int port = argc > 1 ? atoi(argv[1]) : 9100, one = 1;
    char body[1024];
    int n = sprintf(body, "{\"id\":\"chatcmpl-mock0123456789abcdef\",\"object\":\"chat.completion\",\"created\":1730000000,"
        "\"model\":\"gpt-4o-mini\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%s\"},"
        "\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":57,\"completion_tokens\":61,"
        "\"total_tokens\":118},\"system_fingerprint\":\"fp_mock\"}",
        "The quick brown fox jumps over the lazy dog, and then the lazy dog thinks about it for quite some time "
        "before it answers. That is about as long as a short answer of a small chat model is in practice, so it "
        "will do here as a mock.");
    chat_n = (size_t)sprintf(chat, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s", n, body);
    srand(7);
    emb = embedding(1536, &emb_n);
    emb_small = embedding(16, &emb_small_n);

    int ls = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(ls, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(ls, (void *)&a, sizeof a) || listen(ls, 4096)) { perror("bind"); return 1; }
    ep = epoll_create1(0);
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL}, evs[512];
    epoll_ctl(ep, EPOLL_CTL_ADD, ls, &ev);
    for (;;) {
        int wait = -1;
        if (q_head) { long long d = q_head->due - now_ns(); wait = d <= 0 ? 0 : (int)((d + 999999) / 1000000); }
        int k = epoll_wait(ep, evs, 512, wait);
        for (int i = 0; i < k; i++) {
            struct conn *c = evs[i].data.ptr;
            if (!c) {
                int fd;
                while ((fd = accept4(ls, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    c = calloc(1, sizeof *c);
                    c->fd = fd;
                    struct epoll_event x = {.events = EPOLLIN, .data.ptr = c};
                    epoll_ctl(ep, EPOLL_CTL_ADD, fd, &x);
                }
                continue;
            }
            if (evs[i].events & EPOLLOUT && c->out_n) {
                ssize_t w = send(c->fd, c->out, c->out_n, MSG_NOSIGNAL);
                if (w > 0) memmove(c->out, c->out + w, c->out_n -= (size_t)w);
                if (!c->out_n) {
                    struct epoll_event x = {.events = EPOLLIN, .data.ptr = c};
                    epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &x);
                }
            }
            if (evs[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR) && on_readable(c) < 0) drop(c);
        }
        while (q_head && q_head->due <= now_ns()) {
            struct conn *c = q_head;
            if (!(q_head = c->next)) q_tail = NULL;
            sse_event(c);
            if (c->left) enqueue(c);
        }
    }
}
