#!/usr/bin/env bash
# Package: mawk 1.3.4.20200120-3.1 (Debian 12)
# Input: the bytes of three answers of 1 GB, summed up as in the usual line for an access log.
# Behaviour: above 2,147,483,647 mawk, the awk of Debian, prints a whole number in %.6g, and printf "%d" stops at that
#   number. gawk and original-awk, both of Debian, print 3000000007 for all three.
# Seen: print s: 3e+09
# Seen: printf "%d", s: 2147483647
# Seen: printf "%.0f", s: 3000000007
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

apt-get download -qq -o APT::Sandbox::User=root mawk=1.3.4.20200120-3.1 >apt.log 2>&1 || { cat apt.log >&2; exit 2; }
for deb in *.deb; do dpkg -x "$deb" root; done
sum() { printf '%s\n' 1000000000 1000000000 1000000007 | root/usr/bin/mawk "{ s += \$1 } END { $1 }"; }

seen="print s: $(sum 'print s')
printf \"%d\", s: $(sum 'printf "%d", s')
printf \"%.0f\", s: $(sum 'printf "%.0f", s')"
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
