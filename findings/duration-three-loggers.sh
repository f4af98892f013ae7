#!/usr/bin/env bash
# Package: github.com/rs/zerolog v1.35.1
# Package: go.uber.org/zap v1.28.0
# Input: the same duration, 1.5 s, logged as JSON by zap, zerolog and log/slog with their defaults.
# Behaviour: three numbers without a unit: seconds, milliseconds, nanoseconds. zerolog even has two of them: Dur
#   writes milliseconds, Any nanoseconds. A dashboard over the logs of two services is wrong by 1,000 or 1,000,000,
#   silently.
# Seen: zap Duration {"took":1.5}
# Seen: zerolog Dur {"took":1500}
# Seen: zerolog Any {"took":1500000000}
# Seen: log/slog Duration {"took":1500000000}
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

export GOMODCACHE=$work/mod GOFLAGS='-mod=mod -modcacherw -trimpath'
go mod init finding 2>/dev/null
go mod edit -require=github.com/rs/zerolog@v1.35.1
go mod edit -require=go.uber.org/zap@v1.28.0
cat >main.go <<'END'
package main

import (
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const took = 1500 * time.Millisecond

func main() {
	config := zap.NewProductionEncoderConfig()
	config.TimeKey, config.LevelKey, config.MessageKey = "", "", ""
	fmt.Print("zap Duration ")
	zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(config), os.Stdout, zap.InfoLevel)).Info("", zap.Duration("took", took))

	z := zerolog.New(os.Stdout)
	fmt.Print("zerolog Dur ")
	z.Log().Dur("took", took).Send()
	fmt.Print("zerolog Any ")
	z.Log().Any("took", took).Send()

	only := func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == "took" {
			return a
		}
		return slog.Attr{}
	}
	fmt.Print("log/slog Duration ")
	slog.New(slog.NewJSONHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: only})).Info("", slog.Duration("took", took))
}
END
go build -o finding . 2>build.log || { cat build.log >&2; exit 2; }

seen=$(./finding)
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
