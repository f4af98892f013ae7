#!/usr/bin/env bash
# Checks the Task Management API as monitoring plugins do: one line with performance data after "|", and as exit status
#   0  OK        ready and healthy, no reading is high
#   1  WARNING   CPU, memory or disk is above its threshold (the service's flags -cpu-high, -memory-high, -disk-high)
#   2  CRITICAL  unreachable, not ready, or unhealthy
#
# Usage: health_monitor.sh [BASE_URL [CURL_OPTION…]]
#   health_monitor.sh
#   health_monitor.sh https://tasks.example.com --cacert /etc/ssl/certs/internal-ca.pem
set -u -o pipefail

base=${1:-http://127.0.0.1:8000}
shift $(($# > 0))

critical() {
  echo "CRITICAL - ${1%%$'\n'*}"
  exit 2
}

# A 503 has a body that says why, so that only a request without any answer is an error here.
get() { curl --silent --show-error --max-time 5 "${@:2}" "$base$1" 2>&1; }

ready=$(get /health/readiness "$@") || critical "unreachable: $ready"
health=$(get /health/detailed "$@") || critical "unreachable: $health"

# The service has compared with the thresholds itself: a second copy of them here could only disagree. The first line of
# the answer is the exit status, the second one is the output.
answer=$(printf '%s\n' "$ready" "$health" | jq --raw-output --slurp '
  .[0] as $ready | .[1].checks as $checks
  | [("cpu", "memory", "disk") | {name: .} + $checks.system_resources[.]] as $readings
  | ([$ready | select(.status != "ready") | "not ready: \(.reason)"]
     + [$checks[] | select(.status != "healthy") | "unhealthy: \(.reason)"]) as $faults
  | [$readings[] | select(.status == "high") | "\(.name) is high"] as $high
  | [$readings[] | "\(.name) " + if .usage_percent then "\(.usage_percent)%" else "unknown" end] as $shown
  | [$readings[] | select(.usage_percent) | "\(.name)=\(.usage_percent)%;;;0;100"] as $measured
  | (if $faults != [] then [2, "CRITICAL"] elif $high != [] then [1, "WARNING"] else [0, "OK"] end) as [$exit, $word]
  | $exit,
    ([$word + " - " + ($faults + $high + $shown | join(", ")), "|"] + $measured
     + ["tasks=\($checks.storage.total_tasks);;;0;\($checks.storage.capacity)"] | join(" "))
' 2>/dev/null) || critical "no health answer from $base"

echo "${answer#*$'\n'}"
exit "${answer%%$'\n'*}"
