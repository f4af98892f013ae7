#!/usr/bin/env bash
# Package: github.com/robfig/cron/v3 v3.0.1
# Package: github.com/adhocore/gronx v1.20.4
# Input: the crontab line "0 0 */2 * 1": every second day of the month, Mondays.
# Behaviour: two Go libraries fire on different days. Day and weekday are alternatives unless one of them is "*"
#   (crontab(5)). gronx takes every field that begins with * for that, so both have to fit: a Monday with an odd date.
#   robfig/cron, which Kubernetes uses, takes a bare * only: every odd date, and every Monday.
# Seen: robfig/cron: Tue 01, Thu 03, Sat 05, Mon 07, Wed 09, Fri 11
# Seen: gronx: Mon 07, Mon 21
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

export GOMODCACHE=$work/mod GOFLAGS='-mod=mod -modcacherw -trimpath'
go mod init finding 2>/dev/null
go mod edit -require=github.com/robfig/cron/v3@v3.0.1
go mod edit -require=github.com/adhocore/gronx@v1.20.4
cat >main.go <<'END'
package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/adhocore/gronx"
	"github.com/robfig/cron/v3"
)

const line = "0 0 */2 * 1"

var november30 = time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC)

func main() {
	schedule, err := cron.ParseStandard(line)
	if err != nil {
		fmt.Println(err)
		return
	}
	var days []string
	for at := november30; len(days) < 6; {
		at = schedule.Next(at)
		days = append(days, at.Format("Mon 02"))
	}
	fmt.Println("robfig/cron:", strings.Join(days, ", "))

	days = nil
	for at := november30; len(days) < 2; {
		if at, err = gronx.NextTickAfter(line, at, false); err != nil {
			fmt.Println(err)
			return
		}
		days = append(days, at.Format("Mon 02"))
	}
	fmt.Println("gronx:", strings.Join(days, ", "))
}
END
go build -o finding . 2>build.log || { cat build.log >&2; exit 2; }

seen=$(./finding)
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
