#!/bin/sh
# In a guest: the node follows a real kevy, in full and live, and both end with the same keys.
#   tests/oldkernel/run --kernel 5.10-uml,5.10 --file KEVY --file /usr/bin/redis-cli \
#       --file tests/oldkernel/follow.sh -- 'sh ./follow.sh'
set -e
mkdir -p data
printf '[persistence]\naof = false\n[replication]\nrole = "primary"\n' > primary.toml
KEVY_IO_URING=0 ./kevy --config primary.toml --port 6004 --threads 2 --dir data > kevy.log 2>&1 &
kevy() { ./redis-cli -p 6004 "$@"; }
node() { ./redis-cli -p 6379 "$@"; }
until_says() { # WANT COMMAND...
    want=$1 tries=0
    shift
    until [ "$("$@" 2>/dev/null | tr -d '\r')" = "$want" ]; do
        tries=$((tries + 1))
        [ $tries -lt 300 ] || { echo "FAILED  $* does not say $want but $("$@" 2>&1)"; exit 1; }
        sleep 0.1
    done
    echo "ok      $* says $want"
}
until_says PONG kevy ping
for i in 1 2 3 4 5 6 7 8; do kevy set "before:$i" "$i"; done > /dev/null
kevy hset h a 1 b 2 > /dev/null
kevy zadd z 1 one 2 two > /dev/null
./ringkeep --port 6379 --threads 2 --no-pin --replicaof 127.0.0.1:6004 2> node.log &
until_says PONG node ping
until_says 8 node get before:8
until_says 2 node hget h b
for i in 1 2 3 4 5 6 7 8; do kevy set "after:$i" "$i"; done > /dev/null
kevy mset before:1 new after:1 new > /dev/null
until_says new node get before:1
until_says new node get after:1
until_says 18 node dbsize
until_says "$(kevy dbsize | tr -d '\r')" node dbsize
until_says two node zrange z 1 1
kevy flushall > /dev/null
kevy set last 1 > /dev/null
until_says 1 node get last
until_says 1 node dbsize
cat node.log
echo '11 passed, 0 failed'
