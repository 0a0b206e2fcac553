# Owns the nodes as seen from outside: their disks and settings, starting one, and giving it images. What runs in a node's
# namespaces is in node.sh.

nodes() { find "$folder" -maxdepth 1 -name 'node[1-9]' -printf '%f\n' | cut -c5- | sort; }
node_process() { cat "$run/node$1"; } # N: the first one in its namespaces

node_state() { # N
    if control_group_empty "$group/node$1"; then echo down; else echo up; fi
}

node_boot() { # N
    control_group_remove "$group/node$1" # of the pods that it ran before
    node_unplug "$1"
    rm -f "$run/node$1"
    spawn "$group/node$1/system" "node$1" unshare --net --mount --pid --fork --kill-child --propagation private \
        "$here/lib/node.sh" "$1" "$folder" "$bin" "$run/node$1"
    await "node$1" 30 "the first process of node$1" test -s "$run/node$1"
    node_plug_in "$1" "$(node_process "$1")"
}

# With the images that no pod can do without.
await_node() { # N
    node_import "$1" "$bin"/../images/*.tar
    kubectl wait --for=create "node/node$1" --timeout=60s >/dev/null && kubectl wait --for=condition=Ready "node/node$1" --timeout=60s >/dev/null ||
        fail "node$1 is not ready after 60 s: see $folder/logs/kubelet$1.log"
}

node_ctr() { # N COMMAND [ARGUMENT...]
    local process
    process=$(node_process "$1")
    shift
    ctr --address "/proc/$process/root/run/containerd/containerd.sock" --namespace k8s.io "$@"
}

# Until kubelet sees the images too: the CRI service marks them when it has heard of them.
node_import() { # N ARCHIVE...
    local node=$1 archive
    shift
    await "containerd$node" 60 "containerd on node$node" node_ctr "$node" version
    for archive in "$@"; do
        node_ctr "$node" image import "$archive" >>"$folder/logs/images.log" 2>&1 || fail "node$node cannot import $archive: see $folder/logs/images.log"
    done
    await "containerd$node" 30 "node$node knows its images" images_known "$node"
}

images_known() { # N
    local images
    images=$(node_ctr "$1" image list --quiet) && [[ $images == "$(node_ctr "$1" image list --quiet 'labels."io.cri-containerd.image"==managed')" ]]
}

# A node's disk is $folder/nodeN: var/ is its /var, etc/ its settings; its /run is in memory.
node_files() { # N
    local disk=$folder/node$1
    mkdir -p "$disk"/run "$disk"/etc/cni "$disk"/var/{lib,log,cache,tmp}
    ln -s /run "$disk/var/run"
    certificate "node$1" "/O=system:nodes/CN=system:node:node$1" "DNS:node$1,IP:$(node_address "$1")"
    cp "$folder/pki/node$1".{crt,key,kubeconfig} "$folder/pki/ca.crt" "$folder/pki/proxy.kubeconfig" "$disk/etc"
    containerd_settings >"$disk/etc/containerd.toml"
    kubelet_settings "$1" >"$disk/etc/kubelet.yaml"
    network_settings "$1" >"$disk/etc/cni/10-bridge.conflist"
}

# Without CAP_SYS_RESOURCE (in a container, say) runc cannot lower a process's oom_score_adj, and every pod would fail.
containerd_settings() {
    cat <<'TOML'
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/run/node/etc/cni"
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
TOML
}

# failCgroupV1: 1.35 refuses to start on version 1 by default. imageGC: images were loaded by hand, nothing could fetch them
# again. evictionHard: a test machine's disk is often nearly full, and that is nobody's business here. crashLoopBackOff: what a
# test has killed a dozen times is to be back at once.
kubelet_settings() { # N
    cat <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: /run/node/etc/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: /run/node/etc/node$1.crt
tlsPrivateKeyFile: /run/node/etc/node$1.key
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /$group/node$1
failCgroupV1: false
failSwapOn: false
volumePluginDir: /var/lib/kubelet/volume-plugins
clusterDNS: [$host]
clusterDomain: cluster.local
resolvConf: ""
nodeLeaseDurationSeconds: 8
nodeStatusUpdateFrequency: 2s
nodeStatusReportFrequency: 5m
serializeImagePulls: false
imageGCHighThresholdPercent: 100
localStorageCapacityIsolation: true
crashLoopBackOff: {maxContainerRestartPeriod: 1s}
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
YAML
}

# Addresses are leased in /run, so that a power loss frees them.
network_settings() { # N
    cat <<JSON
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "/run/cni", "ranges": [[{"subnet": "10.244.$1.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}
]}
JSON
}
