#!/usr/bin/env bash
# Prints the path of a Chromium that tests may drive; installs Debian's where there is none, unless
# CHROMIUM_TEST_INSTALL=no. Exit 77, with one line that says why: there is none, and this machine may not have one.
set -euo pipefail

skip() { printf 'chromium: %s\n' "$*"; exit 77; }
find_it() { command -v chromium || command -v chromium-browser || command -v google-chrome; }

find_it && exit 0
[[ ${CHROMIUM_TEST_INSTALL:-yes} != no ]] || skip "CHROMIUM_TEST_INSTALL=no, and not installed"
command -v apt-get >/dev/null || skip "not installed, and no apt-get here to install it"
grep -Eqs '^ID=debian' /etc/os-release || skip "not installed, and its package is Debian's"
[[ $(id -u) == 0 ]] || skip "not installed, and only root may: apt-get install chromium"
log=$(mktemp)
echo "installing chromium" >&2
exec 8>"${TMPDIR:-/tmp}/blue-apt.lock" # tests/slurm_cluster.sh may be installing, too
{ flock 8 && apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends \
  chromium fonts-dejavu-core; } >"$log" 2>&1 || skip "apt-get could not install it: $(tail -n1 "$log") (log in $log)"
rm -f "$log"
find_it || skip "installed, but not found"
