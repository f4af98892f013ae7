#!/usr/bin/env bash
# Proves every file of this folder with the real program that reads it, on loopback, with temporary folders and
# free ports. Prints one line a check and the seconds of each part, and closes with "N passed, N failed". The exit status
# is 0 if every check and every part has passed, 1 if any failed, 2 for a part that there is not, and 130 after ^C or SIGTERM.
#
#   deploy/check.sh              everything
#   deploy/check.sh nginx logs   only these parts: the names in check.d without their number
#
# A part is a file in check.d that is sourced here, in a subshell of its own, and calls the functions below. One in which
# nothing has passed has failed: it has proved nothing. As root on Debian a part installs what it misses; elsewhere a
# missing program is a failed check.
set -u -o pipefail

deploy=$(cd "$(dirname "$0")" && pwd)
repo=$(dirname "$deploy")
for name in "$@"; do
  compgen -G "$deploy/check.d/[0-9][0-9]-$name.sh" >/dev/null || { echo "check.sh: there is no part $name" >&2; exit 2; }
done
work=$(mktemp -d /tmp/taskapi-check.XXXXXX)
chmod 755 "$work"
taskapi=$work/bin/taskapi
results=$work/results
: >"$results"
export LC_ALL=C.UTF-8
export no_proxy=localhost,127.0.0.1,::1 NO_PROXY=localhost,127.0.0.1,::1 # only packages may come through a proxy

# check WHAT COMMAND…: one line for COMMAND's exit status, and the end of its output when it fails.
check() {
  local what=$1 status
  shift
  "$@" >"$work/check.out" 2>&1 </dev/null # in this shell, not in $(…), where "stop" could not wait for its child
  status=$?
  if [ $status -eq 0 ]; then
    echo "ok    $what"
    echo pass >>"$results"
  else
    fail "$what (exit $status: $*)"
    tail -n 25 "$work/check.out" | sed 's/^/      | /'
  fi
  return $status
}

# fail WHAT: the line of a check that has failed.
fail() {
  echo "FAIL  $1"
  echo fail >>"$results"
}

# skip WHAT WHY: a check that this machine cannot run. Never for what a machine in good order can.
skip() { echo "skip  $1: $2"; }

# need PACKAGE…: installs the Debian packages that are missing. A package's own service is not started: policy-rc.d
# answers 101, "action forbidden by policy", for as long as the installation lasts. Who else is installing is waited for.
need() {
  local missing=() p policy=/usr/sbin/policy-rc.d own='' patient=(-o DPkg::Lock::Timeout=600 -o Acquire::Retries=3)
  for p in "$@"; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null || return 1
  [ -e $policy ] || { own=1; printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy; }
  [ -e "$work/apt-updated" ] || { apt-get update "${patient[@]}" -qq >/dev/null 2>&1; : >"$work/apt-updated"; }
  DEBIAN_FRONTEND=noninteractive apt-get install "${patient[@]}" -y -qq --no-install-recommends "${missing[@]}" \
    >"$work/apt.log" 2>&1
  local status=$?
  [ -n "$own" ] && rm -f $policy
  [ $status -eq 0 ] || tail -n 5 "$work/apt.log"
  return $status
}

# background NAME COMMAND…: starts COMMAND in a process group of its own, with its output in $work/NAME.log and its id
# in $work/NAME.pid; it ends with the check at the latest. $! is its process id.
background() {
  local name=$1
  shift
  set -m
  "$@" >"$work/$name.log" 2>&1 </dev/null &
  set +m
  echo $! >"$work/$name.pid"
}

# stop NAME: asks a background program to end and waits until it has; its exit status is the command's.
stop() {
  local pid
  pid=$(cat "$work/$1.pid")
  kill -TERM "$pid" 2>/dev/null
  wait "$pid" 2>/dev/null
  local status=$?
  rm -f "$work/$1.pid"
  return $status
}

# free_port: a TCP port of the loopback interface on which nothing listens.
free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 12000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
}

# until_true SECONDS COMMAND…: repeats COMMAND until it succeeds.
until_true() {
  local end=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || { echo "gave up waiting for: $*"; "$@"; return 1; }
    sleep 0.1
  done
}

answers() { curl -fsS --max-time 2 -o /dev/null "$@"; }

# load_generator: builds $work/bin/load, which creates tasks and remembers those that were acknowledged. What is kept has
# to be compared with them, and the usual tools for load only count.
#   load -url URL [-clients N] [-time 10s] [-n N] [-name-size N] [-token T] -out FILE   creates, FILE gets "id<TAB>name" lines
#   load -url URL [-clients N] [-token T] -get FILE                                     asks for each of them
# SIGTERM ends it in good order. It prints "201 4711": how many answers had this status; "wrong 1": how many were not the task; "error 3": no answer at all.
load_generator() {
  [ -x "$work/bin/load" ] && return
  mkdir -p "$work/load" && cat >"$work/load/main.go" <<'END' && go build -o "$work/bin/load" "$work/load/main.go"
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

type task struct {
	ID   string `json:"task_id"`
	Name string `json:"task_name"`
}

var (
	url      = flag.String("url", "", "")
	token    = flag.String("token", "", "")
	clients  = flag.Int("clients", 8, "")
	duration = flag.Duration("time", time.Hour, "")
	number   = flag.Int("n", 1<<40, "")
	nameSize = flag.Int("name-size", 0, "")
	outFile  = flag.String("out", "", "")
	getFile  = flag.String("get", "", "")

	mu     sync.Mutex
	counts = map[string]int{}
)

func main() {
	flag.Parse()
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		MaxIdleConnsPerHost: *clients, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	work := make(chan task)
	var out *bufio.Writer
	if *getFile == "" {
		f, err := os.Create(*outFile)
		check(err)
		out = bufio.NewWriter(f)
		timed, cancel := context.WithTimeout(context.Background(), *duration)
		defer cancel()
		ctx, release := signal.NotifyContext(timed, syscall.SIGTERM)
		defer release()
		go func() {
			defer close(work)
			for i := 0; i < *number && ctx.Err() == nil; i++ {
				name := fmt.Sprintf("%d-%d", os.Getpid(), i)
				work <- task{Name: name + strings.Repeat("x", max(0, *nameSize-len(name)))}
			}
		}()
	} else {
		f, err := os.Open(*getFile)
		check(err)
		go func() {
			defer close(work)
			for lines := bufio.NewScanner(f); lines.Scan(); {
				id, name, _ := strings.Cut(lines.Text(), "\t")
				work <- task{id, name}
			}
		}()
	}
	var all sync.WaitGroup
	for range *clients {
		all.Go(func() {
			for t := range work {
				ask(client, t, out)
			}
		})
	}
	all.Wait()
	if out != nil {
		check(out.Flush())
	}
	for _, key := range slices.Sorted(maps.Keys(counts)) {
		fmt.Println(key, counts[key])
	}
}

// ask creates t, or asks for it.
func ask(client *http.Client, t task, out *bufio.Writer) {
	r, err := http.NewRequest("GET", *url+"/"+t.ID, nil)
	if out != nil {
		body, _ := json.Marshal(map[string]string{"task_name": t.Name})
		r, err = http.NewRequest("POST", *url, bytes.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
	}
	check(err)
	if *token != "" {
		r.Header.Set("Authorization", "Bearer "+*token)
	}
	var got task
	result := "error"
	if answer, err := client.Do(r); err == nil {
		body, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		switch good := answer.StatusCode < 300; {
		case err != nil && !good:
		case good && (err != nil || json.Unmarshal(body, &got) != nil || got.Name != t.Name || out == nil && got.ID != t.ID):
			result = "wrong"
		default:
			result = fmt.Sprint(answer.StatusCode)
		}
	}
	mu.Lock()
	counts[result]++
	if result == "201" && out != nil {
		fmt.Fprintf(out, "%s\t%s\n", got.ID, got.Name)
	}
	mu.Unlock()
	if result != "200" && result != "201" {
		time.Sleep(5 * time.Millisecond)
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
END
}

# kept ACKNOWLEDGED FILE: each task that load has in ACKNOWLEDGED stands in the data file FILE once, with its name.
kept() {
  jq -r '[.task_id, .task_name] | @tsv' "$2" | sort >"$work/kept" || return
  echo "$(wc -l <"$1") acknowledged, $(wc -l <"$work/kept") in the file"
  [ -s "$1" ] && ! sort "$1" | comm -23 - "$work/kept" | head -n 5 | grep . && ! cut -f 1 "$work/kept" | uniq -d | grep .
}

# answered ACKNOWLEDGED URL OPTION…: the service has each of these tasks.
answered() {
  local said
  said=$("$work/bin/load" -get "$1" -url "$2" "${@:3}")
  echo "$said"
  [ "$said" = "200 $(wc -l <"$1")" ]
}

# finish: a status that an exit asked for stands, but for 0 where a check has failed or none has passed. It is taken down
# first: in the trap for EXIT, an exit without a number ends with the status from before the trap.
finish() {
  local status=$? f pid passed failed
  for f in "$work"/*.pid; do
    [ -e "$f" ] || continue
    pid=$(cat "$f")
    # A container's first process would outlive its systemd-nspawn.
    xargs -r kill -KILL 2>/dev/null <"/proc/$pid/task/$pid/children"
    kill -KILL -- "-$pid" 2>/dev/null
  done
  while read -r _ f _; do
    [[ $f != "$work"/* ]] || umount -l "$f"
  done </proc/mounts
  passed=$(grep -c pass "$results")
  failed=$(grep -c fail "$results")
  rm -rf "$work"
  echo "$passed passed, $failed failed"
  if [ $status -eq 0 ] && { [ "$failed" -gt 0 ] || [ "$passed" -eq 0 ]; }; then status=1; fi
  exit $status
}
trap finish EXIT
trap 'exit 130' INT TERM

need curl jq || fail "curl and jq are needed"
mkdir -p "$work/bin"
check "the service builds" go build -C "$repo" -o "$taskapi" . || exit

for part in "$deploy"/check.d/*.sh; do
  name=$(basename "$part" .sh)
  name=${name#[0-9][0-9]-}
  if [ $# -eq 0 ] || [[ " $* " == *" $name "* ]]; then
    echo "== $name"
    began=$SECONDS
    before=$(grep -c pass "$results")
    # shellcheck source=/dev/null
    bash -n "$part" && (trap - EXIT; . "$part"; : >"$work/$name.done")
    [ -e "$work/$name.done" ] || fail "the part $name broke off"
    [ "$(grep -c pass "$results")" -gt "$before" ] || fail "the part $name has proved nothing"
    echo "   $((SECONDS - began)) s"
  fi
done
