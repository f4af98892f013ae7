#!/usr/bin/env bash
# Package: ndjson 2.0.0 (npm)
# Input: three lines of newline-delimited JSON, the second of which is null, a JSON value like any other.
# Behaviour: null is also how a Node stream says that it is at its end, and ndjson passes the value on as it is: the
#   lines behind it are never seen. If it is the last line, everything looks well.
# Seen: three lines: {"id":1}, then error: stream.push() after EOF
# Seen: null last: {"id":1}, then end
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

npm init -y >/dev/null
npm install --loglevel=error --no-audit --no-fund --ignore-scripts ndjson@2.0.0 >npm.log 2>&1 || { cat npm.log >&2; exit 2; }
cat >finding.js <<'END'
const ndjson = require('ndjson')

const read = (name, text) => new Promise(resolve => {
  const seen = []
  const stream = ndjson.parse()
  stream.on('data', value => seen.push(JSON.stringify(value)))
  const done = how => resolve(`${name}: ${seen.join(' ')}, then ${how}`) // the first call counts
  stream.on('error', e => done(`error: ${e.message}`))
  stream.on('end', () => done('end'))
  stream.end(text)
})

async function main() {
  console.log(await read('three lines', '{"id":1}\nnull\n{"id":2}\n'))
  console.log(await read('null last', '{"id":1}\nnull\n'))
}
main()
END

seen=$(node finding.js)
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
