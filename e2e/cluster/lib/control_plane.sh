# Owns what is not on a node: certificates, etcd, the API server, its controllers and scheduler, and CoreDNS. None of them
# elects a leader, writes to disk with care or limits its own requests: the cluster is short-lived, and tests wait for it.

readonly services=10.96.0.0/16
readonly etcd=http://127.0.0.1:23790
# How long a node may be silent before it counts as lost. Kubelets renew their lease every 2 s.
readonly node_grace=16s

control_plane_files() {
    local names=DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,DNS:kubernetes.default,DNS:kubernetes
    openssl genrsa -out "$folder/pki/service-accounts.key" 2048 2>/dev/null
    openssl rsa -in "$folder/pki/service-accounts.key" -pubout -out "$folder/pki/service-accounts.pub" 2>/dev/null
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj "/CN=trireme-cluster" \
        -keyout "$folder/pki/ca.key" -out "$folder/pki/ca.crt" 2>/dev/null
    certificate apiserver /CN=kube-apiserver "$names,DNS:localhost,IP:127.0.0.1,IP:$host,IP:10.96.0.1"
    certificate apiserver-to-kubelets /O=system:masters/CN=kube-apiserver-kubelet-client
    certificate admin /O=system:masters/CN=admin
    certificate controller-manager /CN=system:kube-controller-manager
    certificate scheduler /CN=system:kube-scheduler
    certificate coredns /O=system:masters/CN=coredns
    certificate proxy /CN=system:kube-proxy
    ln -s pki/admin.kubeconfig "$folder/kubeconfig"
    audit_policy >"$folder/audit-policy.yaml"
    corefile >"$folder/Corefile"
}

# A key, a certificate and a kubeconfig that holds both, so that it may be copied.
certificate() { # NAME SUBJECT [ALTERNATIVE-NAMES]
    local base=$folder/pki/$1
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "$2" -keyout "$base.key" -out "$base.csr" 2>/dev/null
    openssl x509 -req -in "$base.csr" -CA "$folder/pki/ca.crt" -CAkey "$folder/pki/ca.key" -CAcreateserial -days 30 -out "$base.crt" \
        -extfile <(printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth' "${3:-DNS:$1}") 2>/dev/null
    rm "$base.csr"
    cat >"$base.kubeconfig" <<YAML
apiVersion: v1
kind: Config
clusters:
  - name: trireme
    cluster: {server: "https://$host:6443", certificate-authority-data: $(base64 -w0 "$folder/pki/ca.crt")}
users:
  - name: $1
    user: {client-certificate-data: $(base64 -w0 "$base.crt"), client-key-data: $(base64 -w0 "$base.key")}
contexts:
  - name: trireme
    context: {cluster: trireme, user: $1}
current-context: trireme
YAML
}

# Who wrote what, so that tests can count. Left out: kubelets' heartbeats, and questions that are asked by creating an object.
audit_policy() {
    cat <<'YAML'
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: None
    userGroups: [system:nodes]
    resources:
      - {group: coordination.k8s.io, resources: [leases]}
  - level: None
    resources:
      - {group: authentication.k8s.io}
      - {group: authorization.k8s.io}
  - level: Metadata
    verbs: [create, update, patch, delete, deletecollection]
  - level: None
YAML
}

corefile() {
    cat <<COREFILE
.:53 {
    bind $host
    errors
    ready $host:8181
    kubernetes cluster.local in-addr.arpa {
        endpoint https://$host:6443
        tls $folder/pki/coredns.crt $folder/pki/coredns.key $folder/pki/ca.crt
        ttl 5
    }
}
COREFILE
}

dns_ready() {
    local connection
    exec {connection}<>"/dev/tcp/$host/8181" || return
    printf 'GET /ready HTTP/1.0\r\n\r\n' >&"$connection"
    grep -q '200 OK' <&"$connection"
    local found=$?
    exec {connection}>&-
    return $found
}

control_plane_start() {
    spawn "$group/control/etcd" etcd "$bin/kube" etcd --data-dir "$folder/etcd" --unsafe-no-fsync --log-level warn \
        --listen-client-urls "$etcd" --advertise-client-urls "$etcd" --listen-peer-urls http://127.0.0.1:23800
    api_start
    spawn "$group/control/controller-manager" controller-manager "$bin/kube" controller-manager \
        --kubeconfig "$folder/pki/controller-manager.kubeconfig" --bind-address 127.0.0.1 --leader-elect=false \
        --flex-volume-plugin-dir "$folder/volume-plugins" --use-service-account-credentials --service-account-private-key-file "$folder/pki/service-accounts.key" \
        --root-ca-file "$folder/pki/ca.crt" --cluster-signing-cert-file "$folder/pki/ca.crt" --cluster-signing-key-file "$folder/pki/ca.key" \
        --node-monitor-period 2s --node-monitor-grace-period "$node_grace" --kube-api-qps 500 --kube-api-burst 1000
    spawn "$group/control/scheduler" scheduler "$bin/kube" scheduler \
        --kubeconfig "$folder/pki/scheduler.kubeconfig" --bind-address 127.0.0.1 --leader-elect=false --kube-api-qps 500 --kube-api-burst 1000
    spawn "$group/control/coredns" coredns "$bin/coredns" -conf "$folder/Corefile"
}

# The API server alone is stopped and started by tests. It is killed, never asked: asked, it waits for every open watch.
api_start() {
    spawn "$group/control/apiserver" apiserver "$bin/kube" apiserver --etcd-servers "$etcd" \
        --bind-address "$host" --secure-port 6443 --advertise-address "$host" --service-cluster-ip-range "$services" --allow-privileged \
        --tls-cert-file "$folder/pki/apiserver.crt" --tls-private-key-file "$folder/pki/apiserver.key" \
        --client-ca-file "$folder/pki/ca.crt" --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction \
        --service-account-issuer https://kubernetes.default.svc --service-account-key-file "$folder/pki/service-accounts.pub" \
        --service-account-signing-key-file "$folder/pki/service-accounts.key" \
        --kubelet-certificate-authority "$folder/pki/ca.crt" --kubelet-preferred-address-types InternalIP \
        --kubelet-client-certificate "$folder/pki/apiserver-to-kubelets.crt" --kubelet-client-key "$folder/pki/apiserver-to-kubelets.key" \
        --audit-policy-file "$folder/audit-policy.yaml" --audit-log-path "$folder/audit.log"
    await apiserver 60 "the API server is ready" kubectl get --raw /readyz
}
