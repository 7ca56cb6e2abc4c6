// The smoke test through hiredis.
//   cc -o smoke_hiredis smoke_hiredis.c -lhiredis && smoke_hiredis HOST:PORT   (empties the server)
#include <hiredis/hiredis.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int passed, failed;

static void check(const char *name, int good) {
    if (good) passed++; else failed++;
    printf("%s%s\n", good ? "ok      " : "FAILED  ", name);
}

static redisContext *dial(const char *where) {
    char host[64];
    const char *colon = strrchr(where, ':');
    if (!colon || colon - where >= (long)sizeof host) exit(2);
    memcpy(host, where, colon - where);
    host[colon - where] = 0;
    redisContext *c = redisConnect(host, atoi(colon + 1));
    if (!c || c->err) { printf("FAILED  connect: %s\n", c ? c->errstr : "no memory"); exit(1); }
    struct timeval limit = {10, 0};
    redisSetTimeout(c, limit);
    return c;
}

static redisReply *ask(redisContext *c, const char *format, ...) {
    va_list args;
    va_start(args, format);
    redisReply *r = redisvCommand(c, format, args);
    va_end(args);
    if (!r) { printf("FAILED  %s: %s\n", format, c->errstr); exit(1); }
    return r;
}

static int is(redisReply *r, int type, const char *text) {
    int good = r->type == type && r->len == (int)strlen(text) && !memcmp(r->str, text, r->len);
    freeReplyObject(r);
    return good;
}

static int number(redisReply *r, long long want) {
    int good = r->type == REDIS_REPLY_INTEGER && r->integer == want;
    freeReplyObject(r);
    return good;
}

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    redisContext *c = dial(argv[1]);
    check("FLUSHALL", is(ask(c, "FLUSHALL"), REDIS_REPLY_STATUS, "OK"));
    check("SET and GET", is(ask(c, "SET k %s", "v"), REDIS_REPLY_STATUS, "OK")
        && is(ask(c, "GET k"), REDIS_REPLY_STRING, "v"));
    redisReply *r = ask(c, "GET none");
    check("a missing key is nil", r->type == REDIS_REPLY_NIL);
    freeReplyObject(r);
    char bytes[256];
    for (int i = 0; i < 256; i++) bytes[i] = (char)i;
    freeReplyObject(ask(c, "SET %b %b", bytes, (size_t)256, bytes, (size_t)256));
    r = ask(c, "GET %b", bytes, (size_t)256);
    check("all bytes in key and value", r->len == 256 && !memcmp(r->str, bytes, 256));
    freeReplyObject(r);
    check("errors", is(ask(c, "INCR k"), REDIS_REPLY_ERROR, "ERR value is not an integer or out of range"));
    check("wrong type", is(ask(c, "LPUSH k x"), REDIS_REPLY_ERROR,
        "WRONGTYPE Operation against a key holding the wrong kind of value"));

    int good = 1;
    for (int i = 0; i < 10000; i++) redisAppendCommand(c, "INCR n%d", i % 7);
    for (int i = 0; i < 10000; i++) {
        void *got;
        good &= redisGetReply(c, &got) == REDIS_OK && number(got, i / 7 + 1);
    }
    check("10000 commands in one pipeline", good);

    size_t size = 8 << 20;
    char *big = malloc(size);
    memset(big, 'x', size);
    freeReplyObject(ask(c, "SET big %b", big, size));
    r = ask(c, "GET big");
    check("8 MiB there and back", r->len == (int)size && !memcmp(r->str, big, size));
    freeReplyObject(r);
    free(big);

    freeReplyObject(ask(c, "RPUSH l a b c"));
    freeReplyObject(ask(c, "MULTI"));
    freeReplyObject(ask(c, "LRANGE l 0 -1"));
    freeReplyObject(ask(c, "INCR k"));
    freeReplyObject(ask(c, "LLEN l"));
    r = ask(c, "EXEC");
    check("EXEC: nested replies", r->type == REDIS_REPLY_ARRAY && r->elements == 3
        && r->element[0]->elements == 3 && !strcmp(r->element[0]->element[2]->str, "c")
        && r->element[1]->type == REDIS_REPLY_ERROR && r->element[2]->integer == 3);
    freeReplyObject(r);
    r = ask(c, "EVAL %s 1 l x", "return {KEYS[1], 7, false, {ARGV[1]}, redis.status_reply('FINE')}");
    check("EVAL: all kinds of replies", r->elements == 5 && r->element[1]->integer == 7
        && r->element[2]->type == REDIS_REPLY_NIL && !strcmp(r->element[3]->element[0]->str, "x")
        && r->element[4]->type == REDIS_REPLY_STATUS);
    freeReplyObject(r);

    redisContext *listener = dial(argv[1]);
    r = ask(listener, "SUBSCRIBE news");
    check("SUBSCRIBE", r->elements == 3 && r->element[2]->integer == 1);
    freeReplyObject(r);
    check("PUBLISH", number(ask(c, "PUBLISH news hello"), 1));
    void *got = NULL;
    good = redisGetReply(listener, &got) == REDIS_OK;
    r = got;
    check("the message arrives", good && r->elements == 3 && !strcmp(r->element[2]->str, "hello"));
    freeReplyObject(r);

    redisContext *waiter = dial(argv[1]);
    int flushed = 0;
    redisAppendCommand(waiter, "BLPOP queue 10");
    while (!flushed && redisBufferWrite(waiter, &flushed) == REDIS_OK) {}
    check("RPUSH for a waiting client", number(ask(c, "RPUSH queue job"), 1));
    good = redisGetReply(waiter, &got) == REDIS_OK;
    r = got;
    check("BLPOP is served", good && r->elements == 2 && !strcmp(r->element[1]->str, "job"));
    freeReplyObject(r);

    redisFree(waiter);
    redisFree(listener);
    redisFree(c);
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
