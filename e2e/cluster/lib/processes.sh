# Owns starting a daemon, waiting for something to be so, and giving up. A daemon is found again by its control group, never by
# a number in a file: numbers are given to others when a process has ended.

# The daemons that this shell has started, by name, so that a wait for one that has ended does not last until its deadline.
declare -A started

# It gets nothing of the caller's that could change what it does or outlive the caller's use: variables, folder, descriptors.
spawn() { # CONTROL-GROUP NAME COMMAND [ARGUMENT...]
    local control_group=$1 name=$2
    shift 2
    control_group_make "$control_group"
    (
        control_group_join "$control_group"
        cd /
        exec env --ignore-environment "PATH=$PATH" setsid "$@" >>"$folder/logs/$name.log" 2>&1 </dev/null 9>&-
    ) &
    started[$name]=$!
}

await() { # NAME SECONDS WHAT COMMAND [ARGUMENT...]
    local name=$1 seconds=$2 what=$3
    shift 3
    local deadline=$((SECONDS + seconds))
    until "$@" >/dev/null 2>&1; do
        [[ -z ${started[$name]:-} ]] || kill -0 "${started[$name]}" 2>/dev/null || fail "$name has ended: see $folder/logs/$name.log"
        ((SECONDS < deadline)) || fail "$what: not within $seconds s, see $folder/logs/$name.log"
        sleep 0.1
    done
}

say() { echo "cluster: $*" >&2; }
fail() {
    say "$*"
    exit 1
}
