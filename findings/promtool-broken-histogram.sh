#!/usr/bin/env bash
# Package: prometheus 2.42.0+ds-5+deb12u1 (Debian 12)
# Input: a histogram whose buckets go down (5, then 3), without +Inf, and with _count 9: it parses, and it is wrong.
# Behaviour: promtool check metrics is content: it looks at names, types and help texts, never at the numbers. A
#   counter without _total is a finding for it, a histogram whose quantiles cannot be computed is none.
# Seen: broken histogram: status 0
# Seen: counter without _total: status 3
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

apt-get download -qq -o APT::Sandbox::User=root \
  prometheus=2.42.0+ds-5+deb12u1 \
  >apt.log 2>&1 || { cat apt.log >&2; exit 2; }
for deb in *.deb; do dpkg -x "$deb" root; done
cat >histogram.txt <<'END'
# HELP job_duration_seconds Time of a job.
# TYPE job_duration_seconds histogram
job_duration_seconds_bucket{le="0.1"} 5
job_duration_seconds_bucket{le="1.0"} 3
job_duration_seconds_sum 4.2
job_duration_seconds_count 9
END
cat >counter.txt <<'END'
# HELP jobs Jobs since the start.
# TYPE jobs counter
jobs 9
END

# status WHAT FILE: the exit status of promtool for FILE.
status() {
  local status=0
  root/usr/bin/promtool check metrics <"$2" >"$2.log" 2>&1 || status=$?
  echo "$1: status $status"
}
seen=$(
  status 'broken histogram' histogram.txt
  status 'counter without _total' counter.txt
)
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
