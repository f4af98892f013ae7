# nginx.conf in a real nginx, with the real service behind it: first as it is shipped, then under load while the service
# restarts again and again on a socket that stays open.
need nginx-light hey openssl systemd

http=$(free_port)
https=$(free_port)
upstream=$(free_port)
site=https://127.0.0.1:$https
web=$work/nginx
mkdir -p "$web"
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=tasks.example 2>/dev/null \
  -keyout "$web/key.pem" -out "$web/cert.pem"

# site RATE: the shipped file with this machine's ports and paths, and RATE requests a second from one address.
site() {
  sed -e "s|listen 80;|listen 127.0.0.1:$http;|; s|listen \[::\]:80;|listen [::1]:$http;|" \
    -e "s|listen 443 |listen 127.0.0.1:$https |; s|listen \[::\]:443 |listen [::1]:$https |" \
    -e "s|server 127.0.0.1:8000;|server 127.0.0.1:$upstream;|; s|rate=50r/s|rate=$1r/s|" \
    -e "s|/etc/ssl/certs/taskapi.pem|$web/cert.pem|; s|/etc/ssl/private/taskapi.key|$web/key.pem|" \
    -e "s|/var/log/nginx/taskapi.log|$web/access.log|" "$deploy/nginx.conf" >"$web/taskapi.conf"
}

# What Debian's nginx.conf has around it.
cat >"$web/nginx.conf" <<END
daemon off;
pid $web/pid;
error_log stderr;
worker_processes 2;
worker_rlimit_nofile 4096;
events { worker_connections 1024; }
http {
  client_body_temp_path $web/body;
  proxy_temp_path $web/proxy;
  fastcgi_temp_path $web/fastcgi;
  uwsgi_temp_path $web/uwsgi;
  scgi_temp_path $web/scgi;
  include $web/taskapi.conf;
}
END

# status CODE CURL-ARGUMENTS…: nginx answers with CODE.
status() {
  local want=$1 got
  shift
  got=$(curl -sk --max-time 5 -o /dev/null -w '%{http_code}' "$@")
  [ "$got" = "$want" ] || { echo "status $got, wanted $want"; return 1; }
}

json=(-H 'Content-Type: application/json')
create=("$site/api/tasks" "${json[@]}" -d '{"task_name":"a"}')

# What systemd does with taskapi.socket and taskapi.service, on a machine where it does not run: systemd-socket-activate
# starts this shell with the listening socket as descriptor 3, which it keeps open and hands to one service process after
# the other, until there is a file $1.stop.
# shellcheck disable=SC2016
keep_serving='
  while [ ! -e "$1.stop" ]; do
    (echo $BASHPID >"$1.pid"; LISTEN_PID=$BASHPID exec "$2" -drain 1500ms -log-file "$1.log")
    echo $? >>"$1.exits"
  done'

# logged ID: both logs have it. They are written after the answer.
logged() { until_true 2 grep "request_id=$1\$" "$web/access.log" && until_true 2 grep "request_id=$1 " "$web/service.log"; }
answered_id() { curl -sk --max-time 5 -o /dev/null -D - "$@" | sed -nE 's/^x-request-id: (.*)\r$/\1/ip'; }
handed_through() {
  [ "$(answered_id "${create[@]}" -H 'X-Request-Id: from-the-client')" = from-the-client ] && logged from-the-client
}
replaced() {
  local id
  id=$(answered_id "${create[@]}" -H 'X-Request-Id: not "valid"')
  echo "$id" | grep -xE '[0-9a-f]{32}' && logged "$id"
}
# refuses CODE ERROR CURL-ARGUMENTS…: it is nginx that answers with CODE, in the form of the service's own errors.
refuses() {
  local code=$1 error=$2
  shift 2
  status "$code" "$@" && curl -sk --max-time 5 "$@" |
    jq -e --arg error "$error" '.error_code == $error and .error_message == "refused by the proxy" and (.request_id | length == 32)'
}
limited() {
  hey -n 400 -c 4 "$site/health" >"$web/limited" && grep -q '\[200\]' "$web/limited" && grep -q '\[429\]' "$web/limited" &&
    ! grep -E '\[[45][0-9]{2}\]' "$web/limited" | grep -v '\[429\]'
}
limited_politely() { curl -sk -D - "$site/health?[1-300]" | grep -i '^retry-after: 1'; }
redirects() {
  local to
  to=$(curl -s -o /dev/null -w '%{http_code} %{redirect_url}' "http://127.0.0.1:$http/api/tasks?limit=2")
  echo "$to"
  [ "$to" = '308 https://127.0.0.1/api/tasks?limit=2' ]
}
both_tls() { for tls in -tls1_2 -tls1_3; do openssl s_client -connect "127.0.0.1:$https" $tls || return; done; }

site 50
check "nginx.conf: nginx reads it and says nothing against it" nginx -t -q -e stderr -c "$web/nginx.conf"
background socket systemd-socket-activate -l "127.0.0.1:$upstream" bash -c "$keep_serving" - "$web/service" "$taskapi"
until_true 5 answers "http://127.0.0.1:$upstream/health"
background nginx nginx -e stderr -c "$web/nginx.conf"
check "nginx serves HTTPS in front of the service" until_true 5 answers -k "$site/health"
check "nginx speaks HTTP/2 outside" status 200 --http2 "$site/"
check "nginx speaks TLS 1.2 and 1.3" both_tls
check "nginx redirects HTTP to HTTPS" redirects
check "nginx lets a task be created" status 201 "${create[@]}"
check "nginx closes /metrics" refuses 403 FORBIDDEN "$site/metrics"
check "nginx closes /metrics however it is spelled" refuses 403 FORBIDDEN --path-as-is "$site//api/..//%6detrics"
check "nginx closes /debug/" refuses 403 FORBIDDEN "$site/debug/storage"
check "nginx closes /debug/pprof/ to who says to be on the host" refuses 403 FORBIDDEN -H 'X-Forwarded-For: 127.0.0.1' "$site/debug/pprof/"
head -c 65536 /dev/zero >"$web/body.largest"
head -c 65537 /dev/zero >"$web/body.larger"
check "nginx lets 64 KiB through to the service" status 400 "$site/api/tasks" "${json[@]}" --data-binary @"$web/body.largest"
check "nginx refuses a larger body" refuses 413 BODY_TOO_LARGE "$site/api/tasks" "${json[@]}" --data-binary @"$web/body.larger"
check "a client's X-Request-Id arrives in the answer and in both logs" handed_through
check "another X-Request-Id is replaced, and in both logs" replaced
check "past the limit nginx answers 429, and nothing else" limited
check "429 says when to come again" limited_politely

# restart: asks the service to stop, as systemctl does, and waits for the next process to serve.
serves_anew() { [ "$(cat "$web/service.pid")" != "$1" ] && [ "$(grep -c msg=serving "$web/service.log")" -gt "$2" ]; }
restart() {
  local pid served
  pid=$(cat "$web/service.pid")
  served=$(grep -c msg=serving "$web/service.log")
  kill -TERM "$pid" && until_true 20 serves_anew "$pid" "$served"
}

site 1000000
kill -HUP "$(cat "$work/nginx.pid")"
sleep 0.5
created() { grep -c 'status=201' "$web/service.log"; }
before=$(created)
background load hey -z 25s -c 16 -m POST -T application/json -d '{"task_name":"a"}' "$site/api/tasks"
load=$!
restarts=0
sleep 1
while restart >/dev/null && kill -0 $load 2>/dev/null; do
  restarts=$((restarts + 1))
done
wait $load
answered=$(sed -nE 's/^ *\[201\]\s+([0-9]+) responses$/\1/p' "$work/load.log")
answered=${answered:-0}
slowest=$(awk '/Slowest:/ { print $2 }' "$work/load.log")

# Every request was answered with 201, none with anything else or an error, and the services created exactly as many tasks.
nothing_lost() {
  grep -A99 'Status code distribution' "$work/load.log"
  echo "$(($(created) - before)) tasks created"
  [ "$restarts" -ge 10 ] && [ "$answered" -ge 50000 ] && [ "$(grep -cE '^ *\[' "$work/load.log")" -eq 1 ] &&
    [ "$answered" -eq $(($(created) - before)) ]
}
check "$restarts restarts under $answered requests through nginx lose none (slowest: $slowest s)" nothing_lost
touch "$web/service.stop"
kill -TERM "$(cat "$web/service.pid")"
wait "$(cat "$work/socket.pid")"
rm "$work/socket.pid"
check "every stop of the service had exit status 0" test "$(sort -u "$web/service.exits")" = 0
check "without a service nginx answers 502" refuses 502 UNAVAILABLE "$site/"
check "nginx stops" stop nginx
