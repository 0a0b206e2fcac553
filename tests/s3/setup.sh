#!/usr/bin/env bash
# Prints the path of versitygw, the S3 server that tests talk to, building it when needed: its version is in the folder's
# name, and Go checks what it fetches against the public checksum database. TRIREME_S3_SERVER names another binary instead.
set -euo pipefail

version=v1.8.0
cache=${TRIREME_CACHE:-$HOME/.cache/trireme}
folder=$cache/versitygw-$version

if [[ -n ${TRIREME_S3_SERVER:-} ]]; then
    echo "$TRIREME_S3_SERVER"
    exit
fi
if [[ ! -x $folder/versitygw ]]; then
    if ! command -v go >/dev/null; then
        echo "s3: the tests need an S3 server, which is built with Go 1.25 or newer: install Go and run this again, or set" >&2
        echo "s3: TRIREME_S3_SERVER to a binary of versitygw $version" >&2
        exit 1
    fi
    mkdir -p "$cache"
    exec 9>"$folder.lock"
    flock 9 # two test runs at once: the second finds the first one's work
    if [[ ! -x $folder/versitygw ]]; then
        echo "s3: building versitygw $version into $folder" >&2
        GOBIN=$folder.new go install "github.com/versity/versitygw/cmd/versitygw@$version" >&2
        mv -T "$folder.new" "$folder"
    fi
fi
echo "$folder/versitygw"
