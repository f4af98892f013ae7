#!/usr/bin/env bash
# Package: systemd 252.39-1~deb12u2 (Debian 12)
# Input: a unit with a key that does not exist: ProtectSytem=strict.
# Behaviour: systemd-analyze verify prints that it ignores the key and ends with 0, so a CI step that relies on its status
#   never fails for a misspelt key, which in this case is a unit without its protection. --recursive-errors=yes ends with 1.
# Seen: verify: said it: 1, status 0
# Seen: verify --recursive-errors=yes: said it: 1, status 1
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

apt-get download -qq -o APT::Sandbox::User=root systemd=252.39-1~deb12u2 libsystemd-shared=252.39-1~deb12u2 >apt.log 2>&1 || { cat apt.log; exit 2; }
for deb in *.deb; do dpkg -x "$deb" root; done
libraries=$work/root/usr/lib/x86_64-linux-gnu
export LD_LIBRARY_PATH=$libraries:$libraries/systemd SYSTEMD_UNIT_PATH=$work:$work/root/lib/systemd/system
printf '[Service]\nExecStart=/bin/true\nProtectSytem=strict\n' >one.service

seen=$(
  for options in verify 'verify --recursive-errors=yes'; do
    status=0
    # shellcheck disable=SC2086 # two words
    root/usr/bin/systemd-analyze $options one.service >out 2>&1 || status=$?
    echo "$options: said it: $(grep -c "Unknown key name 'ProtectSytem'" out), status $status"
  done
)
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
