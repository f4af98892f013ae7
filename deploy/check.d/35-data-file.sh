# The data file of the service: each task that was acknowledged with 201 is in it, whatever then happens to the process,
# to the disk, or to the file itself.
need strace socat time procps

load_generator
port=$(free_port)
api=http://127.0.0.1:$port/api/tasks
health=http://127.0.0.1:$port/health
kept=$work/data-file
mkdir -p "$kept/others"

# serve FILE PROGRAM…: the service with the data file FILE, started by PROGRAM…. What a failed check has left is ended.
serve() {
  [ ! -e "$work/service.pid" ] || kill -KILL -- "-$(cat "$work/service.pid")" 2>/dev/null
  background service "${@:2}" "$taskapi" -addr "127.0.0.1:$port" -data-file "$1" -slow 1m
  until_true 10 answers "$health/readiness"
}
# stop_traced: stop, for a service that was started by strace. The exit status is the service's.
stop_traced() {
  kill -TERM "$(pgrep -P "$(cat "$work/service.pid")")"
  wait "$(cat "$work/service.pid")"
  local status=$?
  rm "$work/service.pid"
  return $status
}
load() { "$work/bin/load" -url "$api" "$@"; }
killed() { kill -KILL "$(cat "$work/service.pid")" && ! wait "$(cat "$work/service.pid")"; }
post() { curl -s -m "${1:-5}" -o "$kept/answer" -w '%{http_code}' -H 'Content-Type: application/json' -d '{"task_name":"a"}' "$api"; }
code() { curl -s -m 5 -o "$kept/answer" -w '%{http_code}' "$1"; }

# not_ready REASON: readiness and the storage check say so, and why; the service is alive and reads.
not_ready() {
  [ "$(code "$health/readiness")" = 503 ] && says_why '.status == "not_ready"' "" "$1" &&
    [ "$(code "$health/detailed")" = 503 ] && says_why '.status == "unhealthy"' .checks.storage "$1" &&
    [ "$(code "$health/liveness")" = 200 ] && answers "$api?limit=5"
}
says_why() {
  jq -e --arg reason "$3" "$1 and ($2.reason | contains(\$reason))" "$kept/answer" || { cat "$kept/answer"; return 1; }
}
# one_line REASON: the log tells once what has happened.
one_line() { [ "$(grep -c "level=CRITICAL .*the data file has failed: .*$1" "$work/service.log")" -eq 1 ]; }

# new_file: the service creates the file for itself alone, and says what is in it.
new_file() {
  [ "$(stat -c %a "$kept/tasks")" = 600 ] && [ "$(post)" = 201 ] &&
    [ "$(jq -r .task_id "$kept/tasks")" = "$(jq -r .task_id "$kept/answer")" ] &&
    [ "$(jq -r .storage_stats.storage_type < <(curl -fsS "http://127.0.0.1:$port/debug/storage"))" = file ]
}

# outlives_kill: five times, the service is killed while eight clients create tasks. The next one takes over what it left.
outlives_kill() {
  : >"$kept/acknowledged"
  for _ in 1 2 3 4 5; do
    background load load -time 1s -out "$kept/some"
    sleep 0.7
    killed && [ -S "$kept/tasks.lock" ] || return
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

# refused FILE REASON: a start with FILE ends with one line and status 1, at once and in little memory. Nothing has
# changed then: no file is new, and those beside FILE are what they were.
refused() {
  local before status
  before=$(files)
  timeout 10 time -f %M -o "$kept/memory" "$taskapi" -addr "127.0.0.1:$(free_port)" -data-file "$1" >"$kept/said" 2>&1
  status=$?
  cat "$kept/said"
  [ $status -eq 1 ] && [ "$(wc -l <"$kept/said")" -eq 1 ] && grep -F "taskapi: $1: " "$kept/said" | grep -F "$2" &&
    [ "$(tail -n 1 "$kept/memory")" -lt 40000 ] && [ "$(files)" = "$before" ]
}
files() { find "$kept" -path "$kept/*" ! -path "$kept/others" ! -name memory ! -name said -printf '%p %i %s %m %T@\n' | sort; }

# second_process: whoever has the file keeps it, whatever the port and the path of the other.
second_process() {
  ln -s ../tasks "$kept/others/link"
  refused "$kept/tasks" "another process has it" && refused "$kept/others/link" "another process has it" &&
    [ "$(post)" = 201 ] && answers "$health/readiness"
}

# no_data_file: what was given by mistake is left alone.
no_data_file() {
  printf x9Jt-secret-of-somebody >"$kept/others/token"
  mkfifo "$kept/others/fifo"
  { head -n 1 "$kept/copy"; head -c 100 /dev/zero; head -n 2 "$kept/copy" | tail -n 1; } >"$kept/others/zeros"
  truncate -s 3G "$kept/others/hole"
  refused "$kept/others/token" "line 1: is no JSON" &&
    refused /dev/zero "is no regular file" && refused "$kept/others/fifo" "is no regular file" &&
    refused "$kept/others/hole" "line 1: is longer than 4096 bytes" && refused "$kept/others/zeros" "line 2: is no JSON"
}

# mends LINES: two lines and then what is in the standard input are a data file, which then has so many lines.
mends() {
  { head -n 2 "$kept/copy"; cat; } >"$kept/mended"
  serve "$kept/mended" && stop service && cmp "$kept/mended" <(head -n "$1" "$kept/copy")
}
# mended_end: a last line without newline gets that; the beginning of one, or zeros, is cut off with a WARNING.
mended_end() {
  local line
  line=$(sed -n 3p "$kept/copy")
  printf %s "$line" | mends 3 && ! grep WARNING "$work/service.log" || return
  printf %s "${line:0:50}" | mends 2 && grep 'level=WARNING .* bytes=50$' "$work/service.log" || return
  head -c 5000 /dev/zero | mends 2 && grep 'level=WARNING .* bytes=5000$' "$work/service.log"
}

# touched REASON COMMAND…: whatever somebody does to the live file, no creation is acknowledged after it, and the service
# writes to nothing any more. What is there then is what the command has left: it can be a backup that was put there.
touched() {
  local task left
  rm -f "$kept/live"
  serve "$kept/live" && [ "$(post)" = 201 ] && cp "$kept/live" "$kept/backup" && [ "$(post)" = 201 ] || return
  task=$(jq -r .task_id "$kept/answer")
  (cd "$kept" && "${@:2}") || return
  left=$(cat "$kept/live" 2>&1)
  [ "$(post)" = 500 ] && jq -e '.error_code == "INTERNAL_ERROR"' "$kept/answer" && not_ready "$1" && one_line "$1" &&
    [ "$(code "$api/$task")" = 200 ] && [ "$(post)" = 500 ] && [ "$(cat "$kept/live" 2>&1)" = "$left" ] && stop service
}
all_touched() {
  touched "no such file or directory" rm live && touched "no such file or directory" mv live moved &&
    touched "replaced or changed" sed -i s/pending/pending/ live &&
    touched "replaced or changed" cp --remove-destination backup live &&
    touched "replaced or changed" cp backup live && touched "replaced or changed" truncate -s -20 live &&
    touched "replaced or changed" truncate -s 0 live && touched "replaced or changed" truncate -s +1 live
}
# touched_idle: it is seen without a creation, too.
touched_idle() {
  rm -f "$kept/live"
  serve "$kept/live" && [ "$(post)" = 201 ] && rm "$kept/live" && until_true 7 not_ready "no such file or directory" &&
    one_line "no such file or directory" && stop service
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
  stop_traced
  count=$(synced) && echo "$count answers" && [ "$count" -eq 401 ] && return $status
}

# syncs_at_start: a start mends the end of the file, then syncs the file, which the last process may have been killed before
# it could, then the folder that the file is really in, and then tells systemd.
syncs_at_start() {
  local calls
  mkdir "$kept/real" && ln -s real/tasks "$kept/link" && printf %s "$(head -n 1 "$kept/copy")" >"$kept/real/tasks"
  NOTIFY_SOCKET=$kept/notify serve "$kept/link" strace -f -y -qq -e trace=write,fsync,fdatasync -o "$kept/trace" &&
    stop_traced || return
  calls=$(sed -n -E -e "s|.* write\([0-9]+<$kept/real/tasks>.*|mended|p" -e "s|.* f(data)?sync\([0-9]+<$kept/real/tasks>\) += 0|file|p" \
    -e "s|.* fsync\([0-9]+<$kept/real>\) += 0|folder|p" -e 's|.* write\(.*"READY=1".*|ready|p' "$kept/trace" | xargs)
  echo "$calls"
  [ "$calls" = "mended file folder ready" ] && grep READY=1 "$work/notify.log"
}

# ends_while_reading: SIGTERM ends the service in the middle of a file that takes half a minute, and systemd hears nothing.
ends_while_reading() {
  local line before began status
  line=$(head -n 1 "$kept/copy")
  seq 200000 | sed "s|.*|{\"task_id\":\"task_&\",${line#*,}|" >"$kept/large"
  before=$(readies)
  rm "$kept/trace"
  NOTIFY_SOCKET=$kept/notify background service strace -f -qq -P "$kept/large" -e trace=read -e inject=read:delay_enter=1000000 \
    -o "$kept/trace" "$taskapi" -addr "127.0.0.1:$port" -data-file "$kept/large"
  until_true 10 test -s "$kept/trace" || return
  began=$SECONDS
  stop_traced
  status=$?
  echo "exit status $status after $((SECONDS - began)) s"
  cat "$work/service.log"
  [ $status -eq 0 ] && [ $((SECONDS - began)) -le 8 ] && [ "$(readies)" -eq "$before" ] && ! grep msg=serving "$work/service.log"
}
readies() { grep -o READY=1 "$work/notify.log" | wc -l; }

# trouble FILE WHAT: from now on until "stop trouble", WHAT befalls each sync of FILE.
trouble() {
  background trouble strace -f -qq -p "$(cat "$work/service.pid")" -P "$1" -e trace=fsync,fdatasync -e "inject=fsync,fdatasync:$2" \
    -o "$kept/trace"
  until_true 5 traced
}
traced() { ! grep -h '^TracerPid:.0$' "/proc/$(cat "$work/service.pid")"/task/*/status; }

# fails_once: the disk fails while eight clients create tasks, and then does not. The file ends with the last task that was
# acknowledged, since the kernel would give a restart what never got to the disk; and the restart goes on from there.
fails_once() {
  serve "$kept/failed" && background load "$work/bin/load" -url "$api" -out "$kept/acknowledged" && sleep 1 &&
    trouble "$kept/failed" error=EIO && until_true 5 not_ready "input/output error"
  stop trouble
  sleep 0.3
  stop load
  cat "$work/load.log"
  [ "$(post)" = 500 ] && one_line "input/output error" && kept "$kept/acknowledged" "$kept/failed" &&
    [ "$(wc -l <"$kept/failed")" -eq "$(wc -l <"$kept/acknowledged")" ] && [ -z "$(tail -c 1 "$kept/failed")" ] &&
    stop service && serve "$kept/failed" && answered "$kept/acknowledged" "$api" && [ "$(post)" = 201 ] && stop service
}

# hangs: a disk that does not answer holds creations up, and nothing else. After ten seconds, the service says so.
hangs() {
  local creation
  serve "$kept/copy" && trouble "$kept/copy" delay_enter=60000000 || return
  post 30 >"$kept/created" &
  creation=$!
  sleep 1
  [ "$(code "$health/readiness")" = 200 ] && answers "$api?limit=5" && until_true 12 not_ready "has not answered for 10s" &&
    kill -0 $creation && [ ! -s "$kept/created" ]
  local status=$?
  stop trouble
  wait $creation
  [ $status -eq 0 ] && [ "$(cat "$kept/created")" = 201 ] && [ "$(code "$health/readiness")" = 200 ] && stop service
}

# full_disk: on a disk that fills up, creations fail from one of them on, and nothing else does.
full_disk() {
  serve "$kept/small/tasks" && load -time 3s -name-size 90 -out "$kept/acknowledged" >"$kept/counts"
  cat "$kept/counts"
  [ "$(cut -d ' ' -f 1 "$kept/counts" | xargs)" = '201 500' ] && one_line "no space left"
}
says_so() {
  [ "$(post)" = 500 ] && jq -e '.error_code == "INTERNAL_ERROR" and (tostring | contains("space") | not)' "$kept/answer" &&
    not_ready "no space left"
}
reads_on() { answered "$kept/acknowledged" "$api" && answers "$api?limit=5"; }
for_good() { mount -o remount,size=64m "$kept/small" && [ "$(post)" = 500 ] && not_ready "no space left"; }
# starts_anew: the file ends with the last task that was acknowledged.
starts_anew() {
  stop service
  [ "$(wc -l <"$kept/small/tasks")" -eq "$(wc -l <"$kept/acknowledged")" ] && [ -z "$(tail -c 1 "$kept/small/tasks")" ] &&
    serve "$kept/small/tasks" && [ "$(post)" = 201 ] && kept "$kept/acknowledged" "$kept/small/tasks" && reads_on
}

serve "$kept/tasks"
check "the service creates its data file, readable for its user only" new_file
check "kill -9 under load, five times: every acknowledged task is there" outlives_kill
check "a second process with the same file is refused, also by a link" second_process
check "a copy made under load is a backup" is_backup
stop service
check "a token, /dev/zero, a FIFO, a hole of 3 GiB, zeros in the middle: refused in one line, nothing changed" no_data_file
check "the end of the file is mended: a newline, half a line, zeros" mended_end
check "rm, mv, sed -i, cp and truncate on the live file: no creation is acknowledged, nothing is written" all_touched
check "without a creation, it is seen in a few seconds" touched_idle
if strace -o /dev/null true 2>/dev/null; then
  background notify socat -u "UNIX-RECV:$kept/notify" -
  check "each of 401 answers waited for fsync of its task" syncs_first
  check "file and folder are synced before READY=1" syncs_at_start
  check "SIGTERM ends it while it reads the file" ends_while_reading
  check "EIO of a sync: the file ends with the last acknowledged task, the next start goes on" fails_once
  check "a disk that hangs: reads and probes are answered, after 10 s the service says so, then all is well" hangs
  stop notify
else
  skip "syncs, and disks that fail or hang" "no process can be traced on this machine"
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
