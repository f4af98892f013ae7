#!/usr/bin/env bash
# Package: github.com/santhosh-tekuri/jsonschema/v6 v6.0.3
# Package: ajv 8.20.0 (npm)
# Input: a schema whose pattern forbids control characters: ^[^\u0000-\u001f]*$ (in JSON: "^[^\\u0000-\\u001f]*$").
# Behaviour: JSON Schema takes its patterns from ECMA-262, where \u is the escape for a character, and ajv works with
#   it. Go's regexp knows \x{1f} only, so the schema is refused as a whole, and the message says that the schema is
#   "not valid against metaschema": that it is wrong, not that this validator cannot read it.
# Seen: ajv: "report" true, "a\tb" false
# Seen: jsonschema/v6: not valid against metaschema: invalid escape sequence: `\u`
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

npm init -y >/dev/null
npm install --loglevel=error --no-audit --no-fund --ignore-scripts ajv@8.20.0 >npm.log 2>&1 || { cat npm.log >&2; exit 2; }
cat >schema.json <<'END'
{"type": "string", "pattern": "^[^\\u0000-\\u001f]*$"}
END
cat >finding.js <<'END'
const Ajv = require('ajv/dist/2020')
const valid = new Ajv().compile(require('./schema.json'))
console.log(`ajv: "report" ${valid('report')}, "a\\tb" ${valid('a\tb')}`)
END

export GOMODCACHE=$work/mod GOFLAGS='-mod=mod -modcacherw -trimpath'
go mod init finding 2>/dev/null
go mod edit -require=github.com/santhosh-tekuri/jsonschema/v6@v6.0.3
cat >main.go <<'END'
package main

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

func main() {
	_, err := jsonschema.NewCompiler().Compile("schema.json")
	parts := regexp.MustCompile("not valid against metaschema|invalid escape sequence: `.*`")
	fmt.Println("jsonschema/v6:", strings.Join(parts.FindAllString(fmt.Sprint(err), -1), ": "))
}
END
go build -o finding . 2>build.log || { cat build.log >&2; exit 2; }

seen=$(node finding.js; ./finding)
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
