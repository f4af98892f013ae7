# Prometheus: the configuration, the rules and their tests, as Debian's Prometheus 2 and today's Prometheus 3 understand
# them; then a real Prometheus that scrapes the real service, which has some load and trouble, and a real Alertmanager
# that hears of it. The dashboard's queries are asked here too.
need prometheus prometheus-alertmanager procps strace

# What takes long is done while the rest is checked: the tests of the rules, and building another promtool (without its
# ways to discover targets).
background tests promtool test rules "$deploy"/alerts*_test.yml
tests=$!
export GOBIN=$work/bin/3
# shellcheck disable=SC2016
background tests3 bash -c 'nice go install -tags remove_all_sd github.com/prometheus/prometheus/cmd/promtool@v0.316.0 &&
  "$GOBIN/promtool" check config "$1/prometheus.yml" && "$GOBIN/promtool" test rules "$1"/alerts*_test.yml' - "$deploy"
tests3=$!
# ended NAME PID: what runs in the background ends well. When it does not, its output is the reason.
ended() {
  local status=0
  wait "$2" || status=$?
  rm "$work/$1.pid"
  cat "$work/$1.log"
  return $status
}

# every_alert_is_tested: the tests named after an alert expect it for the instance beyond, and have one beside it.
every_alert_is_tested() {
  local alert part status=0
  for alert in $alerts; do
    part=$(awk -v alert="$alert" '/^  - name:/ { on = $3 ~ "^" alert "[,;]?$" } on' "$deploy"/alerts*_test.yml)
    if ! grep -qE "(labels: ALERTS\{alertname=\"$alert\".*|exp_labels: .*)instance(=\"|: )beyond" <<<"$part" ||
      ! grep -q 'instance="beside"' <<<"$part"; then
      echo "$alert has no such test"
      status=1
    fi
  done
  return $status
}

# load: two minutes at most of what the dashboard draws. It soon fills the store, and has errors from then on.
load() {
  local json='Content-Type: application/json'
  for _ in $(seq 250); do
    (sleep 0.15; echo '{"task_name": "slow"}') | curl -s -H "$json" -X POST -T - "http://$service/api/tasks"
    curl -s -H "$json" -d '{"task_name": "会議資料の準備"}' "http://$service/api/tasks?[1-50]"
    curl -s -H "$json" -d '{}' "http://$service/api/tasks"
    curl -s -H "$json" -H 'Origin: https://other.example' -d '{}' "http://$service/api/tasks?[1-10]"
    curl -s "http://$service/api/tasks?limit=1" "http://$service/nowhere"
    sleep 0.05
  done >/dev/null
}

# broad_use: what clients can do to the service at $broad: each method on each route and elsewhere, with and without the
# token, through a proxy, from other origins, and with each kind of body. The unknown paths and methods are new every time.
broad_use() {
  local json='Content-Type: application/json' token paths method header body as
  token="Authorization: Bearer $(cat "$work/token")"
  paths=",openapi.json,api/tasks,api/tasks/task_$RANDOM,health,health/detailed,health/liveness,health/readiness,metrics"
  paths="$paths,debug/storage,debug/pprof/,debug/pprof/heap,debug/pprof/cmdline,debug/pprof/$RANDOM,$RANDOM,/api/tasks"
  paths="$paths,api/tasks?limit=0"
  printf '"%070000d"' 0 >"$work/large"
  for body in '{"task_name": "a task"}' '{}' '{' "@$work/large"; do
    curl -s --max-time 20 -H "$token" -H "$json" -d "$body" "http://$broad/api/tasks?[1-100]"
    curl -s --max-time 20 -H "$token" -d "$body" "http://$broad/api/tasks"
  done >/dev/null
  for method in GET HEAD POST PUT PATCH DELETE OPTIONS TRACE "M$RANDOM"; do
    as=(-X "$method")
    [ "$method" != HEAD ] || as=(--head) # with -X HEAD alone, curl would wait for a body
    for header in "$token" "X-Forwarded-For: 192.0.2.1" "Origin: https://app.example.com" "Origin: https://other.example"; do
      curl -s --max-time 20 "${as[@]}" -H "$token" -H "$header" -H 'Access-Control-Request-Method: POST' "http://$broad/{$paths}"
    done
    curl -s --max-time 20 "${as[@]}" "http://$broad/{$paths}"
  done >/dev/null
}

# samples: how many samples the page of the service at $broad has. Before the first garbage collection there is one less, and
# the page tells of it up to five seconds later.
samples() { curl -fsS "http://$broad/metrics" | grep -vc '^#'; }
tells_collection() { curl -fsS "http://$broad/metrics" | grep '^go_memstats_last_gc_time_seconds '; }

# page_stays_small: what the service answers first, after broad use, and after more of it is within what prometheus.yml
# says, that is within its limit, and no use makes the page grow after the first.
page_stays_small() {
  local limit bound fresh used again
  limit=$(sed -n 's/^ *sample_limit: //p' "$deploy/prometheus.yml")
  bound=$(sed -nE 's/^ *# The page has at most ([0-9]+) samples.*/\1/p' "$deploy/prometheus.yml")
  until_true 10 answers "http://$broad/health" && fresh=$(samples) || return
  broad_use && until_true 10 tells_collection && used=$(samples) && broad_use && again=$(samples) || return
  echo "$fresh at the start, $used after broad use, $again after more; at most $bound, limit $limit"
  curl -s "http://$broad/metrics" | grep ^http_requests_total
  [ "$fresh" -le "$used" ] && [ "$used" -eq "$again" ] && [ "$again" -le "$bound" ] && [ "$bound" -lt "$limit" ]
}

# query EXPRESSION: the values of its series, one a line.
query() { curl -fsS "http://$prometheus/api/v1/query" --data-urlencode "query=$1" | jq -r '.data.result[].value[1]'; }

# create_tasks: five of them. stores COUNT: Prometheus has seen so many. keeps COUNT: and does not miss any later.
create_tasks() { curl -fsS -H 'Content-Type: application/json' -d '{"task_name": "a task"}' "http://$service/api/tasks?[1-5]"; }
stores() { [ "$(query 'tasks_stored{job="taskapi"}')" = "$1" ]; }
keeps() { until_true 20 stores "$1" && sleep 3 && unheard TaskAPITasksLost; }

scraped() { [ "$(query 'up{job="taskapi"}')" = 1 ]; }

# rules_evaluate: Prometheus has as many rules as the file, each was evaluated, and none had an error.
rules_evaluate() {
  curl -fsS "http://$prometheus/api/v1/rules" >"$work/rules.json"
  jq '.data.groups[].rules[] | select(.health != "ok") | {name, health, lastError}' "$work/rules.json"
  jq -e --argjson count "$(grep -cE '^ +- \{?(alert|record):' "$deploy/alerts.yml")" \
    '[.data.groups[].rules[]] | length == $count and all(.health == "ok")' "$work/rules.json"
}

# alerts_are_complete: each has a level, the severity and the contact of that level, says what happened, and points at the
# heading of the guide that explains it (80-guides.sh looks whether it is there). What to do first is run further below.
alerts_are_complete() {
  jq '{"1": ["warning", "運用チーム operation-team@example.com"],
      "2": ["error", "開発チーム task-management@example.com"],
      "3": ["critical", "システム管理者 sysadmin@example.com"]} as $levels |
    .data.groups[].rules[] | select(.type == "alerting") | .labels.level as $level | select((
      [.labels.severity, .annotations.contact] == [$levels[$level][0], "level-\($level): \($levels[$level][1])"]
      and .annotations.runbook_url == "{{ $externalLabels.guide }}#\(.name | ascii_downcase)" and .annotations.summary != null
    ) | not)' "$work/rules.json" >"$work/incomplete" && cat "$work/incomplete" && [ ! -s "$work/incomplete" ]
}

# trial: a Prometheus of its own, in which each alert fires at once for the service, and those of an objective for each of
# the three; $work/actions gets the annotation action of each, as Prometheus has filled it in, behind the alert's name.
trial() {
  local trial
  trial=127.0.0.1:$(free_port)
  mkdir -p "$work/trial"
  sed '/^alerting:/,$d' "$deploy/prometheus.yml" >"$work/trial/prometheus.yml"
  jq --arg service "$service" '{groups: [{name: "trial", interval: "1s", rules: [
      .data.groups[].rules[] | select(.type == "alerting")
      | (if .name | startswith("TaskAPIBudgetBurn") then "errors", "latency", "uptime" else "none" end) as $objective
      | {alert: .name, annotations,
         expr: "label_replace(label_replace(vector(1), \"instance\", \"\($service)\", \"\", \"\"), \"objective\", \"\($objective)\", \"\", \"\")"}]}]}' \
    "$work/rules.json" >"$work/trial/alerts.yml"
  background trial prometheus --config.file "$work/trial/prometheus.yml" --storage.tsdb.path "$work/trial/data" --web.listen-address "$trial"
  until_true 10 fills_in "$trial"
  local status=$?
  stop trial
  return $status
}
fills_in() {
  curl -fsS "http://$1/api/v1/alerts" >"$work/alerts.json" &&
    jq -j '.data.alerts[] | .labels.alertname, "\u0000", .annotations.action, "\u0000"' "$work/alerts.json" >"$work/actions" &&
    jq -e --slurpfile rules "$work/trial/alerts.yml" '.data.alerts | length == ($rules[0].groups[].rules | length)' "$work/alerts.json"
}

# action COMMAND: the annotation action, for the addresses and logs of this check, succeeds and prints something. Nothing of
# what it prints comes from a line that a client has forged.
action() {
  local command=${1//"/var/log/taskapi/task_management.log"/$work/both.log}
  command=${command//"/var/log/nginx/taskapi.log"/$work/nginx.log}
  echo "$command"
  bash -o pipefail -c "${command//"http://127.0.0.1:9090"/http://$prometheus}" >"$work/action" 2>&1
  local status=$?
  cat "$work/action"
  [ $status -eq 0 ] && [ -s "$work/action" ] && ! grep -F 192.0.2.9 "$work/action"
}

# greps_name_a_field: no action searches the log for a bare word, which a client could put there.
greps_name_a_field() {
  jq -r '.data.groups[].rules[] | select(.type == "alerting" and (.annotations.action | contains("/var/log/"))).annotations.action' \
    "$work/rules.json" | grep grep >"$work/greps" && ! grep -vE "grep -E '(level|status|category)=\(|grep -E 'msg=\"" "$work/greps"
}

# in_guide COMMAND: for an action that needs the unit of a real systemd: the guide has it, so that 80-guides.sh runs it.
in_guide() {
  local command
  while read -r command; do
    grep -qxF "$command" "$deploy/OPERATIONS.md" || { echo "not in the guide: $command"; return 1; }
  done <<<"${1//; /$'\n'}"
}

lint() { curl -fsS "http://$service/metrics" >"$work/metrics" && promtool check metrics <"$work/metrics"; }
lint3() { "$GOBIN/promtool" check metrics <"$work/metrics"; }

# beside_builds: the service as it is, in a module of its own in which client_golang answers beside it on $BESIDE.
beside_builds() {
  mkdir "$work/beside" && cp "$repo"/*.go "$repo"/go.{mod,sum} "$work/beside/" && cp -r "$deploy" "$work/beside/" && cd "$work/beside" || return
  cat >beside.go <<'GO'
package main

import (
	"log"
	"net/http"
	"os"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

func init() {
	go func() { log.Fatal(http.ListenAndServe(os.Getenv("BESIDE"), promhttp.Handler())) }()
}
GO
  go get github.com/prometheus/client_golang/prometheus/promhttp@v1.25.0 && go build -o "$work/bin/beside" .
}

# alike FILE FILE: two pages of one process. Each go_ and process_ family that metrics.txt lists is on both, with the same
# type, the same series, and about the same values: what is counted in single things or in seconds differs by a few, and
# bytes and their like by a quarter, since one page is a moment and a sampling interval older than the other.
alike() {
  awk -F ' [|] ' '/^(go|process)_/ { print "# TYPE", $1, $2 }' "$deploy/metrics.txt" | sort >"$work/listed"
  grep -E '^# TYPE (go|process)_' "$1" | sort | diff "$work/listed" - || return
  sort "$2" | comm -23 "$work/listed" - | grep . && return 1
  awk 'NR == FNR { if (!/^#/) theirs[$1] = $2; next }
    /^(go|process)_/ {
      known++
      difference = $2 - theirs[$1]; if (difference < 0) difference = -difference
      limit = $2 / 4
      if ($1 ~ /^go_(goroutines|threads)|_fds$/) limit = 5
      if ($1 ~ /^go_gc_duration/) limit = 0.001
      if ($1 ~ /^(process_start|process_cpu|go_memstats_last)/) limit = 1
      if ($1 ~ /^go_(info|sched|gc_go)|_max_/) limit = $2 / 1e9 # both print 2^63 - 1 as they like
      if (!($1 in theirs) || difference > limit) { print $1, $2, "and", theirs[$1]; wrong = 1 }
    }
    END { print known, "series"; exit wrong || !known }' "$2" "$1"
}
# same_process OURS THEIRS: the pages at these two addresses are alike.
same_process() {
  curl -fsS -o "$work/theirs" "http://$2/metrics" && curl -fsS -o "$work/ours" "http://$1/metrics" && alike "$work/ours" "$work/theirs"
}

# hangs: from now on each sync of the service takes a minute, as on a disk that does not answer, and three clients wait.
hangs() {
  local pid
  pid=$(cat "$work/target.pid")
  background disk strace -f -qq -o /dev/null -e trace=fsync -e inject=fsync:delay_enter=60000000 -p "$pid"
  until_true 10 grep -qE '^TracerPid:.*[1-9]' "/proc/$pid/status" || return
  background clients curl -sS -Z --max-time 60 -H 'Content-Type: application/json' -d '{"task_name": "waits"}' "http://$service/api/tasks?[1-3]"
}

# panels_answer: every query of the dashboard has a value that is a number.
panels_answer() {
  local title expression status=0
  while IFS=$'\t' read -r title expression; do
    expression=${expression//\$__rate_interval/10s}
    expression=${expression//\$__interval/1s}
    query "${expression//\$instance/.*}" | grep -qv NaN || { echo "$title: no data for $expression"; status=1; }
  done < <(jq -r '.panels[] | .title as $title | .targets[]? | [$title, .expr] | @tsv' "$deploy/grafana-dashboard.json")
  return $status
}

# restarts_drawn COUNT: the panel "Restarts" adds up to COUNT, at each step that is shorter than the time between them.
restarts_drawn() {
  local step drawn status=0
  for step in 1 2 5; do
    drawn=$(curl -fsS "http://$prometheus/api/v1/query_range" -d "start=$began" -d "end=$(($(date +%s) + 15))" -d "step=$step" \
      --data-urlencode "query=$(jq -r '.panels[] | select(.title == "Restarts").targets[].expr' "$deploy/grafana-dashboard.json" |
        sed "s/\$__rate_interval/$((step > 3 ? step + 1 : 4))s/; s/\$__interval/${step}s/; s/\$instance/.*/g")" |
      jq '[.data.result[].values[][1] | tonumber] | add')
    [ "$drawn" = "$1" ] || { echo "$drawn restarts at a step of $step s"; status=1; }
  done
  return $status
}

# every_family_is_shown: each family of /metrics is in a query of the dashboard, or in its text as left out.
every_family_is_shown() {
  local family status=0
  jq -r '.panels[] | .targets[]?.expr, .options.content // empty' "$deploy/grafana-dashboard.json" >"$work/shown"
  awk '$2 == "TYPE" { print $3 }' "$work/metrics" >"$work/families"
  while read -r family; do
    grep -qE "\b$family(_bucket|_count)?\b" "$work/shown" || { echo "$family is not shown"; status=1; }
  done <"$work/families"
  [ -s "$work/families" ] && return $status
}

# heard ALERT…: Alertmanager has each of them as active. unheard ALERT…: it has none of them.
heard() {
  active && ! printf '%s\n' "$@" | grep -vxFf "$work/active"
}
unheard() {
  active && ! printf '%s\n' "$@" | grep -xFf "$work/active"
}
active() {
  curl -fsS "http://$alertmanager/api/v2/alerts" >"$work/active.json" &&
    jq -r '.[] | select(.status.state == "active").labels.alertname' "$work/active.json" | sort -u | tee "$work/active"
}

alerts=$(sed -n 's/^ *- alert: *\([A-Za-z]*\).*/\1/p' "$deploy/alerts.yml")
check "promtool: the configuration" promtool check config "$deploy/prometheus.yml"
check "promtool: the rules" promtool check rules "$deploy/alerts.yml"
check "the rules count with the time between two scrapes" grep -qE '^  scrape_interval: 15s$' "$deploy/prometheus.yml"
check "every alert has a test beyond its threshold and one beside it" every_alert_is_tested

service=127.0.0.1:$(free_port)
prometheus=127.0.0.1:$(free_port)
alertmanager=127.0.0.1:$(free_port)
mkdir -p "$work/prometheus"
# What differs from the shipped files: addresses, and times in which nobody would want to wait here. The rules count with
# the seconds between two scrapes ("* 15"), which are another number here, too.
sed -e "s/127.0.0.1:8000/$service/; s/127.0.0.1:9093/$alertmanager/" \
  -e 's/interval: 15s/interval: 1s/; s/timeout: 5s/timeout: 1s/' "$deploy/prometheus.yml" >"$work/prometheus/prometheus.yml"
sed -e 's/interval: 1m/interval: 1s/; s/ for: [0-9]*[mh]/ for: 1s/; s/_for: 15m/_for: 10s/; s/ \* 15 / * 1 /; s/offset 30s/offset 3s/' \
  -e '/alert: TaskAPICreationsStuck/,/for:/s/\[1m\]/[5s]/' "$deploy/alerts.yml" >"$work/prometheus/alerts.yml"
printf 'route: {receiver: nobody}\nreceivers: [{name: nobody}]\n' >"$work/alertmanager.yml"

start_service() { background target "$taskapi" -addr "$service" -log-file "$work/task_management.log" -max-tasks 1000 -slow 1us "$@"; }
start_service
began=$(date +%s)
background alertmanager prometheus-alertmanager --config.file "$work/alertmanager.yml" --storage.path "$work/alertmanager" \
  --web.listen-address "$alertmanager" --cluster.listen-address=
background prometheus prometheus --config.file "$work/prometheus/prometheus.yml" --storage.tsdb.path "$work/prometheus/data" \
  --web.listen-address "$prometheus"
check "Prometheus scrapes the service" until_true 20 scraped
background load load
# Another service for what would disturb the first: it is full, limited, and wants a token.
broad=127.0.0.1:$(free_port)
(umask 077 && echo 0123456789abcdef0123456789abcdef >"$work/token")
background broad "$taskapi" -addr "$broad" -log-file "$work/broad.log" -max-tasks 5 -rate 10 -token-file "$work/token" \
  -cors-origins https://app.example.com
check "promtool: /metrics" lint
ours=127.0.0.1:$(free_port)
theirs=127.0.0.1:$(free_port)
check "client_golang builds beside the service" beside_builds
# With 64 threads, the runtime has many goroutines of its own, which do not count.
background beside env BESIDE="$theirs" GOMAXPROCS=64 "$work/bin/beside" -addr "$ours"
check "what both say of Go and the process is the same in name and type, and about the same in value" until_true 20 same_process "$ours" "$theirs"
stop beside
check "the page is as small as prometheus.yml says, and no use makes it grow" page_stays_small
check "every query of the dashboard returns data" until_true 20 panels_answer
check "every metric family is on the dashboard or named as left out" every_family_is_shown
check "Alertmanager hears of a full store, errors, and refused requests" until_true 20 \
  heard TaskAPIStoreFilling TaskAPIErrorRateHigh TaskAPIHealthFailing TaskAPISecurityBurst TaskAPIBudgetBurnFast
check "every rule is evaluated without an error" rules_evaluate
check "every alert has its level, severity, contact and first action" alerts_are_complete
check "every search in the log is for a field" greps_name_a_field
# What nginx.conf's log_format makes of refused requests, and of one that pretends to come from elsewhere.
for status in 401 403; do
  echo "time=2026-11-30T02:00:00+00:00 remote=192.0.2.1 request=\"GET /api/tasks HTTP/1.1\" status=$status bytes=100 duration=0.001 upstream_duration=0.001 request_id=a"
  echo "time=2026-11-30T02:00:00+00:00 remote=192.0.2.1 request=\"GET /a remote=192.0.2.9 status=$status x\" status=400 bytes=100 duration=0.001 upstream_duration=- request_id=b"
done >"$work/nginx.log"
cat "$work/task_management.log" "$work/broad.log" >"$work/both.log"
check "Prometheus fills in every first action" trial
while IFS= read -r -d '' alert && IFS= read -r -d '' command; do
  if [[ $command == systemctl* ]]; then
    check "the first action of $alert is in the guide" in_guide "$command"
  else
    check "the first action of $alert" action "$command"
  fi
done <"$work/actions"
stop load
check "no alert says that the service is down, flaps, has restarted or has lost anything" \
  unheard TaskAPIDown TaskAPIFlapping TaskAPIRestarted TaskAPITasksLost TaskAPILogLost
stop target
check "a stopped service is down (level 3)" until_true 20 heard TaskAPIDown
start_service
check "one that started again has restarted (level 2), and has lost what was in memory (level 3)" until_true 20 \
  heard TaskAPIRestarted TaskAPITasksLost
check "the dashboard draws one restart once" restarts_drawn 1
sleep 5
stop target
start_service
check "and another one without an outage" until_true 20 restarts_drawn 2
check "what has restarted or lost tasks is told for a while only" until_true 30 unheard TaskAPIRestarted TaskAPITasksLost
stop target
start_service -data-file "$work/tasks.jsonl"
check "tasks are put into a data file" until_true 20 create_tasks
check "Prometheus sees them" until_true 20 stores 5
check "that restart is forgotten, too" until_true 30 unheard TaskAPIRestarted TaskAPITasksLost
if strace -o /dev/null true 2>/dev/null; then
  check "the disk hangs, and clients wait" hangs
  check "creations that nothing answers are stuck (level 2)" until_true 30 heard TaskAPICreationsStuck
  stop disk || : # it ends by the signal
  check "the disk answers, and they are not" until_true 30 unheard TaskAPICreationsStuck
else
  skip "a disk that hangs" "no process can be traced on this machine"
fi
stop target
start_service -data-file "$work/tasks.jsonl"
check "a restart with a data file is a restart (level 2)" until_true 20 heard TaskAPIRestarted
check "and loses no task" keeps "$(wc -l <"$work/tasks.jsonl")"
stop target
sed -i 1d "$work/tasks.jsonl"
start_service -data-file "$work/tasks.jsonl"
check "a data file that misses a task has lost it (level 3)" until_true 20 heard TaskAPITasksLost
stop target
start_service -log-file /dev/full
check "a log that cannot be written is lost (level 2)" until_true 20 heard TaskAPILogLost
stop target
stop prometheus
stop alertmanager
check "promtool: the rule tests" ended tests "$tests"
check "promtool of Prometheus 3: the configuration, the rules and their tests" ended tests3 "$tests3"
check "promtool of Prometheus 3: /metrics" lint3
