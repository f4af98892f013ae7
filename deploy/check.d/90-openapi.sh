# The OpenAPI document: the service gives it out as it is here, validators and linters find no fault in it, and each
# example obeys its own schema. The clients that seven generators make of it, with their defaults, compile and do what a
# program wants of a client. A proxy that compares every answer with the document finds nothing, and Postman's collection
# runs. What is broken on purpose is refused, for the right reason. npm installs into the check's folder and runs no
# script of a package; all versions run on the Node.js 18 of Debian 12.
{ command -v node && command -v npm; } >/dev/null || need nodejs npm

token=s3cret
url=http://127.0.0.1:$(free_port)    # for everybody
closed=http://127.0.0.1:$(free_port) # with -token-file
prism=http://127.0.0.1:$(free_port)
node=$work/node
clients=$node/clients
go_clients=$work/go-clients
document=$node/openapi.json # as the service gives it out
mkdir -p "$clients" "$node/out" "$go_clients/oapi" "$go_clients/ogen"
echo $token >"$work/openapi-token"

tool() { "$node/node_modules/.bin/$1" "${@:2}"; }

# The last one is there because five packages of Postman would have a copy each.
install_packages() {
  echo '{"private": true, "type": "module"}' >"$node/package.json"
  npm install --prefix "$node" --ignore-scripts --no-audit --no-fund --no-package-lock --save-exact \
    @seriousme/openapi-schema-validator@2.11.0 ajv@8.20.0 @redocly/openapi-core@1.34.15 @stoplight/spectral-cli@6.16.3 \
    typescript@5.8.3 openapi-typescript@7.13.0 openapi-fetch@0.17.0 @hey-api/openapi-ts@0.85.2 swagger-typescript-api@13.0.28 \
    openapi-zod-client@1.18.3 @zodios/core@10.9.6 zod@3.25.76 orval@7.13.2 axios@1.13.2 \
    @stoplight/prism-cli@5.14.2 openapi-to-postmanv2@6.3.3 newman@6.2.2 @faker-js/faker@5.5.3
}

# The generators for Go have a module of their own.
build_go_generators() { go build -C "$go_clients" -mod=mod -o "$go_clients/bin/" tool; }
cat >"$go_clients/go.mod" <<'MOD'
module clients

go 1.26

tool (
	github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen
	github.com/ogen-go/ogen/cmd/ogen
)

require (
	github.com/labstack/echo/v4 v4.16.5
	github.com/oapi-codegen/oapi-codegen/v2 v2.8.2
	github.com/oapi-codegen/runtime v1.9.0
	github.com/ogen-go/ogen v1.25.0
)
MOD

# ended NAME: a background program has come to a good end.
ended() {
  wait "$(cat "$work/$1.pid")"
  local status=$?
  rm -f "$work/$1.pid"
  cat "$work/$1.log"
  return $status
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
  tool validate-api "$1" && [ -z "$twice" ]
}

# examples FILE: each schema compiles in JSON Schema's own dialect, where a misspelled keyword is an error; each example
# obeys the schema beside it, and would not with one member more.
examples() { node "$node/examples.js" "$1"; }
cat >"$node/examples.js" <<'JS'
import { readFileSync } from "node:fs";
import { Ajv2020 } from "ajv/dist/2020.js";

const document = JSON.parse(readFileSync(process.argv[2], "utf8"));
const ajv = new Ajv2020({ strict: true, strictTypes: false, strictRequired: false, formats: { "date-time": true, int64: true } });
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

# redocly FILE: the recommended rules find no error but the slash at the end of /debug/pprof/, which pprof needs: the
# links on its page are relative.
redocly() {
  node "$node/redocly.js" "$1" >"$node/redocly.out" || return
  cat "$node/redocly.out"
  [ "$(grep ^error "$node/redocly.out")" = 'error no-path-trailing-slash #/paths/~1debug~1pprof~1' ]
}
cat >"$node/redocly.js" <<'JS'
import { createConfig, lint } from "@redocly/openapi-core";

const config = await createConfig({ extends: ["recommended"] });
for (const problem of await lint({ ref: process.argv[2], config })) {
  console.log(problem.severity, problem.ruleId, problem.location[0].pointer);
}
JS

# spectral FILE: its rules for OpenAPI find no error.
spectral() { tool spectral lint --ruleset "$node/spectral.yaml" "$1"; }
echo 'extends: "spectral:oas"' >"$node/spectral.yaml"

# refuses FUNCTION EDIT WORDS: FUNCTION fails for the document after jq's EDIT, and says WORDS.
refuses() {
  jq "$2" "$document" >"$node/broken.json" && ! "$1" "$node/broken.json" >"$node/faults" 2>&1 || return
  cat "$node/faults"
  grep -qF "$3" "$node/faults"
}

# generate NAME: the client of this generator, with its defaults.
generate() {
  case $1 in
  openapi-typescript) tool openapi-typescript "$document" -o "$clients/openapi-typescript.d.ts" ;;
  hey-api) tool openapi-ts -i "$document" -o "$clients/hey-api" ;;
  swagger-typescript-api) tool swagger-typescript-api generate -p "$document" -o "$clients/swagger-typescript-api" ;;
  openapi-zod-client) tool openapi-zod-client "$document" -o "$clients/openapi-zod-client.ts" ;;
  orval) tool orval --input "$document" --output "$clients/orval.ts" ;;
  oapi-codegen) "$go_clients/bin/oapi-codegen" -package oapi -o "$go_clients/oapi/oapi.go" "$document" ;;
  ogen) "$go_clients/bin/ogen" --target "$go_clients/ogen" --package ogen --clean "$document" ;;
  esac
}

# compile FILE…: in strict mode. What it makes of them is in $node/out.
compile() {
  tool tsc --strict --skipLibCheck --esModuleInterop --target es2022 --lib es2022,dom,dom.iterable \
    --module commonjs --moduleResolution node10 --outDir "$node/out" "$@"
}
echo '{"type": "commonjs"}' | tee "$clients/package.json" >"$node/out/package.json"

# What a program wants of a client, whichever generator has made it, without a token and with one: then it shows that the
# service has asked for it.
cat >"$clients/use.ts" <<'TS'
export interface Client {
  create(task_name: string): Promise<Answer>;
  get(task_id: string): Promise<Answer>;
  list(after?: string): Promise<Answer>;
}

export interface Answer {
  task?: { task_id: string; task_name: string; user_id: string };
  page?: { tasks: { task_id: string }[] };
  error?: { error_code: string; details: { field: string; code: string }[] };
}

declare const process: { argv: string[] };

function expect(what: string, got: unknown, want: unknown) {
  const [left, right] = [JSON.stringify(got), JSON.stringify(want)];
  if (left !== right) throw new Error(`${what}: ${left}, want ${right}`);
}

export async function use(connect: (url: string, token?: string) => Client) {
  const [, , url, token] = process.argv;
  const client = connect(url, token);

  const { task } = await client.create("会議資料の準備");
  expect("created", [task?.task_name, task?.user_id], ["会議資料の準備", "system"]);
  const read = await client.get(task!.task_id);
  expect("read", read.task?.task_id, task!.task_id);
  const list = await client.list();
  expect("listed", list.page?.tasks.some((each) => each.task_id === task!.task_id), true);

  const refused = await client.list("task_AAAA");
  expect("error_code of a 400", refused.error?.error_code, "VALIDATION_ERROR");
  expect("details of a 400", refused.error?.details.map(({ field, code }) => [field, code]), [["after", "INVALID_VALUE"]]);
  const missing = await client.get("task_AAAA");
  expect("error_code of a 404", missing.error?.error_code, "NOT_FOUND");
  expect("details of a 404", missing.error?.details, []);

  if (token) {
    const stranger = await connect(url).list();
    expect("error_code without a token", stranger.error?.error_code, "UNAUTHORIZED");
  }
}
TS
cat >"$clients/use-openapi-typescript.ts" <<'TS'
import createClient from "openapi-fetch";
import type { paths } from "./openapi-typescript";
import { use } from "./use";

use((baseUrl, token) => {
  const client = createClient<paths>({ baseUrl, headers: token ? { Authorization: `Bearer ${token}` } : {} });
  return {
    async create(task_name) {
      const { data, error } = await client.POST("/api/tasks", { body: { task_name } });
      return { task: data, error };
    },
    async get(task_id) {
      const { data, error } = await client.GET("/api/tasks/{task_id}", { params: { path: { task_id } } });
      return { task: data, error };
    },
    async list(after) {
      const { data, error } = await client.GET("/api/tasks", { params: { query: { after } } });
      return { page: data, error };
    },
  };
});
TS
cat >"$clients/use-hey-api.ts" <<'TS'
import { createTask, getTask, listTasks } from "./hey-api";
import { createClient } from "./hey-api/client";
import { use } from "./use";

use((baseUrl, auth) => {
  const client = createClient({ baseUrl, auth });
  return {
    async create(task_name) {
      const { data, error } = await createTask({ client, body: { task_name } });
      return { task: data, error };
    },
    async get(task_id) {
      const { data, error } = await getTask({ client, path: { task_id } });
      return { task: data, error };
    },
    async list(after) {
      const { data, error } = await listTasks({ client, query: { after } });
      return { page: data, error };
    },
  };
});
TS
cat >"$clients/use-swagger-typescript-api.ts" <<'TS'
import { Api, type ErrorEnvelope, type HttpResponse } from "./swagger-typescript-api/Api";
import { use } from "./use";

use((baseUrl, token) => {
  const { api } = new Api({ baseUrl, securityWorker: () => (token ? { headers: { Authorization: `Bearer ${token}` } } : {}) });
  const refused = ({ error }: HttpResponse<unknown, ErrorEnvelope>) => ({ error });
  return {
    create: (task_name) => api.createTask({ task_name }).then(({ data }) => ({ task: data }), refused),
    get: (task_id) => api.getTask(task_id).then(({ data }) => ({ task: data }), refused),
    list: (after) => api.listTasks({ after }).then(({ data }) => ({ page: data }), refused),
  };
});
TS
cat >"$clients/use-openapi-zod-client.ts" <<'TS'
import { isErrorFromAlias } from "@zodios/core";
import { createApiClient } from "./openapi-zod-client";
import { use } from "./use";

use((url, token) => {
  const client = createApiClient(url, { axiosConfig: { headers: token ? { Authorization: `Bearer ${token}` } : {} } });
  return {
    async create(task_name) {
      return { task: await client.createTask({ task_name }) };
    },
    async get(task_id) {
      try {
        return { task: await client.getTask({ params: { task_id } }) };
      } catch (failure) {
        if (isErrorFromAlias(client.api, "getTask", failure)) return { error: failure.response.data };
        throw failure;
      }
    },
    async list(after) {
      try {
        return { page: await client.listTasks({ queries: { after } }) };
      } catch (failure) {
        if (isErrorFromAlias(client.api, "listTasks", failure)) return { error: failure.response.data };
        throw failure;
      }
    },
  };
});
TS
cat >"$clients/use-orval.ts" <<'TS'
import type { AxiosError } from "axios";
import { createTask, getTask, listTasks, type ErrorEnvelope } from "./orval";
import { use } from "./use";

use((baseURL, token) => {
  const options = { baseURL, headers: token ? { Authorization: `Bearer ${token}` } : {} };
  const refused = ({ response }: AxiosError<ErrorEnvelope>) => ({ error: response?.data });
  return {
    create: (task_name) => createTask({ task_name }, options).then(({ data }) => ({ task: data }), refused),
    get: (task_id) => getTask(task_id, options).then(({ data }) => ({ task: data }), refused),
    list: (after) => listTasks({ after }, options).then(({ data }) => ({ page: data }), refused),
  };
});
TS

# The same in Go.
compile_go() { go build -C "$go_clients" -mod=mod -o "$go_clients/bin/use" .; }
cat >"$go_clients/main.go" <<'GO'
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"

	"github.com/ogen-go/ogen/ogenerrors"

	"clients/oapi"
	"clients/ogen"
)

func main() {
	url, token := os.Args[2], ""
	if len(os.Args) > 3 {
		token = os.Args[3]
	}
	use := map[string]func(url, token string){"oapi-codegen": useOapi, "ogen": useOgen}
	use[os.Args[1]](url, token)
}

func expect(what string, got, want any) {
	if fmt.Sprint(got) != fmt.Sprint(want) {
		fmt.Fprintf(os.Stderr, "%s: %v, want %v\n", what, got, want)
		os.Exit(1)
	}
}

func must[T any](value T, err error) T {
	expect("error", err, nil)
	return value
}

var ctx = context.Background()

func useOapi(url, token string) {
	connect := func(token string) *oapi.ClientWithResponses {
		authorize := func(_ context.Context, r *http.Request) error {
			if token != "" {
				r.Header.Set("Authorization", "Bearer "+token)
			}
			return nil
		}
		return must(oapi.NewClientWithResponses(url, oapi.WithRequestEditorFn(authorize)))
	}
	client := connect(token)

	task := must(client.CreateTaskWithResponse(ctx, nil, oapi.NewTask{TaskName: "会議資料の準備"})).JSON201
	expect("created", task.TaskName+task.UserId, "会議資料の準備system")
	read := must(client.GetTaskWithResponse(ctx, task.TaskId, nil)).JSON200
	expect("read", read.TaskId, task.TaskId)
	list := must(client.ListTasksWithResponse(ctx, nil)).JSON200
	expect("listed", slices.Contains(list.Tasks, *read), true)

	nothing := "task_AAAA"
	refused := must(client.ListTasksWithResponse(ctx, &oapi.ListTasksParams{After: &nothing})).JSON400
	expect("error_code of a 400", refused.ErrorCode, "VALIDATION_ERROR")
	expect("details of a 400", refused.Details[0].Field+" "+string(refused.Details[0].Code), "after INVALID_VALUE")
	missing := must(client.GetTaskWithResponse(ctx, nothing, nil)).JSON404
	expect("error_code of a 404", missing.ErrorCode, "NOT_FOUND")
	expect("details of a 404", missing.Details, []oapi.ErrorDetail{})

	if token != "" {
		stranger := must(connect("").ListTasksWithResponse(ctx, nil)).JSON401
		expect("error_code without a token", stranger.ErrorCode, "UNAUTHORIZED")
	}
}

// secret is what ogen asks for the token.
type secret string

func (s secret) Bearer(context.Context, ogen.OperationName) (ogen.Bearer, error) {
	if s == "" {
		return ogen.Bearer{}, ogenerrors.ErrSkipClientSecurity
	}
	return ogen.Bearer{Token: string(s)}, nil
}

func useOgen(url, token string) {
	client := must(ogen.NewClient(url, secret(token)))

	input := &ogen.NewTask{TaskName: "会議資料の準備"}
	task := must(client.CreateTask(ctx, input, ogen.CreateTaskParams{})).(*ogen.CreatedTaskHeaders).Response
	expect("created", task.TaskName+task.UserID, "会議資料の準備system")
	read := must(client.GetTask(ctx, ogen.GetTaskParams{TaskID: string(task.TaskID)})).(*ogen.TaskHeaders).Response
	expect("read", read.TaskID, task.TaskID)
	list := must(client.ListTasks(ctx, ogen.ListTasksParams{})).(*ogen.TaskPageHeaders).Response
	expect("listed", slices.Contains(list.Tasks, read), true)

	params := ogen.ListTasksParams{After: ogen.NewOptString("task_AAAA")}
	refused := must(client.ListTasks(ctx, params)).(*ogen.BadQueryHeaders).Response
	expect("error_code of a 400", refused.ErrorCode, "VALIDATION_ERROR")
	expect("details of a 400", refused.Details[0].Field+" "+string(refused.Details[0].Code), "after INVALID_VALUE")
	missing := must(client.GetTask(ctx, ogen.GetTaskParams{TaskID: "task_AAAA"})).(*ogen.NoSuchTaskHeaders).Response
	expect("error_code of a 404", missing.ErrorCode, "NOT_FOUND")
	expect("details of a 404", missing.Details, []ogen.ErrorDetail{})

	if token != "" {
		client := must(ogen.NewClient(url, secret("")))
		stranger := must(client.ListTasks(ctx, ogen.ListTasksParams{})).(*ogen.UnauthorizedHeaders).Response
		expect("error_code without a token", stranger.ErrorCode, "UNAUTHORIZED")
	}
}
GO

# works NAME: the program gets what it wants, from the service for everybody and from the one that asks for a token.
works() {
  local use=(node "$node/out/use-$1.js")
  [ -e "$clients/use-$1.ts" ] || use=("$go_clients/bin/use" "$1")
  "${use[@]}" "$url" && "${use[@]}" "$closed" $token
}

# compile_errors: the compiler refuses a program with three faults.
compile_errors() {
  sed -e 's/{ task_name }/{ task_nmae: task_name }/' -e 's/page: data,/page: data?.pages,/' \
    -e 's|"/api/tasks/{|"/api/task/{|' "$clients/use-openapi-typescript.ts" >"$clients/wrong.ts"
  ! compile "$clients/wrong.ts" >"$node/faults"
  cat "$node/faults"
}

# start_prism FILE: a proxy that compares requests and answers with the document, and puts an error of its own in the
# place of what does not follow it.
start_prism() {
  background prism "$node/node_modules/.bin/prism" proxy --errors -p "${prism##*:}" "$1" "$url"
  until_true 180 answers "$prism/docs"
}

# through_prism STATUS PATH CURL-OPTION…: the answer has this status.
through_prism() {
  local got
  got=$(curl -sS --max-time 30 -o "$node/answer" -w '%{http_code}' "${@:3}" "$prism$2")
  [ "$got" = "$1" ] && return
  echo "$2: $got, want $1"
  cat "$node/answer"
  return 1
}

# all_through_prism: one request of each operation in the document, and some that are errors.
all_through_prism() {
  local body id method path wrong=0 operations=0
  body=$(jq -c '.paths["/api/tasks"].post.requestBody.content["application/json"].examples.full.value' "$document")
  id=$(curl -fsS --json "$body" "$url/api/tasks" | jq -r .task_id)
  while read -r method path; do
    operations=$((operations + 1))
    case $method in
    get) through_prism 200 "${path/\{task_id\}/$id}" || wrong=1 ;;
    post) through_prism 201 "$path" --json "$body" || wrong=1 ;;
    esac
  done < <(jq -r '.paths | to_entries[] | .key as $path | .value | keys[] | "\(.) \($path)"' "$document")
  through_prism 400 /api/tasks --json '{"task_name":"\u200b"}' || wrong=1
  through_prism 400 "/api/tasks?after=task_AAAA" || wrong=1
  through_prism 404 /api/tasks/task_AAAA || wrong=1
  through_prism 403 /debug/storage -H 'Via: 1.1 proxy' || wrong=1
  echo "$operations operations"
  [ $operations -gt 0 ] && [ $wrong -eq 0 ]
}

# postman URL STATUSES OPTION…: newman runs the collection with the base address, and the answers have these statuses.
# Postman puts <string> where it has no id: 404 for the task, 400 for the page behind it.
postman() {
  local got
  tool newman run "$node/collection.json" --reporters cli,json --reporter-json-export "$node/newman.json" \
    --env-var "baseUrl=$1" "${@:3}" || return
  got=$(jq -r '[.run.executions[].response.code] | join(" ")' "$node/newman.json")
  echo "$got"
  [ "$got" = "$2" ]
}

background go_generators build_go_generators
check "npm installs validators, generators, compiler, proxy and Postman's runner" install_packages
background service "$taskapi" -addr "${url#http://}"
background closed "$taskapi" -addr "${closed#http://}" -token-file "$work/openapi-token"
check "the service starts, and another one with a token" until_true 20 answers "$url/health" "$closed/health"
check "GET /openapi.json is the file, byte for byte" served
check "the document is OpenAPI 3.1" valid "$document"
check "every schema compiles, and every example obeys its own" examples "$document"
check "redocly finds no error but the slash that pprof needs" redocly "$document"
check "spectral finds no error" spectral "$document"

check "refused: no title" refuses valid 'del(.info.title)' "must have required property 'title'"
check "refused: a member that OpenAPI does not have" refuses valid '.paths["/health"].get.respnses = {}' respnses
check "refused: a reference to nowhere" refuses valid '.paths["/health"].get.responses["500"][] += "s"' InternalErrors
check "refused: one operationId twice" refuses valid '.paths["/health"].get.operationId = "getIndex"' 'getIndex twice'
check "refused: a type that JSON does not have" refuses examples '.components.schemas.Task.type = "objekt"' type
check "refused: a misspelled keyword" refuses examples '.components.schemas.Name.maxLenght = 100' maxLenght
check "refused: an example with another error_code" refuses examples \
  '.components.responses.NoSuchTask.content["application/json"].examples.task.value.error_code = "GONE"' 'error_code must be'
check "refused: a schema that is open" refuses examples 'del(.components.schemas.Task.additionalProperties)' 'takes anything more'
check "refused: no word on security" refuses redocly 'del(.security)' security-defined
check "refused: a path parameter that is not described" refuses spectral \
  'del(.paths["/api/tasks/{task_id}"].get.parameters[0])' path-params

for generator in openapi-typescript hey-api swagger-typescript-api openapi-zod-client orval; do
  check "a client is generated: $generator" generate "$generator"
done
check "they compile" compile "$clients"/use-*.ts
check "the generators for Go are built" ended go_generators
check "a client is generated: oapi-codegen" generate oapi-codegen
check "a client is generated: ogen" generate ogen
check "they compile" compile_go
for generator in openapi-typescript hey-api swagger-typescript-api openapi-zod-client orval oapi-codegen ogen; do
  check "it creates, reads and lists tasks, and reads errors, without and with a token: $generator" works "$generator"
done
check "a program with three faults does not compile" compile_errors
check "a compile error: a misspelled field in the request" grep -F task_nmae "$node/faults"
check "a compile error: a misspelled field in the answer" grep -F "'pages'" "$node/faults"
check "a compile error: a path that there is not" grep -F /api/task/ "$node/faults"

check "prism starts in front of the service" start_prism "$document"
check "prism finds nothing in one request of each operation, nor in errors" all_through_prism
stop prism
jq '.components.schemas.Summary.required += ["mood"]' "$document" >"$node/broken.json"
check "prism starts with another document" start_prism "$node/broken.json"
check "refused: an answer that is not in the document" through_prism 500 /health
stop prism

check "Postman's converter makes a collection" tool openapi2postmanv2 -s "$document" -o "$node/collection.json"
check "newman runs it" postman "$url" '200 200 200 201 400 404 200 200 200 200 200 400 200'
check "newman runs it with a token in one variable" postman "$closed" '200 200 200 201 400 404 200 200 200 200 200 400 200' \
  --env-var bearerToken=$token
check "without it, what needs a token is 401" postman "$closed" '200 200 200 401 401 401 200 200 200 200 200 401 401'
stop closed
stop service
