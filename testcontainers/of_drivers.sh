#!/bin/sh
# What cargo starts tests with that run beside those of the program: those of every other package.
# Left out this way, and not by cargo, the program still decides which features dependencies have,
# and nothing is compiled twice.
set -eu
[ "$(pwd)" != "$(cd "$(dirname "$0")/.." && pwd)" ] || exit 0
exec "$@"
