#!/usr/bin/env bash
# The smoke test through redis-cli: every data type, expiry, scripts, scans, transactions, RESP3, pipes.
#   smoke_cli.sh HOST:PORT      (empties the server)
set -u
host=${1%:*} port=${1##*:}
passed=0 failed=0 skipped=0

cli() { redis-cli -h "$host" -p "$port" "$@" 2>&1; }

# check NAME EXPECTED ARGS...: the printed reply, lines joined by "|"
check() {
    local name=$1 expected=$2 got
    shift 2
    got=$(cli "$@" | tr '\n' '|')
    got=${got%|}
    if [ "$got" = "$expected" ]; then
        passed=$((passed + 1)); echo "ok      $name"
    else
        failed=$((failed + 1)); echo "FAILED  $name: $* gave '$got', expected '$expected'"
    fi
}
# The same for text that some other command printed.
same() {
    if [ "$3" = "$2" ]; then passed=$((passed + 1)); echo "ok      $1"
    else failed=$((failed + 1)); echo "FAILED  $1: '$3', expected '$2'"; fi
}
sorted() { cli "$@" | sort | tr '\n' '|'; }

check 'ping' PONG PING
check 'empty the server' OK FLUSHALL
check 'string set' OK SET k v
check 'string get' v GET k
check 'string nx' '' SET k w NX
check 'string append' 3 APPEND k 23
check 'string strlen' 3 STRLEN k
check 'string mset' OK MSET a 1 b 2 c 3
check 'string mget' '1|2||3' MGET a b none c
check 'counter' 11 INCRBY a 10
check 'float counter' 3.5 INCRBYFLOAT b 1.5
check 'bitmap set' 0 SETBIT bm 7 1
check 'bitmap count' 1 BITCOUNT bm
check 'hash set' 2 HSET h f1 v1 f2 v2
check 'hash get' v1 HGET h f1
same 'hash all' 'f1|f2|v1|v2|' "$(sorted HGETALL h)"
check 'hash counter' 5 HINCRBY h n 5
if cli HTTL none FIELDS 1 f | grep -qi 'unknown command'; then
    skipped=$((skipped + 1)); echo 'skipped hash field expiry: this server has no HEXPIRE'
else
    check 'hash field expiry' 1 HEXPIRE h 100 FIELDS 1 f1
    check 'hash field ttl' 100 HTTL h FIELDS 1 f1
    check 'hash field persist' 1 HPERSIST h FIELDS 1 f1
fi
check 'list push' 3 RPUSH l a b c
check 'list range' 'a|b|c' LRANGE l 0 -1
check 'list move' a LMOVE l l2 LEFT RIGHT
check 'list pop' 'c|b' RPOP l 2
check 'set add' 3 SADD s x y z
same 'set members' 'x|y|z|' "$(sorted SMEMBERS s)"
cli SADD s2 y z w >/dev/null
same 'set intersection' 'y|z|' "$(sorted SINTER s s2)"
check 'sorted set add' 3 ZADD z 1 a 2.5 b 3 c
check 'sorted set range' 'a|1|b|2.5|c|3' ZRANGE z 0 -1 WITHSCORES
check 'sorted set by score' 'b|c' ZRANGEBYSCORE z '(1' +inf
check 'sorted set pop' 'a|1' ZPOPMIN z
check 'geo add' 2 GEOADD g 13.361389 38.115556 Palermo 15.087269 37.502669 Catania
check 'geo distance' 166.2742 GEODIST g Palermo Catania km
check 'geo search' 'Catania' GEOSEARCH g FROMLONLAT 15 37 BYRADIUS 100 km
check 'stream add' 1-1 XADD x 1-1 f v
check 'stream group' OK XGROUP CREATE x grp 0
check 'stream group read' 'x|1-1|f|v' XREADGROUP GROUP grp me STREAMS x '>'
check 'stream pending' '1|1-1|1-1|me|1' XPENDING x grp
check 'stream ack' 1 XACK x grp 1-1
check 'expire' 1 EXPIRE k 100
check 'ttl' 100 TTL k
check 'persist' 1 PERSIST k
check 'short expiry' OK SET gone v PX 30
gone=v
for _ in $(seq 100); do gone=$(cli GET gone); [ -z "$gone" ] && break; done
same 'the key is gone' '' "$gone"
check 'rename' OK RENAME k k2
check 'type' zset TYPE z
for i in $(seq 1 300); do echo "SET scan:$i $i"; done | cli >/dev/null
same 'scan' 300 "$(cli --scan --pattern 'scan:*' | sort -u | wc -l)"
same 'transaction' 'OK|QUEUED|QUEUED|OK|2|' "$(printf 'MULTI\nSET t 1\nINCR t\nEXEC\n' | cli | tr '\n' '|')"
check 'script' 'v1' EVAL "return redis.call('HGET', KEYS[1], ARGV[1])" 1 h f1
sha=$(cli SCRIPT LOAD 'return 42')
check 'script by hash' 42 EVALSHA "$sha" 0
check 'blocking pop served' 'l3|x' EVAL "redis.call('RPUSH','l3','x') return {'l3', redis.call('LPOP','l3')}" 1 l3
same 'blocking pop' 'q|later|' "$( (cli BLPOP q 5 | tr '\n' '|') &
    for _ in $(seq 50); do [ "$(cli CLIENT LIST 2>/dev/null | grep -c cmd=blpop)" != 0 ] && break; done
    cli RPUSH q later >/dev/null; wait)"
check 'resp3' 'h2|1' -3 EVAL "return {'h2', 1}" 0
same 'resp3 map' '1# "f" => "v"|' "$(cli HSET one f v >/dev/null; redis-cli -h "$host" -p "$port" -3 --no-raw HGETALL one | tr '\n' '|')"
same 'pipe mode' 'errors: 0, replies: 1000' \
    "$(for i in $(seq 1000); do printf '*3\r\n$3\r\nSET\r\n$6\r\npipe:1\r\n$1\r\nx\r\n'; done | cli --pipe | tail -1)"
same 'wrong type' 'WRONGTYPE Operation against a key holding the wrong kind of value||' "$(cli LPUSH s x | tr '\n' '|')"
same 'wrong arity' "ERR wrong number of arguments for 'get' command||" "$(cli GET | tr '\n' '|')"
same 'unknown command' "ERR unknown command" "$(cli NOSUCH a | head -1 | cut -c1-19)"
check 'info' 1 EVAL "return 1" 0
same 'info sections' 1 "$(cli INFO server | grep -c '^redis_version:')"
same 'dbsize' 1 "$([ "$(cli DBSIZE)" -gt 300 ] && echo 1)"
check 'flush' OK FLUSHALL
check 'empty' 0 DBSIZE
tail=""; [ $skipped -gt 0 ] && tail=", $skipped skipped"
echo "$passed passed, $failed failed$tail"
[ $failed = 0 ]
