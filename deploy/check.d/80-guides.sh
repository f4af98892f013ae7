# Both guides: every command block runs as it is written, on a throw-away host with a real systemd, or says in the line
# before it why not. The guides have the same blocks under the same headings, so that the English one speaks for both.
need systemd-container openssl apache2-utils nginx-light rsyslog logrotate psmisc supervisor prometheus prometheus-alertmanager

guides=$work/guides
host=$work/host
mkdir -p "$guides" "$host"/{memory,root}
{ read -r goroot; read -r modules; read -r cache; } < <(go env -C "$repo" GOROOT GOMODCACHE GOCACHE)

# parse GUIDE: lists the headings ("## 12 title") and the blocks ("RUN 15", "FOREGROUND 20", "NOT 31 reason") with their
# lines, and stores the text of each block in $guides/GUIDE.LINE. Output that the guide shows is fenced as text or json.
parse() {
  awk -v store="$guides/$1." '
    in_block && /^```$/ { in_block = 0; before = ""; next }
    in_block { if (file) print > file; next }
    /^#+ / { level = $1; sub(/^#+ /, ""); print level, NR, $0 }
    /^```sh$/ {
      in_block = 1; file = store NR; printf "" > file
      if (before ~ /^<!-- not run: .+ -->$/) { gsub(/^<!-- not run: | -->$/, "", before); print "NOT", NR, before }
      else if (before ~ /^<!-- runs until stopped/) print "FOREGROUND", NR
      else print "RUN", NR
    }
    /^ *(```|~~~)/ && !in_block { if (/^```(text|json)$/) { in_block = 1; file = "" } else print "MALFORMED", NR, $0 }
    { before = $0 }
  ' "$deploy/$1" >"$guides/$1"
  ! grep MALFORMED "$guides/$1"
}

# commands GUIDE: what both guides must have in common, that is all but titles, reasons and line numbers.
commands() {
  local kind line
  while read -r kind line _; do
    echo "$kind"
    [[ $kind == '#'* ]] || cat "$guides/$1.$line"
  done <"$guides/$1"
}

same_commands() { diff <(commands OPERATIONS.md) <(commands OPERATIONS.ja.md); }

# links GUIDE: each relative link leads to a file, and to a heading in it if it has a #fragment.
links() {
  local target path status=0
  while read -r target; do
    path=${target%%#*}
    path=$deploy/${path:-$1}
    if [ ! -e "$path" ]; then
      echo "no such file: $target" && status=1
    elif [[ $target == *'#'* ]] && ! anchors "$path" | grep -qxF "${target#*#}"; then
      echo "no such heading: $target" && status=1
    fi
  done < <(awk '/^```/ { code = !code } !code' "$deploy/$1" | grep -oP '\]\(\K(?!https?:)[^)]+')
  return $status
}

# anchors FILE: its headings as the fragments that Markdown viewers make of them.
anchors() { sed -nE 's/^#+ //p' "$1" | tr '[:upper:]' '[:lower:]' | sed 's/[^[:alnum:] _-]//g; s/ /-/g'; }

# explains GUIDE: the guide has one heading for each alert of the rules, and none for an alert that is not there.
explains() { diff <(sed -nE 's/^ *- alert: (\w+).*/\1/p' "$deploy/alerts.yml" | sort) <(sed -nE 's/^#+ (TaskAPI\w+).*/\1/p' "$deploy/$1" | sort); }

# host: this machine's own Debian booted in a container. All writes stay in memory, no service of the machine starts, and
# its loopback is its own, so that port 8000 is free. The go command finds here what has been downloaded already.
host() {
  mount -t tmpfs tmpfs "$host/memory" && mkdir "$host/memory"/{new,work} &&
    mount -t overlay overlay -o "lowerdir=/,upperdir=$host/memory/new,workdir=$host/memory/work" "$host/root" || return
  rm -f "$host/root/etc/systemd/system"/*.target.wants/*
  rm -rf "$host/root/opt/taskapi" "$host/root/var/log/taskapi"
  cp -a --no-preserve=ownership "$repo" "$host/root/opt/taskapi" && chmod 755 "$host/root/opt/taskapi"
  # The site's Alertmanager and Supervisor run there already.
  echo 'ARGS="--cluster.listen-address="' >"$host/root/etc/default/prometheus-alertmanager"
  ln -s /lib/systemd/system/{prometheus-alertmanager,supervisor}.service "$host/root/etc/systemd/system/multi-user.target.wants/"
  calm_readings "$host/root"
  exec systemd-nspawn --quiet --register=no --keep-unit --private-network --link-journal=no --console=pipe \
    --machine=taskapi-guides --directory="$host/root" --bind-ro="$goroot" --bind-ro="$modules" --bind="$cache" "$@"
}

# calm_readings ROOT: the check itself keeps the CPUs busy, which health_monitor.sh would warn of. On the host in ROOT, the
# unit reads 20 % CPU and 50 % memory from a file.
calm_readings() {
  local proc=$1/etc/calm-proc unit=$1/etc/systemd/system/taskapi.service.d
  mkdir -p "$proc" "$unit"
  printf '%s 10 0 10 80 0 0 0 0 0 0\n' cpu cpu0 >"$proc/stat"
  printf 'MemTotal: 1000 kB\nMemFree: 500 kB\nMemAvailable: 500 kB\nBuffers: 0 kB\nCached: 0 kB\n' >"$proc/meminfo"
  printf '[Service]\nEnvironment=HOST_PROC=/etc/calm-proc\n' >"$unit/calm.conf"
}

# on_host COMMAND…: runs COMMAND there, in the checkout, with the environment of a login and no other; ^C works there even
# if the check itself runs in the background, where it is ignored.
on_host() {
  local nspawn init
  nspawn=$(cat "$work/host.pid")
  init=$(cat "/proc/$nspawn/task/$nspawn/children")
  nsenter --target "${init%% *}" --all env -i --default-signal=INT --chdir=/opt/taskapi HOME=/root LANG=C.UTF-8 \
    PATH="$goroot/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
    GOTOOLCHAIN=local GOPROXY=off GOMODCACHE="$modules" GOCACHE="$cache" "$@"
}

# run FILE: runs a block; any command of it that fails is a failure. The text comes first in the output.
run() {
  cat "$1"
  echo '-- says --'
  on_host timeout 120 bash -euo pipefail -c "$(cat "$1")"
}

# interrupt: types ^C to the block that runs until it is stopped; it must still run, and end then.
interrupt() {
  local pid
  cat "$work/foreground.log"
  pid=$(cat "$work/foreground.pid")
  kill -INT -- "-$pid" && until_true 15 gone "$pid" && return
  kill -KILL -- "-$pid"
  return 1
}
gone() { ! kill -0 "$1" 2>/dev/null; }

for guide in OPERATIONS.md OPERATIONS.ja.md; do
  check "$guide: well formed" parse "$guide"
  check "$guide: all relative links resolve" links "$guide"
  check "$guide: explains every alert" explains "$guide"
done
check "both guides have the same command blocks, in the same sections" same_commands

export -f host calm_readings
export host repo goroot modules cache
if ! unshare --mount --propagation private bash -c 'host true' >"$work/host.log" 2>&1; then
  skip "the guides' command blocks" "they need root and systemd-nspawn: $(tail -n 1 "$work/host.log")"
  return 0
fi
background host unshare --mount --propagation private bash -c 'host --boot'
check "the throw-away host boots" until_true 30 on_host systemctl is-active multi-user.target || return

# There is always a client, so that there is something to see.
# shellcheck disable=SC2016
background client on_host bash -c 'while sleep 0.05; do
  curl -s -o /dev/null -H "Authorization: Bearer $(cat /etc/taskapi/token)" --json "{\"task_name\": \"a client\"}" http://127.0.0.1:8000/api/tasks
done'

foreground=
while read -r kind line rest <&3; do
  block=$guides/OPERATIONS.md.$line
  what="OPERATIONS.md:$line $(head -n 1 "$block" 2>/dev/null)"
  case $kind in
    '#'*) [ -z "$foreground" ] || check "$foreground runs until ^C" interrupt; foreground= ;;
    NOT) check "$what is a script, not run: $rest" bash -n "$block" ;;
    RUN) check "$what" run "$block" ;;
    FOREGROUND)
      foreground=$what
      background foreground on_host bash -euo pipefail -c "$(cat "$block")"
      until_true 60 on_host curl -fsS http://127.0.0.1:8000/health >/dev/null 2>&1
      ;;
  esac
done 3<"$guides/OPERATIONS.md"
# The client has to end first: the container cannot, with a process in it that was not started there.
kill -KILL -- "-$(cat "$work/client.pid")" && wait "$(cat "$work/client.pid")" 2>/dev/null
stop host || : # the status is systemd-nspawn's own matter
