# The page at /docs in Chromium, as its readers use it: by typing and pressing, with a token, behind nginx, on a phone, in
# the dark, with the service dying under it. Every step fails, too, for an error in the console, a violation of the
# page's policy, or a request to another host.
#
#   DOCS_PICTURE=1 deploy/check.sh docs    makes deploy/docs.png anew, too
need chromium fonts-ipafont-gothic fonts-dejavu-core nginx-light openssl optipng
{ command -v node && command -v npm; } >/dev/null || need nodejs npm

docs=$work/docs
mkdir -p "$docs"

install_packages() {
  echo '{"private": true, "type": "module"}' >"$docs/package.json"
  npm install --prefix "$docs" --ignore-scripts --no-audit --no-fund --no-package-lock --save-exact \
    playwright-core@1.65.1 axe-core@4.14.1
}

# The file itself. The service cuts its style and its script out to hash them, so each tag stands there once, and bare.
in_size() {
  wc -l -c "$1"
  [ "$(wc -l <"$1")" -le 400 ] && [ "$(wc -c <"$1")" -le 24576 ]
}
bare_tags() {
  local tag
  for tag in '<style' '</style>' '<script' '</script>'; do
    [ "$(grep -c -e "$tag" "$1")" -eq 1 ] || { echo "not once: $tag"; return 1; }
  done
  grep -x '<style>' "$1" && grep -x '<script>' "$1"
}
only_text() { ! grep -nE 'innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|Storage|cookie|[ "]style=| on[a-z]+="' "$1"; }
# hashed URL: the policy has the hashes of the style and the script in the page, and allows nothing else of their kind.
hash_of() { perl -0777 -ne "print \$1 if m{<$1>(.*?)</$1>}s" "$docs/served.html" | openssl dgst -sha256 -binary | base64; }
hashed() {
  local headers
  headers=$(curl -fsS -o "$docs/served.html" -D - "$1/docs" | tr -d '\r') && cmp "$docs/served.html" "$deploy/docs.html" || return
  grep -ix 'content-type: text/html; charset=utf-8' <<<"$headers" &&
    diff - <(sed -n 's/^content-security-policy: //ip' <<<"$headers" | sed 's/; /\n/g' | sort) <<END
base-uri 'none'
connect-src 'self'
default-src 'none'
form-action 'none'
frame-ancestors 'none'
img-src data:
script-src 'sha256-$(hash_of script)'
style-src 'sha256-$(hash_of style)'
END
}

# The browser runs beside the steps, each of which is a program of its own that opens pages in it.
cat >"$docs/browser.js" <<'JS'
import { writeFileSync } from "node:fs";
import { chromium } from "playwright-core";

const server = await chromium.launchServer({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox", "--disable-gpu",
  "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"] });
writeFileSync("endpoint", server.wsEndpoint());
JS
has_browser() { until_true 60 test -s "$docs/endpoint"; }
step() { (cd "$docs" && timeout 300 node steps.js "$@"); }

cat >"$docs/steps.js" <<'JS'
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { request } from "node:http";
import { chromium } from "playwright-core";

const [step, url, ...rest] = process.argv.slice(2);
const browser = await chromium.connect(readFileSync("endpoint", "utf8"));
const faults = [];

// open returns a page of the service. Whatever goes wrong in it is a fault; but Chromium reports each answer from 400 on as
// an error, and those with one of the words of "refused" are meant to be there. With "clock", the time of the page stands
// still until the step lets it go on.
async function open({ path = "/docs", refused = [], clock = false, ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ignoreHTTPSErrors: true, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  page.on("pageerror", (error) => faults.push(error.stack));
  page.on("console", (message) => {
    if (!["error", "warning"].includes(message.type())) return;
    const meant = message.text().startsWith("Failed to load resource") && refused.some((code) => message.text().includes(code));
    if (!meant) faults.push(`${message.text()} ${message.location().url}`);
  });
  page.on("request", (request) => {
    if (!request.url().startsWith(url) && !request.url().startsWith("data:")) faults.push(`asks for ${request.url()}`);
  });
  await page.addInitScript(() => addEventListener("securitypolicyviolation", (event) =>
    console.error(`violation of ${event.violatedDirective}: ${event.blockedURI}`)));
  if (clock) {
    await page.clock.install();
    await page.clock.pauseAt(Date.now() + 60_000);
  }
  await page.goto(url + path);
  return page;
}

// card opens an operation, and send presses its button; answered waits for an answer with a status.
async function card(page, id) {
  const found = page.locator(`#${id}`);
  await found.waitFor();
  if (!await found.evaluate((details) => details.open)) await found.locator("summary").click();
  return found;
}
const send = (found) => found.getByRole("button", { name: "Send" }).click();
const answered = (found, status) => found.locator("output").filter({ hasText: new RegExp(`^${status}\\b`) }).waitFor();
const part = (found, name) => found.getByRole("group", { name }).innerText();
const answer = async (found) => JSON.parse(await part(found, "Body of the answer"));
const state = (page, text) => page.locator("#state").filter({ hasText: text }).waitFor();

// pasted runs the command that the card shows in bash, and returns the body that came back.
async function pasted(found, environment = {}) {
  const input = await part(found, "The request as a curl command");
  const printed = execFileSync("bash", { input, env: { ...process.env, ...environment }, stdio: ["pipe", "pipe", "ignore"] });
  const [head, body] = printed.toString().split("\r\n\r\n");
  assert.match(head, /^HTTP\/\S+ 201/);
  return JSON.parse(body);
}

// create sends a task to the service, beside the page; pause is how long its body takes.
const create = (pause = 0) => new Promise((resolve, reject) => {
  const sent = request(`${url}/api/tasks`, { method: "POST", headers: { "Content-Type": "application/json" } },
    (came) => came.resume().on("end", () => resolve(came.statusCode)));
  sent.on("error", reject).write('{"task_name":', () => setTimeout(() => sent.end('"a"}'), pause));
});

// turn lets the clock of the page go on to its next questions, and waits until it shows the answers. A machine that takes
// more than four seconds for them, after which the page gives up, is asked again. It returns how often it was asked.
async function turn(page) {
  await page.evaluate(() => { document.querySelector("#meters").firstChild.isOld = true; });
  const isNew = () => !document.querySelector("#meters").firstChild.isOld;
  await page.clock.runFor(5_000);
  if (await page.waitForFunction(isNew, null, { timeout: 8_000 }).catch(() => null)) return 1;
  await page.clock.runFor(5_000);
  await page.waitForFunction(isNew);
  return 2;
}

// works creates a task, in the page and by its command.
async function works(page) {
  const post = await card(page, "createTask");
  await send(post);
  await answered(post, 201);
  await pasted(post);
}

const steps = {
  // By keyboard alone: from the top of the page to the operation, into the body, on to the button.
  async creates() {
    const page = await open({ permissions: ["clipboard-read", "clipboard-write"] });
    const post = page.locator("#createTask");
    const focused = (within, name) => within.locator(":focus").evaluateAll((found, name) =>
      found.some((element) => element.localName === name && element.type !== "button"), name);
    const tabTo = async (within, name) => {
      for (let i = 0; i < 40 && !await focused(within, name); i++) await page.keyboard.press("Tab");
      assert(await focused(within, name), `Tab does not come to ${name}`);
    };
    await post.waitFor();
    await tabTo(post, "summary");
    await page.keyboard.press("Enter");
    await tabTo(post, "textarea");
    await page.keyboard.press("Control+A");
    await page.keyboard.type('{"task_name": "会議資料の準備"}');
    await tabTo(post, "button");
    await page.keyboard.press("Enter");
    await answered(post, 201);
    assert.match(await part(post, "Headers of the answer"), /^location: \/api\/tasks\/task_.*\n(.*\n)*x-request-id: ./m);
    assert.match(await part(post, "Body of the answer"), /^{\n  "task_id": "task_/);
    const created = await answer(post);
    assert.equal(created.task_name, "会議資料の準備");

    const list = await card(page, "listTasks");
    await send(list);
    await answered(list, 200);
    const { tasks } = await answer(list);
    assert(tasks.some(({ task_id, task_name }) => task_id === created.task_id && task_name === "会議資料の準備"));

    const one = await card(page, "getTask"); // which has the id from the answer to the creation
    await send(one);
    await answered(one, 200);
    assert.equal((await answer(one)).task_id, created.task_id);

    const metrics = await card(page, "getMetrics");
    await send(metrics);
    await answered(metrics, 200);
    assert.match(await part(metrics, "Body of the answer"), /^# HELP .*\n# TYPE /);

    assert.equal((await pasted(post)).task_name, "会議資料の準備");
    const name = "it's \"$HOME\" `id` \\ !x 会議";
    await post.locator("textarea").fill(JSON.stringify({ task_name: name }, null, 1));
    assert.equal((await pasted(post)).task_name, name);
    await page.evaluate(() => navigator.clipboard.writeText("something else"));
    await post.getByRole("button", { name: "Copy" }).click();
    await post.getByRole("button", { name: "Copied" }).waitFor();
    assert.equal(await page.evaluate(() => navigator.clipboard.readText()), await part(post, "The request as a curl command"));
  },

  async refuses() {
    const page = await open({ refused: [400], path: "/docs#createTask" });
    const post = await card(page, "createTask");
    await post.locator("textarea").fill('{"task_name": "", "more": 1}');
    await send(post);
    await answered(post, 400);
    assert.deepEqual((await answer(post)).details.map(({ field, code }) => `${field} ${code}`),
      ["task_name REQUIRED", "more UNKNOWN_FIELD"]);
    const list = await card(page, "listTasks");
    await list.getByLabel("limit").fill("0");
    await send(list);
    await answered(list, 400);
    assert.equal((await answer(list)).details[0].field, "limit");
  },

  // The document is the measure: a status that it does not have for the operation is pointed out.
  async notes() {
    const page = await open({ refused: [418] });
    await page.route("**/health", (route) => route.fulfill({ status: 418, contentType: "text/plain", body: "<b>tea</b>" }));
    const health = await card(page, "getHealth");
    await send(health);
    await answered(health, "418.*not in openapi.json");
    assert.equal(await part(health, "Body of the answer"), "<b>tea</b>");
  },

  async explains() {
    const page = await open();
    const document = await (await fetch(`${url}/openapi.json`)).json();
    for (const [path, methods] of Object.entries(document.paths)) {
      for (const [method, operation] of Object.entries(methods)) {
        const found = await card(page, operation.operationId);
        assert.equal(await found.locator("summary").innerText(), `${method.toUpperCase()} ${path} ${operation.summary}`);
        assert.deepEqual(await found.locator("dl").last().locator("dt").allInnerTexts(), Object.keys(operation.responses));
      }
    }
    const list = page.locator("#listTasks");
    assert.match(await list.innerText(), /limit \(query\)[^]*integer, from 1, to 1000, else 100, optional\. How many tasks at most\./);
    assert.match(await page.locator("#createTask").innerText(), /task_name\nstring, length from 1, to 100, required\./);
  },

  // Without, with a wrong and with the right token. It is nowhere but in its field.
  async asks() {
    const [token] = rest;
    const page = await open({ refused: [401] });
    const post = await card(page, "createTask");
    await send(post);
    await answered(post, 401);
    await page.getByLabel("Bearer token").fill("wrong");
    await send(post);
    await answered(post, "401");
    await post.getByText('www-authenticate: Bearer realm="taskapi", error="invalid_token"').waitFor();
    await page.getByLabel("Bearer token").fill(token);
    await send(post);
    await answered(post, 201);
    assert.match(await part(post, "The request as a curl command"), /-H "Authorization: Bearer \$TOKEN"/);
    await pasted(post, { TOKEN: token });
    assert(!(await page.content()).includes(token) && !page.url().includes(token));
    assert.equal(await page.evaluate(() => localStorage.length + sessionStorage.length + document.cookie.length), 0);
    await page.reload();
    assert.equal(await page.getByLabel("Bearer token").inputValue(), "");
  },

  // A service with room for 5: of 10 creations in 5 seconds, 5 fail, and 2 of the others are slow; on a busy machine, more.
  // The pause of the slow ones is long, since the service may see their beginning late.
  async counts() {
    const page = await open({ clock: true, refused: [503] });
    await state(page, /^healthy$/);
    await page.getByText("0 of 5 tasks").waitFor();
    assert.deepEqual(await page.locator("#checks").getByRole("listitem").allInnerTexts(),
      ["✓ application: healthy", "✓ storage: healthy", "✓ system resources: healthy"]);
    assert.deepEqual(await page.getByRole("meter").evaluateAll((meters) => meters.map((meter) => meter.ariaLabel)),
      ["CPU", "Memory", "Disk", "Store"]);
    const { checks } = await (await fetch(`${url}/health/detailed`)).json();
    await page.getByText(`${checks.system_resources.disk.usage_percent} %`).waitFor();

    const answers = await Promise.all([create(1000), create(1000), create(), create(), create()]);
    for (let i = 0; i < 5; i++) answers.push(await create());
    assert.deepEqual(answers, [201, 201, 201, 201, 201, 507, 507, 507, 507, 507]);
    await turn(page);
    await state(page, /^unhealthy$/);
    const full = (await (await fetch(`${url}/health/detailed`)).json()).checks.storage.reason;
    await page.getByText(`✗ storage: ${full}`).waitFor();
    await page.getByText("5 of 5 tasks, high").waitFor();
    const metrics = await (await fetch(`${url}/metrics`)).text();
    const fast = Number(metrics.match(/_bucket{method="POST",route="\/api\/tasks",le="0.1"} (.*)/)[1]);
    assert(fast <= 8);
    for (const [chart, said] of [["rate", "2.0"], ["slow", `${10 * (10 - fast)}.0 %`], ["failed", "50.0 %"]]) {
      assert.equal(await page.locator(`#${chart} b`).innerText(), said);
    }
    await turn(page);
    await page.locator("#rate").filter({ hasText: /0\.0\s*peak 2\.0$/ }).waitFor();
    await page.locator("#failed").filter({ hasText: /–\s*peak 50\.0 %$/ }).waitFor();
    assert.match(await page.locator("#rate path").getAttribute("d"), /^M0 100V100M595 100L595 5L600 100V100$/);
  },

  async rests() {
    const page = await open({ clock: true });
    await state(page, /^healthy$/);
    let asked = 0;
    page.on("request", () => asked++);
    const hide = (hidden) => page.evaluate((hidden) => {
      Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }, hidden);
    const before = 2 * await turn(page);
    assert.equal(asked, before);
    await hide(true);
    await page.clock.runFor(60_000);
    assert.equal(asked, before);
    const came = page.waitForResponse(/\/metrics$/);
    await hide(false);
    await (await came).finished();
    assert.equal(asked, before + 2);
    await page.waitForFunction(() => document.querySelector("#rate path").getAttribute("d").match(/M/g).length === 3);

    // It may be hidden while its questions are on their way.
    await page.route("**/metrics", (route) => setTimeout(() => route.continue(), 500));
    const late = page.waitForResponse(/\/metrics$/);
    await page.clock.runFor(5_000);
    await hide(true);
    await (await late).finished();
    for (let i = 0; i < 12; i++) await page.clock.runFor(5_000);
    assert.equal(asked, before + 4, "it goes on asking");
  },

  // The service is killed, and started again: the page says so, both times by itself.
  async returns() {
    const [taskapi] = rest;
    const serve = async () => {
      const service = spawn(taskapi, ["-addr", new URL(url).host], { stdio: "ignore" });
      while (!await fetch(`${url}/health`).catch(() => null)) await new Promise((wake) => setTimeout(wake, 50));
      return service;
    };
    let service = await serve();
    try {
      const page = await open({ refused: ["net::"] });
      await state(page, /^healthy$/);
      service.kill("SIGKILL");
      await state(page, /^no answer since \d/);
      const post = await card(page, "createTask");
      await send(post);
      await answered(post, "No answer");
      service = await serve();
      await create();
      await state(page, /^healthy$/);
      await page.getByText("1 of 1,000,000 tasks").waitFor();
      await send(post);
      await answered(post, 201);
    } finally {
      service.kill("SIGKILL");
    }
  },

  // nginx.conf keeps /metrics to the host: no charts, and one question is enough to know.
  async proxied() {
    const page = await open({ clock: true, refused: [403] });
    await state(page, /^healthy$/);
    await page.getByText("No charts: /metrics may not be read from here").waitFor();
    page.on("request", (request) => request.url().endsWith("/metrics") && faults.push("asks again"));
    for (let i = 0; i < 3; i++) await turn(page);
    await works(page);
  },
  async prefixed() {
    const page = await open({ path: "/tasks/docs" });
    await state(page, /^healthy$/);
    await works(page);
    assert.match(await part(page.locator("#createTask"), "The request as a curl command"), /'http:\S+\/tasks\/api\/tasks'/);
  },

  // The document names no icon, so Chromium may ask for /favicon.ico, which is not there.
  async bare() {
    const page = await open({ javaScriptEnabled: false, refused: [404] });
    await page.getByRole("main").getByRole("link", { name: "openapi.json" }).click();
    assert.equal(page.url(), `${url}/openapi.json`);
    assert.match(await page.locator("body").innerText(), /"openapi": "3\.1/);
  },

  // What somebody smuggles into the page does nothing.
  async forbids() {
    const page = await open({ path: "/health" });
    await page.route("**/docs", async (route) => {
      const response = await route.fetch();
      const smuggled = '<script>document.title = "smuggled"</script><img src="http://127.0.0.1:1/"><b style="color: red">';
      await route.fulfill({ response, body: (await response.text()).replace("<main", `${smuggled}<main`) });
    });
    await page.goto(`${url}/docs`);
    await state(page, /^healthy$/);
    await page.evaluate(() => fetch("http://127.0.0.1:1/").catch(() => 0));
    assert.equal(await page.title(), "Task Management API");
    const said = faults.splice(0).join("\n");
    for (const what of ["script-src", "style-src", "img-src", "connect-src"]) assert.match(said, new RegExp(`violation of ${what}`));
  },

  // Ten minutes of requests, of which the clock of the page takes the waiting out; then its looks in three widths, light
  // and dark: nothing sticks out, and axe has nothing to say, with all operations open.
  async looks() {
    const page = await open({ clock: true, path: "/docs#createTask" });
    await state(page, /^healthy$/);
    await page.clock.resume();
    await works(page);
    await page.clock.pauseAt(Date.now() + 120_000);
    await turn(page);
    for (let i = 0; i < 120; i++) {
      const requests = 8 + 5 * Math.sin(i / 12) + 2 * Math.sin(i / 3);
      await Promise.all(Array.from({ length: requests }, (_, n) => create(n === 0 && i % 50 > 45 ? 110 : 0)));
      await turn(page);
    }
    const grounds = new Set();
    for (const [name, width, height] of [["phone", 360, 800], ["tablet", 820, 1180], ["wide", 1200, 940]]) {
      await page.setViewportSize({ width, height });
      for (const colorScheme of ["light", "dark"]) {
        await page.emulateMedia({ colorScheme });
        await page.evaluate(() => scrollTo(0, 0));
        await page.screenshot({ path: `${name}-${colorScheme}.png` });
        grounds.add(await page.evaluate(() => getComputedStyle(document.body).backgroundColor));
      }
    }
    assert.equal(grounds.size, 2);

    await page.clock.resume(); // axe waits for it
    await page.evaluate(() => document.querySelectorAll("details").forEach((details) => { details.open = true; }));
    await page.evaluate(readFileSync("node_modules/axe-core/axe.min.js", "utf8"));
    for (const [width, colorScheme] of [[320, "light"], [360, "light"], [820, "light"], [1200, "dark"], [2560, "light"]]) {
      await page.setViewportSize({ width, height: 900 });
      await page.emulateMedia({ colorScheme });
      const wide = await page.evaluate(() => document.documentElement.scrollWidth);
      if (wide > width) faults.push(`${wide} pixels wide, of ${width}`);
      if (width !== 360 && width !== 1200) continue;
      for (const { id, nodes } of (await page.evaluate(() => axe.run())).violations) {
        faults.push(`${width} pixels, ${colorScheme}: ${id} ${nodes.map(({ html }) => html).join(" ")}`);
      }
    }
  },
};

await steps[step]();
for (const context of browser.contexts()) await context.close();
await browser.close();
for (const fault of faults) console.error(fault);
process.exit(faults.length === 0 ? 0 : 1);
JS

web=$docs/nginx
mkdir -p "$web"
upstream=$(free_port)
https=$(free_port)
plain=$(free_port)
url=http://127.0.0.1:$upstream

# nginx with the shipped file, and beside it one that has the service below a path.
configure_nginx() {
  openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=tasks.example -addext subjectAltName=IP:127.0.0.1 \
    -keyout "$web/key.pem" -out "$web/cert.pem" || return
  sed -e "s|listen 80;|listen 127.0.0.1:$(free_port);|; s|listen 443 |listen 127.0.0.1:$https |; /listen \[::\]/d" \
    -e "s|server 127.0.0.1:8000;|server 127.0.0.1:$upstream;|; s|/var/log/nginx/taskapi.log|$web/access.log|" \
    -e "s|/etc/ssl/certs/taskapi.pem|$web/cert.pem|; s|/etc/ssl/private/taskapi.key|$web/key.pem|" \
    "$deploy/nginx.conf" >"$web/taskapi.conf"
  cat >"$web/nginx.conf" <<END
daemon off;
pid $web/pid;
error_log stderr;
events { worker_connections 256; }
http {
  client_body_temp_path $web/body;
  proxy_temp_path $web/proxy;
  fastcgi_temp_path $web/fastcgi;
  uwsgi_temp_path $web/uwsgi;
  scgi_temp_path $web/scgi;
  include $web/taskapi.conf;
  server {
    listen 127.0.0.1:$plain;
    location /tasks/ { proxy_pass http://127.0.0.1:$upstream/; }
  }
}
END
}
# serves NAME FLAG…: a service on a port of its own, at $(at NAME).
serves() {
  local port
  port=$(free_port)
  echo "http://127.0.0.1:$port" >"$docs/$1.url"
  background "$1" "$taskapi" -addr "127.0.0.1:$port" "${@:2}"
  until_true 5 answers "http://127.0.0.1:$port/health"
}
at() { cat "$docs/$1.url"; }
# pictures: README's picture is one of those that were just made, or of the same kind.
is_picture() { [ "$(head -c 4 "$1" | tail -c 3)" = PNG ] && [ "$(wc -c <"$1")" -lt 150000 ]; }
pictures() {
  optipng -quiet "$docs/wide-light.png" || return
  [ -z "${DOCS_PICTURE:-}" ] || cp "$docs/wide-light.png" "$deploy/docs.png" || return
  wc -c "$docs"/*.png "$deploy/docs.png"
  is_picture "$docs/wide-light.png" && is_picture "$deploy/docs.png"
}

check "npm installs the driver of the browser, and axe" install_packages
check "docs.html: at most 400 lines and 24 KiB" in_size "$deploy/docs.html"
check "docs.html: one style and one script, that can be cut out" bare_tags "$deploy/docs.html"
check "docs.html: it makes text only, keeps nothing, and has no code in attributes" only_text "$deploy/docs.html"

background service "$taskapi" -addr "127.0.0.1:$upstream"
check "the service starts" until_true 5 answers "$url/health"
check "GET /docs is the file, under a policy that allows only itself" hashed "$url"
(cd "$docs" && background browser node browser.js)
check "Chromium starts" has_browser
check "a task is created by keyboard, is in the list, and again by the curl command in bash" step creates "$url"
check "what is refused says why" step refuses "$url"
check "a status that is not in openapi.json is pointed out" step notes "$url"
check "every operation is there, with its bounds and its answers" step explains "$url"
check "it does not ask while it is hidden" step rests "$url"
check "what is smuggled into it does nothing" step forbids "$url"
check "without JavaScript, it leads to openapi.json" step bare "$url"

echo a-token-of-the-check >"$docs/token"
serves token -token-file "$docs/token"
check "without, with a wrong and with the right token" step asks "$(at token)" "$(cat "$docs/token")"
serves small -max-tasks 5 -slow 10s
check "the strip: state, meters, requests a second, slow and failed ones" step counts "$(at small)"
check "after kill -9 it says so, and comes back with the service" step returns "http://127.0.0.1:$(free_port)" "$taskapi"

configure_nginx >"$web/openssl.log" 2>&1
background nginx nginx -e stderr -c "$web/nginx.conf"
check "nginx starts" until_true 5 answers -k "https://127.0.0.1:$https/health"
export CURL_CA_BUNDLE=$web/cert.pem
check "it works behind the shipped nginx" step proxied "https://127.0.0.1:$https"
unset CURL_CA_BUNDLE
check "it works behind a proxy that puts a path in front" step prefixed "http://127.0.0.1:$plain"

serves busy
check "phone, tablet and wide screen, light and dark: nothing sticks out, and axe finds nothing" step looks "$(at busy)"
check "docs.png is there, below 150 KB" pictures
