#!/usr/bin/env bash
# Prints the folder that holds what the test cluster is made of (kube, kubectl, helm, coredns, kwok, kubeconform), building
# it when needed: versions and sources are in the name of the folder above it, and Go checks what it fetches against the
# public checksum database. Beside bin/ lie images/ (archives that every node starts with) and kwok/ (stages to pass to it).
#
#   setup.sh             says which Debian packages are missing, and how to install them
#   setup.sh --install   installs them; needs root
#   setup.sh --is-built  builds and installs nothing: fails where there is something to build or to install
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(realpath "$here/../..")
cache=${TRIREME_CACHE:-$HOME/.cache/trireme}

kubernetes=$(sed -nE 's|^\tk8s.io/kubernetes (v.*)$|\1|p' "$here/kube/go.mod")
helm=v4.3.1
coredns=v1.15.0
kwok=v0.8.0
kubeconform=v0.8.0

hash=$({ echo "$helm $coredns $kwok $kubeconform"; cat "$here"/kube/{main.go,go.mod,go.sum} "$here"/pause/*; } | sha256sum | cut -c1-12)
folder=$cache/kubernetes-$kubernetes-$hash
bin=$folder/bin

# What a node or an image needs of the machine, and the Debian package that has it.
required=(
    "containerd containerd"
    "runc runc"
    "/usr/lib/cni/bridge containernetworking-plugins"
    "ip iproute2"
    "iptables iptables"
    "nft nftables"
    "conntrack conntrack"
    "openssl openssl"
    "mmdebstrap mmdebstrap"
    "busybox busybox"
)

main() {
    if [[ ${1:-} == --is-built ]]; then
        is_built
        return
    fi
    packages "${1:-}"
    mkdir -p "$bin" "$folder/images"
    exec 9>"$folder/lock"
    flock 9 # two test runs at once: the second finds the first one's work
    build_kube
    install coredns "github.com/coredns/coredns@$coredns"
    install helm "helm.sh/helm/v4/cmd/helm@$helm" "-X helm.sh/helm/v4/internal/version.version=$helm"
    install kwok "sigs.k8s.io/kwok/cmd/kwok@$kwok"
    install kubeconform "github.com/yannh/kubeconform/cmd/kubeconform@$kubeconform" "-X main.version=$kubeconform"
    kwok_stages
    image pause "$bin/pause"
    image toolbox "$(command -v busybox)"
    echo "$bin"
}

is_built() {
    local line name
    for line in "${required[@]}"; do
        command -v "${line% *}" >/dev/null
    done
    for name in kube pause coredns helm kwok kubeconform; do
        [[ -x $bin/$name ]]
    done
    [[ -d $folder/kwok && -e $folder/images/pause.tar && -e $folder/images/toolbox.tar ]]
}

packages() {
    local missing=() line
    for line in "${required[@]}"; do
        command -v "${line% *}" >/dev/null || missing+=("${line#* }")
    done
    ((${#missing[@]})) || return 0
    if [[ $1 != --install ]]; then
        say "missing: ${missing[*]}"
        say "install them with: apt-get update && apt-get install --no-install-recommends ${missing[*]}"
        say "or run this again as root with --install"
        exit 1
    fi
    say "installing ${missing[*]}"
    apt-get update >&2
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${missing[@]}" >&2
}

# Both of our own programs: linked statically, so that they run in every image and namespace.
build_kube() {
    local version=k8s.io/component-base/version client=k8s.io/client-go/pkg/version number=${kubernetes#v}
    local minor=${number#*.}
    build kube "-X $version.gitVersion=$kubernetes -X $version.gitMajor=${number%%.*} -X $version.gitMinor=${minor%%.*}" \
        "-X $client.gitVersion=$kubernetes"
    ln -sf kube "$bin/kubectl"
    build pause
}

build() { # MODULE [LINKER-FLAG...]
    local module=$1
    shift
    [[ ! -x $bin/$module ]] || return 0
    need_go "$module"
    (cd "$here/$module" && CGO_ENABLED=0 go build -buildvcs=false -trimpath -ldflags "-s -w $*" -o "$bin/$module.new" .) >&2
    mv "$bin/$module.new" "$bin/$module"
}

install() { # NAME PACKAGE@VERSION [LINKER-FLAG...]
    local name=$1 package=$2
    shift 2
    [[ ! -x $bin/$name ]] || return 0
    need_go "$package"
    CGO_ENABLED=0 GOBIN=$bin/new go install -trimpath -ldflags "-s -w $*" "$package" >&2
    mv "$bin/new/$name" "$bin/$name"
    rmdir "$bin/new"
}

need_go() {
    if ! command -v go >/dev/null; then
        say "Go 1.26 or newer builds the test cluster: install it and run this again"
        exit 1
    fi
    say "building $1 into $bin"
}

# kwok brings none of its stages in the binary: these make nodes and pods ready at once.
kwok_stages() {
    [[ ! -d $folder/kwok ]] || return 0
    local module stage
    module=$(go mod download -json "sigs.k8s.io/kwok@$kwok" | sed -nE 's/^\t"Dir": "(.*)",?$/\1/p')
    mkdir -p "$folder/kwok.new"
    for stage in node/fast/node node/heartbeat-with-lease/node pod/fast/pod; do
        cp "$module/kustomize/stage/$stage"-*.yaml "$folder/kwok.new"
    done
    mv "$folder/kwok.new" "$folder/kwok"
}

image() { # NAME BINARY
    local archive=$folder/images/$1.tar source
    for source in "$2" "$repository"/images/{build,archive.py,rootfs.py}; do
        [[ ! $archive -nt $source ]] || continue
        "$repository/images/build" "$1" "$2" --out "$archive" >&2
        return
    done
}

say() { echo "e2e: $*" >&2; }

main "$@"
