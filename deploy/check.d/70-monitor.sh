# The monitoring script in every state of the real service, curl's timing format, and shellcheck of all scripts.
need shellcheck

monitor=$deploy/health_monitor.sh
url=http://127.0.0.1:$(free_port)

# service FLAG…: a service on $url in which no reading is high, unless FLAG says otherwise.
service() {
  background service "$taskapi" -addr "${url#http://}" -cpu-high 100 -memory-high 100 -disk-high 100 "$@"
  until_true 5 answers "$url/health"
}

# says STATUS PATTERN CURL-OPTION…: the script exits with STATUS, and prints one line that PATTERN (an extended regular
# expression) matches, with the performance data in the form "label=value[unit];warn;crit;min;max".
says() {
  local out status=0
  out=$("$monitor" "$url" "${@:3}") || status=$?
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

slashes() { local base=$url url && for url in "$base/" "$base//"; do says 0 '^OK - ' || return; done; }

# whatever_proxy: no variable for a proxy matters on the loopback interface, however the address is written.
whatever_proxy() {
  local name port=${url##*:} url
  local -x no_proxy='' NO_PROXY=''
  for name in http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY; do
    for url in "http://127.0.0.1:$port" "http://localhost:$port" "LOCALHOST:$port" "127.0.0.1:$port" \
      "http://user:word@127.0.0.1:$port/"; do
      (export "$name=http://127.0.0.1:1"; says 0 '^OK - ') || { echo "with $name, $url"; return 1; }
    done
  done
  url=http://127.0.0.1:$port
  says 2 '^CRITICAL - unreachable: ' --proxy http://127.0.0.1:1
}
# by_proxy: for any other host, a proxy is asked: here the service itself takes the request in that form.
by_proxy() {
  local proxy=$url url=http://tasks.example
  (export http_proxy="$proxy"; says 0 '^OK - ') &&
    (export ALL_PROXY=http://127.0.0.1:1; says 2 '^CRITICAL - unreachable: .*127.0.0.1 port 1')
}

# own_files: what the user has told curl and jq for other occasions does not matter.
own_files() {
  mkdir -p "$work/home/.config"
  printf '%s\n' include 'output = "/dev/null"' 'write-out = "%{http_code}"' 'proxy = "http://127.0.0.1:1"' \
    >"$work/home/.curlrc"
  cp "$work/home/.curlrc" "$work/home/.config/curlrc"
  echo 'def join(x): "spoiled"; def round: 0;' >"$work/home/.jq"
  HOME=$work/home says 0 '^OK - ' && CURL_HOME=$work/home says 0 '^OK - ' &&
    XDG_CONFIG_HOME=$work/home/.config says 0 '^OK - '
}

# without TOOL: on a host that has all but TOOL.
without() {
  local tool
  rm -rf "$work/tools" && mkdir "$work/tools"
  for tool in bash curl jq grep wc; do [ $tool = "$1" ] || ln -s "$(command -v $tool)" "$work/tools/"; done
  PATH=$work/tools says 3 "^UNKNOWN - $1 is missing\$"
}

# said PATTERN READINESS DETAILED: what other programs, and broken ones, may say to the same two questions.
said() {
  mkdir -p "$work/said/health"
  printf '%s' "$2" >"$work/said/health/readiness"
  printf '%s' "$3" >"$work/said/health/detailed"
  url=file://$work/said says 2 "$1"
}
ready='{"status":"ready"}'

# detailed CPU [STATUS [TASKS]]: a detailed answer with these three values.
detailed() {
  cat <<END
{"status":"${2:-healthy}","checks":{"application":{"status":"healthy"},
 "storage":{"status":"healthy","total_tasks":${3:-1},"capacity":10},
 "system_resources":{"status":"healthy","cpu":{"usage_percent":$1,"status":"normal"},
  "memory":{"usage_percent":20.0,"status":"normal"},"disk":{"usage_percent":3.5,"status":"normal"}}}}
END
}
strangers() {
  local other some='{"status":"healthy","checks":{"storage":{"status":"healthy"},"system_resources":{"status":"healthy"}}}'
  for other in '{"checks":{}}' '{"status":"healthy","checks":{}}' '{"status":"healthy","checks":[]}' '{"status":"UP"}' '{}' '[]' \
    null 1 '"healthy"' '' "$some" \
    "$(detailed 5 healthy null)" "$(detailed 5 healthy '"7"')" "$(detailed 5 ok)" "$(detailed 5)$(detailed 5)"; do
    said '^CRITICAL - no health answer from [^|]*$' "$ready" "$other" || return
  done
  said '^CRITICAL - no health answer' '{"status":"UP"}' "$(detailed 5)" && said '^CRITICAL - no health answer' '<html>' '<html>'
}
half_known() {
  local value
  for value in null true -1 1e9 '{}' '[5]'; do
    said '^CRITICAL - unhealthy: no reason given, cpu unknown, memory 20%, disk 3.5% \| memory=' \
      "$ready" "$(detailed "$value")" || return
  done
  said '^CRITICAL - unhealthy: no reason given, cpu 5%' "$ready" "$(detailed 5 unhealthy)" &&
    said '^CRITICAL - not ready: a b c, cpu 5%[^|]* \| cpu=' '{"status":"not_ready","reason":"a|b\nc"}' "$(detailed 5)"
}
plain_numbers() {
  printf '%s' "$ready" >"$work/said/health/readiness" && detailed 20.0 healthy 7.0 >"$work/said/health/detailed"
  url=file://$work/said says 0 '^OK - cpu 20%, memory 20%, disk 3.5% \| cpu=20%;;;0;100 memory=20%;;;0;100 disk=3.5%;.*7;;;0;10$'
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
check "health_monitor.sh: slashes at the end of the address do not matter" slashes
check "health_monitor.sh: variables for a proxy do not matter on the loopback interface" whatever_proxy
check "health_monitor.sh: they do for another host" by_proxy
check "health_monitor.sh: ~/.curlrc and ~/.jq do not matter" own_files
check "health_monitor.sh: without jq it is 3, and says so" without jq
check "health_monitor.sh: without curl it is 3, and says so" without curl
check "health_monitor.sh: JSON of another program is 2, and never null" strangers
check "health_monitor.sh: a reading that is none, and no reason, are 2" half_known
check "health_monitor.sh: numbers are printed alike by all versions of jq" plain_numbers
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
check "health_monitor.sh: draining is 2" until_true 1 says 2 '^CRITICAL - not ready: the service is about to stop, unhealthy: the service is about to stop'
stop service

# A part of the check is sourced: it has no shebang, and its variables come from check.sh.
check "shellcheck: the scripts" shellcheck "$deploy"/*.sh "$repo/.ci/run"
check "shellcheck: the parts of the check" shellcheck --shell=bash --exclude=SC2154 "$deploy"/check.d/*.sh
