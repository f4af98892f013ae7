#!/usr/bin/env bash
# Package: github.com/grafana/grafana-foundation-sdk/go v0.0.22
# Input: the JSON of a dashboard that the SDK has built and written itself.
# Behaviour: UnmarshalJSONStrict returns an error that is not nil and holds nothing: a nil slice of type BuildErrors
#   in an error. Code with the usual "if err != nil" refuses every dashboard; only len of the errors in it tells.
# Seen: Unmarshal nil: true
# Seen: UnmarshalJSONStrict nil: false, it is cog.BuildErrors(nil)
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

export GOMODCACHE=$work/mod GOFLAGS='-mod=mod -modcacherw -trimpath'
go mod init finding 2>/dev/null
go mod edit -require=github.com/grafana/grafana-foundation-sdk/go@v0.0.22
cat >main.go <<'END'
package main

import (
	"encoding/json"
	"fmt"

	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

func main() {
	built, err := dashboard.NewDashboardBuilder("Tasks").Build()
	if err != nil {
		fmt.Println("build:", err)
		return
	}
	text, err := json.Marshal(built)
	if err != nil {
		fmt.Println("marshal:", err)
		return
	}
	var read dashboard.Dashboard
	fmt.Println("Unmarshal nil:", json.Unmarshal(text, &read) == nil)
	var strict dashboard.Dashboard
	err = strict.UnmarshalJSONStrict(text)
	fmt.Printf("UnmarshalJSONStrict nil: %v, it is %#v\n", err == nil, err)
}
END
go build -o finding . 2>build.log || { cat build.log >&2; exit 2; }

seen=$(./finding)
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
