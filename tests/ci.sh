#!/usr/bin/env bash
# The tests, in order, the same at home and on the runner. The first stage that fails ends the run.
#
#   tests/ci.sh               all stages
#   tests/ci.sh STAGE...      only these (tests/ci.sh --list names them)
#
# Every stage writes to target/ci/STAGE.log; what is shown here is one line per stage, and the end of
# the log of a stage that failed. The last line is the sum of all checks.
set -u
cd "$(dirname "$0")/.." || exit 1
export CARGO_TERM_COLOR=never
export RINGKEEP_PEERS=${RINGKEEP_PEERS:-$HOME/.cache/ringkeep/peers}
logs=target/ci
node=target/release/ringkeep
mkdir -p "$logs"

STAGES=(format clippy docs unit release peers smoke_cli smoke_python smoke_node smoke_rust smoke_hiredis
        jobs_celery jobs_bullmq locks tls configure metrics
        coverage compare sessions dump differ introspect acl cluster fleet proxy consistency
        replica primary replicas failover elections scopes node_key node_tls
        handoff zerocopy upstream bad_input hostile evict imports crash syncs
        package operations)

do_format() {
    cargo fmt --all --check && cargo fmt --check --manifest-path tests/interop/rust/Cargo.toml &&
        cargo fmt --check --manifest-path tests/interop/handoff-supervisor/Cargo.toml
}
do_clippy() { cargo clippy --workspace --all-targets --locked -- -D warnings; }
do_docs() { RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --document-private-items --locked; }
do_unit() { cargo test --workspace --locked; }
# What the compiler makes of it is looked through, too: see the script.
do_release() {
    RUSTFLAGS=--emit=mir,link cargo build --release --locked && python3 tests/compiler.py target/release/deps
}
# Started at the beginning, beside the compiler; here it is only waited for. A second run reports.
do_peers() { [ -z "$peers_pid" ] || wait "$peers_pid"; tests/peers.sh; }

# serve COMMAND...: starts the node on a free port, runs the command with HOST:PORT behind it, ends the node.
serve() { python3 tests/interop/serve.py --node "$node" -- "$@"; }

do_smoke_cli() { serve tests/interop/smoke_cli.sh; }
do_smoke_python() { serve "$RINGKEEP_PEERS/venv/bin/python" tests/interop/smoke_py.py; }
do_smoke_node() { NODE_PATH=$RINGKEEP_PEERS/node/node_modules serve node tests/interop/smoke_node.js; }
do_smoke_rust() {
    cargo build --locked --manifest-path tests/interop/rust/Cargo.toml --target-dir target/interop &&
        serve target/interop/debug/smoke-rust && serve target/interop/debug/fred
}
do_smoke_hiredis() {
    cc -O1 -Wall -o "$logs/smoke_hiredis" tests/interop/smoke_hiredis.c -lhiredis &&
        serve "$logs/smoke_hiredis" && serve "$RINGKEEP_PEERS/workpy/bin/python" tests/interop/smoke_py.py
}
do_jobs_celery() { serve "$RINGKEEP_PEERS/workpy/bin/python" tests/interop/jobs.py; }
do_jobs_bullmq() { NODE_PATH=$RINGKEEP_PEERS/worknode/node_modules serve node tests/interop/jobs.js; }
do_locks() { serve "$RINGKEEP_PEERS/workpy/bin/python" tests/interop/locks.py; }
do_tls() { tests/peers.sh openssl && python3 tests/interop/tls.py --node "$node"; }
do_configure() { python3 tests/interop/configure.py --node "$node"; }
do_metrics() { "$RINGKEEP_PEERS/venv/bin/python" tests/interop/metrics.py --node "$node"; }
do_coverage() { python3 tests/interop/coverage.py --node "$node"; }
do_compare() { python3 tests/interop/compare.py --node "$node" --threads 2; }
do_sessions() { python3 tests/interop/sessions.py --node "$node" --threads 2; }
do_dump() { python3 tests/interop/dump.py --node "$node"; }
do_differ() { python3 tests/interop/differ.py --node "$node" --threads 2 --seed 1 --out "$logs"; }
do_consistency() { python3 tests/interop/consistency.py --node "$node" --seconds 20; }
do_introspect() { python3 tests/interop/introspect.py --node "$node"; }
do_acl() { python3 tests/interop/acl.py --node "$node" --threads 2; }
do_cluster() { "$RINGKEEP_PEERS/venv/bin/python" tests/interop/cluster.py --node "$node"; }
do_fleet() { "$RINGKEEP_PEERS/venv/bin/python" tests/interop/fleet3x3.py --node "$node"; }
do_proxy() { "$RINGKEEP_PEERS/venv/bin/python" tests/interop/proxy.py --node "$node"; }
do_replica() { python3 tests/interop/kevy_replica.py --node "$node" --short --seed 5; }
do_primary() { python3 tests/interop/kevy_primary.py --node "$node" --short --seed 9; }
do_failover() { python3 tests/interop/failover.py --node "$node" --short --seed 2; }
do_replicas() { python3 tests/interop/replicas.py --node "$node" --seconds 25 --seed 3; }
do_elections() {
    python3 tests/interop/elections.py --node "$node" --short --seed 3 &&
        python3 tests/interop/heartbeats.py --node "$node" --seconds 5
}
do_scopes() { python3 tests/interop/scopes.py --node "$node"; }
do_node_key() { python3 tests/interop/node_key.py --node "$node"; }
do_node_tls() { tests/peers.sh openssl && python3 tests/interop/node_tls.py --node "$node"; }
do_handoff() {
    for one in handoff-supervisor handoff-supervisor-0.1.2; do
        cargo build --locked --manifest-path "tests/interop/$one/Cargo.toml" --target-dir target/interop || return
    done
    python3 tests/interop/handoff.py --node "$node" --supervisor target/interop/debug/handoff-supervisor \
        --supervisor target/interop/debug/handoff-supervisor-012 --short
}
do_zerocopy() { python3 tests/interop/zerocopy.py --node "$node"; }
do_upstream() { python3 tests/interop/redis_upstream.py --node "$node" --short --seed 5; }
do_evict() { python3 tests/interop/evict_quality.py --node "$node" --short; }
do_imports() { python3 tests/interop/imports.py --node "$node" --short; }
do_crash() { python3 tests/interop/crash.py --node "$node" --rounds 8 --port 7461; }
do_syncs() { tests/peers.sh strace && python3 tests/interop/syncs.py --node "$node"; }
do_hostile() { python3 tests/interop/hostile.py --node "$node"; }
do_package() { tests/peers.sh lintian && python3 tests/interop/package.py --node "$node"; }
do_operations() { python3 tests/interop/operations.py --node "$node"; }
do_bad_input() { python3 tests/interop/bad_input.py --node "$node"; }

if [ "${1:-}" = --list ]; then printf '%s\n' "${STAGES[@]}"; exit 0; fi
if [ $# -gt 0 ]; then chosen=("$@"); else chosen=("${STAGES[@]}"); fi
for stage in "${chosen[@]}"; do
    case " ${STAGES[*]} " in
    *" $stage "*) ;;
    *) echo "unknown stage $stage; tests/ci.sh --list" && exit 2 ;;
    esac
done

peers_pid=
case " ${chosen[*]} " in
*' peers '*)
    # Low priority: the building of other servers must not slow the tests down.
    nice -n 10 tests/peers.sh </dev/null >"$logs/peers-setup.log" 2>&1 &
    peers_pid=$!
    trap '[ -n "$(jobs -pr)" ] && kill $(jobs -pr) 2>/dev/null' EXIT
    ;;
esac

# The counts that a log closes on: cargo's own lines and the plain ones of the other tests.
sum() {
    awk '
        /^test result: / {
            for (i = 1; i <= NF; i++) { if ($i == "passed;") p += $(i-1); if ($i == "failed;") f += $(i-1) }
        }
        /^[0-9]+ passed, [0-9]+ failed/ { p += $1; f += $3; if ($6 ~ /skipped/) s += $5 }
        END { print p + 0, f + 0, s + 0 }' "$1"
}

passed=0 failed=0 skipped=0 broken=
for stage in "${chosen[@]}"; do
    log=$logs/$stage.log
    started=$SECONDS
    "do_$stage" </dev/null >"$log" 2>&1
    rc=$?
    read -r p f s < <(sum "$log")
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    note=
    [ $((p + f)) -gt 0 ] && note=", $p passed, $f failed"
    [ "$s" -gt 0 ] && note="$note, $s skipped"
    if [ $rc != 0 ]; then
        [ "$f" = 0 ] && failed=$((failed + 1))
        echo "FAILED  $stage ($((SECONDS - started)) s$note); the end of $log:"
        tail -n 60 "$log"
        broken=$stage
        break
    fi
    # A stage that is one check as a whole counts as one.
    [ $((p + f)) = 0 ] && passed=$((passed + 1))
    echo "ok      $stage ($((SECONDS - started)) s$note)"
done
[ -n "$broken" ] && echo "stopped at $broken after $SECONDS s" || echo "all stages passed in $SECONDS s"
tail=
[ $skipped -gt 0 ] && tail=", $skipped skipped"
echo "$passed passed, $failed failed$tail"
[ -z "$broken" ] && [ $failed = 0 ]
