# Owns addresses and links. Host and nodes are on one bridge; each node routes its own pods, and everybody knows the way to
# everybody's, so that the host forwards nothing and its settings stay as they are.
#
# Bridge and nodes have link addresses of their own: a bridge would take the lowest of its ports', and a node that boots again
# would come with a new one, while the others still send to the old one.

readonly host=172.30.0.1
readonly bridge=trireme0
readonly nodes_max=9
readonly pods=10.244.0.0/16

node_address() { echo "172.30.0.$((10 + $1))"; }               # N
node_pods() { echo "10.244.$1.0/24"; }                         # N
node_link() { echo "trireme-node$1"; }                         # N
node_mac() { printf '02:00:ac:1e:00:%02x\n' "$((10 + $1))"; }  # N

network_up() {
    ip link add "$bridge" address 02:00:ac:1e:00:01 type bridge
    ip address add "$host/24" dev "$bridge"
    ip link set "$bridge" up
}

network_down() {
    local node
    for node in $(seq "$nodes_max"); do
        node_unplug "$node"
    done
    ip link delete "$bridge" 2>/dev/null || true
}

node_plug_in() { # N PROCESS: gives the process's network namespace its eth0
    local link
    link=$(node_link "$1")
    ip link add "$link" type veth peer name eth0 address "$(node_mac "$1")" netns "$2"
    ip link set "$link" master "$bridge" up
    ip route replace "$(node_pods "$1")" via "$(node_address "$1")" dev "$bridge"
}

node_unplug() { ip link delete "$(node_link "$1")" 2>/dev/null || true; } # N

node_is_cut_off() { [[ $(<"/sys/class/net/$(node_link "$1")/operstate") == down ]]; } # N

# From inside the node.
node_network() { # N
    local other
    ip link set lo up
    ip address add "$(node_address "$1")/24" dev eth0
    ip link set eth0 up
    ip route add default via "$host"
    for other in $(seq "$nodes_max"); do
        [[ $other == "$1" ]] || ip route add "$(node_pods "$other")" via "$(node_address "$other")"
    done
    echo 1 >/proc/sys/net/ipv4/ip_forward
    # A pod that calls a Service and is sent to its neighbour gets the answer through the same filter.
    [[ ! -e /proc/sys/net/bridge ]] || echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables
}
