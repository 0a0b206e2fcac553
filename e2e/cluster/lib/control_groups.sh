# Owns the cluster's control groups, which serve two ends: kubelet hangs its pods below its node's, and whatever belongs to the
# cluster is found, and ended, by being in one.
#
# Version 1 has a tree for each controller, and a group is made in all of them. Version 2 has one tree: a group has the controllers
# that its parent hands down, and one that hands down may hold no process itself, which is why daemons are always in leaves
# (node1/system beside kubelet's node1/kubepods). `check` has run on version 1; on version 2 (Linux 6.1 in an emulated machine,
# too slow for its deadlines) a cluster came up, ran a pod, ended one that was over its memory limit, lost a node and went down.

control_group_trees() { awk '$3 == "cgroup" || $3 == "cgroup2" { print $2 }' /proc/mounts; }

control_group_make() { # PATH
    local tree part path
    for tree in $(control_group_trees); do
        path=$tree
        for part in ${1//\// }; do
            hand_down_controllers "$path"
            path+=/$part
            mkdir -p "$path"
            inherit_cpuset "$path"
        done
    done
}

# Version 2. Does nothing in a tree of version 1, which has no such files, or where version 2 is mounted without controllers.
hand_down_controllers() { # FOLDER
    local controller
    [[ -e $1/cgroup.controllers ]] || return 0
    for controller in cpu cpuset hugetlb io memory pids; do
        grep -qw "$controller" "$1/cgroup.controllers" || continue
        ! grep -qw "$controller" "$1/cgroup.subtree_control" || continue
        echo "+$controller" >"$1/cgroup.subtree_control" ||
            fail "$1 cannot hand down the $controller controller: processes are in it, as in the topmost group of a container"
    done
}

# Version 1: a new cpuset is empty, and no process can join it before it has processors and memory.
inherit_cpuset() { # FOLDER
    local file
    for file in cpuset.cpus cpuset.mems; do
        if [[ -e $1/$file && ! -e $1/cgroup.controllers && -z $(<"$1/$file") ]]; then
            cat "$1/../$file" >"$1/$file"
        fi
    done
}

# The calling subshell and all that it starts.
control_group_join() { # PATH
    local tree
    for tree in $(control_group_trees); do
        echo "$BASHPID" >"$tree/$1/cgroup.procs"
    done
}

control_group_processes() { # PATH
    local tree
    for tree in $(control_group_trees); do
        find "$tree/$1" -name cgroup.procs -exec cat {} + 2>/dev/null || true
    done | sort -u
}

control_group_empty() { [[ -z $(control_group_processes "$1") ]]; } # PATH

# Again and again, because a process may be starting another one just then.
control_group_kill() { # PATH
    local deadline=$((SECONDS + 30)) processes
    while mapfile -t processes < <(control_group_processes "$1") && ((${#processes[@]})); do
        ((SECONDS < deadline)) || fail "still running after 30 s of kill -9: process ${processes[*]}"
        kill -KILL "${processes[@]}" 2>/dev/null || true
        sleep 0.02
    done
}

# A group whose last process has just ended may be busy for a moment.
control_group_remove() { # PATH
    local deadline=$((SECONDS + 30)) tree
    for tree in $(control_group_trees); do
        while [[ -d $tree/$1 ]]; do
            find "$tree/$1" -depth -type d -exec rmdir {} + 2>/dev/null && break
            ((SECONDS < deadline)) || fail "cannot remove the control group $tree/$1"
            sleep 0.02
        done
    done
}
