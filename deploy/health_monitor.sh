#!/usr/bin/env bash
# Checks the Task Management API as monitoring plugins do: one line with performance data after "|", and as exit status
#   0  OK        ready and healthy, no reading is high
#   1  WARNING   CPU, memory or disk is above its threshold (the service's flags -cpu-high, -memory-high, -disk-high)
#   2  CRITICAL  unreachable, not ready, unhealthy, or an answer that is not the service's
#   3  UNKNOWN   this script cannot work: curl or jq is missing
#
# Usage: health_monitor.sh [BASE_URL [CURL_OPTION…]]
#   health_monitor.sh
#   health_monitor.sh https://tasks.example.com --cacert /etc/ssl/certs/internal-ca.pem
set -u -o pipefail

base=${1:-http://127.0.0.1:8000}
shift $(($# > 0))
while [[ $base == */ ]]; do base=${base%/}; done

# finish STATUS TEXT: the first line of TEXT, in which no "|" begins performance data.
finish() {
  local text=${2%%$'\n'*}
  echo "${text//|//}"
  exit "$1"
}
critical() { finish 2 "CRITICAL - $1"; }
unknown() { finish 3 "UNKNOWN - $1"; }

for tool in curl jq; do
  command -v $tool >/dev/null || unknown "$tool is missing"
done

# No proxy leads to this host's own loopback interface, but its variables are often set for the whole host. An option
# --proxy still counts.
host=${base#*://}
host=${host%%[/?#]*}
host=${host##*@}
case ${host,,} in
  localhost | localhost:* | localhost. | localhost.:* | *.localhost | *.localhost:* | 127.* | \[::1\]* | \[::ffff:127.*)
    for variable in $(compgen -e); do
      [[ ${variable,,} != *_proxy ]] || unset "$variable"
    done
    ;;
esac

# A 503 has a body that says why, so that only a request without any answer is an error here. --disable, which has to
# come first, leaves out ~/.curlrc, and --globoff lets an IPv6 address be one.
get() { curl --disable --globoff --silent --show-error --max-time 5 "${@:2}" "$base$1" 2>&1; }

# unreachable TEXT: curl's own words, which may follow a part of an answer.
unreachable() { critical "unreachable: ${1/#*curl: (/curl: (}"; }

ready=$(get /health/readiness "$@") || unreachable "$ready"
health=$(get /health/detailed "$@") || unreachable "$health"

# The service has compared with the thresholds itself: a second copy of them here could only disagree. What another
# program says is an error, even where it is JSON: an answer counts if it has all that this script looks at. Rounding
# makes all versions of jq print 20 where the service says 20.0. The first line of the answer is the exit status, the
# second one is the output. Without HOME there is no ~/.jq.
answer=$(printf '%s\n' "$ready" "$health" | HOME='' jq --raw-output --slurp '
  def known($values): . as $value | any($values[]; . == $value);
  def percent: .usage_percent | select(type == "number" and . >= 0 and . <= 100) | . * 10 | round / 10;
  def count: select(type == "number" and . >= 0) | floor;
  (if length != 2 then error("two answers are needed") else . end) as [$ready, $health]
  | $health.checks as $checks
  | (if ($ready.status | known(["ready", "not_ready"]) | not)
        or ([$health, $checks.application, $checks.storage, $checks.system_resources | .status]
            | all(known(["healthy", "unhealthy"])) | not)
        or ([$checks.storage | .total_tasks, .capacity | count] | length != 2)
     then error("no health answer") else . end)
  | [("cpu", "memory", "disk") | . as $name | $checks.system_resources[.] | (objects // {})
     | {name: $name, status, percent: (percent // null)}] as $readings
  | ([$ready | select(.status != "ready") | "not ready: \(.reason // "no reason given")"]
     + [$checks[] | select(.status != "healthy") | "unhealthy: \(.reason // "no reason given")"]) as $faults
  | (if $faults == [] and ($health.status != "healthy" or any($readings[]; .percent == null))
     then ["unhealthy: no reason given"] else $faults end) as $faults
  | [$readings[] | select(.status == "high") | "\(.name) is high"] as $high
  | [$readings[] | "\(.name) " + if .percent then "\(.percent)%" else "unknown" end] as $shown
  | [$readings[] | select(.percent) | "\(.name)=\(.percent)%;;;0;100"] as $measured
  | (if $faults != [] then [2, "CRITICAL"] elif $high != [] then [1, "WARNING"] else [0, "OK"] end) as [$exit, $word]
  | $exit,
    ([$word + " - " + ($faults + $high + $shown | join(", ") | gsub("[|\\s]+"; " ")), "|"] + $measured
     + ["tasks=\($checks.storage.total_tasks | count);;;0;\($checks.storage.capacity | count)"] | join(" "))
' 2>&1)
case $? in
  0) ;;
  3 | 1??) unknown "jq failed: $answer" ;; # it does not know this program, or cannot be run
  *) critical "no health answer from $base" ;; # no JSON, or not this JSON
esac

echo "${answer#*$'\n'}"
exit "${answer%%$'\n'*}"
