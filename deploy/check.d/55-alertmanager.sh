# alertmanager.yml: what Alertmanager says of it, and mails that arrive: from the kill -9 of the real service through a real
# Prometheus and a real Alertmanager, with the shipped files, to the mailbox of the level's contact.
need prometheus prometheus-alertmanager

# mail_server: builds $work/bin/mail-server. On ADDRESS it takes whatever mail it is given, and writes it to a file of its
# own in DIRECTORY: "To: " and whom it was handed over for, "Subject: …", an empty line, and the text as it was meant.
mail_server() {
  mkdir -p "$work/mail-server" && cat >"$work/mail-server/main.go" <<'GO' && go build -o "$work/bin/mail-server" "$work/mail-server/main.go"
package main

import (
	"fmt"
	"io"
	"log"
	"mime"
	"mime/multipart"
	"net"
	"net/mail"
	"net/textproto"
	"os"
	"strings"
	"sync/atomic"
)

var mails atomic.Int64

func main() {
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go serve(textproto.NewConn(conn))
	}
}

// serve has one conversation of RFC 5321.
func serve(conn *textproto.Conn) {
	defer conn.Close()
	conn.PrintfLine("220 ready")
	var to []string
	for {
		line, err := conn.ReadLine()
		if err != nil {
			return
		}
		switch command := strings.ToUpper(line); {
		case strings.HasPrefix(command, "RCPT TO:"):
			to = append(to, strings.Trim(line[len("RCPT TO:"):], "<> "))
			conn.PrintfLine("250 so be it")
		case command == "DATA":
			conn.PrintfLine("354 go on")
			if err := keep(to, conn.DotReader()); err != nil {
				log.Print(err)
			}
			to = nil
			conn.PrintfLine("250 kept")
		case command == "QUIT":
			conn.PrintfLine("221 bye")
			return
		default:
			conn.PrintfLine("250 so be it")
		}
	}
}

// keep writes a mail of one part to a file, under its last name when it is whole.
func keep(to []string, text io.Reader) error {
	m, err := mail.ReadMessage(text)
	if err != nil {
		return err
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
	if err != nil {
		return err
	}
	_, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil {
		return err
	}
	part, err := multipart.NewReader(m.Body, params["boundary"]).NextPart() // decodes quoted-printable
	if err != nil {
		return err
	}
	body, err := io.ReadAll(part)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("%s/%03d", os.Args[2], mails.Add(1))
	all := fmt.Sprintf("To: %s\nSubject: %s\n\n%s", strings.Join(to, " "), subject, body)
	if err := os.WriteFile(name+".part", []byte(all), 0o600); err != nil {
		return err
	}
	return os.Rename(name+".part", name)
}
GO
}

# contact LEVEL: the address that the alerts of this level name.
contact() { sed -nE "s/^ *contact: \"level-$1: .* ([^ ]+)\"$/\1/p" "$deploy/alerts.yml" | sort -u; }
goes_to() { amtool config routes test --config.file="$deploy/alertmanager.yml" --verify.receivers="$1" "${@:2}" job=taskapi instance=a; }

# mailed LEVEL PATTERN…: the contact of LEVEL, and nobody else, has got a mail in which each PATTERN (a fixed text) stands.
# The last one that is looked at is shown.
mailed() {
  local mail pattern
  for mail in "$mails"/???; do
    [ "$(head -n 1 "$mail")" = "To: $(contact "$1")" ] || continue
    for pattern in "${@:2}"; do grep -qF -- "$pattern" "$mail" || continue 2; done
    cat "$mail"
    return
  done
  cat "$mail"
  return 1
}
# count LEVEL: how many mails its contact has got.
count() { grep -lxF "To: $(contact "$1")" "$mails"/??? | wc -l; }

# goes_on LEVEL, held_back LEVEL: within six seconds, in which a mail is repeated twice, there is another one, or none.
goes_on() { local before; before=$(count "$1") && sleep 6 && echo "$before, $(count "$1")" && [ "$(count "$1")" -gt "$before" ]; }
held_back() {
  curl -fsS "http://$alertmanager/api/v2/alerts?active=false" | jq -c '.[] | {labels, status}' &&
    sleep 2 && ! goes_on "$1"
}

# no_guide: the label with the guide's address reaches the texts of the alerts, and not their labels.
no_guide() { curl -fsS "http://$alertmanager/api/v2/alerts" | jq -e 'length > 0 and all(.[]; .labels | has("guide") | not)'; }

check "amtool: the configuration" amtool check-config "$deploy/alertmanager.yml"
for level in 1 2 3; do
  check "amtool: level $level has a route of its own" goes_to "level-$level" "level=$level"
done
check "amtool: what has no level goes to level 3" goes_to level-3

service=127.0.0.1:$(free_port)
prometheus=127.0.0.1:$(free_port)
alertmanager=127.0.0.1:$(free_port)
smtp=127.0.0.1:$(free_port)
mails=$work/mails
night=$work/night
mkdir "$mails" "$night"
# What differs from the shipped files: addresses, and times in which nobody would want to wait here.
sed -e "s/127.0.0.1:8000/$service/; s/127.0.0.1:9093/$alertmanager/" \
  -e 's/interval: 15s/interval: 1s/; s/timeout: 5s/timeout: 1s/' "$deploy/prometheus.yml" >"$night/prometheus.yml"
sed -e 's/interval: 1m/interval: 1s/; s/ for: [0-9]*[mh]/ for: 1s/; s/ \* 15 / * 1 /; s/offset 30s/offset 3s/' \
  "$deploy/alerts.yml" >"$night/alerts.yml"
sed -e "s/127.0.0.1:25\b/$smtp/; s/_interval: .*/_interval: 2s/; s/group_wait: .*/group_wait: 1s/" \
  -e 's/^  group_by: .*/&\n  group_wait: 1s\n  group_interval: 2s/' "$deploy/alertmanager.yml" >"$night/alertmanager.yml"

# A calm host: its readings are to alert nobody.
printf '%s 10 0 10 80 0 0 0 0 0 0\n' cpu cpu0 >"$night/stat"
printf 'MemTotal: 100 kB\nMemFree: 50 kB\nMemAvailable: 50 kB\nBuffers: 0 kB\nCached: 0 kB\n' >"$night/meminfo"
start_service() { background target env HOST_PROC="$night" "$taskapi" -addr "$service" -max-tasks 1 -disk-path "$night"; }
fill() { curl -fsS -H 'Content-Type: application/json' -d '{"task_name": "the last one"}' "http://$service/api/tasks"; }

check "a mail server builds" mail_server
background mail "$work/bin/mail-server" "$smtp" "$mails"
background alertmanager prometheus-alertmanager --config.file "$night/alertmanager.yml" --storage.path "$night/alertmanager" \
  --web.listen-address "$alertmanager" --cluster.listen-address=
start_service
check "the service takes a task, and is full" until_true 10 fill
background prometheus prometheus --config.file "$night/prometheus.yml" --storage.tsdb.path "$night/data" \
  --web.listen-address "$prometheus"
check "a full store is a mail to level 1" until_true 30 \
  mailed 1 "Subject: [level 1] taskapi $service firing: TaskAPIStoreFilling" "the store is 100% full"
check "its failing health check is a mail to level 2" until_true 30 \
  mailed 2 "Subject: [level 2] taskapi $service firing: TaskAPIHealthFailing" "http://$service/health/detailed | jq .checks"
check "as long as nobody does anything, level 2 gets another one" goes_on 2
check "the address of the guide is no label" no_guide
pid=$(cat "$work/target.pid")
kill -KILL "$pid" && wait "$pid" 2>/dev/null
# shellcheck disable=SC2016
check "kill -9: level 3 gets a mail that says what to do first, and where to read on" until_true 30 \
  mailed 3 "Subject: [level 3] taskapi $service firing: TaskAPIDown" "First:   systemctl status taskapi.socket taskapi.service; " \
  "Guide:   $(sed -n 's/^ *guide: //p' "$deploy/prometheus.yml")#taskapidown" "Contact: level-3: システム管理者 $(contact 3)"
check "as long as it is down, level 2 is left alone" held_back 2
start_service
check "when it is there again, level 3 hears of it" until_true 30 mailed 3 "TaskAPIDown, resolved since"
check "and level 2 of the restart, with the command that shows its cause" until_true 30 \
  mailed 2 "TaskAPIRestarted, firing since" "journalctl -u taskapi.service _PID=1 -n 20"
stop prometheus
stop alertmanager
stop target
stop mail || : # it ends by the signal
