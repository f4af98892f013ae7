#!/usr/bin/env bash
# Package: got 14.6.6 (npm)
# Package: axios 1.21.1 (npm)
# Input: a POST that a server answers with 301 and a Location.
# Behaviour: got repeats the POST with its body at the new place; axios and fetch turn it into a GET without one. RFC
#   9110 15.4.2 allows both. Behind the redirect, the one creates and the others read, each without a word.
# Seen: got: POST {"name":"x"}
# Seen: axios: GET
# Seen: fetch: GET
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

npm init -y >/dev/null
npm install --loglevel=error --no-audit --no-fund --ignore-scripts \
  got@14.6.6 axios@1.21.1 \
  >npm.log 2>&1 || { cat npm.log >&2; exit 2; }
cat >finding.mjs <<'END'
import http from 'node:http'
import axios from 'axios'
import got from 'got'

const server = http.createServer(async (request, answer) => {
  let body = ''
  for await (const part of request) body += part
  if (request.url === '/old') answer.writeHead(301, {Location: '/new'})
  answer.end(`${request.method} ${body}`.trim())
})
server.listen(0, '127.0.0.1', async () => {
  const url = `http://127.0.0.1:${server.address().port}/old`
  const json = {name: 'x'}
  console.log(`got: ${await got.post(url, {json}).text()}`)
  console.log(`axios: ${(await axios.post(url, json)).data}`)
  console.log(`fetch: ${await (await fetch(url, {method: 'POST', body: JSON.stringify(json)})).text()}`)
  server.close()
  server.closeAllConnections()
})
END

seen=$(node finding.mjs)
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
