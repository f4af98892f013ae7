#!/usr/bin/env bash
# Package: systemd 252.39-1~deb12u2 (Debian 12)
# Input: a unit with a key that does not exist, ProtectSytem=strict, and the same unit spelt well.
# Behaviour: systemd-analyze verify prints that it ignores the key and ends with 0, so a CI step that relies on its
#   status never fails for a misspelt key, which in this case is a unit without its protection. --recursive-errors=yes
#   ends with 1.
# Seen: ProtectSytem: verify: status 0, Unknown key 'ProtectSytem'
# Seen: ProtectSytem: verify --recursive-errors=yes: status 1, Unknown key 'ProtectSytem'
# Seen: ProtectSystem: verify --recursive-errors=yes: status 0,
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
find root/lib/systemd/system -type l -delete # names for the same units, at which verify would wonder in this place
export LD_LIBRARY_PATH=$libraries:$libraries/systemd SYSTEMD_UNIT_PATH=$work:$work/root/lib/systemd/system

# verify KEY OPTION…: what verify says of a unit with this key.
verify() {
  local status=0
  printf '[Service]\nExecStart=/bin/true\n%s=strict\n' "$1" >one.service
  root/usr/bin/systemd-analyze verify "${@:2}" one.service >out 2>&1 || status=$?
  echo "$1: verify${2:+ $2}: status $status,$(grep -o " Unknown key '[^']*'" out)"
}
seen=$(
  verify ProtectSytem
  verify ProtectSytem --recursive-errors=yes
  verify ProtectSystem --recursive-errors=yes
)
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
