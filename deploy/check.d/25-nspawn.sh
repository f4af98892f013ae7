# The shipped units in a real systemd, with Debian's own nginx, rsyslog and logrotate units around them: this machine's
# own files, booted in a container. All that is written there stays in memory, no service of this machine is started, and
# its loopback is its own, so that all shipped files keep their ports and paths.
need systemd-container systemd libnss-systemd procps nginx-light rsyslog logrotate psmisc hey openssl make

machine=$work/machine
mkdir -p "$machine"/{memory,root,kit/etc/{taskapi,nginx/conf.d,rsyslog.d,ssl/certs,ssl/private}}

# What an operator puts there: make install, a token, a certificate, and the two files that are not for every host. One
# address may ask more often than shipped, because the load comes from one.
env -u MAKEFLAGS -u MAKELEVEL make -s -C "$repo" install DESTDIR="$machine/kit"
echo secret >"$machine/kit/etc/taskapi/token"
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=tasks.example 2>/dev/null \
  -keyout "$machine/kit/etc/ssl/private/taskapi.key" -out "$machine/kit/etc/ssl/certs/taskapi.pem"
sed 's|rate=50r/s|rate=1000000r/s|' "$deploy/nginx.conf" >"$machine/kit/etc/nginx/conf.d/taskapi.conf"
cp "$deploy/rsyslog.conf" "$machine/kit/etc/rsyslog.d/30-taskapi.conf"
chmod -R go-w "$machine/kit"
chmod 700 "$machine/kit/etc/taskapi" "$machine/kit/etc/ssl/private"

# boot: becomes the container. The mounts are in a namespace of its own and end with it. Of what the administrator has enabled,
# rsyslog alone starts with it, as early as on a host: without syslog.socket.conf, its socket is older than sysctl.conf's limit.
# shellcheck disable=SC2016
boot='
  cd "$1" && mount -t tmpfs tmpfs memory && mkdir memory/new memory/work &&
    mount -t overlay overlay -o lowerdir=/,upperdir=memory/new,workdir=memory/work root &&
    cp -a kit/. root || exit
  rm -f root/etc/systemd/system/*.target.wants/* root/etc/nginx/sites-enabled/*
  mkdir -p root/etc/systemd/system/multi-user.target.wants &&
    ln -s /lib/systemd/system/rsyslog.service root/etc/systemd/system/multi-user.target.wants/ || exit
  exec systemd-nspawn --quiet --register=no --keep-unit --private-network --link-journal=no --console=pipe \
    --machine=taskapi-check --directory=root --boot'

# on COMMAND…: runs COMMAND in the container. net COMMAND…: runs it here, with the network of the container.
init() { pgrep -P "$(cat "$work/machine.pid")"; }
on() { nsenter --target "$(init)" --all env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"; }
net() { nsenter --target "$(init)" --net "$@"; }

if [ "$(id -u)" -ne 0 ]; then
  skip "the units in a real systemd" "needs root"
  return 0
fi
background machine unshare --mount --propagation private bash -c "$boot" - "$machine"
if ! until_true 30 on systemctl is-active multi-user.target >/dev/null 2>&1; then
  skip "the units in a real systemd" "none boots on this machine: $(tail -n 1 "$work/machine.log")"
  return 0
fi

log=/var/log/taskapi/task_management.log
post=(curl -sSk --max-time 10 -o /dev/null -w '%{http_code}' -H 'Content-Type: application/json' -d '{"task_name":"a"}')
direct=http://127.0.0.1:8000/api/tasks
show() { on systemctl show --value --property "$1" taskapi.service; }

# answer CODE CURL-ARGUMENTS…: a POST gets CODE.
answer() {
  local want=$1 got
  shift
  got=$(net "${post[@]}" "$@")
  [ "$got" = "$want" ] || { echo "status $got, wanted $want"; return 1; }
}
needs_token() { answer 401 "$direct" && answer 201 -H 'Authorization: Bearer secret' "$direct"; }
reads_host() {
  net curl -fsS http://127.0.0.1:8000/health/detailed |
    jq -e '[.checks.system_resources | .cpu, .memory, .disk | .usage_percent] | all(. > 0)'
}
confined() {
  local line
  on cat "/proc/$(show MainPID)/status" "/proc/$(show MainPID)/limits" >"$machine/process"
  # systemd may not raise the limit of open files above this machine's own, where that is fixed.
  for line in 'CapBnd:\s*0+$' 'NoNewPrivs:\s*1$' 'Seccomp:\s*2$' 'Uid:\s*6[1-5][0-9]{3}\s' \
    "Max open files +(65536|$(ulimit -Hn)) "; do
    grep -E "$line" "$machine/process" || { echo "not found: $line"; return 1; }
  done
  [ "$(on ls -A "/proc/$(show MainPID)/root/root")" = "" ]
}
created() { on journalctl --sync && on journalctl -u taskapi.service -o cat | grep -c status=201; }

# nothing_lost: every answer was 201, and the journal has as many lines of created tasks.
nothing_lost() {
  grep -A99 'Status code distribution' "$work/load.log"
  echo "$(($(created) - before)) tasks created"
  [ "$restarts" -ge 3 ] && [ "$answered" -eq 50000 ] && [ "$(grep -cE '^ *\[' "$work/load.log")" -eq 1 ] &&
    [ "$answered" -eq $(($(created) - before)) ]
}

# outlives_kill: killed again and again while it creates tasks, the service has all that it acknowledged, also after a proper
# stop and start of both units. The file is its own.
load_generator
data=/var/lib/taskapi/tasks.jsonl
outlives_kill() {
  local load pid kills=0 end=$((SECONDS + 12))
  background load nsenter --target "$(init)" --net "$work/bin/load" -url "$direct" -token secret -clients 16 -time 120s \
    -out "$machine/acknowledged"
  load=$!
  sleep 1
  while kill -0 $load 2>/dev/null; do
    pid=$(show MainPID)
    on kill -KILL "$pid" && until_true 20 is_new "$pid" || return
    kills=$((kills + 1))
    sleep 0.7
    [ $SECONDS -lt $end ] || [ $kills -lt 3 ] || break
  done
  stop load
  echo "$kills times killed"
  cat "$work/load.log"
  [ "$kills" -ge 3 ] || return
  on systemctl stop taskapi.socket taskapi.service && on systemctl start taskapi.socket taskapi.service &&
    on cat "$data" >"$machine/tasks" && kept "$machine/acknowledged" "$machine/tasks" &&
    [ "$(on stat -Lc '%U %a' "$data" /var/lib/taskapi | xargs)" = 'taskapi 600 taskapi 700' ] &&
    net "$work/bin/load" -url "$direct" -token secret -get "$machine/acknowledged" >"$machine/answered" &&
    [ "$(cat "$machine/answered")" = "200 $(wc -l <"$machine/acknowledged")" ]
}
# keeps_created: as many tasks are in the file as the journal says were created.
keeps_created() {
  local lines
  lines=$(on wc -l "$data" | cut -d ' ' -f 1)
  echo "$lines tasks in the file"
  [ "$lines" -eq "$(created)" ] && [ "$(on jq -r .task_id "$data" | sort -u | wc -l)" -eq "$lines" ]
}

# The client connects while there is no service, and is answered by the next one.
killed() {
  local pid
  pid=$(show MainPID)
  on kill -KILL "$pid" && answer 201 -H 'Authorization: Bearer secret' "$direct" && [ "$(show MainPID)" != "$pid" ] && return
  on journalctl -u taskapi.service -o short-precise -n 10 && return 1
}
# errors_since TIME: what "journalctl -p err" has of the service since then. The rest of the journal is none of it.
now() { date +@%s.%6N; }
errors_since() { on journalctl -u taskapi.service -p err -q -o cat --since "$1"; }
in_journal() { on journalctl -u taskapi.service -q -o cat --since "$1" --grep "$2" "${@:3}"; }
# finds_errors: of a refused request, one that fails and a good one, it is the one that fails. In rsyslog's file, the line is as
# the service wrote it, without the number of its level.
finds_errors() {
  local from
  echo TASKAPI_FLAGS=-max-tasks=1 | on tee /etc/default/taskapi && on systemctl restart taskapi.service || return
  answer 201 -H 'Authorization: Bearer secret' "$direct" # where there is none yet
  from=$(now)
  answer 401 "$direct" && answer 507 -H 'Authorization: Bearer secret' -H 'X-Request-Id: no-room' "$direct" &&
    net curl -fsS -H 'X-Request-Id: good' http://127.0.0.1:8000/health && until_true 5 in_journal "$from" request_id=good &&
    errors_since "$from" >"$machine/errors"
  on rm /etc/default/taskapi && on systemctl restart taskapi.service || return
  cat "$machine/errors"
  [ "$(wc -l <"$machine/errors")" -eq 1 ] && grep '^time=.* level=ERROR .* status=507 .*request_id=no-room' "$machine/errors" &&
    in_journal "$from" '^time=.* status=401 ' -p warning..warning && until_true 5 on grep -xF "$(cat "$machine/errors")" "$log"
}
# finds_stacks: what the Go runtime prints by itself has no level of its own.
finds_stacks() {
  local from pid
  from=$(now)
  pid=$(show MainPID)
  on kill -ABRT "$pid" && until_true 10 is_new "$pid" && until_true 5 in_journal "$from" '^goroutine ' -p err &&
    errors_since "$from" | grep '^SIGABRT: abort'
}

# stalls: rsyslogd stands still for two seconds under load; its file has all lines of the journal. At 512, the kernel's own
# length of the queue, it misses some.
filed() { on grep -c ' path=/health ' "$log" || :; }
all_filed() { [ "$(filed)" -eq "$1" ]; }
stalls() {
  local from before lines
  from=$(now)
  before=$(filed)
  background load net hey -z 4s -c 10 -q 200 http://127.0.0.1:8000/health
  sleep 1
  on systemctl kill --kill-whom=main --signal=STOP rsyslog.service
  sleep 2
  on systemctl kill --kill-whom=main --signal=CONT rsyslog.service
  wait "$(cat "$work/load.pid")"
  lines=$(sed -nE 's/^ *\[200\]\s+([0-9]+) responses$/\1/p' "$work/load.log")
  echo "$lines requests"
  [ "$lines" -ge 3000 ] && until_true 10 all_filed $((before + lines)) &&
    ! on journalctl -q --since "$from" --grep 'Forwarding to syslog missed'
}

# action ALERT: the first command that alerts.yml names.
action() { sed -n "/- alert: $1\$/,/- alert:/s/^ *action: //p" "$deploy/alerts.yml"; }
# warns_of_addr: an -addr beside the socket is said to be none.
warns_of_addr() {
  local from status
  from=$(now)
  echo TASKAPI_FLAGS=-addr 127.0.0.1:8001 | on tee /etc/default/taskapi && on systemctl restart taskapi.service
  until_true 5 in_journal "$from" 'level=WARNING .*-?addr\b.*' -p warning..warning && answer 401 "$direct"
  status=$?
  on rm /etc/default/taskapi && on systemctl restart taskapi.service && return $status
}
# needs_disk: where the disk of the tasks is missing, the service does not start on the root disk instead.
needs_disk() {
  local said status
  on systemctl stop taskapi.socket taskapi.service
  echo 'missing /var/lib/private/taskapi nosuchfs defaults 0 0' | on tee -a /etc/fstab && on systemctl daemon-reload
  said=$(on systemctl start taskapi.socket taskapi.service 2>&1)
  status=$?
  echo "$said"
  on sed -i '/^missing /d' /etc/fstab && on systemctl daemon-reload && on systemctl start taskapi.socket taskapi.service &&
    [ $status -ne 0 ] && grep 'dependency job for taskapi.service failed' <<<"$said"
}

# names_token: where an image for containers empties LoadCredential=, as those for LXC do, the service names the file that it
# lacks, and the guide's drop-in gives it back.
names_token() {
  local from status theirs=/run/systemd/system/service.d ours=/etc/systemd/system/taskapi.service.d
  from=$(now)
  on mkdir -p $theirs $ours
  printf '[Service]\nLoadCredential=\n' | on tee $theirs/zzz-lxc-service.conf
  on systemctl daemon-reload
  on systemctl restart taskapi.service # it fails, again and again
  until_true 5 in_journal "$from" 'open /run/credentials/taskapi.service/token: (no such file or directory|permission denied)' &&
    printf '[Service]\nLoadCredential=token:/etc/taskapi/token\n' | on tee $ours/zzz-token.conf &&
    on systemctl daemon-reload && on systemctl restart taskapi.service && needs_token
  status=$?
  on rm -f $theirs/zzz-lxc-service.conf $ours/zzz-token.conf
  on systemctl daemon-reload && on systemctl restart taskapi.service && return $status
}

# A service that hangs, with a watchdog that takes less of this check's time. The cause is found by the command of the alert,
# also after many requests.
watched() {
  local pid status
  on mkdir -p /run/systemd/system/taskapi.service.d
  printf '[Service]\nWatchdogSec=3\nTimeoutAbortSec=1\n' | on tee /run/systemd/system/taskapi.service.d/hasty.conf
  on systemctl daemon-reload && on systemctl restart taskapi.service || return
  pid=$(show MainPID)
  sleep 5
  [ "$(show MainPID)" = "$pid" ] || { echo "it was restarted although it does not hang"; return 1; }
  on kill -STOP "$pid" && until_true 15 is_new "$pid" && net curl -fsS -o "$machine/page" 'http://127.0.0.1:8000/health?[1-60]' &&
    on journalctl --sync && on bash -c "$(action TaskAPIRestarted)" | tee /dev/stderr | grep 'Watchdog timeout'
  status=$?
  on rm /run/systemd/system/taskapi.service.d/hasty.conf && on systemctl daemon-reload &&
    on systemctl restart taskapi.service && return $status
}
is_new() { [ "$(show MainPID)" != "$1" ] && [ "$(show ActiveState)" = active ]; }

# starts_often: stops and starts of both units in a quick row, as a person in trouble does them, meet no limit.
starts_often() {
  local n
  for n in {1..8}; do
    echo "time number $n"
    on systemctl stop taskapi.socket taskapi.service && on systemctl start taskapi.socket taskapi.service || return
    answer 401 "$direct" || return
  done
}
# keeps_socket: a service that cannot start, with a damaged data file, is started again and again. Meanwhile the socket
# stays, and clients that come again and again wait there; when the file is mended, one that came first is answered.
keeps_socket() {
  local first waited=0 restarts
  on systemctl stop taskapi.service && on sed -i '1i damaged' "$data" && on systemctl --no-block start taskapi.service || return
  until_true 10 starts_again
  background waiting net "${post[@]}" --max-time 60 -H 'Authorization: Bearer secret' "$direct"
  first=$!
  for _ in {1..60}; do
    [ "$(net curl -s -o /dev/null --max-time 0.1 -w '%{exitcode}' "$direct")" != 28 ] || waited=$((waited + 1))
  done
  restarts=$(show NRestarts)
  on systemctl is-active taskapi.socket
  on sed -i 1d "$data"
  wait $first
  echo "$waited of 60 clients waited, $restarts restarts, the first client got $(cat "$work/waiting.log")"
  [ $waited -eq 60 ] && [ "$restarts" -ge 6 ] && [ "$(cat "$work/waiting.log")" = 201 ] &&
    [ "$(on systemctl is-active taskapi.socket)" = active ] && on journalctl -u taskapi.service -q --grep 'tasks\.jsonl: line 1: '
}
starts_again() { [ "$(show NRestarts)" -ge 1 ]; }

# rotates COMMAND…: after COMMAND has moved the file away, new lines go into a new one, and the service is the same process.
rotates() {
  local pid
  pid=$(show MainPID)
  "$@" && until_true 5 logs_there && [ "$(on stat -c %a "$log")" = 640 ] &&
    [ "$(show MainPID)" = "$pid" ]
}
logs_there() { answer 401 "$direct" && on grep 'category=AUTHENTICATION' "$log"; }
by_hand() { on logrotate -f /etc/logrotate.d/taskapi; }
by_rsyslog() { rotates by_hand && [ "$(on stat -Lc '%U:%G %a' /var/log/taskapi "$log" | xargs)" = 'root:adm 750 root:adm 640' ]; }
# by_timer: as the timer does it, a day later, on a host that has dated names for all logs.
by_timer() {
  on sed -i '1i dateext' /etc/logrotate.conf && on sed -i -E 's/ [0-9]{4}-[0-9-]+:/ 2001-1-1-0:/' /var/lib/logrotate/status &&
    rotates on systemctl start logrotate.service && on ls /var/log/taskapi/task_management.log.2.gz
}
# from_journal: where rsyslog reads the journal itself, as on RHEL, its lines are the same.
from_journal() {
  printf '%s\n' 'module(load="imjournal" StateFile="/run/imjournal" IgnorePreviousMessages="on" Ratelimit.Interval="0")' \
    'include(file="/run/rule.conf")' | on tee /run/rsyslog.conf
  on sed "s|$log|/run/filed.log|" /etc/rsyslog.d/30-taskapi.conf | on tee /run/rule.conf
  on systemd-run --quiet --unit=imjournal rsyslogd -n -i /run/rsyslog.pid -f /run/rsyslog.conf && sleep 1
  answer 401 -H 'X-Request-Id: from-the-journal' "$direct" && until_true 5 on grep 'request_id=from-the-journal ' "$log" &&
    until_true 5 on grep 'request_id=from-the-journal ' /run/filed.log
  on systemctl stop imjournal
  diff <(on grep 'request_id=from-the-journal ' /run/filed.log) <(on grep 'request_id=from-the-journal ' "$log")
}
by_service() {
  on mkdir -p /etc/systemd/system/taskapi.service.d
  printf '[Service]\nLogsDirectory=taskapi\nUMask=0027\n' | on tee /etc/systemd/system/taskapi.service.d/log-file.conf
  echo "TASKAPI_FLAGS=-log-file $log" | on tee /etc/default/taskapi
  on systemctl daemon-reload && on systemctl restart taskapi.service && rotates by_hand && [ "$(on stat -c %U "$log")" = taskapi ]
}
stops() {
  on systemctl stop taskapi.socket taskapi.service && [ "$(show Result) $(show ExecMainStatus)" = 'success 0' ] &&
    answer 000 "$direct"
}

on systemctl start nginx.service
check "systemd starts the service, with its socket" on systemctl enable --now taskapi.service
check "it has the token" needs_token
check "it reads CPU, memory and disk inside its sandbox" reads_host
check "it is confined to the sandbox" confined
check "the running unit is rated 0.3 or lower" on systemd-analyze security --no-pager --threshold=3 taskapi.service
check "Debian's nginx serves it on port 443" answer 201 -H 'Authorization: Bearer secret' https://127.0.0.1/api/tasks

before=$(created)
background load net hey -n 50000 -c 16 -m POST -T application/json -H 'Authorization: Bearer secret' \
  -d '{"task_name":"a"}' https://127.0.0.1/api/tasks
load=$!
restarts=0
sleep 1
while on systemctl restart taskapi.service && kill -0 $load 2>/dev/null; do restarts=$((restarts + 1)); done
wait $load
answered=$(sed -nE 's/^ *\[201\]\s+([0-9]+) responses$/\1/p' "$work/load.log")
answered=${answered:-0}
check "$restarts times systemctl restart under $answered requests lose none, and none of their lines" nothing_lost
check "the data file has each of these tasks once" keeps_created
check "kill -9 under load, again and again: every acknowledged task is there" outlives_kill
check "kill -9: who connects meanwhile is answered by the next process" killed
check "eight quick stops and starts of both units" starts_often
check "a service that cannot start keeps its socket, and clients wait there" keeps_socket
check "the watchdog restarts a service that hangs, and no other; the command of the alert says so" watched
check "without the disk of the tasks it does not start" needs_disk
check "without LoadCredential= it says what it lacks, and a drop-in gives it back" names_token
check "an -addr beside the socket is told in a WARNING" warns_of_addr
check "journalctl -p err shows the line of level ERROR, and nothing else" finds_errors
check "it shows the stacks of a crash" finds_stacks
check "the queue of rsyslog is longer than the kernel's" test "$(on sysctl -n net.unix.max_dgram_qlen)" = 16384
check "rsyslogd stands still for two seconds under load: its file has every line" stalls
check "rsyslog files the lines from the journal, and goes on in a new file after logrotate" by_rsyslog
check "so it does when the timer rotates it, whatever /etc/logrotate.conf says" by_timer
check "rsyslog files the same lines where it reads the journal itself" from_journal
check "so does the service, where it writes the file itself" by_service
check "systemctl stop ends it in good order" stops
check "the container shuts down" stop machine
