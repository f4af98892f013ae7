#!/usr/bin/env bash
# Package: jq 1.6-2.1+deb12u3 (Debian 12)
# Input: the place of 資 in 会議資料, and the rest of the text from there: .[index("資"):].
# Behaviour: index counts bytes, slices and length count characters, so the two do not fit: the rest is empty.
# Seen: length 4, index("資") 6, .[index("資"):] ""
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

seen=$(root/usr/bin/jq -nr '"会議資料" |
  "length \(length), index(\"資\") \(index("資")), .[index(\"資\"):] \(.[index("資"):] | tojson)"')
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
