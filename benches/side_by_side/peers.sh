#!/bin/sh
# Installs the newest peers for the PostgreSQL bench below .tools/peers: PostgreSQL 18 with its client
# tools and pgBackRest from Debian's unstable suite, each with the libraries it wants, and Barman
# from PyPI, so that the system is not touched but for three small tools. The mirror is the one that
# this machine's apt already uses. Idempotent.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
tree=${PEERS_TREE:-$root/.tools/peers}
suite=sid
roots="postgresql-18 postgresql-client-18 pgbackrest"
barman=3.19.1
stamp="$suite $roots barman $barman"
[ "$(cat "$tree/stamp" 2>/dev/null)" = "$stamp" ] && exit 0

need_package() {
    if [ "$(id -u)" = 0 ]; then
        apt-get update -qq && apt-get install -qq -y --no-install-recommends "$1" >/dev/null
    else
        echo "The bench needs $1, for example: sudo apt-get install $1" >&2
        exit 1
    fi
}
for tool in patchelf rsync zstd; do
    command -v "$tool" >/dev/null || need_package "$tool"
done

rm -rf "$tree"
mkdir -p "$tree/apt/lists/partial" "$tree/apt/cache/archives/partial" "$tree/debs"
mirror=$(sed -n 's/^URIs: *//p; s/^deb *\(\[[^]]*\] *\)\{0,1\}\([^ ]*\).*/\2/p' \
    /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list 2>/dev/null |
    grep -v security | head -n 1)
keys=$(ls /usr/share/keyrings/debian-archive-keyring.gpg)
echo "deb [signed-by=$keys] $mirror $suite main" >"$tree/apt/sources.list"
: >"$tree/apt/status"
cat >"$tree/apt/apt.conf" <<CONF
Dir::Etc::sourcelist "$tree/apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State::lists "$tree/apt/lists";
Dir::State::status "$tree/apt/status";
Dir::Cache "$tree/apt/cache";
Acquire::Check-Valid-Until "false";
APT::Sandbox::User "root";
CONF
export APT_CONFIG="$tree/apt/apt.conf"
apt-get update -qq
# shellcheck disable=SC2086 # A list of words.
packages=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
    --no-replaces --no-enhances $roots | grep '^[a-z0-9]' | grep -v ':' | sort -u |
    grep -Ev '^(libllvm|postgresql-common|postgresql-client-common|systemd|init|perl|debconf|dpkg|adduser|passwd|ssl-cert|locales|tzdata|ucf|sensible-utils|sysv|cdebconf|login|util-linux|mount|bsdutils)' || true)
# Virtual packages cannot be downloaded; a library that is missed shows when a program is started.
(cd "$tree/debs" && for package in $packages; do
    apt-get download -qq "$package" 2>/dev/null || true
done)
for deb in "$tree"/debs/*.deb; do
    dpkg-deb -x "$deb" "$tree"
done
rm -rf "$tree/debs" "$tree/apt"

loader=$tree/usr/lib64/ld-linux-x86-64.so.2
libraries=$tree/usr/lib/x86_64-linux-gnu
for program in "$tree"/usr/lib/postgresql/18/bin/* "$tree/usr/bin/pgbackrest"; do
    patchelf --set-interpreter "$loader" --force-rpath --set-rpath "$libraries" "$program"
done
for library in "$tree"/usr/lib/postgresql/18/lib/*.so; do
    patchelf --force-rpath --set-rpath "$libraries" "$library"
done
unset APT_CONFIG
# The system's Python, since another one may lie where only its owner can go.
/usr/bin/python3 -c "import ensurepip" 2>/dev/null || need_package python3-venv
/usr/bin/python3 -m venv "$tree/barman"
"$tree/barman/bin/pip" install --quiet --disable-pip-version-check "barman==$barman" psycopg2-binary
chmod -R go+rX "$tree"
echo "$stamp" >"$tree/stamp"
