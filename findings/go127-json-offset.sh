#!/usr/bin/env bash
# Package: go 1.26.8
# Package: go 1.27.3
# Input: {"name":資}, which lacks its quotes, read with encoding/json of the same source.
# Behaviour: SyntaxError.Offset has moved. Up to Go 1.26 it is the first byte of the character that does not fit, and
#   the message names that byte as if it were Latin-1; from 1.27 on (encoding/json is built on json/v2) it is the last
#   byte. For ASCII nothing changes, so whoever prints "at byte N", or points at it, has no test that fails.
# Seen: go1.26.8: offset 9: invalid character 'è' looking for beginning of value
# Seen: go1.27.3: offset 11: invalid character '資' looking for beginning of value
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
	var v any
	err := json.Unmarshal([]byte(`{"name":資}`), &v)
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		fmt.Printf("%s: offset %d: %v\n", runtime.Version(), syntax.Offset, err)
	}
}
END

seen=$(for go in go1.26.8 go1.27.3; do GOTOOLCHAIN=$go go run main.go 2>>run.log; done) || { cat run.log >&2; exit 2; }
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
