#!/usr/bin/env bash
# Package: github.com/prometheus/client_golang v1.25.0
# Package: github.com/VictoriaMetrics/metrics v1.45.0
# Package: prom-client 15.1.3 (npm)
# Input: a summary with the quantiles 0.5 and 1 that has not observed anything yet.
# Behaviour: three libraries, three answers to a scrape: NaN, no series at all, and 0, which a dashboard draws as the
#   best latency there is and an alert on absent() never notices.
# Seen: client_golang: job_seconds{quantile="0.5"} NaN; job_seconds{quantile="1"} NaN; job_seconds_sum 0; job_seconds_count 0;
# Seen: VictoriaMetrics:
# Seen: prom-client: job_seconds{quantile="0.5"} 0; job_seconds{quantile="1"} 0; job_seconds_sum 0; job_seconds_count 0;
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

npm init -y >/dev/null
npm install --loglevel=error --no-audit --no-fund --ignore-scripts \
  prom-client@15.1.3 \
  >npm.log 2>&1 || { cat npm.log >&2; exit 2; }
cat >finding.js <<'END'
const {Registry, Summary} = require('prom-client')
const registry = new Registry()
new Summary({name: 'job_seconds', help: 'Time of a job.', percentiles: [0.5, 1], registers: [registry]})
registry.metrics().then(page => process.stdout.write(page))
END

export GOMODCACHE=$work/mod GOFLAGS='-mod=mod -modcacherw -trimpath'
go mod init finding 2>/dev/null
go mod edit -require=github.com/prometheus/client_golang@v1.25.0
go mod edit -require=github.com/VictoriaMetrics/metrics@v1.45.0
cat >main.go <<'END'
package main

import (
	"bytes"
	"fmt"
	"net/http/httptest"
	"os"

	"github.com/VictoriaMetrics/metrics"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

func main() {
	if os.Args[1] == "VictoriaMetrics" {
		set := metrics.NewSet()
		set.NewSummaryExt("job_seconds", 60e9, []float64{0.5, 1})
		var page bytes.Buffer
		set.WritePrometheus(&page)
		fmt.Print(page.String())
		return
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewSummary(prometheus.SummaryOpts{Name: "job_seconds", Help: "Time of a job.",
		Objectives: map[float64]float64{0.5: 0.05, 1: 0}}))
	page := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(page, httptest.NewRequest("GET", "/metrics", nil))
	fmt.Print(page.Body.String())
}
END
go build -o finding . 2>build.log || { cat build.log >&2; exit 2; }

# samples NAME COMMAND…: the samples of COMMAND's page, in one line.
samples() {
  local page
  page=$("${@:2}" | sed -e '/^#/d' -e '/^$/d' -e 's/^/ /' -e 's/$/;/' | tr -d '\n')
  echo "$1:$page"
}
seen=$(
  samples client_golang ./finding client_golang
  samples VictoriaMetrics ./finding VictoriaMetrics
  samples prom-client node finding.js
)
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
