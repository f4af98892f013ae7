# The OpenAPI document: the service gives it out as it is here, a validator and a schema compiler find no fault in it,
# each example obeys its own schema, and a client that is generated from it creates a task. What is broken on purpose is
# refused, for the right reason. npm installs into the check's folder and runs no script of a package.
{ command -v node && command -v npm; } >/dev/null || need nodejs npm

url=http://127.0.0.1:$(free_port)
node=$work/node
document=$node/openapi.json # as the service gives it out
mkdir -p "$node"

install_packages() {
  echo '{"private": true, "type": "module"}' >"$node/package.json"
  npm install --prefix "$node" --ignore-scripts --no-audit --no-fund --no-package-lock --save-exact \
    @seriousme/openapi-schema-validator@2.11.0 ajv@8.20.0 \
    openapi-typescript@7.13.0 openapi-fetch@0.17.0 typescript@5.9.3
}

served() {
  local type
  type=$(curl -fsS --max-time 5 -o "$document" -w '%{content_type}' "$url/openapi.json")
  echo "$type"
  [ "$type" = application/json ] && cmp "$document" "$deploy/openapi.json"
}

# valid FILE: the document follows OpenAPI 3.1, all its references lead somewhere, and no two operations have one name.
valid() {
  local twice
  twice=$(jq -r '[.paths[][].operationId] | group_by(.)[] | select(length > 1)[0] + " twice"' "$1")
  echo "$twice"
  "$node/node_modules/.bin/validate-api" "$1" && [ -z "$twice" ]
}

# examples FILE: each schema compiles in JSON Schema's own dialect, where a misspelled keyword is an error; each example
# obeys the schema beside it, and would not with one member more.
examples() { node "$node/examples.js" "$1"; }
cat >"$node/examples.js" <<'JS'
import { readFileSync } from "node:fs";
import { Ajv2020 } from "ajv/dist/2020.js";

const document = JSON.parse(readFileSync(process.argv[2], "utf8"));
const ajv = new Ajv2020({ strict: true, strictTypes: false, strictRequired: false, formats: { "date-time": true } });
ajv.addVocabulary(Object.keys(document)); // the root is no schema
ajv.addSchema(document, "document", undefined, false);

const faults = [];
let schemas = 0, examples = 0;

function compile(pointer) {
  schemas++;
  return ajv.compile({ $ref: "document#" + pointer });
}

function walk(value, pointer) {
  if (value === null || typeof value !== "object") return;
  if (value.schema) {
    const accepts = compile(pointer + "/schema");
    const given = Object.values(value.examples ?? {}).map((example) => example.value);
    if (value.example !== undefined) given.push(value.example);
    for (const example of given) {
      examples++;
      if (!accepts(example)) faults.push(`${pointer}: ${ajv.errorsText(accepts.errors)}`);
      if (typeof example === "object" && accepts({ ...example, more: 1 })) faults.push(`${pointer}: takes anything more`);
    }
  }
  for (const [key, member] of Object.entries(value)) {
    walk(member, `${pointer}/${encodeURIComponent(key.replaceAll("~", "~0").replaceAll("/", "~1"))}`);
  }
}

for (const name of Object.keys(document.components.schemas)) compile("/components/schemas/" + name);
walk(document, "");
console.log(`${schemas} schemas, ${examples} examples`);
for (const fault of faults) console.log(fault);
process.exit(faults.length === 0 && examples > 0 ? 0 : 1);
JS

# refuses FUNCTION EDIT WORDS: FUNCTION fails for the document after jq's EDIT, and says WORDS.
refuses() {
  jq "$2" "$document" >"$node/broken.json" && ! "$1" "$node/broken.json" >"$node/faults" 2>&1 || return
  cat "$node/faults"
  grep -qF "$3" "$node/faults"
}

# The client: types that a generator makes from the document, and a program against them.
generate() { "$node/node_modules/.bin/openapi-typescript" "$document" --default-non-nullable=false -o "$node/api.d.ts"; }
compile() {
  "$node/node_modules/.bin/tsc" --strict --skipLibCheck --target es2022 --lib es2022,dom --module nodenext --outDir "$node" "$1"
}
cat >"$node/client.ts" <<'TS'
import createClient from "openapi-fetch";
import type { paths } from "./api.js";

declare const process: { argv: string[] };
const client = createClient<paths>({ baseUrl: process.argv[2] });

function expect(what: string, got: unknown, want: unknown) {
  if (got !== want) throw new Error(`${what}: ${JSON.stringify(got)}, want ${JSON.stringify(want)}`);
}

const created = await client.POST("/api/tasks", { body: { task_name: "会議資料の準備" } });
if (!created.data) throw new Error(created.error.error_message);
expect("Location", created.response.headers.get("Location"), "/api/tasks/" + created.data.task_id);

const read = await client.GET("/api/tasks/{task_id}", { params: { path: { task_id: created.data.task_id } } });
expect("task_name", read.data?.task_name, "会議資料の準備");
expect("user_id", read.data?.user_id, "system");

const page = await client.GET("/api/tasks", { params: { query: { limit: 1 } } });
expect("tasks", page.data?.tasks[0]?.task_id, created.data.task_id);

const refused = await client.GET("/api/tasks", { params: { query: { limit: 0 } } });
expect("details", refused.error?.details[0]?.code, "INVALID_VALUE");
TS

# compile_error EDIT NAME: the compiler refuses the client after sed's EDIT, because of NAME.
compile_error() {
  sed "$1" "$node/client.ts" >"$node/wrong.ts"
  ! compile "$node/wrong.ts" >"$node/faults" || return
  cat "$node/faults"
  grep -qF "$2" "$node/faults"
}

check "npm installs validator, generator and compiler" install_packages
background service "$taskapi" -addr "${url#http://}"
check "the service starts" until_true 5 answers "$url/health"
check "GET /openapi.json is the file, byte for byte" served
check "the document is OpenAPI 3.1" valid "$document"
check "every schema compiles, and every example obeys its own" examples "$document"

check "refused: no title" refuses valid 'del(.info.title)' "must have required property 'title'"
check "refused: a member that OpenAPI does not have" refuses valid '.paths["/health"].get.respnses = {}' respnses
check "refused: a reference to nowhere" refuses valid '.paths["/health"].get.responses["500"][] += "s"' InternalErrors
check "refused: one operationId twice" refuses valid '.paths["/health"].get.operationId = "getIndex"' 'getIndex twice'
check "refused: a type that JSON does not have" refuses examples '.components.schemas.Task.type = "objekt"' type
check "refused: a misspelled keyword" refuses examples '.components.schemas.Name.maxLenght = 100' maxLenght
check "refused: an example with another error_code" refuses examples \
  '.components.responses.NotFound.content["application/json"].example.error_code = "GONE"' 'error_code must be'
check "refused: a schema that is open" refuses examples 'del(.components.schemas.Task.additionalProperties)' 'takes anything more'

check "a client is generated" generate
check "it compiles" compile "$node/client.ts"
check "it creates a task and reads it back" node "$node/client.js" "$url"
check "a compile error: a misspelled field in the request" compile_error 's/{ task_name:/{ task_nmae:/' task_nmae
check "a compile error: a misspelled field in the answer" compile_error 's/data?.user_id/data?.userid/' userid
check "a compile error: a path that there is not" compile_error 's|"/api/tasks/{|"/api/task/{|' '/api/task/{task_id}'
stop service
