#!/usr/bin/env bash
# Package: github.com/google/uuid v1.6.0
# Input: two rows scanned into the same variable, the second with an empty text (or NULL) where the id is.
# Behaviour: Scan does nothing and returns nil, so the second row has the id of the first; its comment says that the
#   null UUID is returned. sql.NullString, which is scanned in the same way, is emptied by NULL.
# Seen: first row: 0192f3a0-7b1c-7abc-8def-0123456789ab <nil>
# Seen: empty: 0192f3a0-7b1c-7abc-8def-0123456789ab <nil>
# Seen: NULL: 0192f3a0-7b1c-7abc-8def-0123456789ab <nil>
# Seen: sql.NullString after NULL: "" <nil>
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

export GOMODCACHE=$work/mod GOFLAGS='-mod=mod -modcacherw -trimpath'
go mod init finding 2>/dev/null
go mod edit -require=github.com/google/uuid@v1.6.0
cat >main.go <<'END'
package main

import (
	"database/sql"
	"fmt"

	"github.com/google/uuid"
)

func main() {
	var id uuid.UUID
	err := id.Scan("0192f3a0-7b1c-7abc-8def-0123456789ab")
	fmt.Println("first row:", id, err)
	err = id.Scan("")
	fmt.Println("empty:", id, err)
	err = id.Scan(nil)
	fmt.Println("NULL:", id, err)

	var text sql.NullString
	if err := text.Scan("x"); err != nil {
		fmt.Println(err)
	}
	err = text.Scan(nil)
	fmt.Printf("sql.NullString after NULL: %q %v\n", text.String, err)
}
END
go build -o finding . 2>build.log || { cat build.log >&2; exit 2; }

seen=$(./finding)
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
