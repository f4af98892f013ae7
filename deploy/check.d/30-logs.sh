# logrotate.conf and rsyslog.conf under load. Every request asks for a task with the next number in its name, so that its
# line in the log says which one it is, and nothing that is lost, torn or written twice stays hidden.
need logrotate rsyslog psmisc

port=$(free_port)
logs=$work/logs
mkdir -p "$logs/rotated" "$logs/filed"
chmod 755 "$logs" "$logs"/*

# load CLIENT: asks for task CLIENT-0-0000 and so on, until there is a file $logs/enough, and leaves the last number there.
load() {
  local batch=0
  while [ ! -e "$logs/enough" ] && [ $batch -lt 1000 ]; do
    curl -s -o /dev/null "http://127.0.0.1:$port/api/tasks/$1-$batch-[0000-0999]" || return
    echo $batch >"$logs/last-$1"
    batch=$((batch + 1))
  done
}

# under_load COMMAND…: runs COMMAND while four clients send requests.
under_load() {
  local client status
  rm -f "$logs"/last-* "$logs/enough"
  for client in 1 2 3 4; do background "client-$client" load $client; done
  "$@"
  status=$?
  for client in 1 2 3 4; do
    kill -0 "$(cat "$work/client-$client.pid")" || { echo "client $client ended early"; status=1; }
  done
  : >"$logs/enough"
  for client in 1 2 3 4; do
    wait "$(cat "$work/client-$client.pid")" || status=1
    rm "$work/client-$client.pid"
  done
  return $status
}

# complete FILE…: these files, compressed or not, have every number once, and nothing but whole lines. (No line may say that
# its request was slow, which would be at its end.)
complete() {
  local client
  zcat -f "$@" >"$logs/all"
  if grep -avP '^time=\S+ level=[A-Z]+ msg=.*[^ ]$' "$logs/all" | head -n 5 | grep .; then return 1; fi
  grep -aoP ' path=/api/tasks/\K\d-\d+-\d{4}(?= status=404 .* request_id=\S+$)' "$logs/all" | sort >"$logs/found"
  for client in 1 2 3 4; do
    seq 0 "$(cat "$logs/last-$client")" | sed "s/.*/$client-&-/"
  done | while read -r batch; do seq -f "$batch%04.0f" 0 999; done | sort | diff - "$logs/found"
}

# rules DIRECTORY OPTION…: the shipped rules for a log in DIRECTORY that is large already at 2 MB, on a host that has
# OPTION… for all logs.
rules() {
  printf '%s\n' "${@:2}" >"$1.conf"
  sed -e "s|^/var/log/taskapi/|$1/|" -e 's|maxsize 100M|maxsize 2M|' "$deploy/logrotate.conf" >>"$1.conf"
  logrotate -d "$1.conf" 2>&1 | grep -v 'in debug mode' | grep -iE '^(error|warning)' && return 1
  return 0
}
rotate() { logrotate -s "$1.state" "$1.conf"; }
rotated() { find "$1" -type f ! -name task_management.log | wc -l; }
large() { [ "$(stat -c %s "$1/task_management.log" 2>/dev/null || echo 0)" -gt $((2 << 20)) ]; }

# rotations DIRECTORY COUNT: rotates COUNT times, each time as soon as the log is large.
rotations() {
  local n
  for ((n = 1; n <= $2; n++)); do
    until_true 20 large "$1" && rotate "$1" && [ "$(rotated "$1")" -eq "$n" ] || return
  done
}

# whatever_else OPTION…: on a host that has OPTION… for all logs, every line is in one of the files, and the last ones
# are in the new file.
whatever_else() {
  local status
  variant=$logs/variant$((RANDOM))
  mkdir "$variant" && chmod 755 "$variant" && rules "$variant" "$@" || return
  background service "$taskapi" -addr "127.0.0.1:$port" -slow 1m -log-file "$variant/task_management.log"
  until_true 5 answers "http://127.0.0.1:$port/health" && under_load rotations "$variant" 2 &&
    complete "$variant"/* && [ -s "$variant/task_management.log" ]
  status=$?
  stop service
  ls -l "$variant"
  rm -rf "$variant"
  return $status
}

# says_why_not: without fuser, and where the old file is not to be found, the writer is not told; but somebody is.
says_why_not() {
  local script
  echo line >>"$1/task_management.log"
  if PATH=/nonexistent "$(command -v logrotate)" -f -s "$1.state" "$1.conf" >"$logs/said" 2>&1; then return 1; fi
  cat "$logs/said"
  grep 'fuser is missing (package psmisc): whoever writes ' "$logs/said" || return
  script=$(sed '1,/^\tpostrotate/d; /^\tendscript/,$d' "$deploy/logrotate.conf")
  if sh -c "$script" script "$1/other.log" >"$logs/said" 2>&1; then return 1; fi
  cat "$logs/said"
  grep "^$1/other.log.1 does not exist: whoever writes $1/other.log goes on" "$logs/said"
}

only_readable() { ! find "$1" -name 'task_management.log*' ! -perm 0640 | grep .; }
small_stays() { before=$(rotated "$1"); echo >>"$1/task_management.log" && rotate "$1" && [ "$(rotated "$1")" -eq "$before" ]; }
daily() {
  sed -i -E 's/ [0-9]{4}-[0-9-]+:/ 2001-1-1-0:/' "$1.state" && rotate "$1" && [ "$(rotated "$1")" -eq $((before + 1)) ]
}

check "logrotate.conf: logrotate has nothing against it" rules "$logs/rotated"
background service "$taskapi" -addr "127.0.0.1:$port" -slow 1m -log-file "$logs/rotated/task_management.log"
until_true 5 answers "http://127.0.0.1:$port/health"
check "ten rotations by size under load" under_load rotations "$logs/rotated" 10
check "they lose and tear none of $(zcat -f "$logs/rotated"/* | wc -l) lines" complete "$logs/rotated"/task_management.log*
check "old and new files have mode 0640" only_readable "$logs/rotated"
check "the log is not rotated twice a day while it is small" small_stays "$logs/rotated"
check "it is rotated once a day, however small" daily "$logs/rotated"
check "if the writer cannot be told to open a new file, logrotate says why" says_why_not "$logs/rotated"
stop service

# What other distributions, and their administrators, have in /etc/logrotate.conf.
mkdir "$logs/old"
whatever() { check "whatever is said for all logs: ${*//"$work/"/}" whatever_else "$@"; }
whatever weekly dateext
whatever dateext 'dateformat -%Y%m%d-%s' compress nodelaycompress
whatever 'start 0'
whatever "olddir $logs/old"
whatever compress nodelaycompress sharedscripts
whatever copytruncate
whatever copy nocreate
whatever renamecopy
whatever 'extension .log'
whatever 'addextension .old' 'size 1G' 'minsize 1G'

# rsyslogd with the shipped rule in front of one for everything, as Debian's rsyslog.conf has it.
sed -e "s|/var/log/taskapi/|$logs/filed/|" "$deploy/rsyslog.conf" >"$logs/rule.conf"
tcp=$(free_port)
cat >"$logs/rsyslog.conf" <<END
module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="$logs/syslog")
module(load="imtcp")
input(type="imtcp" Address="127.0.0.1" Port="$tcp")
include(file="$logs/rule.conf")
*.* $logs/rest
END

# A service as systemd starts it, with its standard error in the syslog, where the lines arrive as from the journal; and
# as it wrote them in $logs/written.
with_syslog() {
  exec "$taskapi" "$@" 2> >(tee "$logs/written" | logger --size 64KiB --socket "$logs/syslog" --tag taskapi --socket-errors=on)
}

# every_form: the same line is filed as it is, in whatever form it comes. (rsyslog reads its connections side by side, so
# their order is not part of it.)
every_form() {
  local line='time=2025-10-23T10:30:00Z level=INFO msg="x  y" last=  ' form
  local forms=('' --rfc3164 --rfc5424 '--rfc5424 --octet-count' '--rfc5424=notime --id' '--rfc5424=notq,nohost'
    '--rfc5424 --sd-id x@1 --sd-param a="b"')
  for form in "${forms[@]}"; do
    # shellcheck disable=SC2086 # these are options
    logger --server 127.0.0.1 --port "$tcp" --tcp --tag taskapi $form "$line" || return
  done
  logger --socket "$logs/syslog" --tag taskapi --id=12 "$line" && logger --socket "$logs/syslog" --tag taskapi '{"time":0}' ||
    return
  until_true 5 all_forms || return
  sleep 0.5 # nothing comes twice
  cat -A "$logs/filed/task_management.log"
  diff <(sort "$logs/filed/task_management.log") <(printf '%s\n' "${forms[@]/*/"$line"}" "$line" '{"time":0}' | sort)
}

all_forms() { [ "$(wc -l <"$logs/filed/task_management.log")" -ge $((${#forms[@]} + 2)) ]; }

# one_of_each: requests whose lines have the categories that need no waiting.
one_of_each() {
  local post=(curl -s -o /dev/null -H 'Content-Type: application/json' "http://127.0.0.1:$port/api/tasks")
  "${post[@]}" -d '{}'
  "${post[@]}" -d '{"task_name":"a\u0000b"}'
  "${post[@]}" -H 'Origin: https://elsewhere.example' -d '{"task_name":"a"}'
  head -c 70000 /dev/zero | "${post[@]}" --data-binary @-
}
all_filed() { cmp "$logs/written" <(printf '%s\n' "$logs/filed"/task_management.log* | sort -rV | xargs zcat -f); }
categories() {
  local category
  for category in VALIDATION ATTACK SECURITY PERFORMANCE; do
    grep -m 1 "level=WARNING .*category=$category\b" "$logs/filed/task_management.log" || return
  done
}
# whole_lines: rsyslog takes lines of 8 KiB. A path of 16,000 bytes, whatever is in it, leaves room for what follows.
whole_lines() {
  local text n=0 path
  for text in a %E4%BC%9A %01 %22 %5C %20= %C2%9B; do
    n=$((n + 1))
    path=$(printf "%$((16000 / ${#text}))s")
    [ "$(curl -s -o "$logs/answer" -w '%{http_code}' -H "X-Request-Id: long-$n" "http://127.0.0.1:$port/${path// /"$text"}")" = 404 ] &&
      until_true 5 grep -E "^time=.* request_id=long-$n .*category=PERFORMANCE\$" "$logs/filed/task_management.log" || return
    [ "$(grep "request_id=long-$n " "$logs/filed/task_management.log" | wc -c)" -lt 8192 ] &&
      grep "request_id=long-$n " "$logs/filed/task_management.log" | grep -F … || return
  done
}
others_elsewhere() {
  logger --socket "$logs/syslog" --tag other "not the service's" && until_true 5 grep other "$logs/rest" &&
    ! grep taskapi "$logs/rest" && ! grep "not the service's" "$logs/filed"/*
}

rules "$logs/filed"
check "rsyslog.conf: rsyslogd has nothing against it" rsyslogd -N1 -f "$logs/rsyslog.conf"
background rsyslog rsyslogd -n -i "$logs/rsyslog.pid" -f "$logs/rsyslog.conf"
until_true 5 test -S "$logs/syslog"
check "rsyslog files a line as it is, in the forms of RFC 3164 and RFC 5424" every_form
: >"$logs/filed/task_management.log"
background service with_syslog -addr "127.0.0.1:$port" -slow 0s
until_true 5 answers "http://127.0.0.1:$port/health"
one_of_each
check "rsyslog files the lines, with their categories" until_true 5 categories
check "a line about a path of 16,000 bytes arrives whole" whole_lines
check "three rotations by size under load, while rsyslog writes" under_load rotations "$logs/filed" 3
check "they lose and tear none of $(wc -l <"$logs/written") lines" until_true 20 all_filed
check "rsyslog's files have mode 0640" only_readable "$logs/filed"
check "other programs' lines go elsewhere, the service's nowhere else" others_elsewhere
stop service
check "rsyslogd stops" stop rsyslog
