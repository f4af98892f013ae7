#!/usr/bin/env bash
# Package: logfmt 1.4.0 (npm)
# Input: a line of log/slog's TextHandler: a message of two lines, and a path with a tab in it.
# Behaviour: the package takes the backslash off and leaves the letter: \n becomes n, \t becomes t. The text is
#   another one without an error; only \" comes out as it was meant.
# Seen: written: msg="disk full\nretry" path="a\tb" user="\"x\""
# Seen: read: {"msg":"disk fullnretry","path":"atb","user":"\"x\""}
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

npm init -y >/dev/null
npm install --loglevel=error --no-audit --no-fund --ignore-scripts logfmt@1.4.0 >npm.log 2>&1 || { cat npm.log >&2; exit 2; }
cat >main.go <<'END'
package main

import (
	"log/slog"
	"os"
)

func main() {
	only := func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
			return slog.Attr{}
		}
		return a
	}
	slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: only})).
		Info("disk full\nretry", "path", "a\tb", "user", `"x"`)
}
END
go run main.go >line
cat >finding.js <<'END'
const line = require('node:fs').readFileSync('line', 'utf8').trim()
console.log(`written: ${line}`)
console.log(`read: ${JSON.stringify(require('logfmt').parse(line))}`)
END

seen=$(node finding.js)
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
