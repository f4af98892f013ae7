# nginx.conf in a real nginx, with the real service behind it: first as it is shipped, then under load while the service
# restarts again and again on a socket that stays open.
need nginx-light hey openssl systemd procps

http=$(free_port)
https=$(free_port)
upstream=$(free_port)
site=https://127.0.0.1:$https
web=$work/nginx
mkdir -p "$web"
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=tasks.example 2>/dev/null \
  -keyout "$web/key.pem" -out "$web/cert.pem"

conf=$deploy/nginx.conf
# site RATE [FILE]: the shipped file, in the way of the nginx at hand, with this machine's ports and paths, an origin, and RATE
# requests a second from one address.
site() {
  sed -e "s|listen 80;|listen 127.0.0.1:$http;|; s|listen \[::\]:80;|listen [::1]:$http;|" \
    -e "s|listen 443 |listen 127.0.0.1:$https |; s|listen \[::\]:443 |listen [::1]:$https |" \
    -e "s|server 127.0.0.1:8000;|server 127.0.0.1:$upstream;|; s|rate=50r/s|rate=$1r/s|" \
    -e "s|/etc/ssl/certs/taskapi.pem|$web/cert.pem|; s|/etc/ssl/private/taskapi.key|$web/key.pem|" \
    -e "s|/var/log/nginx/taskapi.log|$web/access.log|; s|# https://app.example |https://app.example |" \
    "${2:-$conf}" >"$web/taskapi.conf"
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

# read_well: nginx has nothing to say about the file. From 1.25.1 on it has, in one place, where the file says so itself.
ask_nginx() { nginx -t -q -e stderr -c "$web/nginx.conf" 2>&1; }
deprecated='\[warn\] .*: the "listen \.\.\. http2" directive is deprecated, use the "http2" directive instead in '
new_nginx() { printf '%s\n' 1.25.1 "$(nginx -v 2>&1 | sed 's|.*/||; s| .*||')" | sort -CV; }
read_well() {
  local said status
  said=$(ask_nginx)
  status=$?
  if new_nginx; then
    [ "$(grep -c "$deprecated" <<<"$said")" -eq 2 ] || { echo "not the known warning: $said"; return 1; }
    said=$(grep -v "$deprecated" <<<"$said")
  fi
  echo "$said"
  [ $status -eq 0 ] && [ -z "$said" ]
}
# read_anew: as the file says what to do about it, nginx has nothing to say at all. One that is too old for it does not
# know the new directive, and nothing else.
read_anew() {
  local edit said
  edit=$(sed -nE "s/^# +sed -i '(.*)' .*/\1/p" "$deploy/nginx.conf")
  sed "$edit" "$deploy/nginx.conf" >"$web/new.conf" && ! grep -E '^ *listen .*http2' "$web/new.conf" &&
    grep -xE ' +http2 on;' "$web/new.conf" || return
  new_nginx || sed -i -E '/^ +http2 on;/d' "$web/new.conf"
  site 50 "$web/new.conf"
  said=$(ask_nginx) || { echo "$said"; return 1; }
  echo "$said"
  [ -z "$said" ]
}

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
# the other, until there is a file $1.stop. More flags of the service may follow.
# shellcheck disable=SC2016
keep_serving='
  while [ ! -e "$1.stop" ]; do
    (echo $BASHPID >"$1.pid"
     LISTEN_PID=$BASHPID exec "$2" -drain 1500ms -cors-origins https://app.example -log-file "$1.log" "${@:3}")
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
# is_refusal CODE ERROR: standard input is an answer of nginx itself with CODE, in the form of the service's own errors.
is_refusal() {
  local answer head id
  answer=$(tr -d '\r')
  echo "$answer"
  head=$(sed '/^$/q' <<<"$answer")
  id=$(sed -nE 's/^x-request-id: //ip' <<<"$head")
  grep -qE "^HTTP/[0-9.]+ $1\b" <<<"$head" && grep -qix 'content-type: application/json' <<<"$head" &&
    grep -qix 'x-content-type-options: nosniff' <<<"$head" && grep -qix 'cache-control: no-store' <<<"$head" &&
    grep -qix 'vary: origin' <<<"$head" && [ ${#id} -eq 32 ] &&
    tail -n 1 <<<"$answer" | jq -e --arg error "$2" --arg id "$id" --argjson now "$(date +%s)" '
      keys == ["details", "error_code", "error_message", "request_id", "timestamp"] and .error_code == $error and
      .error_message == "refused by the proxy" and .details == [] and .request_id == $id and
      (.timestamp | test("^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")) and
      (.timestamp | fromdate - $now | . > -5 and . < 5)'
}
# refuses CODE ERROR CURL-ARGUMENTS…: nginx answers so what curl asks. refuses_text, refuses_plain CODE ERROR TEXT: what
# TEXT says, with and without TLS. It is sent in one piece: nginx may close the connection after half of it.
refuses() { curl -ski --max-time 5 "${@:3}" | is_refusal "$1" "$2"; }
tls() { { printf '%b' "$1"; sleep 0.2; } | openssl s_client -quiet -connect "127.0.0.1:$https" 2>/dev/null; }
plain() {
  printf '%b' "$1" >"$web/text"
  exec 3<>"/dev/tcp/127.0.0.1/$http"
  cat "$web/text" >&3
  timeout 5 cat <&3
  exec 3>&-
  return 0
}
refuses_text() { tls "$3" | is_refusal "$1" "$2"; }
refuses_plain() { plain "$3" | is_refusal "$1" "$2"; }
refuses_headers() {
  local some
  some=$(letters 7000)
  refuses 431 HEADERS_TOO_LARGE --http1.1 -H "X-Long: $(letters 9000)" "$site/" &&
    refuses 431 HEADERS_TOO_LARGE --http1.1 -H "X-A: $some" -H "X-B: $some" -H "X-C: $some" "$site/" &&
    status 200 --http1.1 -H "X-A: $some" -H "X-B: $some" "$site/"
}
refuses_long() {
  refuses 414 URI_TOO_LONG --http1.1 "$site/$(letters 9000)" &&
    refuses_plain 414 URI_TOO_LONG "GET /$(letters 9000) HTTP/1.1\r\n\r\n"
}
letters() { head -c "$1" /dev/zero | tr '\0' a; }
refuses_nonsense() {
  local text
  for text in 'nonsense\r\n\r\n' 'GET / HTTP/1.1\r\n\r\n' 'GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n' '\x00\x01\r\n\r\n' \
    'GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n' 'GET /a%00b HTTP/1.1\r\nHost: a\r\n\r\n'; do
    refuses_text 400 VALIDATION_ERROR "$text" && refuses_plain 400 VALIDATION_ERROR "$text" || return
  done
  refuses_text 501 NOT_IMPLEMENTED 'POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\n\r\n' &&
    refuses_text 505 VERSION_NOT_SUPPORTED 'GET / HTTP/3.0\r\nHost: a\r\n\r\n'
}
refuses_trace() {
  refuses 405 METHOD_NOT_ALLOWED --http1.1 -X TRACE "$site/health" &&
    refuses 405 METHOD_NOT_ALLOWED --http2 -X TRACE "$site/health" &&
    curl -ski -X TRACE "$site/api/tasks?limit=1" | tr -d '\r' | grep -xi 'allow: GET, HEAD, POST'
}
refuses_larger() {
  refuses 413 BODY_TOO_LARGE --http1.1 "$@" && refuses 413 BODY_TOO_LARGE --http2 "$@" &&
    refuses 413 BODY_TOO_LARGE --http1.1 -H 'Transfer-Encoding: chunked' "$@"
}
# A client of HTTP/1.0 need not name the host, and the service is asked in HTTP/1.1.
takes_http10() { tls 'GET /health HTTP/1.0\r\n\r\n' | grep '"healthy"'; }
months() {
  local month
  for month in {1..12}; do date -d "2025-$month-1" '+~-%b- %m;'; done | while read -r month; do
    grep -F " $month" "$deploy/nginx.conf" || { echo "not found: $month"; return 1; }
  done
}

# readable FILE…: a page of the allowed origin can read these answers of nginx, and all headers that it needs.
origin=https://app.example
once() { [ "$(tr -d '\r' <"$1" | sed '/^$/q' | grep -ixc "$2")" -eq 1 ] || { echo "not once: $2"; cat "$1"; return 1; }; }
only_once() { [ "$(grep -ic "^$2:" "$1")" -eq 1 ] || { echo "not once: $2"; cat "$1"; return 1; }; }
readable() {
  local file
  for file in "$@"; do
    once "$file" "access-control-allow-origin: $origin" && once "$file" 'access-control-allow-credentials: true' &&
      once "$file" 'access-control-expose-headers: Location, Retry-After, X-Request-Id' && once "$file" 'vary: Origin' &&
      only_once "$file" access-control-allow-origin || return
  done
}
# page CURL-ARGUMENTS…: what a page of the allowed origin is answered, in $web/page.
page() { curl -ski --max-time 5 -o "$web/page" -H "Origin: $origin" "$@"; }
reads_last() { page "$site/health" && readable "$web/page"; }
page_reads() {
  page "$site/metrics" && readable "$web/page" && page "http://127.0.0.1:$http/health" && readable "$web/page" &&
    page --http1.1 "$site/api/tasks" "${json[@]}" --data-binary @"$web/body.larger" && readable "$web/page" &&
    page "http://127.0.0.1:$https/" && readable "$web/page" && page -X TRACE "$site/" && readable "$web/page"
}
# The service's own answers have these headers from the service.
service_reads() {
  local path header
  for path in health api/tasks nowhere "api/tasks?limit=x"; do
    page "$site/$path" && once "$web/page" "access-control-allow-origin: $origin" && once "$web/page" 'vary: Origin' ||
      return
    for header in access-control-allow-origin vary x-request-id; do only_once "$web/page" $header || return; done
  done
}
others_read_not() {
  local other
  for other in null https://app.example.evil.example https://evil-app.example http://app.example https://other.example \
    https://app.example:8443 https://appXexample; do
    curl -ski -H "Origin: $other" "$site/metrics" >"$web/page" && grep -ix $'vary: origin\r' "$web/page" &&
      ! grep -i '^access-control' "$web/page" || return
  done
}
waits() {
  rm -f "$web"/many.* && curl -ski -o "$web/many.#1" -H "Origin: $origin" "$site/health?[1-300]"
  grep -lE '^HTTP/[0-9.]+ 429' "$web"/many.* >"$web/limited" && readable "$(head -n 1 "$web/limited")" &&
    once "$(head -n 1 "$web/limited")" 'retry-after: 1'
}
# preflights: 300 of them are answered, and leave the client all of its requests. One curl would send them in a second.
preflights() {
  local n
  for n in {1..300}; do
    printf '%s\n' "url = $site/api/tasks?$n" 'request = OPTIONS' "header = \"Origin: $origin\"" insecure silent \
      'header = "Access-Control-Request-Method: POST"' 'output = /dev/null' 'write-out = "%{http_code}\n"' next
  done >"$web/preflights"
  [ "$(curl -K "$web/preflights" | sort | uniq -c | xargs)" = '300 204' ] &&
    [ "$(curl -sk -o /dev/null -w '%{http_code}\n' "$site/health?[1-90]" | sort | uniq -c | xargs)" = '90 200' ]
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
check "nginx.conf: nginx reads it and says nothing against it" read_well
version=$(nginx -v 2>&1 | sed 's|.*/||')
check "nginx.conf: nor in the new way of nginx 1.25.1, as far as nginx $version can tell" read_anew
! new_nginx || conf=$web/new.conf
site 50
background socket systemd-socket-activate -l "127.0.0.1:$upstream" bash -c "$keep_serving" - "$web/service" "$taskapi"
until_true 5 answers "http://127.0.0.1:$upstream/health"
TZ=JST-9 background nginx nginx -e stderr -c "$web/nginx.conf"
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
check "nginx refuses a larger body" refuses_larger "$site/api/tasks" "${json[@]}" --data-binary @"$web/body.larger"
check "nginx refuses what is no HTTP, or none that it knows" refuses_nonsense
check "nginx refuses HTTP on the port of HTTPS" refuses 400 VALIDATION_ERROR "http://127.0.0.1:$https/health"
check "nginx refuses a path of 9000 letters" refuses_long
check "nginx refuses headers that the service would not take" refuses_headers
check "nginx refuses TRACE, and says what is allowed" refuses_trace
check "nginx does not answer by its page for refusals when it is asked for" refuses 404 NOT_FOUND "$site/refused"
check "nginx names the host for a client of HTTP/1.0" takes_http10
check "nginx.conf has a number for each month" months
check "a page of an allowed origin reads what nginx refuses" page_reads
check "it reads what the service says, and no header twice" service_reads
check "a page of another origin reads nothing" others_read_not
sleep 2.5
check "300 preflights leave the requests of their client alone" preflights
check "a client's X-Request-Id arrives in the answer and in both logs" handed_through
check "another X-Request-Id is replaced, and in both logs" replaced
check "past the limit nginx answers 429, and nothing else" limited
check "429 says when to come again" limited_politely
check "a page of an allowed origin reads that, too" waits

# restart [SIGNAL [NAME]]: asks the service to stop, as systemctl does, and waits for the next process to serve.
serves_anew() { [ "$(cat "$web/$3.pid")" != "$1" ] && [ "$(grep -c msg=serving "$web/$3.log")" -gt "$2" ]; }
restart() {
  local pid served name=${2:-service}
  pid=$(cat "$web/$name.pid")
  served=$(grep -c msg=serving "$web/$name.log")
  kill "-${1:-TERM}" "$pid" && until_true 20 serves_anew "$pid" "$served" "$name"
}

# The commands of the alerts about refused requests, on nginx's own log: the client's address, and not what a client writes.
refused() {
  local command
  command=$(sed -n "/alert: $1\$/,/contact:/p" "$deploy/alerts.yml" | grep -o 'sed -nE .* /var/log/nginx/taskapi.log') || return
  eval "${command/\/var\/log\/nginx\/taskapi.log/$web/access.log}" | sort -u
}
tells_address() {
  curl -sk --interface 127.0.0.2 -o /dev/null "$site/metrics"
  tls "GET /metrics?a remote=192.0.2.9 status=403 x HTTP/1.1\r\nHost: a\r\n\r\n"
  tls "GET /\"\x20status=403 HTTP/1.0\r\n\r\n"
  until_true 2 grep -F 127.0.0.2 "$web/access.log"
  refused TaskAPISecurityBurst >"$web/refused"
  cat "$web/refused"
  grep -x 127.0.0.2 "$web/refused" && ! grep -vE '^127\.0\.0\.[12]$' "$web/refused"
}
check "the alert's command on nginx's log names the client, and nobody whom a client names" tells_address

# A worker that goes closes the connections that its clients hold open, whatever they are about to send: the load begins
# when the old ones have gone.
site 1000000
workers=$(pgrep -P "$(cat "$work/nginx.pid")")
kill -HUP "$(cat "$work/nginx.pid")"
gone() { ! pgrep -P "$(cat "$work/nginx.pid")" | grep -xF "$workers"; }
serves_without_limit() { until_true 20 gone && hey -n 400 -c 4 "$site/health" | grep -E '^ *\[200\]\s+400 responses'; }
check "nginx takes another limit without a restart" serves_without_limit
created() { grep -c 'status=201' "$web/service.log"; }
before=$(created)
# 25 s of load, and more on a busy machine, until there were enough requests and restarts. ^C ends it in good order, also
# where the check itself runs in the background, where that is ignored.
background load env --default-signal=INT hey -z 150s -c 16 -m POST -T application/json -d '{"task_name":"a"}' "$site/api/tasks"
load=$!
restarts=0
sleep 1
enough=$((SECONDS + 24))
while restart >/dev/null && kill -0 $load 2>/dev/null; do
  restarts=$((restarts + 1))
  [ $SECONDS -lt $enough ] || [ $restarts -lt 10 ] || [ $(($(created) - before)) -lt 50000 ] || break
done
kill -INT $load
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
# The same with a data file: what was acknowledged is there at the end, also when the service was killed.
load_generator
# restarts SIGNAL SECONDS: as often as there is time for, and four times at least.
restarts() {
  local load end
  background load "$work/bin/load" -clients 16 -url "$site/api/tasks" -time 120s -out "$web/acknowledged.$1"
  load=$!
  restarts=0
  sleep 1
  end=$((SECONDS + $2 - 1))
  while kill -0 $load 2>/dev/null && restart "$1" kept >/dev/null; do
    restarts=$((restarts + 1))
    sleep 0.3
    [ $SECONDS -lt $end ] || [ $restarts -lt 4 ] || break
  done
  stop load
  cat "$work/load.log"
}
# Every answer was 201, and the file has that many tasks.
kept_by_restarts() {
  restarts TERM 12
  [ "$restarts" -ge 4 ] && [ "$(cat "$work/load.log")" = "201 $(wc -l <"$web/tasks")" ] &&
    kept "$web/acknowledged.TERM" "$web/tasks" && answered "$web/acknowledged.TERM" "$site/api/tasks"
}
kept_by_kills() {
  restarts KILL 8
  [ "$restarts" -ge 4 ] && kept "$web/acknowledged.KILL" "$web/tasks" && kept "$web/acknowledged.TERM" "$web/tasks" &&
    answered "$web/acknowledged.KILL" "$site/api/tasks"
}
background socket systemd-socket-activate -l "127.0.0.1:$upstream" bash -c "$keep_serving" - "$web/kept" "$taskapi" \
  -data-file "$web/tasks"
until_true 5 answers "http://127.0.0.1:$upstream/health"
check "restarts under load through nginx lose no task of the data file, and no answer" kept_by_restarts
check "kill -9 under load through nginx loses no task that was acknowledged" kept_by_kills
touch "$web/kept.stop"
kill -TERM "$(cat "$web/kept.pid")"
wait "$(cat "$work/socket.pid")"
rm "$work/socket.pid"
check "without a service nginx answers 502" refuses 502 UNAVAILABLE "$site/"
check "a page of an allowed origin reads that, too" reads_last
check "nginx stops" stop nginx
