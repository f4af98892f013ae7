#!/usr/bin/env bash
# Package: go go1.26.8
# Input: two times that RFC 3339 allows, one of them a leap second that there was, and two that it does not allow.
# Behaviour: time.Parse with time.RFC3339 refuses the first two and takes the others, an hour of one digit and a comma
#   before the fraction; time.Time reads JSON in the same way.
# Seen: 2016-12-31T23:59:60Z allowed, Parse false, JSON false
# Seen: 2026-11-30t10:30:00z allowed, Parse false, JSON false
# Seen: 2026-11-30T1:30:00Z not allowed, Parse true, JSON true
# Seen: 2026-11-30T01:30:00,5Z not allowed, Parse true, JSON true
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
	"encoding/json"
	"fmt"
	"time"
)

func main() {
	for _, row := range []struct{ text, rfc string }{
		{"2016-12-31T23:59:60Z", "allowed"},
		{"2026-11-30t10:30:00z", "allowed"},
		{"2026-11-30T1:30:00Z", "not allowed"},
		{"2026-11-30T01:30:00,5Z", "not allowed"},
	} {
		_, parse := time.Parse(time.RFC3339, row.text)
		var t time.Time
		read := json.Unmarshal([]byte(`"`+row.text+`"`), &t)
		fmt.Printf("%s %s, Parse %v, JSON %v\n", row.text, row.rfc, parse == nil, read == nil)
	}
}
END

seen=$(go run main.go)
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
