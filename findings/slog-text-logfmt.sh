#!/usr/bin/env bash
# Package: github.com/go-logfmt/logfmt v0.6.1
# Input: a line of log/slog's TextHandler about a value with the colour codes of a terminal.
# Behaviour: TextHandler quotes as Go does (\x1b, \a, \v, \U000e0001); the decoder of go-logfmt knows the escapes of
#   JSON only and gives up the record at that value: the fields behind it are lost.
# Seen: msg=done output="\x1b[32mok\x1b[0m" status=200
# Seen: read: msg=done
# Seen: error: logfmt syntax error at pos 36 on line 1: invalid quoted value
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

export GOMODCACHE=$work/mod GOFLAGS='-mod=mod -modcacherw -trimpath'
go mod init finding 2>/dev/null
go mod edit -require=github.com/go-logfmt/logfmt@v0.6.1
cat >main.go <<'END'
package main

import (
	"bytes"
	"fmt"
	"log/slog"

	"github.com/go-logfmt/logfmt"
)

func main() {
	var line bytes.Buffer
	withoutTime := func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
			return slog.Attr{}
		}
		return a
	}
	log := slog.New(slog.NewTextHandler(&line, &slog.HandlerOptions{ReplaceAttr: withoutTime}))
	log.Info("done", "output", "\x1b[32mok\x1b[0m", "status", 200)
	fmt.Print(line.String())

	decoder := logfmt.NewDecoder(&line)
	for decoder.ScanRecord() {
		for decoder.ScanKeyval() {
			fmt.Printf("read: %s=%s\n", decoder.Key(), decoder.Value())
		}
	}
	fmt.Println("error:", decoder.Err())
}
END
go build -o finding . 2>build.log || { cat build.log >&2; exit 2; }

seen=$(./finding)
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
