/* hiredis against the proxy face. The rules are those of checks.py. */

#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int count;

static void check(const char *what, int right) {
    if (!right) {
        fprintf(stderr, "%s: wrong answer\n", what);
        exit(1);
    }
    count++;
}

/* The reply is of this type and, when text is given, contains it. Frees it. */
static void expect(const char *what, redisReply *reply, int type, const char *text) {
    if (!reply || reply->type != type || (text && !strstr(reply->str, text))) {
        fprintf(stderr, "%s: got type %d, %s\n", what, reply ? reply->type : -1, reply && reply->str ? reply->str : "");
        exit(1);
    }
    freeReplyObject(reply);
    count++;
}

static long long number(redisReply *reply) {
    long long value = reply && reply->type == REDIS_REPLY_INTEGER ? reply->integer : -1000000;
    freeReplyObject(reply);
    return value;
}

static redisContext *open_at(const char *port) {
    redisContext *context = redisConnect("127.0.0.1", atoi(port));
    check("connect", context && !context->err);
    return context;
}

int main(void) {
    char *ports = getenv("HC_PROXY");
    redisContext *client = open_at(ports), *other = open_at(strrchr(ports, ',') + 1);

    expect("SET", redisCommand(client, "SET hi:a 1"), REDIS_REPLY_STATUS, "OK");
    expect("GET through another node", redisCommand(other, "GET hi:a"), REDIS_REPLY_STRING, "1");
    expect("GET of nothing", redisCommand(client, "GET hi:none"), REDIS_REPLY_NIL, NULL);
    expect("MSET in one slot", redisCommand(client, "MSET {hi}x 1 {hi}y 2"), REDIS_REPLY_STATUS, "OK");
    for (int n = 0; n < 8; n++) expect("SET", redisCommand(client, "SET hi:spread:%d %d", n, n), REDIS_REPLY_STATUS, "OK");
    redisReply *many = redisCommand(client, "MGET hi:spread:0 hi:spread:1 hi:spread:2 hi:spread:3 hi:none");
    check("MGET across slots", many && many->type == REDIS_REPLY_ARRAY && many->elements == 5);
    for (int n = 0; n < 4; n++) check("MGET element", atoi(many->element[n]->str) == n);
    check("MGET of nothing", many->element[4]->type == REDIS_REPLY_NIL);
    freeReplyObject(many);
    for (int n = 1; n <= 3; n++) check("INCR", number(redisCommand(client, "INCR hi:n")) == n);
    check("EXPIRE", number(redisCommand(client, "EXPIRE hi:n 100")) == 1);
    long long ttl = number(redisCommand(client, "TTL hi:n"));
    check("TTL", ttl >= 95 && ttl <= 100);
    check("DEL across slots", number(redisCommand(client, "DEL hi:spread:0 hi:spread:1 hi:spread:2 hi:none")) == 3);

    for (int n = 0; n < 50; n++) {
        redisAppendCommand(client, "SET hi:p:%d %d", n, n);
        redisAppendCommand(client, "GET hi:p:%d", n);
    }
    for (int n = 0; n < 100; n++) {
        redisReply *reply = NULL;
        check("pipeline", redisGetReply(client, (void **)&reply) == REDIS_OK);
        check("pipeline of 100", n % 2 ? atoi(reply->str) == n / 2 : !strcmp(reply->str, "OK"));
        freeReplyObject(reply);
    }

    static char large[1 << 20];
    for (size_t n = 0; n < sizeof large; n++) large[n] = (char)(n * 31 + n / 256);
    size_t sizes[] = {256, sizeof large};
    for (int n = 0; n < 2; n++) {
        expect("binary SET", redisCommand(client, "SET hi:bin %b", large, sizes[n]), REDIS_REPLY_STATUS, "OK");
        redisReply *reply = redisCommand(other, "GET hi:bin");
        check(n ? "1 MB value" : "binary value", reply && reply->len == sizes[n] && !memcmp(reply->str, large, sizes[n]));
        freeReplyObject(reply);
    }

    expect("unknown command", redisCommand(client, "NOSUCH a"), REDIS_REPLY_ERROR, "ERR unknown command 'NOSUCH'");
    expect("wrong arity", redisCommand(client, "GET"), REDIS_REPLY_ERROR, "wrong number of arguments for 'get' command");
    expect("SELECT 1", redisCommand(client, "SELECT 1"), REDIS_REPLY_ERROR, "SELECT is not allowed");
    printf("%d checks\n", count);
    return 0;
}
