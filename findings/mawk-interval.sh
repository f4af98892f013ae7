#!/usr/bin/env bash
# Package: mawk 1.3.4.20200120-3.1 (Debian 12, its awk)
# Input: the lines "status=503" and "status=5{2}", searched for /status=5[0-9]{2}$/ and /5{2}/.
# Behaviour: mawk of that release has no {n}: POSIX's repetition is taken for the characters "{2}". No message, no match,
#   and an alert that greps with awk stays silent.
# Seen: /status=5[0-9]{2}$/:
# Seen: /5{2}/: status=5{2}
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

apt-get download -qq -o APT::Sandbox::User=root mawk=1.3.4.20200120-3.1 >apt.log 2>&1 || { cat apt.log; exit 2; }
for deb in *.deb; do dpkg -x "$deb" root; done
search() { printf '%s\n' status=503 'status=5{2}' | root/usr/bin/mawk "$1"; }

seen="/status=5[0-9]{2}\$/:$(search '/status=5[0-9]{2}$/ { printf " %s", $0 }')
/5{2}/:$(search '/5{2}/ { printf " %s", $0 }')"
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
