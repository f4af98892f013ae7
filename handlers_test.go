package main

// The specification, as seen from the wire. The sections follow the order in which a user meets the service: requests
// and their answers, health, metrics, logs, starting and stopping; then what is inside: the store; then what keeps the
// README true; then fuzzing and benchmarks. The harness comes first: whatever the test, every answer goes through judge.

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

// --- The harness: a client that checks on every answer what every answer promises. ---

// client talks to a service over real connections.
type client struct {
	*service // nil if it runs in another process
	base     string
	http     *http.Client
	log      *buffer
	stop     func() error // stops the service as a signal would, and returns what its serve or run returned
}

// answer is a response that has been read completely.
type answer struct {
	status     int
	header     http.Header
	path, body string
	curl       string // a command that repeats the request
}

// buffer collects what a service writes, which may go on while it is read.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// build returns a service with these flags, and its log. Its lines are there after s.logged.flush().
func build(t testing.TB, flags ...string) (*service, *buffer) {
	t.Helper()
	var log buffer
	s, err := newService(flags, io.Discard, &log)
	if err != nil {
		t.Fatalf("taskapi %s: %v", strings.Join(flags, " "), err)
	}
	return s, &log
}

// start serves a service with these flags on the loopback interface until the test ends.
func start(t testing.TB, flags ...string) *client {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return startOn(t, ln, &http.Transport{}, flags...)
}

// startOn is start with a listener and the transport that reaches it.
func startOn(t testing.TB, ln net.Listener, transport *http.Transport, flags ...string) *client {
	t.Helper()
	s, log := build(t, flags...)
	c := newClient("http://"+ln.Addr().String(), transport)
	c.service, c.log = s, log
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.serve(ctx, ln) }()
	tested := false
	wait := sync.OnceValue(func() error {
		cancel()
		c.http.CloseIdleConnections()
		return <-served
	})
	c.stop = func() error { tested = true; return wait() }
	t.Cleanup(func() {
		if err := wait(); err != nil && !tested {
			t.Errorf("the service did not stop cleanly: %v", err)
		}
		s.logged.flush()
		// So net/http tells of a second WriteHeader, of a body longer than announced, and of a panic that got through:
		// exactly one status leaves the service for each request.
		if strings.Contains(log.String(), `"http: `) {
			t.Errorf("net/http complains:\n%s", log)
		}
	})
	return c
}

func newClient(base string, transport *http.Transport) *client {
	return &client{base: base, http: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// call sends a request, whose headers are lines of the form "Name: value", and judges the answer. A body is JSON unless
// a header says something else.
func (c *client) call(t testing.TB, want int, method, path, body string, headers ...string) answer {
	t.Helper()
	curl := fmt.Sprintf("curl -i -X %s '%s%s'", method, c.base, path)
	req, err := http.NewRequest(method, c.base+path, strings.NewReader(body))
	if path == "*" {
		req, err = http.NewRequest(method, c.base, nil)
		req.URL.Opaque = "*"
		curl = fmt.Sprintf("curl -i -X %s --request-target '*' %s", method, c.base)
	}
	if err != nil {
		t.Fatal(err)
	}
	if body != "" && !strings.Contains(strings.Join(headers, "\n"), "Content-Type: ") {
		headers = append(headers, "Content-Type: application/json")
	}
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Add(name, value)
		curl += fmt.Sprintf(" -H '%s'", line)
	}
	if body != "" {
		curl += fmt.Sprintf(" --data-binary '%.300s'", body)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		t.Errorf("%s\n got: %v\nwant: %d", curl, err, want)
		return answer{}
	}
	return read(t, resp, want, path, curl)
}

// serveOnce is call without a connection, for tests with a clock of their own. headers may be nil.
func serveOnce(t testing.TB, s *service, want int, method, target string, body io.Reader, header http.Header) answer {
	t.Helper()
	req := httptest.NewRequest(method, target, body)
	maps.Copy(req.Header, header)
	rec := httptest.NewRecorder()
	s.ServeHTTP(rec, req)
	return read(t, rec.Result(), want, req.URL.Path, fmt.Sprintf("%s %q, headers %q", method, target, header))
}

func read(t testing.TB, resp *http.Response, want int, path, curl string) answer {
	t.Helper()
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("%s\nthe answer ended early: %v", curl, err)
	}
	a := answer{resp.StatusCode, resp.Header, path, string(body), curl}
	judge(t, a, want, resp.Request != nil && resp.Request.Method == "HEAD")
	return a
}

// envelope is the body of every error.
type envelope struct {
	Code    string `json:"error_code"`
	Message string `json:"error_message"`
	Details []struct {
		Field   string `json:"field"`
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"details"`
	Timestamp string `json:"timestamp"`
	RequestID string `json:"request_id"`
}

// errorCodes are all error codes, and the status that goes with each.
func errorCodes() map[string]int {
	return map[string]int{
		"VALIDATION_ERROR": 400, "MALFORMED_JSON": 400, "UNAUTHORIZED": 401, "FORBIDDEN": 403, "NOT_FOUND": 404,
		"METHOD_NOT_ALLOWED": 405, "REQUEST_TIMEOUT": 408, "BODY_TOO_LARGE": 413, "UNSUPPORTED_MEDIA_TYPE": 415,
		"RATE_LIMITED": 429, "INTERNAL_ERROR": 500, "STORE_FULL": 507,
	}
}

// judge checks what holds for every answer of the service: the headers, and that an error, whoever noticed it, is the
// JSON envelope with all its fields. A status other than the one that the test wants is a failure: no 5xx goes by.
func judge(t testing.TB, a answer, want int, head bool) {
	t.Helper()
	expect := func(what string, got, want any) {
		t.Helper()
		if got != want {
			t.Errorf("%s\n%s\n got: %v\nwant: %v", a.curl, what, got, want)
		}
	}
	if a.status != want {
		t.Errorf("%s\n got: %d %s\nwant: %d", a.curl, a.status, a.body, want)
	}
	id := a.header.Get("X-Request-Id")
	expect("X-Request-Id "+strconv.Quote(id)+" is valid", regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`).MatchString(id), true)
	expect("X-Content-Type-Options", a.header.Get("X-Content-Type-Options"), "nosniff")
	if a.path != "/metrics" || a.status != 200 {
		expect("Cache-Control", a.header.Get("Cache-Control"), "no-store")
	}
	health := a.status == 503 && strings.HasPrefix(a.path, "/health/")
	if a.status >= 400 {
		expect("Content-Type", a.header.Get("Content-Type"), "application/json")
	}
	if a.status < 400 || health || head {
		return
	}
	var e envelope
	decoder := json.NewDecoder(strings.NewReader(a.body))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&e)
	_, timeErr := time.Parse("2006-01-02T15:04:05Z", e.Timestamp)
	if err != nil || timeErr != nil || e.Code == "" || e.Message == "" || e.Details == nil || len(e.Details) > 20 {
		t.Errorf("%s\n got: %s\nwant: an error envelope with all five fields", a.curl, a.body)
	}
	expect("request_id", e.RequestID, id)
	expect("status of "+e.Code, a.status, errorCodes()[e.Code])
	for _, d := range e.Details {
		expect("a detail says what and why: "+a.body, d.Code != "" && d.Message != "", true)
	}
}

// brief is an error in the short form of the tables, "CODE field:CODE …", or else the body without what differs from
// run to run.
func (a answer) brief() string {
	if a.status < 400 || strings.HasPrefix(a.path, "/health") {
		return normalise(a.body)
	}
	var e envelope
	json.Unmarshal([]byte(a.body), &e)
	var details []string
	for _, d := range e.Details {
		details = append(details, d.Field+":"+d.Code)
	}
	slices.Sort(details)
	return strings.Join(append([]string{e.Code}, details...), " ")
}

// normalise replaces what differs from run to run.
func normalise(text string) string {
	for _, r := range [][2]string{
		{`task_[A-Za-z0-9_-]{22,}`, "task_ID"}, // 22 characters of base64 hold 128 bits
		{`"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ"`, `"TIME"`},
		{`"request_id":"[^"]+"`, `"request_id":"RID"`},
		{`"version":"[^"]+"`, `"version":"V"`},
		{`"uptime_seconds":\d+`, `"uptime_seconds":N`},
	} {
		text = regexp.MustCompile(r[0]).ReplaceAllString(text, r[1])
	}
	return strings.TrimSuffix(text, "\n")
}

// matches reports whether got is want, in which … stands for any text.
func matches(got, want string) bool {
	return regexp.MustCompile(`(?s)^` + strings.ReplaceAll(regexp.QuoteMeta(want), "…", ".*") + `$`).MatchString(got)
}

// eventually polls until ok. The deadline is for a program that hangs; no test depends on how fast it is.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still not true: %s", what)
		}
	}
}

// write makes a file in a temporary folder and returns its path.
func write(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// --- 1. Creating tasks: what a body may say, and every way in which it may not. ---

// creation is a row of the table of bodies. Its bodies are also the seeds of FuzzCreateTask.
type creation struct {
	name, body string
	status     int
	want       string
}

// created is the answer to a creation.
func created(name, userID string) string {
	return `{"task_id":"task_ID","task_name":"` + name + `","user_id":"` + userID +
		`","status":"pending","created_at":"TIME","message":"task created"}`
}

func creations() []creation {
	padded := func(size int) string {
		const task = `{"task_name":"a" }`
		return strings.Replace(task, " ", strings.Repeat(" ", size-len(task)+1), 1)
	}
	return []creation{
		{"a name is enough", `{"task_name":"a"}`, 201, created("a", "system")},
		{"any script will do", `{"task_name":"会議資料の準備","user_id":"user123"}`, 201, created("会議資料の準備", "user123")},
		{"white space around values goes, Unicode's too", `{"task_name":"\t a  b\u3000\n","user_id":" u "}`, 201, created("a  b", "u")},
		{"markup is kept, and escaped so that the body is safe in a page", `{"task_name":"<b>&"}`, 201, created(`\u003cb\u003e\u0026`, "system")},
		{"escaped surrogates in a pair are one character", `{"task_name":"\ud83d\ude00"}`, 201, created("😀", "system")},
		{"joiners and right-to-left marks are no control characters", `{"task_name":"a\u200db\u200f"}`, 201, created("a\u200db\u200f", "system")},
		{"100 code points are the limit, however many bytes", `{"task_name":"` + strings.Repeat("😀", 100) + `"}`, 201,
			created(strings.Repeat("😀", 100), "system")},
		{"101 code points are too many", `{"task_name":"` + strings.Repeat("a", 101) + `"}`, 400, "VALIDATION_ERROR task_name:TOO_LONG"},
		{"101 code points are too many for a user, too", `{"task_name":"a","user_id":"` + strings.Repeat("é", 101) + `"}`, 400,
			"VALIDATION_ERROR user_id:TOO_LONG"},
		{"what is trimmed does not count", `{"task_name":"` + strings.Repeat(" ", 300) + strings.Repeat("a", 100) + `"}`, 201,
			created(strings.Repeat("a", 100), "system")},
		{"white space around the object is fine", "\r\n {\"task_name\":\"a\"} \n", 201, created("a", "system")},
		{"64 KiB are the limit of a body", padded(64 << 10), 201, created("a", "system")},
		{"64 KiB and one byte are too many", padded(64<<10 + 1), 413, "BODY_TOO_LARGE"},

		{"no name", `{}`, 400, "VALIDATION_ERROR task_name:REQUIRED"},
		{"an empty name", `{"task_name":""}`, 400, "VALIDATION_ERROR task_name:REQUIRED"},
		{"a blank name", `{"task_name":" \t\u3000"}`, 400, "VALIDATION_ERROR task_name:REQUIRED"},
		{"a user that is there and empty is no default", `{"task_name":"a","user_id":""}`, 400, "VALIDATION_ERROR user_id:REQUIRED"},
		{"null is no string", `{"task_name":null,"user_id":null}`, 400, "VALIDATION_ERROR task_name:INVALID_TYPE user_id:INVALID_TYPE"},
		{"a number is no string", `{"task_name":1,"user_id":-0.5e3}`, 400, "VALIDATION_ERROR task_name:INVALID_TYPE user_id:INVALID_TYPE"},
		{"an object or a list is no string", `{"task_name":{"a":1},"user_id":["a"]}`, 400, "VALIDATION_ERROR task_name:INVALID_TYPE user_id:INVALID_TYPE"},
		{"a truth value is no string", `{"task_name":true}`, 400, "VALIDATION_ERROR task_name:INVALID_TYPE"},
		{"a number out of every range is JSON, and no string", `{"task_name":1e999,"user_id":"a\u0000b"}`, 400,
			"VALIDATION_ERROR task_name:INVALID_TYPE user_id:INVALID_CHARACTER"},
		{"NUL inside a name", `{"task_name":"a\u0000b"}`, 400, "VALIDATION_ERROR task_name:INVALID_CHARACTER"},
		{"a line break inside a name", `{"task_name":"a\nb"}`, 400, "VALIDATION_ERROR task_name:INVALID_CHARACTER"},
		{"DEL and C1 controls", `{"task_name":"a\u007fb","user_id":"a\u009bb"}`, 400,
			"VALIDATION_ERROR task_name:INVALID_CHARACTER user_id:INVALID_CHARACTER"},
		{"the mark of damaged text", `{"task_name":"a�"}`, 400, "VALIDATION_ERROR task_name:INVALID_CHARACTER"},
		{"a lone surrogate is damaged text", `{"task_name":"\ud800"}`, 400, "VALIDATION_ERROR task_name:INVALID_CHARACTER"},
		{"an unknown field is named, not dropped", `{"task_name":"a","status":"done"}`, 400, "VALIDATION_ERROR status:UNKNOWN_FIELD"},
		{"an unknown field may hold anything", `{"task_name":"a","x":[{"y":1e999}]}`, 400, "VALIDATION_ERROR x:UNKNOWN_FIELD"},
		{"a key in another case is another key", `{"Task_Name":"a"}`, 400, "VALIDATION_ERROR Task_Name:UNKNOWN_FIELD task_name:REQUIRED"},
		// encoding/json folds the long s (U+017F) to s when it fills a struct.
		{"a key in Unicode's idea of another case, too", `{"task_name":"a","u\u017fer_id":"b"}`, 400, "VALIDATION_ERROR uſer_id:UNKNOWN_FIELD"},
		{"all faults at once", `{"task_name":"` + strings.Repeat("a", 100) + `\u0001b","user_id":7,"a":1,"b":2}`, 400,
			"VALIDATION_ERROR a:UNKNOWN_FIELD b:UNKNOWN_FIELD task_name:INVALID_CHARACTER task_name:TOO_LONG user_id:INVALID_TYPE"},

		{"no body", "", 400, "MALFORMED_JSON"},
		{"white space only", " \n", 400, "MALFORMED_JSON"},
		{"half an object", `{"task_name":"a"`, 400, "MALFORMED_JSON"},
		{"a list", `[{"task_name":"a"}]`, 400, "MALFORMED_JSON"},
		{"a string", `"a"`, 400, "MALFORMED_JSON"},
		{"null", `null`, 400, "MALFORMED_JSON"},
		{"a number out of every range alone", `1e999`, 400, "MALFORMED_JSON"},
		{"two objects", `{"task_name":"a"}{"task_name":"b"}`, 400, "MALFORMED_JSON"},
		{"trailing data", `{"task_name":"a"} x`, 400, "MALFORMED_JSON"},
		{"a trailing comma", `{"task_name":"a",}`, 400, "MALFORMED_JSON"},
		{"single quotes", `{'task_name':'a'}`, 400, "MALFORMED_JSON"},
		{"a raw control character", "{\"task_name\":\"a\x01b\"}", 400, "MALFORMED_JSON"},
		{"a byte order mark", "\ufeff" + `{"task_name":"a"}`, 400, "MALFORMED_JSON"},
		{"invalid UTF-8 in a value", "{\"task_name\":\"a\xff\"}", 400, "MALFORMED_JSON"},
		{"invalid UTF-8 in an unknown key", "{\"task_name\":\"a\",\"\xc3\":1}", 400, "MALFORMED_JSON"},
		{"endless nesting", `{"task_name":` + strings.Repeat("[", 30_000), 400, "MALFORMED_JSON"},
	}
}

func TestCreateTask(t *testing.T) {
	t.Parallel()
	c := start(t)
	stored := 0
	for _, row := range creations() {
		t.Run(row.name, func(t *testing.T) {
			a := c.call(t, row.status, "POST", "/api/tasks", row.body, "Content-Type: application/json")
			if got := a.brief(); got != row.want {
				t.Errorf("%s\n got: %s\nwant: %s", a.curl, got, row.want)
			}
			if row.status != 201 {
				return
			}
			stored++
			var task Task
			json.Unmarshal([]byte(a.body), &task)
			if got, want := a.header.Get("Location"), "/api/tasks/"+task.ID; got != want {
				t.Errorf("%s\n got: Location: %s\nwant: Location: %s", a.curl, got, want)
			}
			// The stored task is the created one without the message.
			got := c.call(t, 200, "GET", a.header.Get("Location"), "").body
			if want := strings.Replace(a.body, `,"message":"task created"`, "", 1); got != want {
				t.Errorf("GET of the new task\n got: %s\nwant: %s", got, want)
			}
		})
	}
	if got := c.store.len(); got != stored {
		t.Errorf("the store after the table: got %d tasks, want %d: one for each 201", got, stored)
	}
}

func TestErrorEnvelope(t *testing.T) {
	t.Parallel()
	c := start(t)
	a := c.call(t, 400, "POST", "/api/tasks", `{"user_id":"u"}`)
	want := `{"error_code":"VALIDATION_ERROR","error_message":"…","details":[{"field":"task_name","code":"REQUIRED",` +
		`"message":"…"}],"timestamp":"TIME","request_id":"RID"}`
	if got := normalise(a.body); !matches(got, want) {
		t.Errorf("%s\n got: %s\nwant: %s", a.curl, got, want)
	}
	// A body with thousands of faults must not be answered with thousands of details.
	var many strings.Builder
	for i := range 6000 {
		fmt.Fprintf(&many, `,"k%d":0`, i)
	}
	a = c.call(t, 400, "POST", "/api/tasks", "{"+many.String()[1:]+"}")
	if got := strings.Count(a.body, `"field":`); got != 20 {
		t.Errorf("details of 6001 faults\n got: %d\nwant: 20", got)
	}
}

// --- 2. Everything else on the wire: routes, methods, headers, and who may ask. ---

// exchange is a row of the table of requests. In flags, TOKEN stands for a file that holds the token "s3cret".
type exchange struct {
	name, flags   string
	before        string // body of a task created first
	request       string // method and path
	header        string // lines
	body          string
	status        int
	want          string // see brief; … stands for any text, and nothing for nothing
	headers       string // lines that the answer has; one with nothing after the colon is not there
	skipEmptyBody bool
}

func exchanges() []exchange {
	const (
		cors      = "-cors-origins=https://a.example,http://b.example:8080"
		token     = "-token-file=TOKEN"
		preflight = "Origin: https://a.example\nAccess-Control-Request-Method: POST"
		task      = `{"task_name":"a"}`
		stored    = `{"task_id":"task_ID","task_name":"a","user_id":"system","status":"pending","created_at":"TIME"}`
		summary   = `"timestamp":"TIME","service":"Task Management API","version":"V","uptime_seconds":N}`
	)
	return []exchange{
		{name: "the index lists the endpoints", request: "GET /", status: 200, want: `{…"service":"Task Management API"…}`},
		{name: "an empty list is a list", request: "GET /api/tasks", status: 200, want: `{"tasks":[]}`,
			headers: "Content-Type: application/json"},
		{name: "a list of one has no next page", before: task, request: "GET /api/tasks", status: 200, want: `{"tasks":[` + stored + `]}`},
		{name: "HEAD has GET's headers and no body", request: "HEAD /api/tasks", status: 200, headers: "Content-Type: application/json\nContent-Length: 13"},
		{name: "no such task", request: "GET /api/tasks/task_AAAA", status: 404, want: "NOT_FOUND"},
		{name: "HEAD of no such task", request: "HEAD /api/tasks/task_AAAA", status: 404, want: ""},
		{name: "the smallest page", request: "GET /api/tasks?limit=1", status: 200, want: `{"tasks":[]}`},
		{name: "the largest page", request: "GET /api/tasks?limit=1000", status: 200, want: `{"tasks":[]}`},
		{name: "a page of none", request: "GET /api/tasks?limit=0", status: 400, want: "VALIDATION_ERROR limit:INVALID_VALUE"},
		{name: "a page too large", request: "GET /api/tasks?limit=1001", status: 400, want: "VALIDATION_ERROR limit:INVALID_VALUE"},
		{name: "a page that is no number", request: "GET /api/tasks?limit=ten", status: 400, want: "VALIDATION_ERROR limit:INVALID_VALUE"},
		{name: "a page beyond all numbers", request: "GET /api/tasks?limit=99999999999999999999", status: 400, want: "VALIDATION_ERROR limit:INVALID_VALUE"},
		{name: "a limit without a value", request: "GET /api/tasks?limit=", status: 400, want: "VALIDATION_ERROR limit:INVALID_VALUE"},
		{name: "two limits contradict each other", request: "GET /api/tasks?limit=1&limit=2", status: 400, want: "VALIDATION_ERROR limit:INVALID_VALUE"},
		{name: "nothing is after an unknown task", request: "GET /api/tasks?after=task_AAAA", status: 400, want: "VALIDATION_ERROR after:INVALID_VALUE"},
		{name: "all faults of a query at once", request: "GET /api/tasks?limit=0&after=x", status: 400,
			want: "VALIDATION_ERROR after:INVALID_VALUE limit:INVALID_VALUE"},
		{name: "a query that cannot be read", request: "GET /api/tasks?limit=%zz", status: 400, want: "VALIDATION_ERROR …"},
		{name: "a full store takes nothing more", flags: "-max-tasks=1", before: task, request: "POST /api/tasks", body: task, status: 507, want: "STORE_FULL"},
		{name: "a full store keeps what it has", flags: "-max-tasks=1", before: task, request: "GET /api/tasks", status: 200, want: `{"tasks":[` + stored + `]}`},

		{name: "the media type may have parameters and capitals", request: "POST /api/tasks", header: "Content-Type: Application/JSON; charset=utf-8",
			body: task, status: 201, want: created("a", "system")},
		{name: "a form is no JSON", request: "POST /api/tasks", header: "Content-Type: application/x-www-form-urlencoded", body: "task_name=a", status: 415,
			want: "UNSUPPORTED_MEDIA_TYPE"},
		{name: "a page may send text/plain anywhere: it is no JSON", request: "POST /api/tasks", header: "Content-Type: text/plain", body: task, status: 415,
			want: "UNSUPPORTED_MEDIA_TYPE"},
		{name: "a body of no type", request: "POST /api/tasks", header: "Content-Type: ", body: task, status: 415, want: "UNSUPPORTED_MEDIA_TYPE"},
		{name: "a compressed body could be a bomb", request: "POST /api/tasks", header: "Content-Encoding: gzip", body: task, status: 415,
			want: "UNSUPPORTED_MEDIA_TYPE"},

		{name: "short health", request: "GET /health", status: 200, want: `{"status":"healthy",` + summary},
		{name: "liveness", request: "GET /health/liveness", status: 200, want: `{"status":"alive",` + summary},
		{name: "readiness", request: "GET /health/readiness", status: 200, want: `{"status":"ready",` + summary},
		{name: "a service that can take no task is not ready", flags: "-max-tasks=1", before: task, request: "GET /health/readiness", status: 503,
			want: `{"status":"not_ready",…full…` + summary},
		{name: "detailed health before any reading", request: "GET /health/detailed", status: 503, want: `{"status":"unhealthy","timestamp":"TIME","checks":{…}}`},
		{name: "metrics may be cached by nobody and need not say so", request: "GET /metrics", status: 200, want: "# HELP …",
			headers: "Content-Type: text/plain; version=0.0.4; charset=utf-8\nCache-Control: "},

		{name: "no such path", request: "GET /nowhere", status: 404, want: "NOT_FOUND"},
		{name: "a slash at the end is another path", request: "GET /api/tasks/", status: 404, want: "NOT_FOUND"},
		{name: "an escaped slash does not make a task", request: "GET /api/tasks/a%2fb", status: 404, want: "NOT_FOUND"},
		{name: "paths are cleaned", request: "GET //api/./tasks", status: 307, want: "…", headers: "Location: /api/tasks"},
		{name: "tasks cannot be deleted", request: "DELETE /api/tasks", status: 405, want: "METHOD_NOT_ALLOWED", headers: "Allow: GET, HEAD, POST"},
		{name: "a task cannot be replaced", request: "PUT /api/tasks/task_A", body: task, status: 405, want: "METHOD_NOT_ALLOWED", headers: "Allow: GET, HEAD"},
		{name: "a method that nobody knows", request: "BREW /health", status: 405, want: "METHOD_NOT_ALLOWED", headers: "Allow: GET, HEAD"},
		{name: "OPTIONS without an origin is no preflight", request: "OPTIONS /api/tasks", status: 405, want: "METHOD_NOT_ALLOWED", headers: "Allow: GET, HEAD, POST"},
		{name: "OPTIONS * asks for nothing that is here", request: "OPTIONS *", status: 404, want: "NOT_FOUND"},

		{name: "without a token", flags: token, request: "GET /api/tasks", status: 401, want: "UNAUTHORIZED", headers: "WWW-Authenticate: Bearer"},
		{name: "with a wrong token", flags: token, request: "POST /api/tasks", header: "Authorization: Bearer s3cre", body: task, status: 401,
			want: "UNAUTHORIZED", headers: "WWW-Authenticate: Bearer"},
		{name: "with the token of another scheme", flags: token, request: "GET /api/tasks", header: "Authorization: Basic s3cret", status: 401, want: "UNAUTHORIZED"},
		{name: "with an empty token", flags: token, request: "GET /api/tasks", header: "Authorization: Bearer ", status: 401, want: "UNAUTHORIZED"},
		{name: "with the token", flags: token, request: "GET /api/tasks", header: "Authorization: Bearer s3cret", status: 200, want: `{"tasks":[]}`},
		{name: "what is not there needs the token, too", flags: token, request: "GET /api/nowhere", status: 401, want: "UNAUTHORIZED"},
		{name: "what is inside needs the token", flags: token, request: "GET /debug/storage", status: 401, want: "UNAUTHORIZED"},
		{name: "what is inside, with the token", flags: token, request: "GET /debug/storage", header: "Authorization: Bearer s3cret", status: 200, want: `{…"tasks":[]}`},
		{name: "health needs no token", flags: token, request: "GET /health", status: 200, want: "…"},
		{name: "metrics need no token", flags: token, request: "GET /metrics", status: 200, want: "…"},

		{name: "a preflight of an allowed origin", flags: cors, request: "OPTIONS /api/tasks", header: preflight, status: 204, headers: `Access-Control-Allow-Origin: https://a.example
			Access-Control-Allow-Credentials: true
			Access-Control-Allow-Methods: GET, POST
			Access-Control-Allow-Headers: Content-Type, Authorization
			Vary: Origin`},
		{name: "a preflight carries no token", flags: cors + " " + token, request: "OPTIONS /api/tasks", header: preflight, status: 204},
		{name: "a preflight of another origin", flags: cors, request: "OPTIONS /api/tasks", header: strings.Replace(preflight, "a.example", "c.example", 1), status: 403,
			want: "FORBIDDEN", headers: "Access-Control-Allow-Origin: \nVary: Origin"},
		{name: "an origin on another port is another origin", flags: cors, request: "OPTIONS /api/tasks", header: strings.Replace(preflight, "a.example", "a.example:8443", 1),
			status: 403, want: "FORBIDDEN"},
		{name: "no origin is allowed by default", request: "OPTIONS /api/tasks", header: preflight, status: 403, want: "FORBIDDEN",
			headers: "Access-Control-Allow-Origin: \nAccess-Control-Allow-Methods: "},
		{name: "an allowed origin may write", flags: cors, request: "POST /api/tasks", header: "Origin: http://b.example:8080\nSec-Fetch-Site: cross-site", body: task, status: 201,
			want: created("a", "system"), headers: "Access-Control-Allow-Origin: http://b.example:8080\nAccess-Control-Allow-Credentials: true\nVary: Origin"},
		{name: "an allowed origin may read errors", flags: cors, request: "GET /nowhere", header: "Origin: https://a.example", status: 404, want: "NOT_FOUND",
			headers: "Access-Control-Allow-Origin: https://a.example\nVary: Origin"},
		{name: "caches are told that the origin matters, even without one", flags: cors, request: "GET /api/tasks", status: 200, want: "…", headers: "Vary: Origin"},
		{name: "another origin's read is the browser's business", flags: cors, request: "GET /api/tasks", header: "Origin: https://c.example", status: 200, want: "…",
			headers: "Access-Control-Allow-Origin: "},
		{name: "a cross-origin write", request: "POST /api/tasks", header: "Origin: https://c.example", body: task, status: 403, want: "FORBIDDEN"},
		{name: "a cross-site write without an origin", request: "POST /api/tasks", header: "Sec-Fetch-Site: cross-site", body: task, status: 403, want: "FORBIDDEN"},
		{name: "a write of a sandboxed page", flags: cors, request: "POST /api/tasks", header: "Origin: null", body: task, status: 403, want: "FORBIDDEN"},
		{name: "a write of the service's own page", request: "POST /api/tasks", header: "Origin: https://c.example\nSec-Fetch-Site: same-origin", body: task, status: 201,
			want: created("a", "system")},

		{name: "the storage, for who is on this host", flags: "-max-tasks=7", before: task, request: "GET /debug/storage", status: 200,
			want: `{"storage_stats":{…},"tasks":[` + stored + `]}`},
		{name: "a page of the storage", request: "GET /debug/storage?limit=0", status: 400, want: "VALIDATION_ERROR limit:INVALID_VALUE"},
		{name: "not through a proxy", request: "GET /debug/storage", header: "X-Forwarded-For: 127.0.0.1", status: 403, want: "FORBIDDEN"},
		{name: "not through a standard proxy", request: "GET /debug/storage", header: "Forwarded: for=127.0.0.1", status: 403, want: "FORBIDDEN"},
		{name: "not through another proxy", request: "GET /debug/pprof/", header: "X-Real-Ip: 127.0.0.1", status: 403, want: "FORBIDDEN"},
		{name: "what is not there is hidden from a proxy, too", request: "GET /debug/nowhere", header: "X-Real-Ip: 192.0.2.1", status: 403, want: "FORBIDDEN"},
		{name: "the index of profiles", request: "GET /debug/pprof/", status: 200, want: "…goroutine…"},
		{name: "a profile", request: "GET /debug/pprof/goroutine?debug=1", status: 200, want: "goroutine profile: …"},
		{name: "a trace", request: "GET /debug/pprof/trace?seconds=0.01", status: 200, want: "…"},
		{name: "no such profile", request: "GET /debug/pprof/nothing", status: 404, want: "NOT_FOUND"},
		{name: "an error page of pprof becomes the envelope", request: "GET /debug/pprof/heap?seconds=x", status: 400, want: "VALIDATION_ERROR"},
	}
}

func TestWire(t *testing.T) {
	t.Parallel()
	probe, _ := build(t)
	exercised := map[string]bool{}
	for _, row := range exchanges() {
		method, path, _ := strings.Cut(row.request, " ")
		if path != "*" {
			_, pattern := probe.mux.Handler(httptest.NewRequest(method, path, nil))
			exercised[pattern] = true
		}
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			flags := strings.Fields(strings.ReplaceAll(row.flags, "TOKEN", write(t, "token", " s3cret\n")))
			c := start(t, flags...)
			if row.before != "" {
				c.call(t, 201, "POST", "/api/tasks", row.before)
			}
			var header []string
			if row.header != "" {
				header = strings.Split(row.header, "\n")
			}
			a := c.call(t, row.status, method, path, row.body, header...)
			if got := a.brief(); !matches(got, row.want) {
				t.Errorf("%s\n got: %s\nwant: %s", a.curl, got, row.want)
			}
			for line := range strings.Lines(row.headers) {
				name, want, _ := strings.Cut(strings.TrimSpace(line), ":")
				if got := strings.Join(a.header.Values(name), " | "); got != strings.TrimSpace(want) {
					t.Errorf("%s\n got: %s: %s\nwant: %s:%s", a.curl, name, got, name, want)
				}
			}
		})
	}
	for _, route := range probe.routes() {
		if pattern := route.Method + " " + route.Path; route.Method != "POST" && !exercised[pattern] {
			t.Errorf("no row of the table asks for %s", pattern)
		}
	}
}
