#!/usr/bin/env bash
# Package: jq 1.6-2.1+deb12u3 (Debian 12)
# Input: a list of five tasks, all done, of which those that are done are to be taken out with |= empty.
# Behaviour: every second one stays. jq 1.6 deletes while it goes on counting, so the element behind a deleted one is
#   never looked at. del(...) and map(select(...)) take all.
# Seen: |= empty: [2,4]
# Seen: del: []
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

apt-get download -qq -o APT::Sandbox::User=root \
  jq=1.6-2.1+deb12u3 libjq1=1.6-2.1+deb12u3 libonig5=6.9.8-1 \
  >apt.log 2>&1 || { cat apt.log >&2; exit 2; }
for deb in *.deb; do dpkg -x "$deb" root; done
export LD_LIBRARY_PATH=$work/root/usr/lib/x86_64-linux-gnu
tasks='[{"n":1,"done":true},{"n":2,"done":true},{"n":3,"done":true},{"n":4,"done":true},{"n":5,"done":true}]'

seen="|= empty: $(root/usr/bin/jq -c '(.[] | select(.done)) |= empty | map(.n)' <<<"$tasks")
del: $(root/usr/bin/jq -c 'del(.[] | select(.done)) | map(.n)' <<<"$tasks")"
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
