# The monitoring script in every state of the real service, curl's timing format, and shellcheck of all scripts.
need shellcheck

monitor=$deploy/health_monitor.sh
url=http://127.0.0.1:$(free_port)

# service FLAG…: a service on $url in which no reading is high, unless FLAG says otherwise.
service() {
  background service "$taskapi" -addr "${url#http://}" -cpu-high 100 -memory-high 100 -disk-high 100 "$@"
  until_true 5 answers "$url/health"
}

# says STATUS PATTERN: the script exits with STATUS, and prints one line that PATTERN (an extended regular expression)
# matches, with the performance data in the form "label=value[unit];warn;crit;min;max".
says() {
  local out status=0
  out=$("$monitor" "$url") || status=$?
  echo "exit $status: $out"
  [ $status -eq "$1" ] && [ "$(printf '%s\n' "$out" | wc -l)" -eq 1 ] && grep -qE "$2" <<<"$out" || return 1
  [[ $out != *'|'* ]] || grep -qE '^( [a-z]+=[0-9.]+%?(;[0-9.]*){4})+$' <<<"${out#*|}"
}

# proc NAME LEFT: $work/NAME is the /proc of a host with 20 % CPU in use since boot, and LEFT of 100 kB of memory left.
proc() {
  mkdir -p "$work/$1"
  printf '%s 10 0 10 80 0 0 0 0 0 0\n' cpu cpu0 >"$work/$1/stat"
  printf 'MemTotal: 100 kB\nMemFree: %s kB\nMemAvailable: %s kB\nBuffers: 0 kB\nCached: 0 kB\n' "$2" "$2" >"$work/$1/meminfo"
}

# times_it: curl knows all names of curl-format.txt, and prints six times, the status and the size of the body.
times_it() {
  local out
  out=$(curl --silent --output "$work/body" --write-out "@$deploy/curl-format.txt" "$url/health" 2>&1)
  echo "$out"
  [ "$(grep -cE '^[a-zA-Z ]+ [0-9.]+ s$' <<<"$out")" -eq 6 ] && [ "$(wc -l <<<"$out")" -eq 8 ] &&
    grep -qE '^status +200$' <<<"$out" && grep -qE "^size +$(stat -c %s "$work/body") bytes\$" <<<"$out"
}

check "health_monitor.sh: unreachable is 2" says 2 '^CRITICAL - unreachable: .*connect'

service
readings='cpu [0-9.]+%, memory [0-9.]+%, disk [0-9.]+%'
check "health_monitor.sh: normal is 0, with all readings" says 0 "^OK - $readings \\| cpu=.* memory=.* disk=.* tasks=0;;;0;1000000\$"
check "curl-format.txt: every time, the status and the size" times_it
url="$url/metrics?" check "health_monitor.sh: an answer that is no health answer is 2" says 2 '^CRITICAL - no health answer'
kill -STOP "$(cat "$work/service.pid")"
check "health_monitor.sh: no answer in five seconds is 2" says 2 '^CRITICAL - unreachable: .*timed out'
kill -CONT "$(cat "$work/service.pid")"
stop service

for reading in cpu memory disk; do
  service "-$reading-high" 0
  check "health_monitor.sh: $reading above its threshold is 1" says 1 "^WARNING - $reading is high, $readings \\|"
  stop service
done

proc busy 5
HOST_PROC=$work/busy service -memory-high 80
check "health_monitor.sh: 95 % of memory is 1, and the number is shown" says 1 '^WARNING - memory is high, cpu 20%, memory 95%'
stop service

proc broken 50
rm "$work/broken/stat"
HOST_PROC=$work/broken service
check "health_monitor.sh: a reading that fails is 2" says 2 '^CRITICAL - unhealthy: cpu: .*, cpu unknown, memory 50%.* \| memory='
stop service

service -max-tasks 1
curl -sS -o /dev/null --json '{"task_name": "the last one"}' "$url/api/tasks"
check "health_monitor.sh: a full store is 2" says 2 '^CRITICAL - not ready: .*, unhealthy: .*tasks=1;;;0;1$'
stop service

service -drain 3s
kill -TERM "$(cat "$work/service.pid")"
check "health_monitor.sh: draining is 2" until_true 1 says 2 '^CRITICAL - not ready: draining, unhealthy: draining'
stop service

# A part of the check is sourced: it has no shebang, and its variables come from check.sh.
check "shellcheck: the scripts" shellcheck "$deploy"/*.sh "$repo/.ci/run"
check "shellcheck: the parts of the check" shellcheck --shell=bash --exclude=SC2154 "$deploy"/check.d/*.sh
