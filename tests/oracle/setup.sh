#!/usr/bin/env bash
# Prints the path of a Python with the packages of requirements.txt, building its virtual environment when needed.
# The folder's name carries a hash of the requirements and of the interpreter, so that a change makes a new one and a
# warm call only tests that a file exists. The system's pip installs into it, because Debian keeps ensurepip in a package
# of its own.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
hash=$({ "$python" -c 'import sys; print(sys.version_info[:2], sys.executable)'; cat "$here/requirements.txt"; } | sha256sum | cut -c1-12)
cache=${TRIREME_CACHE:-$HOME/.cache/trireme}
venv=$cache/venv-$hash

if [[ ! -e $venv/complete ]]; then
    mkdir -p "$cache"
    exec 9>"$venv.lock"
    flock 9 # two test runs at once: the second finds the first one's work
    if [[ ! -e $venv/complete ]]; then
        echo "oracle: installing $(grep -c '^[a-z]' "$here/requirements.txt") Python packages into $venv" >&2
        rm -rf "$venv"
        "$python" -m venv --without-pip "$venv" >&2
        packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
        "$python" -m pip install --quiet --no-input --disable-pip-version-check --root-user-action ignore \
            --only-binary :all: --target "$packages" --requirement "$here/requirements.txt" >&2
        touch "$venv/complete"
    fi
fi
echo "$venv/bin/python"
