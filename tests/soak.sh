#!/usr/bin/env bash
# The long suites at full length, on the development build or on TRIREME_BIN. What they print goes to bench/results/soak-batch.txt, too.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

suite() {
    printf '\n==> suite %s\n' "$*"
    cargo test --workspace --locked --test suite -- --nocapture --test-threads=1 "$@"
}

{
    printf 'trireme %s, %s cores, %s, %s\n' "$(git describe --always --dirty)" "$(nproc)" \
        "$(awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo)" "$(rustc --version)"
    if [[ -n ${TRIREME_BIN:-} ]]; then
        printf 'binary: %s, %s bytes\n' "$("$TRIREME_BIN" version | sed -n 1p)" "$(stat -c %s "$TRIREME_BIN")"
    fi
    # Four points of workers and four of drivers.
    TRIREME_KILLS=${TRIREME_KILLS:-25} suite kills::
    TRIREME_KILLS=${TRIREME_KILLS:-25} suite recovery::
    TRIREME_COPY_SCALE=${TRIREME_COPY_SCALE:-7} suite large_copy::
    TRIREME_MEMORY_RUNS=${TRIREME_MEMORY_RUNS:-1:768,10:4096} TRIREME_MEMORY_DATA=${TRIREME_CACHE:-$HOME/.cache/trireme}/memory \
        suite memory::limits
    TRIREME_FUZZ_CASES=${TRIREME_FUZZ_CASES:-300} suite fuzz::
    printf '\n==> simulation\n'
    TRIREME_SIM_SEEDS=${TRIREME_SIM_SEEDS:-300000} cargo test -p trireme-batch-schedule --locked --test simulation -- --nocapture
    # Of the operator too, which takes ten times as long for each.
    TRIREME_SIM_SEEDS=${TRIREME_OPERATOR_SEEDS:-100000} cargo test --workspace --locked --test simulation -- --nocapture no_seed_breaks_it
    # Captured output of jobs would be most of it; what cargo builds, and paths of one machine, say nothing.
} 2>&1 | grep --line-buffered -vE '^(T?20[0-9-]{8}|command: |stdout:|stderr:|\[[0-9]+/[0-9]+\]| +(Compiling|Finished|Running) )' |
    sed -uE 's/^(test [^ ]+ \.\.\.) command: .*/\1/' | tee bench/results/soak-batch.txt
