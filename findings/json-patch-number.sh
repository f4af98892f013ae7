#!/usr/bin/env bash
# Package: github.com/evanphx/json-patch/v5 v5.9.11
# Input: the document {"limit":1} and a patch that first tests "limit" for the value 1.0, as a client writes it whose
#   language has no integers.
# Behaviour: the test fails. RFC 6902 4.6 says that numbers are equal if their values are; the library compares how
#   they are written.
# Seen: value 1: {"limit":2} <nil>
# Seen: value 1.0: testing value /limit failed: test failed
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

export GOMODCACHE=$work/mod GOFLAGS='-mod=mod -modcacherw -trimpath'
go mod init finding 2>/dev/null
go mod edit -require=github.com/evanphx/json-patch/v5@v5.9.11
cat >main.go <<'END'
package main

import (
	"fmt"

	jsonpatch "github.com/evanphx/json-patch/v5"
)

func main() {
	for _, value := range []string{"1", "1.0"} {
		patch, err := jsonpatch.DecodePatch([]byte(`[
			{"op": "test", "path": "/limit", "value": ` + value + `},
			{"op": "replace", "path": "/limit", "value": 2}]`))
		if err != nil {
			fmt.Println(err)
			return
		}
		document, err := patch.Apply([]byte(`{"limit":1}`))
		if err != nil {
			fmt.Printf("value %s: %v\n", value, err)
		} else {
			fmt.Printf("value %s: %s %v\n", value, document, err)
		}
	}
}
END
go build -o finding . 2>build.log || { cat build.log >&2; exit 2; }

seen=$(./finding)
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
