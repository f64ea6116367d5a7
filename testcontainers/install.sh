#!/bin/sh
# Installs the servers that the tests start, below .tools, which git ignores.
#
# May be run again at any time: it does only what is missing. As root on Debian it also installs
# what it needs itself; elsewhere it says what is missing and how to get it.
set -eu

azurite=3.35.0
s3rver=3.7.1
moto=5.2
aiosmtpd=1.4
duckdb=2.0.1
pyiceberg=0.12.0

root=$(cd "$(dirname "$0")/.." && pwd)
tools=$root/.tools
missing=

# need COMMAND-THAT-SUCCEEDS-WHEN-PRESENT DEBIAN-PACKAGE...
need() {
    test=$1
    shift
    sh -c "$test" >/dev/null 2>&1 || missing="$missing $*"
}

find_missing() {
    missing=
    need 'command -v setpriv' util-linux
    need 'python3 -c "import ensurepip, venv"' python3 python3-venv
    need 'command -v node' nodejs
    need 'command -v npm' npm
    need 'command -v patchelf' patchelf
    need 'command -v fusermount3' fuse3
    need 'command -v promtool' prometheus
    need 'command -v strace' strace
}

find_missing
if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "installing:$missing"
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq
        # shellcheck disable=SC2086 # A list of words.
        apt-get install -qq -y --no-install-recommends $missing >/dev/null
        find_missing
    fi
    if [ -n "$missing" ]; then
        echo "The tests need these packages (Debian names):$missing" >&2
        echo "Install them and repeat, for example: sudo apt-get install$missing" >&2
        exit 1
    fi
fi

# Mounted backups need FUSE; a kernel may have it and no device for it.
if [ ! -e /dev/fuse ] && [ "$(id -u)" = 0 ]; then
    modprobe fuse 2>/dev/null || true
    [ -e /dev/fuse ] || mknod /dev/fuse c 10 229 || true
fi
# Everybody may open it, as with udev.
[ "$(id -u)" != 0 ] || [ ! -e /dev/fuse ] || chmod a+rw /dev/fuse
# Users end their mounts there; systemd mounts it elsewhere.
connections=/sys/fs/fuse/connections
if [ "$(id -u)" = 0 ] && [ -d $connections ] && ! grep -q " $connections fusectl " /proc/mounts; then
    mount -t fusectl fusectl $connections || true
fi

# Each tool carries a stamp, written last, so that a broken installation is done again.
has() {
    [ "$(cat "$tools/$1/stamp" 2>/dev/null)" = "$2" ]
}

node="azurite@$azurite s3rver@$s3rver"
if ! has node "$node"; then
    echo "installing: $node"
    rm -rf "$tools/node"
    mkdir -p "$tools/node"
    # shellcheck disable=SC2086 # A list of words.
    npm install --prefix "$tools/node" --no-fund --no-audit --loglevel=error $node >/dev/null
    echo "$node" >"$tools/node/stamp"
fi

python="moto[server]~=$moto aiosmtpd~=$aiosmtpd duckdb~=$duckdb pyiceberg[pyarrow]~=$pyiceberg"
if ! has python "$python"; then
    echo "installing: $python"
    rm -rf "$tools/python"
    python3 -m venv "$tools/python"
    # shellcheck disable=SC2086 # A list of words.
    "$tools/python/bin/pip" install --quiet --disable-pip-version-check $python
    echo "$python" >"$tools/python/stamp"
fi

sh "$root/testcontainers/postgres.sh"
