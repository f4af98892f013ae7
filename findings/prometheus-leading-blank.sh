#!/usr/bin/env bash
# Package: github.com/prometheus/prometheus v0.316.0
# Package: github.com/prometheus/common v0.74.0
# Input: one sample in text format 0.0.4 with a blank before its name; the format says that such blanks are ignored.
# Behaviour: the parser of Prometheus's scrapes takes the blank into the name of the metric: the series is called
#   " up", which no query finds that was written for up. The parser of the same project for other programs
#   (Pushgateway, node_exporter's text files) reads "up". Neither has an error. Prometheus 2.42 did the same.
# Seen: textparse: " up" 1
# Seen: expfmt: "up" 1
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

const page = " up 1\n"

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
	families, err := text.TextToMetricFamilies(strings.NewReader(page))
	if err != nil {
		fmt.Println("expfmt:", err)
	}
	for name, f := range families {
		fmt.Printf("expfmt: %q %v\n", name, f.GetMetric()[0].GetUntyped().GetValue())
	}
}
END
go build -o finding . 2>build.log || { cat build.log >&2; exit 2; }

seen=$(./finding)
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
