#!/usr/bin/env bash
# Package: github.com/prometheus/prometheus v0.316.0
# Package: prometheus 2.42.0+ds-5+deb12u1 (Debian 12)
# Input: the expression "cpu_cores > 500m" of somebody who comes from Kubernetes, where 500m is a half.
# Behaviour: in Prometheus 3 (v0.316.0) a duration is a number wherever a number may stand, so this is a valid rule:
#   more than 500 minutes, 30,000. It loads and never fires. Prometheus 2 refused it.
# Seen: 2.42: parse error: unexpected duration "500m"
# Seen: v0.316.0: valid, the number is 30000
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

apt-get download -qq -o APT::Sandbox::User=root \
  prometheus=2.42.0+ds-5+deb12u1 \
  >apt.log 2>&1 || { cat apt.log >&2; exit 2; }
for deb in *.deb; do dpkg -x "$deb" root; done
echo 'groups: [{name: g, rules: [{alert: Busy, expr: cpu_cores > 500m}]}]' >rules.yml

export GOMODCACHE=$work/mod GOFLAGS='-mod=mod -modcacherw -trimpath'
go mod init finding 2>/dev/null
go mod edit -require=github.com/prometheus/prometheus@v0.316.0
cat >main.go <<'END'
package main

import (
	"fmt"

	"github.com/prometheus/prometheus/promql/parser"
)

func main() {
	expr, err := parser.NewParser(parser.Options{}).ParseExpr("cpu_cores > 500m")
	if err != nil {
		fmt.Println("v0.316.0:", err)
		return
	}
	number := expr.(*parser.BinaryExpr).RHS.(*parser.NumberLiteral)
	fmt.Println("v0.316.0: valid, the number is", number.Val)
}
END
go build -o finding . 2>build.log || { cat build.log >&2; exit 2; }

seen="2.42: $(root/usr/bin/promtool check rules rules.yml 2>&1 | grep -o 'parse error.*')
$(./finding)"
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
