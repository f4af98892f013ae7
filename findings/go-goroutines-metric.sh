#!/usr/bin/env bash
# Package: go 1.26.8
# Input: a program with one goroutine that reads runtime/metrics.
# Behaviour: since Go 1.26 /sched/goroutines:goroutines counts the goroutines of the runtime, too, one worker of the
#   collector for each processor among them; runtime.NumGoroutine, and with it client_golang's go_goroutines, counts
#   those of the program. With go1.25.3 both said 1.
# Seen: GOMAXPROCS=2: NumGoroutine 1, /sched/goroutines:goroutines 8
# Seen: GOMAXPROCS=64: NumGoroutine 1, /sched/goroutines:goroutines 70
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

export GOTOOLCHAIN=go1.26.8 GOMODCACHE=$work/mod GOFLAGS=-modcacherw
cat >main.go <<'END'
package main

import (
	"fmt"
	"runtime"
	"runtime/metrics"
)

func main() {
	runtime.GC() // the collector's workers start with the first collection
	s := []metrics.Sample{{Name: "/sched/goroutines:goroutines"}}
	metrics.Read(s)
	fmt.Printf("GOMAXPROCS=%d: NumGoroutine %d, %s %d\n",
		runtime.GOMAXPROCS(0), runtime.NumGoroutine(), s[0].Name, s[0].Value.Uint64())
}
END
go build -o finding main.go

seen=$(GOMAXPROCS=2 ./finding; GOMAXPROCS=64 ./finding)
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
