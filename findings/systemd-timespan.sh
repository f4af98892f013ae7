#!/usr/bin/env bash
# Package: systemd 252.39-1~deb12u2 (Debian 12)
# Input: 1h30, 5m30 and 1h30m, as they may stand behind RuntimeMaxSec=, TimeoutStopSec= or OnUnitActiveSec= in a unit.
# Behaviour: a number without a unit is in seconds wherever it stands, also behind hours: "1h30" is not an hour and a
#   half.
# Seen: 1h30: 1h 30s
# Seen: 5m30: 5min 30s
# Seen: 1h30m: 1h 30min
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

apt-get download -qq -o APT::Sandbox::User=root \
  systemd=252.39-1~deb12u2 libsystemd-shared=252.39-1~deb12u2 \
  >apt.log 2>&1 || { cat apt.log >&2; exit 2; }
for deb in *.deb; do dpkg -x "$deb" root; done
libraries=$work/root/usr/lib/x86_64-linux-gnu
export LD_LIBRARY_PATH=$libraries:$libraries/systemd

seen=$(
  for span in 1h30 5m30 1h30m; do
    echo "$span: $(root/usr/bin/systemd-analyze timespan "$span" | sed -n 's/^ *Human: //p')"
  done
)
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
