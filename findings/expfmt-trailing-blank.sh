#!/usr/bin/env bash
# Package: github.com/prometheus/common v0.74.0
# Package: github.com/prometheus/prometheus v0.316.0
# Input: one sample in text format 0.0.4 with a blank after its value; the format says that such blanks are ignored.
# Behaviour: a page that Prometheus scrapes without a complaint is refused by expfmt, with which Pushgateway and
#   node_exporter's text files are read: it takes the blank for the beginning of a timestamp.
# Seen: textparse: "up" 1
# Seen: expfmt: text format parsing error in line 1: expected integer as timestamp, got ""
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

export GOMODCACHE=$work/mod GOFLAGS='-mod=mod -modcacherw -trimpath'
go mod init finding 2>/dev/null
go mod edit -require=github.com/prometheus/prometheus@v0.316.0
go mod edit -require=github.com/prometheus/common@v0.74.0
cat >main.go <<'END'
package main

import (
	"fmt"
	"strings"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
)

const page = "up 1 \n"

func main() {
	p := textparse.NewPromParser([]byte(page), labels.NewSymbolTable(), false)
	if _, err := p.Next(); err != nil {
		fmt.Println("textparse:", err)
		return
	}
	var l labels.Labels
	p.Labels(&l)
	_, _, value := p.Series()
	fmt.Printf("textparse: %q %v\n", l.Get("__name__"), value)

	text := expfmt.NewTextParser(model.UTF8Validation)
	_, err := text.TextToMetricFamilies(strings.NewReader(page))
	fmt.Println("expfmt:", err)
}
END
go build -o finding . 2>build.log || { cat build.log >&2; exit 2; }

seen=$(./finding)
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
