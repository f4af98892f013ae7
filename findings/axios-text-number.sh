#!/usr/bin/env bash
# Package: axios 1.21.1 (npm)
# Input: an answer with Content-Type: text/plain and the body 12345678901234567890, an id.
# Behaviour: axios tries to read every text as JSON, whatever its type says: the caller gets a number, and the id has
#   changed. fetch gives the text; with responseType: 'text' axios does, too.
# Seen: axios: number 12345678901234567000
# Seen: axios with responseType text: string 12345678901234567890
# Seen: fetch: string 12345678901234567890
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

npm init -y >/dev/null
npm install --loglevel=error --no-audit --no-fund --ignore-scripts axios@1.21.1 >npm.log 2>&1 || { cat npm.log >&2; exit 2; }
cat >finding.js <<'END'
const http = require('node:http')
const axios = require('axios')

const server = http.createServer((request, answer) => {
  answer.setHeader('Content-Type', 'text/plain')
  answer.end('12345678901234567890')
})
server.listen(0, '127.0.0.1', async () => {
  const url = `http://127.0.0.1:${server.address().port}/`
  const show = (who, value) => console.log(`${who}: ${typeof value} ${value}`)
  show('axios', (await axios.get(url)).data)
  show('axios with responseType text', (await axios.get(url, {responseType: 'text'})).data)
  show('fetch', await (await fetch(url)).text())
  server.close()
  server.closeAllConnections()
})
END

seen=$(node finding.js)
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
