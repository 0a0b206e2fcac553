#!/usr/bin/env bash
# A node from the inside: the first process of its namespaces, which makes them look like a machine (a disk, an empty /run,
# a network card) and then keeps containerd, kubelet and kube-proxy running, as an init system would. It changes nothing of
# the host's: it mounts over whatever the daemons write to. When it is killed, the kernel ends all the others.
set -euo pipefail

here=$(dirname "${BASH_SOURCE[0]}")
node=$1 folder=$2 bin=$3 process_file=$4
source "$here/network.sh"
source "$here/processes.sh"

main() {
    local process
    read -r process _ </proc/self/stat # /proc is the host's yet, and so is the number
    echo "$process" >"$process_file"
    own_disk
    own_processes
    mount --make-rshared / # volumes that kubelet mounts have to show in containers
    keep containerd containerd --config /run/node/etc/containerd.toml &
    await "node$node" 30 "the network card of node$node" ip link show eth0
    node_network "$node"
    keep proxy /run/bin/kube proxy --kubeconfig /run/node/etc/proxy.kubeconfig --hostname-override "node$node" \
        --cluster-cidr "$pods" --proxy-mode nftables --conntrack-max-per-core 0 &
    # Kubelet gives up where the socket is there and the CRI service behind it is not.
    await "containerd$node" 60 "containerd's CRI service on node$node" cri_ready
    keep kubelet /run/bin/kube kubelet --config /run/node/etc/kubelet.yaml --kubeconfig "/run/node/etc/node$node.kubeconfig" \
        --hostname-override "node$node" --node-ip "$(node_address "$node")" &
    wait
}

# What lies outside is bound into /run first: it may be in a folder that is covered.
own_disk() {
    local disk=$folder/node$node
    mount -t tmpfs tmpfs "$disk/run"
    mkdir "$disk"/run/{node,bin,logs,lock}
    mount --bind "$disk" "$disk/run/node"
    mount --bind "$bin" "$disk/run/bin"
    mount --bind "$folder/logs" "$disk/run/logs"
    mount --move "$disk/run" /run
    mount --bind /run/node/var /var
    mount -t tmpfs tmpfs /tmp
}

# No list of mounts is kept in the host's /run.
mount() { command mount --no-mtab "$@"; }

# Kubelet sets these for the whole kernel. Here it sets files.
own_processes() {
    local setting
    mount -t proc proc /proc
    for setting in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
        [[ -e /proc/sys/$setting ]] || continue
        mkdir -p "/run/sys/${setting%/*}"
        cat "/proc/sys/$setting" >"/run/sys/$setting"
        mount --bind "/run/sys/$setting" "/proc/sys/$setting"
    done
}

cri_ready() { ctr plugins list | grep -qE 'grpc.v1 +cri .* ok'; }

keep() { # NAME COMMAND [ARGUMENT...]
    local name=$1
    shift
    while true; do
        "$@" >>"/run/logs/$name$node.log" 2>&1 || true
        sleep 0.5 # between two starts of a daemon that fails at once
    done
}

main
