# Both guides: every command block runs as it is written, on a throw-away host with a real systemd, or says in the line
# before it why not. The guides have the same blocks under the same headings, so that the English one speaks for both.
# MIGRATION.md's table of the replaced program's commands is run there as well.
# The packages are those that the guide says to install, and what else its commands and this part need.
# shellcheck disable=SC2046,SC1003 # these are packages
need systemd-container libnss-systemd supervisor apache2-utils bc net-tools $(sed -n '/^apt-get install /,/[^\\]$/p' "$deploy/OPERATIONS.md" |
  tr -d '\\' | xargs -n 1 | grep -vE '^(apt-get|install|-.*)$')

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

# --- The guide of the program that this service replaces ---

# It is not in the repository. Where it lies beside it, it is compared with what is listed here.
old_guide=${OLD_GUIDE:-$repo/../shared/GUIDE.ja.md}

# Its commands, to the letter, each once and in its order. ⏎ ends a line inside a command; indentation is left out.
cat >"$guides/listed" <<'END'
cd task_management
python -m venv venv
venv\Scripts\activate
source venv/bin/activate
pip install -r requirements.txt
python -c "from main import app; print('Import successful')"
python -c "⏎import asyncio⏎from infrastructure.repositories.task_repository_impl import TaskRepositoryImpl⏎repo = TaskRepositoryImpl()⏎print('Repository initialization successful')⏎"
python main.py
uvicorn main:app --host 0.0.0.0 --port 8000
curl http://localhost:8000/health
app.add_middleware(⏎CORSMiddleware,⏎allow_origins=["https://yourdomain.com"],  # 具体的なドメインを指定⏎allow_credentials=True,⏎allow_methods=["GET", "POST"],⏎allow_headers=["Content-Type", "Authorization"],⏎)
curl http://localhost:8000/health/detailed
curl http://localhost:8000/health/detailed | jq '.checks.system_resources'
curl http://localhost:8000/metrics
tail -f task_management.log
grep -i error task_management.log
ps aux | grep python | grep main.py
pkill -f "uvicorn main:app"
uvicorn main:app --host 127.0.0.1 --port 8000 --reload
curl http://localhost:8000/debug/storage
pip install -r requirements.txt --upgrade
pip install fastapi --upgrade
python -c "from main import app; print('Import test passed')"
health_monitor.sh
grep -E "(ERROR|CRITICAL)" task_management.log
grep -E "(SECURITY|VALIDATION|AUTHENTICATION)" task_management.log
grep -E "(SLOW|TIMEOUT|PERFORMANCE)" task_management.log
netstat -ano | findstr :8000
export PYTHONPATH="${PYTHONPATH}:$(pwd)"
curl http://localhost:8000/health/detailed | jq '.checks.system_resources.memory'
grep -i "slow\|timeout" task_management.log
tail -n 100 task_management.log
python -c "⏎from infrastructure.repositories.task_repository_impl import TaskRepositoryImpl⏎from infrastructure.events.event_publisher_impl import EventPublisherImpl⏎print('Dependencies OK')⏎"
python -O main.py
uvicorn main:app --workers 1 --worker-class uvicorn.workers.UvicornWorker
ulimit -n
ulimit -n 65536
ulimit -u
ab -n 1000 -c 10 http://localhost:8000/health
curl -w "@curl-format.txt" -o /dev/null -s http://localhost:8000/health
grep -E "(SECURITY|VALIDATION|ATTACK)" task_management.log
grep -E "429|403|401" task_management.log
END

# Its monitoring script.
cat >"$guides/health_monitor.sh" <<'END'
#!/bin/bash
# health_monitor.sh

ENDPOINT="http://localhost:8000/health/detailed"
THRESHOLD_CPU=80
THRESHOLD_MEMORY=80

response=$(curl -s $ENDPOINT)
status=$(echo $response | jq -r '.status')

if [ "$status" != "healthy" ]; then
    echo "ALERT: Application unhealthy - $response"
    # アラート送信処理
fi

cpu_usage=$(echo $response | jq -r '.checks.system_resources.cpu.usage_percent')
if (( $(echo "$cpu_usage > $THRESHOLD_CPU" | bc -l) )); then
    echo "ALERT: High CPU usage - $cpu_usage%"
fi
END
chmod 755 "$guides/health_monitor.sh"

# old_blocks LANGUAGE…: the code blocks of the old guide in these languages, without the indentation of the block; a
# line of \f ends each.
old_blocks() {
  awk -v languages=" $* " '
    /^ *```/ && !on { language = $1; sub(/^```/, "", language); indent = index($0, "`") - 1; on = 1; next }
    /^ *```$/ { on = 0; if (index(languages, " " language " ")) print "\f"; next }
    on && index(languages, " " language " ") { print substr($0, indent + 1) }' "$old_guide"
}

# old_commands: the commands of its bash blocks, line by line but for those that a quotation holds together; a script by
# its name; a Python block as a whole. Comments of whole lines are left out.
old_commands() {
  old_blocks bash python | awk '
    /^\f/ { if (command) print command; command = ""; script = quoted = 0; next }
    /^#!/ { script = 1; next }
    script == 1 && /^# / { print $2; script = 2 }
    script { next }
    !quoted && /^[ \t]*(#|$)/ { next }
    {
      sub(/^[ \t]+/, ""); command = command (command ? "⏎" : "") $0
      line = $0; if (gsub(/"/, "", line) % 2) quoted = !quoted
      if (!quoted && !python($0)) { print command; command = "" }
    }
    function python(line) { return command ~ /^app\./ && line != ")" }' | awk '!seen[$0]++'
}
old_script() { old_blocks bash | awk '/^\f/ { on = 0 } /^#!/ { on = 1 } on'; }

# table COLUMN: a column of MIGRATION.md's table, a cell a line. "|" inside a cell is written "\|" there.
table() {
  grep '^| ' "$deploy/MIGRATION.md" | tail -n +2 |
    sed 's/\\|/\x01/g' | awk -F ' *\\| *' -v column="$(($1 + 1))" '{ print $column }' | sed 's/\x01/|/g'
}

# spans: for each cell the code that it begins with, with ⏎ between its lines, or an empty line.
spans() {
  awk '{
    code = ""
    while (match($0, /^`[^`]+`/)) {
      code = code (code ? "⏎" : "") substr($0, 2, RLENGTH - 2)
      $0 = substr($0, RLENGTH + 1)
      if (!sub(/^<br>/, "")) break
    }
    print code
  }'
}

# rows COLUMN: "KIND COMMAND" for each cell of the column: RUN, FOREGROUND (it runs until it is stopped), NETWORK (it
# cannot be run here) or NOTHING.
# shellcheck disable=SC2016
rows() {
  paste -d '\n' <(table 1 | spans) <(table "$1" | spans) <(table "$1") | while IFS= read -r old && IFS= read -r new && IFS= read -r cell; do
    case $cell in
      '' | nothing*) echo "NOTHING $old" ;;
      'the same, until `^C`'*) echo "FOREGROUND $old" ;;
      'the same'*) echo "RUN $old" ;;
      *', until `^C`'*) echo "FOREGROUND $new" ;;
      *': needs the network'*) echo "NETWORK $new" ;;
      *) echo "RUN $new" ;;
    esac
  done
}

check "MIGRATION.md has every command of the old guide, in its order" diff "$guides/listed" <(table 1 | spans)
# shellcheck disable=SC2016
check "MIGRATION.md says for each what it is now" eval '! rows 2 | grep -E "^[A-Z]+ *$" && [ "$(rows 2 | wc -l)" -eq "$(wc -l <"$guides/listed")" ]'
if [ -e "$old_guide" ]; then
  check "the old guide has these commands and no other" diff <(old_commands) "$guides/listed"
  check "the old guide's health_monitor.sh is the one that is run here" diff <(old_script) "$guides/health_monitor.sh"
else
  skip "a comparison with the old guide itself" "it is not beside this repository"
fi

# Its headings, without their pictures, with plain brackets and one blank. What was for later is there now, and it is Go.
cat >"$guides/headings" <<'END'
## 概要
## デプロイメント手順
### ローカル環境でのデプロイメント
#### 前提条件
#### 手順
### 本番環境への対応
#### 推奨構成
#### セキュリティ設定
## 運用手順
### 日常運用チェック
#### 1. ヘルスチェック(推奨: 1日1回)
#### 2. システムリソース監視
#### 3. ログ確認
### メンテナンス手順
#### アプリケーション再起動
#### データ確認・クリア(開発・テスト用)
### アップデート手順
#### 1. 依存関係更新
#### 2. アプリケーション更新
## 監視・アラート
### 監視項目
#### システムメトリクス
#### アプリケーションメトリクス
#### 監視スクリプト例
### ログ監視
#### 重要ログパターン
## トラブルシューティング
### よくある問題と解決方法
#### 1. アプリケーション起動失敗
#### 2. メモリ不足
#### 3. レスポンス遅延
#### 4. ヘルスチェック失敗
### エラーログ分析
#### ログレベル別対応
## パフォーマンス最適化
### 推奨設定
#### Go設定
#### システム設定
### パフォーマンス測定
## セキュリティ
### セキュリティチェックリスト
#### 運用時
#### 監視
## エスカレーション
### 緊急時連絡先
### エスカレーション基準
END
old_headings() {
  grep -E '^#{2,4} ' "$old_guide" | sed -E 's/ (📋|🚀|🔧|📊|🚨|📈|🔒|📞) / /; s/（将来拡張用）//; s/Python設定/Go設定/; s/（/(/; s/）/)/'
}

# Its last chapter: whom to call, and when.
cat >"$guides/escalation" <<'END'
**レベル1**: 運用チーム
- **対象**: 軽微な問題、定期メンテナンス
- **連絡先**: operation-team@example.com
**レベル2**: 開発チーム
- **対象**: アプリケーションエラー、機能問題
- **連絡先**: task-management@example.com
**レベル3**: システム管理者
- **対象**: システム障害、セキュリティインシデント
- **連絡先**: sysadmin@example.com
**即座にレベル3エスカレーション**:
- アプリケーション完全停止
- セキュリティ侵害の疑い
- データ破損・消失
**レベル2エスカレーション**:
- エラー率 > 5 %
- レスポンス時間 > 1秒
- ヘルスチェック連続失敗
**レベル1対応**:
- CPU/メモリ使用率 > 80 %
- ログファイル増大
- 軽微な設定変更
END
old_escalation() { sed -n '/^## .*エスカレーション/,/^---/p' "$old_guide" | grep -E '^(\*\*|- )' | sed 's/%/ %/'; }

# has_all FILE GUIDE: the guide has all lines of FILE, in their order.
has_all() { ! diff "$1" <(awk '/^```/ { code = !code } !code' "$deploy/$2") | grep '^<'; }

# finds_chapters GUIDE: its table of contents has each chapter of the old guide by number and name, once, with a link.
finds_chapters() { diff <(sed -n 's/^## //p' "$guides/headings" | nl -w 1 -s ' ') <(sed -nE 's/^\| \[.*\]\(#.*\) \| .* \| ([1-8] .*) \|$/\1/p' "$deploy/$1" | sort); }
# contents GUIDE: and its own chapters, in their order.
contents() { diff <(sed -nE 's/^\| \[([^]]*)\]\(#.*/\1/p' "$deploy/$1") <(sed -n 's/^## //p' "$deploy/$1" | tail -n +2); }
# finds_headings: each heading of the old guide is one here, or stands in the table of contents.
finds_headings() {
  local heading
  while read -r _ heading; do
    # shellcheck disable=SC2001
    grep -qxE "#+ $(sed 's/[.()]/\\&/g' <<<"$heading")" "$deploy/OPERATIONS.ja.md" || grep '^| \[' "$deploy/OPERATIONS.ja.md" | grep -F "「$heading」" ||
      { echo "not found: $heading"; return 1; }
  done <"$guides/headings"
}
single() { ! awk '/^```/ { code = !code } !code && /^#/ { sub(/^#+ /, ""); print }' "$deploy/$1" | sort | uniq -d | grep .; }

for guide in OPERATIONS.md OPERATIONS.ja.md; do
  check "$guide: where each chapter of the old guide has gone" finds_chapters $guide
  check "$guide: its own chapters are in the table of contents" contents $guide
  check "$guide: no two headings are the same" single $guide
done
check "OPERATIONS.ja.md: where each heading of the old guide has gone" finds_headings
check "OPERATIONS.ja.md: contacts and criteria as in the old guide" has_all "$guides/escalation" OPERATIONS.ja.md
check "OPERATIONS.md: the same contacts" diff <(grep -o '[a-z-]*@example.com$' "$guides/escalation") <(sed -nE 's/^- \*\*contact\*\*: //p' "$deploy/OPERATIONS.md")
if [ -e "$old_guide" ]; then
  check "the old guide has these headings and no other" diff <(old_headings) "$guides/headings"
  check "the old guide has these contacts and criteria" diff <(old_escalation) "$guides/escalation"
fi

# Its greps, in two logs: that of a quiet day, and one with a line of each kind of trouble.
day=$guides/day
mkdir -p "$day"
api=http://127.0.0.1:$(free_port)

# serve FLAG…: a service on $api with its log in $day.
serve() {
  background day env -C "$day" "$taskapi" -addr "${api#http://}" -log-file task_management.log "$@"
  until_true 5 answers "$api/health"
}

# send REQUEST_ID CURL-ARGUMENTS…: a request whose line in the log can be found.
send() { curl -s -o /dev/null --max-time 30 -H "X-Request-Id: $1" -H 'Content-Type: application/json' "${@:2}"; }

# ordinary_traffic: all that a day without trouble has. A path that does not exist is part of it.
ordinary_traffic() {
  local path
  for path in / /health /health/liveness /health/readiness /health/detailed /metrics /debug/storage /nowhere; do send visit "$api$path"; done
  send visit -d '{"task_name": "会議資料の準備", "user_id": "user123"}' "$api/api/tasks?[1-5]"
  send visit "$api/api/tasks?limit=[1-5]"
  send visit -I "$api/health"
}

# trouble: one line of each kind, in two services; and one of a client that writes all the words into its path.
trouble() {
  echo secret >"$day/token"
  serve -token-file token -rate 1 -slow 1s
  local token='Authorization: Bearer secret' tasks=$api/api/tasks
  send no-token -d '{"task_name": "a"}' "$tasks"
  send bad-field -H "$token" -d '{"name": "a"}' "$tasks"
  send control -H "$token" -d '{"task_name": "a\u0000b"}' "$tasks"
  send foreign -H "$token" -H 'Origin: https://other.example' -d '{"task_name": "a"}' "$tasks"
  send liar "$api/ERROR,SECURITY,SLOW,401"
  (sleep 3 && echo '{"task_name": "a"}') | send late -H "$token" -X POST -T - "$tasks"
  send too-many -H "$token" -d '{"task_name": "a"}' "$tasks?[1-3]"
  sleep 12 | send patient -H "$token" -X POST -T - "$tasks"
  stop day
  serve -max-tasks 1
  send first -d '{"task_name": "a"}' "$api/api/tasks"
  send no-room -d '{"task_name": "a"}' "$api/api/tasks"
  stop day
}

# greps: the table's greps as "LITERAL<tab>EXACT", for a log in the current directory.
greps() { paste <(rows 2) <(rows 3) | sed -nE 's/^RUN (grep [^\t]*)\tRUN (grep .*)/\1\t\2/p' | sed 's|/var/log/taskapi/||g'; }
in_day() { (cd "$day" && eval "$1"); }

# finds_nothing COMMAND: of the log of a quiet day. The numbers of refused requests can be part of a port, a time or an
# id; so of the lines with one of them, none is that of a refused request.
finds_nothing() {
  case $1 in
    *'"429|403|401"'*) ! in_day "$1" | grep -E ' status=(429|403|401) ' ;;
    *) ! in_day "$1" ;;
  esac
}

# finds COMMAND REQUEST_ID…: these lines and no other. (By accident, any line may have the number of a refused request.)
finds() {
  printf '%s\n' "${@:2}" | sort >"$guides/wanted"
  in_day "$1" | grep -oP ' request_id=\K\S+' | sort -u >"$guides/found"
  case $1 in *'"429|403|401"'*) grep -xFf "$guides/wanted" "$guides/found" ;; *) cat "$guides/found" ;; esac | diff "$guides/wanted" -
}

serve -slow 10s -data-file tasks.jsonl
ordinary_traffic
stop day
serve -slow 10s -data-file tasks.jsonl
stop day
while IFS=$'\t' read -r literal exact <&3; do
  check "a quiet day: nothing from $literal" finds_nothing "$literal"
  check "a quiet day: nothing from $exact" finds_nothing "$exact"
done 3< <(greps)
check "the log of that day has its lines" grep -c request_id=visit "$day/task_management.log"
check "it says at each start how many tasks were read" grep -cE 'msg="[^"]*\<read\>[^"]*" .*\<tasks=[05] .*\<duration=' "$day/task_management.log"
check "the second time, that were all of them" grep -E 'msg="[^"]*\<read\>[^"]*" .*\<tasks=5 ' "$day/task_management.log"
rm "$day/task_management.log"
trouble
while read -r wanted <&4 && IFS=$'\t' read -r literal exact <&3; do
  # shellcheck disable=SC2086
  check "trouble: $exact finds $wanted" finds "$exact" $wanted
  # shellcheck disable=SC2086
  check "trouble: $literal finds them, too, and whoever writes such a word" finds "$literal" $wanted liar
done 3< <(greps) 4<<'END'
no-room
no-room
no-token bad-field foreign too-many
late patient
late patient
bad-field control foreign too-many
no-token foreign too-many
END

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
  failing_curl "$host/root"
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

# failing_curl ROOT: with CURL_HOME=/etc/failing-curl, curl on the host in ROOT fails when it gets an error.
failing_curl() { mkdir -p "$1/etc/failing-curl" && echo fail >"$1/etc/failing-curl/.curlrc"; }

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

# run FILE [VARIABLE=VALUE…]: runs a block; any command of it that fails is a failure. The text comes first in the output.
run() {
  cat "$1"
  echo '-- says --'
  on_host "${@:2}" timeout 120 bash -euo pipefail -c "$(cat "$1")"
}

# interrupt NAME: types ^C to what runs in the background until it is stopped; it must still run, and end then.
interrupt() {
  local pid
  cat "$work/$1.log"
  pid=$(cat "$work/$1.pid")
  kill -INT -- "-$pid" && until_true 15 gone "$pid" && return
  kill -KILL -- "-$pid"
  return 1
}
gone() { ! kill -0 "$1" 2>/dev/null; }

# start_foreground FILE: starts a block that runs until it is stopped.
start_foreground() { background foreground on_host HOST_PROC=/etc/calm-proc bash -euo pipefail -c "$(cat "$1")"; }

# run_rows COLUMN: runs a column of MIGRATION.md's table. A curl that gets an error fails; a grep may find nothing.
run_rows() {
  local kind command block what row=0 foreground=
  while read -r kind command <&3; do
    row=$((row + 1))
    block=$guides/MIGRATION.$1.$row
    what="MIGRATION.md: ${command//⏎/; }"
    echo "${command//⏎/$'\n'}" >"$block"
    case $kind in
      NETWORK) check "$what is a script, not run: it needs the network" bash -n "$block" ;;
      RUN)
        impossible "$block" && continue
        if [ "$1" = 2 ] && [[ $command == grep* ]]; then
          check "$what" run_grep "$block"
        else
          check "$what" run "$block" CURL_HOME=/etc/failing-curl
        fi
        if [[ $command == pkill* ]]; then
          check "$foreground has ended" until_true 15 gone "$(cat "$work/foreground.pid")"
          foreground=
        fi
        ;;
      FOREGROUND)
        if [[ $command == tail* ]]; then
          background follower on_host bash -c "$command"
          sleep 1
          check "$what runs until ^C" interrupt follower
        else
          [ -z "$foreground" ] || check "$foreground runs until ^C" interrupt foreground
          foreground=$what
          start_foreground "$block"
          until_true 60 on_host curl -fsS http://127.0.0.1:8000/health >/dev/null 2>&1
        fi
        ;;
    esac
  done 3< <(rows "$1")
  [ -z "$foreground" ] || check "$foreground runs until ^C" interrupt foreground
}
# impossible FILE: says that this machine cannot do what the block asks for, where its limit of open files is fixed.
impossible() {
  grep -qx 'ulimit -n 65536' "$1" && ! (ulimit -n 65536) 2>/dev/null &&
    skip "ulimit -n 65536" "the limit of this machine is $(ulimit -Hn), and not even root may raise it"
}
run_grep() { run "$1" || [ $? -eq 1 ]; }

# monitored STAT FLAG…: what the old guide's script says of a service with FLAG and these CPU times, after a task was
# created there. Both run here, but with the loopback of the host, where port 8000 is free.
monitored() {
  local proc=$guides/proc nspawn init network
  nspawn=$(cat "$work/host.pid")
  init=$(cat "/proc/$nspawn/task/$nspawn/children")
  network=(nsenter --target "${init%% *}" --net)
  mkdir -p "$proc"
  printf 'MemTotal: 100 kB\nMemFree: 50 kB\nMemAvailable: 50 kB\nBuffers: 0 kB\nCached: 0 kB\n' >"$proc/meminfo"
  if [ "$1" ]; then printf '%s %s\n' cpu "$1" cpu0 "$1" >"$proc/stat"; else rm -f "$proc/stat"; fi
  background monitored "${network[@]}" env HOST_PROC="$proc" "$taskapi" "${@:2}"
  until_true 5 "${network[@]}" curl -fsS http://localhost:8000/health
  "${network[@]}" curl -fsS -o "$guides/task" -H 'Content-Type: application/json' -d '{"task_name": "a"}' http://localhost:8000/api/tasks
  "${network[@]}" "$guides/health_monitor.sh" 2>&1 # it ends with the status of its last test
  stop monitored
}
# before BLOCK, after BLOCK: what is wrong on the host when the guide is opened at this block, and what is right again when
# its advice has been followed.
before() {
  case $(cat "$1") in
    line=2*) check "a damaged data file: the start ends, says which line, and changes nothing" damage ;;
    *'df -h /var/lib /var/log'*) check "a full disk: no task is taken, and readiness says so" fill_disk ;;
    evidence=*) check "a service that hangs: the evidence is collected all the same, within 40 seconds" hangs "$1" ;;
    'fuser -v'*) check "a second service with the same file ends with one line, which says so" is_second ;;
  esac
}
after() {
  case $(cat "$1") in
    *taskapi-backup*'wc -l'*) check "a disk that is full: the copy of last week stays, and nothing half" fills_backup ;;
    *'conf.d/taskapi.conf'*'nginx -t'*) check "nginx has nothing against it, and speaks HTTP/2" speaks_http2 ;;
    *hourly.conf*) check "the rotation is hourly, and not up to an hour late" rotates_hourly ;;
    *--checkend*) check "a certificate that ends within 30 days is noticed" ends_soon ;;
    line=2*systemctl*) check "the data file is whole again" whole ;;
    *tasks-replaced*)
      check "the restored file has its owner from there: systemd does not correct it" needs_owner
      check "a file that was removed under the service: written down and restored, it has every task" removed "$1"
      ;;
    *'df -h /var/lib /var/log'*)
      check "the log has one line of level CRITICAL about it" one_critical
      check "room and a restart: it takes tasks again, and none is lost" make_room
      ;;
  esac
}
# with BACKUP BLOCK: the block, with BACKUP instead of the newest one.
with() { sed "s|^backup=.*|backup=$1|" "$2" >"$guides/with" && run "$guides/with"; }
# removed RESTORE: as the guide says under "deleted, replaced or changed": no restart, the tasks are written down, then restored.
removed() {
  local before
  on_host rm "$data" && until_true 10 ready 503 || return
  before=$(stored)
  run "$(grep -l before-restart "$guides"/OPERATIONS.md.*)" && with /var/backups/taskapi/before-restart.jsonl "$1" || return
  echo "$before tasks before, $(stored) now"
  [ "$before" -gt 0 ] && [ "$(stored)" -ge "$before" ]
}
# fills_backup: the line of cron, on a disk without room and on one that has some.
by_cron() {
  local line
  line=$(on_host sed -n 's/^17 3 \* \* \* root //p' /etc/cron.d/taskapi-backup)
  on_host sh -c "${line//\\%/%}"
}
fills_backup() {
  local left
  on_host mount -t tmpfs -o size=16k tmpfs /var/backups/taskapi
  # shellcheck disable=SC2016
  on_host bash -c 'cd /var/backups/taskapi && echo good >tasks-$(date +%a).jsonl; cat /dev/zero >full'
  by_cron
  left=$(on_host bash -c 'cd /var/backups/taskapi && rm full && ls && cat *')
  on_host umount /var/backups/taskapi
  echo "$left"
  # shellcheck disable=SC2016
  [ "$left" = "tasks-$(on_host date +%a).jsonl"$'\ngood' ] && by_cron && on_host bash -c '
    cd /var/backups/taskapi && [ ! -e new ] && [ -s tasks-$(date +%a).jsonl ] && cat tasks-$(date +%a).jsonl | cmp -n $(stat -c %s tasks-$(date +%a).jsonl) - '"$data"
}
# hangs EVIDENCE: the service answers nothing. What there is, is in the archive, and what there is not, too.
hangs() {
  local began=$SECONDS
  on_host systemctl kill --kill-whom=main --signal=STOP taskapi.service
  # shellcheck disable=SC2016
  run "$1" && [ $((SECONDS - began)) -le 40 ] && on_host bash -c 'cd /var/backups/taskapi && tar -xzOf "$(ls evidence-*.tar.gz | tail -n 1)" --wildcards "*/journal.txt" "*/missing.txt"' >"$guides/evidence"
  on_host systemctl kill --kill-whom=main --signal=CONT taskapi.service
  grep -c msg=serving "$guides/evidence" && grep -x 'no health.json' "$guides/evidence" && on_host bash -c 'rm -r /var/backups/taskapi/evidence-*' &&
    until_true 10 ready 200
}
is_second() { ! on_host timeout 20 taskapi -addr 127.0.0.1:8001 -data-file "$data" >"$guides/second" 2>&1 && cat "$guides/second" && grep 'another process has it' "$guides/second" && ready 200; }
rotates_hourly() {
  on_host systemctl show -p TimersCalendar -p RandomizedDelayUSec logrotate.timer | tee "$guides/timer"
  grep -x 'RandomizedDelayUSec=0' "$guides/timer" && [ "$(grep -c ^TimersCalendar "$guides/timer")" -eq 1 ] && grep -F '*-*-* *:00:00' "$guides/timer"
}
speaks_http2() {
  local said
  said=$(on_host nginx -t -q 2>&1)
  echo "$said"
  [ -z "$said" ] && [ "$(on_host curl -sk -o /dev/null -w '%{http_version}' https://127.0.0.1/health)" = 2 ]
}
ends_soon() {
  on_host openssl req -x509 -newkey rsa:2048 -nodes -days 29 -subj /CN=a -keyout /dev/null -out /tmp/soon.pem 2>/dev/null
  ! on_host openssl x509 -checkend 2592000 -noout -in /tmp/soon.pem
}
data=/var/lib/taskapi/tasks.jsonl
halt() { on_host systemctl stop taskapi.socket taskapi.service; }
damage() {
  local sum
  halt
  on_host sed -i '2s/.*/{"task_id": "damaged/' "$data"
  sum=$(on_host md5sum "$data")
  began=$(on_host date +%s)
  on_host systemctl start taskapi.socket taskapi.service # it fails, and is started again and again
  until_true 5 on_host journalctl -u taskapi.service --since "@$began" -q --grep "tasks\.jsonl.*line 2\b" &&
    [ "$(on_host md5sum "$data")" = "$sum" ]
}
needs_owner() {
  halt
  on_host chown root:root "$data"
  began=$(on_host date +%s)
  on_host systemctl start taskapi.socket taskapi.service
  until_true 5 on_host journalctl -u taskapi.service --since "@$began" -q --grep "tasks\.jsonl: permission denied" || return
  halt
  on_host chown --reference=/var/lib/taskapi/ "$data" && on_host systemctl start taskapi.socket taskapi.service && ready 200
}
whole() { on_host jq -c 'select(.task_id == "")' "$data" && on_host systemctl is-active taskapi.service; }
ready() { [ "$(on_host curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8000/health/readiness)" = "$1" ]; }
stored() { on_host curl -s http://127.0.0.1:8000/metrics | sed -n 's/^tasks_stored //p'; }
fill_disk() {
  halt
  on_host mount -t tmpfs -o size=8k,mode=0700 tmpfs /var/lib/private/taskapi
  began=$(on_host date +%s)
  on_host systemctl start taskapi.socket taskapi.service && until_true 60 ready 503 &&
    on_host curl -s http://127.0.0.1:8000/health/detailed | jq -e '.checks.storage | .status == "unhealthy" and .reason != null'
}
one_critical() { [ "$(on_host journalctl -u taskapi.service --since "@$began" -q -o cat --grep level=CRITICAL | tee /dev/stderr | wc -l)" -eq 1 ]; }
make_room() {
  local before status
  before=$(stored)
  on_host mount -o remount,size=1m /var/lib/private/taskapi && on_host systemctl restart taskapi.service && ready 200 &&
    echo "$before tasks before, $(stored) now" && [ "$before" -gt 0 ] && [ "$(stored)" -ge "$before" ]
  status=$?
  halt
  on_host umount /var/lib/private/taskapi
  on_host systemctl start taskapi.socket taskapi.service && return $status
}

calm='10 0 10 80 0 0 0 0 0 0'
says_nothing() { [ -z "$(monitored "$calm")" ]; }
says_only() { local said; said=$(monitored "${@:2}"); echo "$said"; [ "$(wc -l <<<"$said")" -eq 1 ] && grep -E "$1" <<<"$said"; }

for guide in OPERATIONS.md OPERATIONS.ja.md; do
  check "$guide: well formed" parse "$guide"
  check "$guide: all relative links resolve" links "$guide"
  check "$guide: explains every alert" explains "$guide"
done
check "both guides have the same command blocks, in the same sections" same_commands
# shellcheck disable=SC2016
check "every silence of an alert ends by itself" eval '! grep -h "silence add" "$deploy"/OPERATIONS*.md | grep -v -e " --duration=[0-9]*m "'
# silences_known: amtool takes any name, so that a misspelled one would be noticed by who is woken up.
silences_known() {
  grep -h 'silence add' "$deploy"/OPERATIONS*.md | grep -o 'TaskAPI[A-Za-z]*' | sort -u >"$guides/silenced"
  cat "$guides/silenced"
  [ -s "$guides/silenced" ] && ! sed -nE 's/^ *- alert: (\w+).*/\1/p' "$deploy/alerts.yml" | sort | comm -23 "$guides/silenced" - | grep .
}
check "every silence is for an alert that there is" silences_known

export -f host calm_readings failing_curl
export host repo goroot modules cache
if ! unshare --mount --propagation private bash -c 'host true' >"$work/host.log" 2>&1; then
  skip "the guides' command blocks" "they need root and systemd-nspawn: $(tail -n 1 "$work/host.log")"
  return 0
fi
background host unshare --mount --propagation private bash -c 'host --boot'
check "the throw-away host boots" until_true 30 on_host systemctl is-active multi-user.target || return

check "the old guide's health_monitor.sh says nothing of a healthy service" says_nothing
check "it tells of a service that is unhealthy: a full store" says_only '^ALERT: Application unhealthy - \{"status":"unhealthy"' "$calm" -max-tasks 1
check "it tells of a service that is unhealthy: a reading that fails" says_only '^ALERT: Application unhealthy - \{"status":"unhealthy"' ''
check "it tells of a service on a busy host" says_only '^ALERT: High CPU usage - 95%$' '90 0 5 5 0 0 0 0 0 0'

# There is always a client, so that there is something to see.
# shellcheck disable=SC2016
background client on_host bash -c 'while sleep 0.05; do
  curl -s -o /dev/null -H "Authorization: Bearer $(cat /etc/taskapi/token)" --json "{\"task_name\": \"a client\"}" http://127.0.0.1:8000/api/tasks
done'

# as_a_host_meets_them: what the guide begins with, the trouble of a night, needs a host that is installed and in operation.
as_a_host_meets_them() {
  awk '/^## / { chapter = substr($0, 4 + length($2) + 1) } { print > ("'"$guides/chapter."'" (chapter ~ /^Deployment$/ ? 1 : chapter ~ /^(Operation|Monitoring and alerts)$/ ? 2 : 3)) }' "$guides/OPERATIONS.md" &&
    cat "$guides"/chapter.[123]
}

run_rows 2
foreground=
while read -r kind line rest <&3; do
  block=$guides/OPERATIONS.md.$line
  what="OPERATIONS.md:$line $(head -n 1 "$block" 2>/dev/null)"
  case $kind in
    '#'*) [ -z "$foreground" ] || check "$foreground runs until ^C" interrupt foreground; foreground= ;;
    NOT) check "$what is a script, not run: $rest" bash -n "$block" ;;
    RUN)
      impossible "$block" && continue
      before "$block"
      check "$what" run "$block"
      after "$block"
      ;;
    FOREGROUND)
      foreground=$what
      start_foreground "$block"
      until_true 60 on_host curl -fsS http://127.0.0.1:8000/health >/dev/null 2>&1
      ;;
  esac
done 3< <(as_a_host_meets_them)
run_rows 3
# The client has to end first: the container cannot, with a process in it that was not started there.
kill -KILL -- "-$(cat "$work/client.pid")" && wait "$(cat "$work/client.pid")" 2>/dev/null
stop host || : # the status is systemd-nspawn's own matter
