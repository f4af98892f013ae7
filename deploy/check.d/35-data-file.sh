# The data file of the service: each task that was acknowledged with 201 is in it, whatever happens then.
need strace

load_generator
port=$(free_port)
api=http://127.0.0.1:$port/api/tasks
health=http://127.0.0.1:$port/health
kept=$work/data-file
mkdir -p "$kept"

# serve FILE PROGRAM…: the service with the data file FILE, started by PROGRAM….
serve() {
  background service "${@:2}" "$taskapi" -addr "127.0.0.1:$port" -data-file "$1" -slow 1m
  until_true 10 answers "$health/readiness"
}
load() { "$work/bin/load" -url "$api" "$@"; }
killed() { kill -KILL "$(cat "$work/service.pid")" && ! wait "$(cat "$work/service.pid")"; }
post() { curl -s -m 5 -o "$kept/answer" -w '%{http_code}' -H 'Content-Type: application/json' -d '{"task_name":"a"}' "$api"; }
code() { curl -s -m 5 -o "$kept/answer" -w '%{http_code}' "$1"; }

# new_file: the service creates the file for itself alone, and says what is in it.
new_file() {
  [ "$(stat -c %a "$kept/tasks")" = 600 ] && [ "$(post)" = 201 ] &&
    [ "$(jq -r .task_id "$kept/tasks")" = "$(jq -r .task_id "$kept/answer")" ] &&
    [ "$(jq -r .storage_stats.storage_type < <(curl -fsS "http://127.0.0.1:$port/debug/storage"))" = file ]
}

# outlives_kill: five times, the service is killed while eight clients create tasks.
outlives_kill() {
  : >"$kept/acknowledged"
  for _ in 1 2 3 4 5; do
    background load load -time 1s -out "$kept/some"
    sleep 0.7
    killed || return
    wait "$(cat "$work/load.pid")"
    cat "$kept/some" >>"$kept/acknowledged"
    serve "$kept/tasks" || return
  done
  kept "$kept/acknowledged" "$kept/tasks" && answered "$kept/acknowledged" "$api"
}

# is_backup: a copy made at any time is a data file, and has all that was acknowledged before.
is_backup() {
  load -n 500 -out "$kept/before" && background load load -time 2s -out "$kept/meanwhile"
  sleep 1
  cp "$kept/tasks" "$kept/copy" && wait "$(cat "$work/load.pid")" && stop service && serve "$kept/copy" &&
    kept "$kept/before" "$kept/copy" && answered "$kept/before" "$api"
}

# synced: the calls that "strace -f -y" has seen. Each 201 was sent after a sync of the data file had returned that was
# begun after the task had been written. How many there are is printed.
synced() {
  awk -v file="$kept/traced>" '
    function ids(text) { # of all tasks in TEXT, in found[1] … found[n]
      n = 0
      while (match(text, /task_[A-Za-z0-9_-]+/)) {
        id = substr(text, RSTART, RLENGTH)
        if (id != "task_id" && id != "task_name") found[++n] = id
        text = substr(text, RSTART + RLENGTH)
      }
    }
    index($0, file) && / (write|writev|pwrite64|pwritev)\(/ { ids($0); for (i = 1; i <= n; i++) written[found[i]] = NR }
    index($0, file) && / (fsync|fdatasync)\(/ { if (/unfinished/) begun[$1] = NR; else if (/= 0$/) since = NR }
    /<\.\.\. (fsync|fdatasync) resumed/ && $1 in begun { if (/= 0$/ && begun[$1] > since) since = begun[$1]; delete begun[$1] }
    / (write|writev|sendto)\(.*HTTP\/1\.1 201 / {
      sub(/.*HTTP/, "")
      ids($0)
      acknowledged++
      if (n == 0 || !written[found[1]] || since < written[found[1]]) { print "too early: " found[1] >"/dev/stderr"; early = 1 }
    }
    END { print acknowledged; exit early }' "$kept/trace"
}
syncs_first() {
  local count status
  serve "$kept/traced" strace -f -y -qq -s 65536 -e trace=write,writev,pwrite64,pwritev,fsync,fdatasync,sendto -o "$kept/trace" &&
    [ "$(post)" = 201 ] && load -clients 8 -n 400 -out "$kept/acknowledged" && kept "$kept/acknowledged" "$kept/traced"
  status=$?
  kill -TERM "$(pgrep -P "$(cat "$work/service.pid")")"
  wait "$(cat "$work/service.pid")"
  rm "$work/service.pid"
  count=$(synced) && echo "$count answers" && [ "$count" -eq 401 ] && return $status
}

# full_disk: on a disk that fills up, creations fail from one of them on, and nothing else does.
not_ready() {
  [ "$(code "$health/readiness")" = 503 ] && jq -e '.status == "not_ready" and (.reason | length > 0)' "$kept/answer"
}
full_disk() {
  serve "$kept/small/tasks" && load -time 3s -name-size 90 -out "$kept/acknowledged" >"$kept/counts"
  cat "$kept/counts"
  [ "$(cut -d ' ' -f 1 "$kept/counts" | xargs)" = '201 500' ] && grep -E 'level=ERROR .*no space left' "$work/service.log"
}
says_so() {
  [ "$(post)" = 500 ] && jq -e '.error_code == "INTERNAL_ERROR" and (tostring | contains("space") | not)' "$kept/answer" &&
    not_ready && [ "$(code "$health/detailed")" = 503 ] &&
    jq -e '.status == "unhealthy" and (.checks.storage | .status == "unhealthy" and (.reason | length > 0))' "$kept/answer" &&
    [ "$(code "$health/liveness")" = 200 ]
}
reads_on() { answered "$kept/acknowledged" "$api" && answers "$api?limit=5"; }
for_good() { mount -o remount,size=64m "$kept/small" && [ "$(post)" = 500 ] && not_ready; }
# What is cut off is no whole line, and the service says how much.
starts_anew() {
  local rest
  stop service
  rest=$(($(stat -c %s "$kept/small/tasks") - $(head -n "$(wc -l <"$kept/small/tasks")" "$kept/small/tasks" | wc -c)))
  echo "$rest bytes of a last line"
  serve "$kept/small/tasks" || return
  [ "$rest" -eq 0 ] || grep -E "level=WARNING .*\b$rest\b" "$work/service.log" || return
  [ "$(post)" = 201 ] && kept "$kept/acknowledged" "$kept/small/tasks" && reads_on
}

serve "$kept/tasks"
check "the service creates its data file, readable for its user only" new_file
check "kill -9 under load, five times: every acknowledged task is there" outlives_kill
check "a copy made under load is a backup" is_backup
stop service
if strace -o /dev/null true 2>/dev/null; then
  check "each of 401 answers waited for fsync of its task" syncs_first
else
  skip "each answer waits for fsync of its task" "no process can be traced on this machine"
fi
mkdir "$kept/small"
if mount -t tmpfs -o size=256k tmpfs "$kept/small" 2>/dev/null; then
  check "a full disk ends the creation of tasks" full_disk
  check "the service says so: 500, not ready, unhealthy, alive" says_so
  check "it goes on reading" reads_on
  check "room on the disk changes nothing for this process" for_good
  check "the next process has every acknowledged task, and creates more" starts_anew
  stop service
  umount "$kept/small"
else
  skip "a full disk" "needs root"
fi
