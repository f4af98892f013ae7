#!/usr/bin/env bash
# Package: logrotate 3.21.0-1 (Debian 12)
# Input: two files in a folder like logrotate.d: one for a.log, the other for *.log of the same folder.
# Behaviour: the overlap is an error, and what is skipped is the whole second block: b.log and c.log, which it alone
#   names, are never rotated, while a.log is. One file that a package puts there stops the rotation of other people's
#   logs.
# Seen: error: two:1 duplicate log entry for a.log
# Seen: error: found error in file two, skipping
# Seen: after: a.log.1 b.log c.log
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

apt-get download -qq -o APT::Sandbox::User=root logrotate=3.21.0-1 >apt.log 2>&1 || { cat apt.log >&2; exit 2; }
for deb in *.deb; do dpkg -x "$deb" root; done
mkdir logrotate.d log
touch log/{a,b,c}.log
printf '%s {\n  rotate 2\n}\n' "$work/log/a.log" >logrotate.d/one
printf '%s {\n  rotate 2\n}\n' "$work/log/*.log" >logrotate.d/two
echo "include $work/logrotate.d" >logrotate.conf
chmod 600 logrotate.conf logrotate.d/*

root/usr/sbin/logrotate --force --state state logrotate.conf >out 2>&1 || true # it ends with 1: there was an error
seen="$(grep '^error:' out | sed "s|$work/log/||")
after: $(cd log && echo *)"
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
