#!/usr/bin/env bash
# Package: go 1.26.8
# Package: go 1.27.3
# Input: a time with the tag `json:"at,format:unix"`, written with encoding/json/v2.
# Behaviour: the option "format" of the tag worked for as long as the package was an experiment (GOEXPERIMENT=jsonv2),
#   and its documentation had it. In Go 1.27, where the package is there for everybody, it is an error, and only when
#   a value is written or read: the program compiles.
# Seen: go1.26.8-X:jsonv2: {"at":1764460800} <nil>
# Seen: go1.27.3: error: Go struct field At has unsupported `format` tag option
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

export GOMODCACHE=$work/mod GOFLAGS=-modcacherw
cat >main.go <<'END'
package main

import (
	"encoding/json/v2"
	"fmt"
	"runtime"
	"strings"
	"time"
)

func main() {
	v := struct {
		At time.Time `json:"at,format:unix"`
	}{time.Unix(1764460800, 0)}
	text, err := json.Marshal(v)
	version := runtime.Version()
	if err != nil {
		_, reason, _ := strings.Cut(err.Error(), "}: ")
		fmt.Printf("%s: error: %s\n", version, reason)
		return
	}
	fmt.Printf("%s: %s %v\n", version, text, err)
}
END

seen=$(
  GOTOOLCHAIN=go1.26.8 GOEXPERIMENT=jsonv2 go run main.go 2>>run.log
  GOTOOLCHAIN=go1.27.3 go run main.go 2>>run.log
) || { cat run.log >&2; exit 2; }
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
