#!/usr/bin/env bash
# Package: github.com/prometheus/prometheus v0.316.0
# Package: github.com/prometheus/prometheus v0.42.0
# Input: a summary in text format 0.0.4 with quantile="1".
# Behaviour: Prometheus 3 (v0.316.0) stores the label as "1.0", as it does with le of a histogram, which is the better
#   known half of it. A query or a dashboard with quantile="1" is empty there, without an error, while quantile="0.5"
#   goes on working. Prometheus 2 (v0.42.0) keeps the text as it was exposed.
# Seen: v0.42.0: {__name__="pause_seconds", quantile="0.5"} {__name__="pause_seconds", quantile="1"}
# Seen: v0.316.0: {__name__="pause_seconds", quantile="0.5"} {__name__="pause_seconds", quantile="1.0"}
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

export GOMODCACHE=$work/mod GOFLAGS='-mod=mod -modcacherw -trimpath'
cat >main.go <<'END'
package main

import (
	"fmt"
	"os"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
)

const page = `# TYPE pause_seconds summary
pause_seconds{quantile="0.5"} 0.001
pause_seconds{quantile="1"} 0.002
`

func main() {
	fmt.Print(os.Args[1], ":")
	p := parser([]byte(page))
	for {
		entry, err := p.Next()
		if err != nil {
			break
		}
		if entry == textparse.EntrySeries {
			var l labels.Labels
			series(p, &l)
			fmt.Print(" ", l.String())
		}
	}
	fmt.Println()
}
END

# run VERSION: reads the page with that version; the two have other names for the same steps.
run() {
  mkdir "$1"
  cp main.go "$1"
  cat >"$1/version.go"
  (cd "$1"
    go mod init finding
    go mod edit -require=github.com/prometheus/prometheus@"$1"
    go build -o finding .) >build.log 2>&1 || { cat build.log >&2; exit 2; }
  "$1/finding" "$1"
}

seen=$(
  run v0.42.0 <<'END'
package main

import (
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
)

func parser(page []byte) textparse.Parser             { return textparse.NewPromParser(page) }
func series(p textparse.Parser, l *labels.Labels) { p.Metric(l) }
END
  run v0.316.0 <<'END'
package main

import (
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
)

func parser(page []byte) textparse.Parser {
	return textparse.NewPromParser(page, labels.NewSymbolTable(), false)
}
func series(p textparse.Parser, l *labels.Labels) { p.Labels(l) }
END
)
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
