#!/usr/bin/env bash
# Package: go 1.26.8
# Package: go 1.27.3
# Input: {"tags":["a",1]} read into struct{ Tags []string }, with encoding/json of the same source.
# Behaviour: UnmarshalTypeError.Field is the path to the fault. Up to Go 1.26 the path ends at the list; from 1.27 on
#   it goes on with the index, so code that looks the field up by its name (for a message, a form) no longer finds it.
# Seen: go1.26.8: Field "tags"
# Seen: go1.27.3: Field "tags.1"
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
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
)

func main() {
	var v struct {
		Tags []string `json:"tags"`
	}
	err := json.Unmarshal([]byte(`{"tags":["a",1]}`), &v)
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		fmt.Printf("%s: Field %q\n", runtime.Version(), wrong.Field)
	}
}
END

seen=$(for go in go1.26.8 go1.27.3; do GOTOOLCHAIN=$go go run main.go 2>>run.log; done) || { cat run.log >&2; exit 2; }
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
