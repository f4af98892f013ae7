#!/usr/bin/env bash
# Package: lnav 0.11.1-3 (Debian 12)
# Input: three lines of log/slog's TextHandler: level=INFO, level=WARN, level=ERROR.
# Behaviour: lnav knows the format, it has the fields, and calls every line info, so nothing that goes by the level
#   finds an error: no filter, no jump to the next one. With the level in lower case it is the same.
# Seen: 3 lines, levels: info info info
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

apt-get download -qq -o APT::Sandbox::User=root \
  lnav=0.11.1-3 libarchive13=3.6.2-1+deb12u5 \
  >apt.log 2>&1 || { cat apt.log >&2; exit 2; }
for deb in *.deb; do dpkg -x "$deb" root; done
export LD_LIBRARY_PATH=$work/root/usr/lib/x86_64-linux-gnu HOME=$work
cat >app.log <<'END'
time=2026-11-30T20:00:00.000Z level=INFO msg=started
time=2026-11-30T20:00:01.000Z level=WARN msg=slow
time=2026-11-30T20:00:02.000Z level=ERROR msg=failed
END

root/usr/bin/lnav -n -c ';SELECT log_level FROM all_logs' -c ':write-csv-to levels.csv' app.log >/dev/null
levels=$(tail -n +2 levels.csv)
seen="$(wc -l <<<"$levels") lines, levels: $(paste -s -d ' ' <<<"$levels")"
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
