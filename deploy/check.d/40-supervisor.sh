# supervisor.conf in a real supervisord.
need supervisor

port=$(free_port)
super=$work/supervisor
user=$(id -un)
mkdir -p "$super/log"
mkdir -m 700 "$super/lib"
echo secret >"$super/token"
if [ "$user" = root ]; then
  user=nobody
  chown $user "$super/log" "$super/lib" "$super/token"
fi
chmod 600 "$super/token"

# The shipped file with this machine's paths and user, and a port in place of 8000.
sed -e "s|/usr/local/bin/taskapi|$taskapi -addr 127.0.0.1:$port|; s|/etc/taskapi/token|$super/token|" \
  -e "s|/var/log/taskapi/|$super/log/|; s|/var/lib/taskapi/|$super/lib/|; s|^user=taskapi|user=$user|" "$deploy/supervisor.conf" >"$super/taskapi.conf"

# What Debian's supervisord.conf has around it.
cat >"$super/supervisord.conf" <<END
[unix_http_server]
file=$super/socket
[supervisord]
user=$(id -un)
childlogdir=$super/log
pidfile=$super/pid
logfile=/dev/null
logfile_maxbytes=0
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://$super/socket
[include]
files=$super/taskapi.conf
END

control() { supervisorctl -c "$super/supervisord.conf" "$@"; }
health() { answers "http://127.0.0.1:$port/health"; }
pid() { control pid taskapi; }
serves_anew() { [ "$(pid)" != "$1" ] && health; }
# What ends sooner than startsecs is started again anyway.
running() { [[ $(control status taskapi) == *RUNNING* ]]; }
restarts_after_kill() {
  local before
  until_true 10 running || return
  before=$(pid)
  kill -KILL "$before" && until_true 10 serves_anew "$before"
}
restarts() {
  local before
  before=$(pid)
  control restart taskapi && until_true 10 serves_anew "$before"
}
stopped() { [[ $(control status taskapi) == *STOPPED* ]] && ! health; }
stops() { control stop taskapi && stopped && tail -n 1 "$super/log/task_management.log" | grep -w msg=stopped; }
needs_token() { [ "$(curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:$port/api/tasks")" = 401 ]; }
stays_stopped() { sleep 2 && stopped; }
as_its_user() { [ "$(ps -o user= -p "$(pid)")" = "$user" ]; }
logs_0640() { [ "$(stat -c %a "$super/log/task_management.log")" = 640 ] && grep msg=serving "$super/log/task_management.log"; }

# keeps_tasks: what was created before the last kill and restart, and has the file for itself.
load_generator
creates() {
  "$work/bin/load" -url "http://127.0.0.1:$port/api/tasks" -token secret -n 100 -out "$super/acknowledged"
  [ "$(wc -l <"$super/acknowledged")" -eq 100 ]
}
keeps_tasks() {
  kept "$super/acknowledged" "$super/lib/tasks.jsonl" && [ "$(stat -c '%U %a' "$super/lib/tasks.jsonl")" = "$user 600" ] &&
    answered "$super/acknowledged" "http://127.0.0.1:$port/api/tasks" -token secret
}

background supervisord supervisord -n -c "$super/supervisord.conf"
check "Supervisor starts the service" until_true 10 health
check "it runs as its own user" as_its_user
check "it has the token" needs_token
check "it writes its log, with mode 0640" logs_0640
check "it creates tasks" creates
check "Supervisor restarts it after kill -9" restarts_after_kill
check "Supervisor restarts it when asked" restarts
check "it has its tasks then" keeps_tasks
check "Supervisor stops it, and it ends in good order" stops
check "Supervisor leaves it stopped" stays_stopped
control start taskapi >/dev/null
check "Supervisor ends" stop supervisord
check "the service has ended with it" eval '! health'
