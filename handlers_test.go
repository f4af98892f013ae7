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
	"maps"
	"math"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path"
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

// dial opens a connection of which the client's transport knows nothing.
func (c *client) dial() (net.Conn, error) {
	transport := c.http.Transport.(*http.Transport)
	if transport.DialContext != nil {
		return transport.DialContext(context.Background(), "tcp", c.base)
	}
	_, addr, _ := strings.Cut(c.base, "://")
	return net.Dial("tcp", addr)
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

// build returns a service with these flags, and its log. Its lines are there after s.logFile.flush().
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
	must(t, err)
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
		s.logFile.flush()
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
	must(t, err)
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
	if resp.Close { // net/http's client has taken the header off
		resp.Header.Set("Connection", "close")
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
	expect("X-Request-Id "+strconv.Quote(id)+" is valid", validID.MatchString(id), true)
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
	if a.status < 400 || a.status == 503 {
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

// equal fails the test unless got is want.
func equal[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s\n got: %v\nwant: %v", what, got, want)
	}
}

// must ends the test if its own preparations fail.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
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
	must(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// What an X-Request-Id, a sample and a label look like.
var (
	validID    = regexp.MustCompile(`\A[A-Za-z0-9._-]{1,64}\z`)
	sampleLine = regexp.MustCompile(`^([a-z_][a-z0-9_]*)(\{.+\})? (\S+)$`)
	labelPair  = regexp.MustCompile(`^[{,]([a-z_]+)="((?:[^"\\\n]|\\["\\n])*)"`)
)

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
			equal(t, a.curl, a.brief(), row.want)
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

// A body with thousands of faults must not be answered with thousands of details.
func TestFaultsAreTwentyAtMost(t *testing.T) {
	t.Parallel()
	var many strings.Builder
	for i := range 6000 {
		fmt.Fprintf(&many, `"k%d":0,`, i)
	}
	a := start(t).call(t, 400, "POST", "/api/tasks", "{"+many.String()+`"task_name":null}`)
	equal(t, "details of 6001 faults", strings.Count(a.body, `"field":`), 20)
}

// --- 2. Everything else on the wire: routes, methods, headers, and who may ask. ---

// exchange is a row of the table of requests. In flags, TOKEN stands for a file that holds the token "s3cret".
type exchange struct {
	name, flags string
	before      string // body of a task created first
	request     string // method and path
	header      string // lines
	body        string
	status      int
	want        string // see brief; … stands for any text, and nothing for nothing
	headers     string // lines that the answer has; one with nothing after the colon is not there
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
		{name: "a parameter that nobody knows", request: "GET /api/tasks?page=2", status: 400, want: "VALIDATION_ERROR page:UNKNOWN_FIELD"},
		{name: "a query that cannot be read", request: "GET /api/tasks?limit=%zz", status: 400, want: "VALIDATION_ERROR …"},
		{name: "a full store takes nothing more", flags: "-max-tasks=1", before: task, request: "POST /api/tasks", body: task, status: 507, want: "STORE_FULL"},
		{name: "a full store keeps what it has", flags: "-max-tasks=1", before: task, request: "GET /api/tasks", status: 200, want: `{"tasks":[` + stored + `]}`},

		{name: "an error, to the letter", request: "POST /api/tasks", body: `{"user_id":"u"}`, status: 400, want: `{"error_code":"VALIDATION_ERROR",` +
			`"error_message":"…","details":[{"field":"task_name","code":"REQUIRED","message":"…"}],"timestamp":"TIME","request_id":"RID"}`},
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

		{name: "a request keeps the id that its sender gave it", request: "GET /health", header: "X-Request-Id: AZ-09._z", status: 200, want: "…",
			headers: "X-Request-Id: AZ-09._z"},
		// That the fresh id is valid is checked everywhere, and FuzzRequestID asks for more.
		{name: "an id that is none is replaced", request: "GET /health", header: `X-Request-Id: {"a"}`, status: 200, want: "…"},

		{name: "no such path", request: "GET /nowhere", status: 404, want: "NOT_FOUND"},
		{name: "a slash at the end is another path", request: "GET /api/tasks/", status: 404, want: "NOT_FOUND"},
		{name: "an escaped slash does not make a task", request: "GET /api/tasks/a%2fb", status: 404, want: "NOT_FOUND"},
		{name: "paths are cleaned", request: "GET //api/./tasks", status: 307, want: "…", headers: "Location: /api/tasks"},
		{name: "tasks cannot be deleted", request: "DELETE /api/tasks", status: 405, want: "METHOD_NOT_ALLOWED", headers: "Allow: GET, HEAD, POST"},
		{name: "a task cannot be replaced", request: "PUT /api/tasks/task_A", body: task, status: 405, want: "METHOD_NOT_ALLOWED", headers: "Allow: GET, HEAD"},
		{name: "a method that nobody knows", request: "BREW /health", status: 405, want: "METHOD_NOT_ALLOWED", headers: "Allow: GET, HEAD"},
		{name: "OPTIONS without an origin is no preflight", request: "OPTIONS /api/tasks", status: 405, want: "METHOD_NOT_ALLOWED", headers: "Allow: GET, HEAD, POST"},
		{name: "OPTIONS * asks for nothing that is here", request: "OPTIONS *", status: 404, want: "NOT_FOUND"},
		{name: "OPTIONS * is no preflight either", flags: cors, request: "OPTIONS *", header: preflight, status: 404, want: "NOT_FOUND"},

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
		{name: "not even the redirect to the profiles", request: "GET /debug/pprof", header: "X-Real-Ip: 127.0.0.1", status: 403, want: "FORBIDDEN"},
		{name: "the redirect to the profiles", request: "GET /debug/pprof", status: 307, headers: "Location: /debug/pprof/"},
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
			got := a.brief()
			if strings.HasPrefix(row.want, "{") {
				got = normalise(a.body)
			}
			if !matches(got, row.want) {
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
		if pattern := route.Method + " " + route.Path; !exercised[pattern] {
			t.Errorf("no row of the table asks for %s", pattern)
		}
	}
}

func TestPaging(t *testing.T) {
	t.Parallel()
	c := start(t)
	var want strings.Builder
	for name := range strings.FieldsSeq("a b c d e") {
		want.WriteString(name)
		c.call(t, 201, "POST", "/api/tasks", `{"task_name":"`+name+`"}`)
	}
	var page struct {
		Stats map[string]any `json:"storage_stats"`
		Tasks []Task
		Next  string
	}
	for _, path := range []string{"/api/tasks", "/debug/storage"} {
		for limit, pages := range map[int]int{1: 5, 2: 3, 4: 2, 5: 1, 6: 1} { // a full last page is the last one, too
			names, n := "", 0
			for more := fmt.Sprint("?limit=", limit); more != ""; n++ {
				a := c.call(t, 200, "GET", path+more, "")
				page.Tasks, page.Next, more = nil, "", ""
				must(t, json.Unmarshal([]byte(a.body), &page))
				equal(t, a.curl+"\nnot more than the limit", len(page.Tasks) <= limit, true)
				for _, task := range page.Tasks {
					names += task.Name
				}
				if strings.Contains(a.body, `"next"`) {
					more = fmt.Sprint("?limit=", limit, "&after=", page.Next)
				}
			}
			equal(t, fmt.Sprint("tasks and pages of ", path, " by ", limit), fmt.Sprint(names, n), fmt.Sprint(want.String(), pages))
		}
	}
	equal(t, "storage_stats", fmt.Sprint(page.Stats), "map[capacity:1e+06 storage_type:in_memory total_tasks:5]")
}

func TestEveryRoute(t *testing.T) {
	t.Parallel()
	c := start(t)
	index := c.call(t, 200, "GET", "/", "").body
	for _, route := range c.routes() {
		path := strings.NewReplacer("{$}", "", "{task_id}", "task_none").Replace(route.Path)
		listed := strconv.Quote(strings.TrimSuffix(route.Path, "{$}"))
		equal(t, "GET / lists "+listed, strings.Contains(index, listed), true)
		if route.Method != "GET" {
			continue
		}
		status := cmp.Or(map[string]int{"/api/tasks/task_none": 404, "/health/detailed": 503}[path], 200)
		get := c.call(t, status, "GET", path, "")
		head := c.call(t, status, "HEAD", path, "")
		equal(t, head.curl+"\nbody", head.body, "")
		equal(t, head.curl+"\nContent-Type", head.header.Get("Content-Type"), get.header.Get("Content-Type"))
	}
}

// The peer's address decides who may look inside; over a real connection it is always the loopback here.
func TestDebugIsForThisHost(t *testing.T) {
	t.Parallel()
	s, _ := build(t)
	for peer, want := range map[string]int{
		"127.0.0.1:9": 200, "127.8.8.8:9": 200, "[::1]:9": 200, "[::ffff:127.0.0.1]:9": 200,
		"192.0.2.1:9": 403, "10.0.0.1:9": 403, "[2001:db8::1]:9": 403, "[::ffff:192.0.2.1]:9": 403, "": 403, "@": 403,
	} {
		for _, path := range []string{"/debug/storage", "/debug/pprof/cmdline"} {
			req := httptest.NewRequest("GET", path, nil)
			req.RemoteAddr = peer
			rec := deadlines{httptest.NewRecorder()}
			s.ServeHTTP(rec, req)
			read(t, rec.Result(), want, path, fmt.Sprintf("GET %s from %q", path, peer))
		}
	}
}

// deadlines is a recorder that takes the deadlines which profiles set.
type deadlines struct{ *httptest.ResponseRecorder }

func (deadlines) SetReadDeadline(time.Time) error { return nil }

// A profile that is already being taken is the one honest failure that can be had without a fault in the service.
func TestFailureInsidePprof(t *testing.T) {
	pprof.StartCPUProfile(io.Discard) // fails if go test -cpuprofile has done it: as good
	defer pprof.StopCPUProfile()
	a := start(t).call(t, 500, "GET", "/debug/pprof/profile?seconds=1", "")
	equal(t, a.curl, a.brief(), "INTERNAL_ERROR")
}

// Hostile clients: what is no request is refused, and nobody else notices.
func TestHostileClients(t *testing.T) {
	t.Parallel()
	c := start(t)
	const post = "POST /api/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
	for _, row := range []struct{ name, send, want string }{
		{"no HTTP", "\x16\x03\x01\x02\x00hello\r\n\r\n", "HTTP/1.1 400 …"},
		{"a later HTTP", "GET / HTTP/9.9\r\nHost: x\r\n\r\n", "HTTP/1.1 505 …"},
		{"no host", "GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 400 …"},
		{"two lengths", post + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", "HTTP/1.1 400 …"},
		{"a signed length", post + "Content-Length: +5\r\n\r\nhello", "HTTP/1.1 400 …"},
		{"a header too large", "GET / HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", 40<<10) + "\r\n\r\n", "HTTP/1.1 431 …"},
		{"a cut body", post + "Content-Length: 50\r\n\r\n{\"task_name\":", `HTTP/1.1 400 …"error_code":"MALFORMED_JSON"…`},
		{"a cut chunk", post + "Transfer-Encoding: chunked\r\n\r\n50\r\n{\"task_name\":", `HTTP/1.1 400 …"error_code":"MALFORMED_JSON"…`},
		{"a chunk of no size", post + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", `HTTP/1.1 400 …"error_code":"MALFORMED_JSON"…`},
		{"chunks beyond the limit", post + "Transfer-Encoding: chunked\r\n\r\n10001\r\n" + strings.Repeat(" ", 0x10001) + "\r\n0\r\n\r\n",
			`HTTP/1.1 413 …"error_code":"BODY_TOO_LARGE"…`},
	} {
		t.Run(row.name, func(t *testing.T) {
			conn, err := c.dial()
			must(t, err)
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			io.WriteString(conn, row.send)
			conn.(*net.TCPConn).CloseWrite()
			got, _ := io.ReadAll(conn) // a reset after the answer is the service's right
			if !matches(string(got), row.want) || bytes.Count(got, []byte("HTTP/1.1 ")) != 1 {
				t.Errorf("sent %.200q\n got: %s\nwant: %s, once", row.send, got, row.want)
			}
		})
	}
	for range 100 { // half a request costs a goroutine for a while, and nobody else anything
		conn, err := c.dial()
		must(t, err)
		defer conn.Close()
		io.WriteString(conn, post+"Content-Le")
	}
	c.call(t, 201, "POST", "/api/tasks", `{"task_name":"a"}`)
	equal(t, "tasks after hostile clients", c.store.len(), 1)
}

// --- 3. Health: from what the host says, however absurd, to what an operator reads. ---

// fakeProc makes gopsutil read these files. An empty text is a file that is not there.
func fakeProc(t *testing.T, stat, meminfo string) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("gopsutil reads /proc on Linux only")
	}
	root := t.TempDir()
	for name, text := range map[string]string{"stat": stat, "meminfo": meminfo} {
		if text == "" {
			continue
		}
		must(t, os.WriteFile(filepath.Join(root, name), []byte(text), 0o600))
	}
	t.Setenv("HOST_PROC", root)
}

// report is the detailed health. Numbers stay text, because their form matters.
type report struct {
	Status string
	Checks struct {
		Application, Storage struct{ Status, Reason string }
		System               map[string]any `json:"system_resources"`
	}
}

func (c *client) detail(t testing.TB, want int) report {
	t.Helper()
	a := c.call(t, want, "GET", "/health/detailed", "")
	var r report
	decoder := json.NewDecoder(strings.NewReader(a.body))
	decoder.UseNumber()
	if err := decoder.Decode(&r); err != nil {
		t.Fatalf("%s\n got: %s\nwant: the detailed health (%v)", a.curl, a.body, err)
	}
	if overall := map[int]string{200: "healthy", 503: "unhealthy"}[want]; r.Status != overall {
		t.Errorf("%s\n got: status %q in %s\nwant: status %q", a.curl, r.Status, a.body, overall)
	}
	return r
}

// shown is one reading in short: "15.2 normal", or "unknown" if it is left out and the check says why.
func (r report) shown(name string) string {
	if reading, ok := r.Checks.System[name].(map[string]any); ok {
		return fmt.Sprint(reading["usage_percent"], " ", reading["status"])
	}
	if reason := fmt.Sprint(r.Checks.System["reason"]); r.Checks.System["status"] != "unhealthy" || !strings.Contains(reason, name) {
		return "left out without a reason"
	}
	return "unknown"
}

// sample reads the host once, as the sampler does.
func (c *client) sample() {
	for _, res := range c.host {
		res.sample(c.service.log)
	}
}

func TestReadings(t *testing.T) {
	const (
		stat    = "cpu  100 0 40 848 0 8 4 0 0 0\n"
		meminfo = "MemTotal: 1000 kB\nMemFree: 100 kB\nMemAvailable: 542 kB\nBuffers: 0 kB\nCached: 0 kB\n"
	)
	for _, row := range []struct{ name, stat, meminfo, cpu, memory string }{
		{"a quiet host", stat, meminfo, "15.2 normal", "45.8 normal"},
		{"whole numbers have their digit, too", "cpu  50 0 0 50 0 0 0 0 0 0\n", "MemTotal: 4 kB\nMemAvailable: 3 kB\n", "50.0 normal", "25.0 normal"},
		{"80 percent are normal", "cpu  800 0 0 200 0 0 0 0 0 0\n", "MemTotal: 1000 kB\nMemAvailable: 200 kB\n", "80.0 normal", "80.0 normal"},
		{"a little more is high", "cpu  801 0 0 199 0 0 0 0 0 0\n", "MemTotal: 1000 kB\nMemAvailable: 199 kB\n", "80.1 high", "80.1 high"},
		{"waiting for the disk is no work, stolen time is no rest", "cpu  10 0 0 60 20 0 0 10 0 0\n", meminfo, "20.0 normal", "45.8 normal"},
		{"an idle host", "cpu  0 0 0 9 0 0 0 0 0 0\n", "MemTotal: 10 kB\nMemAvailable: 10 kB\n", "0.0 normal", "0.0 normal"},
		{"a full tmpfs is not free, whatever the page cache says", stat, "MemTotal: 1000 kB\nMemFree: 50 kB\nMemAvailable: 60 kB\nCached: 800 kB\nShmem: 790 kB\n",
			"15.2 normal", "94.0 high"},
		{"all zero", "cpu  0 0 0 0 0 0 0 0 0 0\n", "MemTotal: 0 kB\nMemAvailable: 0 kB\n", "unknown", "unknown"},
		{"more available than there is", stat, "MemTotal: 1000 kB\nMemAvailable: 1001 kB\n", "15.2 normal", "unknown"},
		{"negative", "cpu  -100 0 0 50 0 0 0 0 0 0\n", "MemTotal: -5 kB\n", "unknown", "unknown"},
		{"no number", "cpu  NaN 0 0 1 0 0 0 0 0 0\n", "MemTotal: NaN kB\nMemAvailable: 1 kB\n", "unknown", "unknown"},
		{"endless", "cpu  +Inf 0 0 1 0 0 0 0 0 0\n", meminfo, "unknown", "45.8 normal"},
		{"missing", "", "", "unknown", "unknown"},
		{"truncated", "cpu  10", "MemTotal: 1000 kB\nMemF", "unknown", "unknown"},
		{"of another kind", "hello\n", "hello\n", "unknown", "unknown"},
	} {
		t.Run(row.name, func(t *testing.T) {
			fakeProc(t, row.stat, row.meminfo)
			c := start(t, "-disk-path="+t.TempDir(), "-disk-high=100")
			c.sample()
			status, healthy := 200, 1.0
			if row.cpu == "unknown" || row.memory == "unknown" {
				status, healthy = 503, 0
			}
			r := c.detail(t, status)
			equal(t, "readings", "cpu "+r.shown("cpu")+", memory "+r.shown("memory"), "cpu "+row.cpu+", memory "+row.memory)
			page := c.scrape(t)
			for name, shown := range map[string]string{"cpu": row.cpu, "memory": row.memory} {
				percent, _, _ := strings.Cut(shown, " ")
				want, wantErr := strconv.ParseFloat(percent, 64)
				got, known := page["system_"+name+"_usage_ratio"]
				if known != (wantErr == nil) || known && math.Abs(got*100-want) > 0.05 {
					t.Errorf("system_%s_usage_ratio\n got: %v (there: %v)\nwant: %s", name, got, known, shown)
				}
			}
			equal(t, "health_check_status of system_resources", page[`health_check_status{check="system_resources"}`], healthy)
			// Whatever the host says, the service takes tasks.
			c.call(t, 200, "GET", "/health/readiness", "")
		})
	}
	fakeProc(t, stat, meminfo)
	c := start(t, "-cpu-high=15.1", "-memory-high=45.8", "-disk-high=0", "-disk-path="+t.TempDir())
	c.sample()
	r := c.detail(t, 200) // high is information and no fault
	equal(t, "thresholds that are flags", r.shown("cpu")+", "+r.shown("memory"), "15.2 high, 45.8 normal")
	if got, want := r.shown("disk"), "… high"; !matches(got, want) {
		t.Errorf("a disk with anything on it and -disk-high=0\n got: %s\nwant: %s", got, want)
	}
}

func TestFirstReadingIsSinceBootAndLaterOnesAreSinceTheLast(t *testing.T) {
	fakeProc(t, "cpu  10 0 0 90 0 0 0 0 0 0\n", "MemTotal: 2 kB\nMemAvailable: 1 kB\n")
	c := start(t)
	for _, row := range []struct{ name, stat, want string }{
		{"since boot", "cpu  10 0 0 90 0 0 0 0 0 0\n", "10.0 normal"},
		{"no time has passed", "cpu  10 0 0 90 0 0 0 0 0 0\n", "10.0 normal"},
		{"since the last reading", "cpu  40 0 0 160 0 0 0 0 0 0\n", "30.0 normal"},
		{"with some waiting for the disk", "cpu  50 0 0 160 40 0 0 0 0 0\n", "20.0 normal"},
		{"iowait went back, as it may: the last value stands", "cpu  90 0 0 200 30 0 0 0 0 0\n", "20.0 normal"},
		{"and the next one counts from there", "cpu  140 0 0 250 30 0 0 0 0 0\n", "50.0 normal"},
	} {
		must(t, os.WriteFile(filepath.Join(os.Getenv("HOST_PROC"), "stat"), []byte(row.stat), 0o600))
		c.sample()
		equal(t, fmt.Sprintf("CPU, %s", row.name), c.detail(t, 200).shown("cpu"), row.want)
	}
}

func TestDetailedHealth(t *testing.T) {
	t.Parallel()
	c := start(t, "-max-tasks=1", "-disk-path="+filepath.Join(t.TempDir(), "missing"))
	c.sample()
	r := c.detail(t, 503)
	equal(t, "a disk that is not there", r.shown("disk"), "unknown")
	equal(t, "an empty store", r.Checks.Storage.Status, "healthy")
	c.call(t, 201, "POST", "/api/tasks", `{"task_name":"a"}`)
	if s := c.detail(t, 503).Checks.Storage; s.Status != "unhealthy" || s.Reason == "" {
		t.Errorf("a full store\n got: %+v\nwant: unhealthy, and why", s)
	}
	c.draining.Store(true)
	if app := c.detail(t, 503).Checks.Application; app.Status != "unhealthy" || app.Reason == "" {
		t.Errorf("a draining service\n got: %+v\nwant: unhealthy, and why", app)
	}
	c.call(t, 503, "GET", "/health/readiness", "")
	// Who restarts or watches the process must not take its end for a failure.
	c.call(t, 200, "GET", "/health/liveness", "")
	c.call(t, 200, "GET", "/health", "")
	page := c.scrape(t)
	for _, check := range []string{"application", "storage", "system_resources"} {
		equal(t, fmt.Sprintf("health_check_status of %s", check), page[`health_check_status{check="`+check+`"}`], 0)
	}
}

func TestSamplerReadsAtEachInterval(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, _ := build(t)
		g := &gauge[int]{name: "count"}
		n := 0
		g.read = func() (int, error) { n++; return n, nil }
		g.start(s.log)
		for i := range 3 {
			synctest.Wait()
			got, _ := g.fresh(time.Now())
			equal(t, fmt.Sprintf("readings after %d intervals", i), got, i+1)
			time.Sleep(sampleInterval)
		}
	})
}

// A reading is good for three intervals: a sampler that hangs is noticed, one that is a little late is not.
func TestStaleness(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := startInBubble(t, "-disk-path=/")
		var failure error
		g := &gauge[int]{name: "answer", read: func() (int, error) { return 42, failure }}
		expect := func(when string, want int, known bool) {
			t.Helper()
			if got, reason := g.fresh(time.Now()); got != want || (reason == "") != known {
				t.Errorf("%s\n got: %d, reason %q\nwant: %d, known: %v", when, got, reason, want, known)
			}
		}
		expect("before the first reading", 0, false)
		g.sample(c.service.log)
		c.sample()
		time.Sleep(15 * time.Second)
		expect("after three intervals", 42, true)
		c.detail(t, 200)
		time.Sleep(time.Nanosecond)
		expect("after a little more", 0, false)
		page, r := c.scrape(t), c.detail(t, 503)
		for _, name := range []string{"cpu", "memory", "disk"} {
			equal(t, "detailed health of "+name+", too old", r.shown(name), "unknown")
			_, known := page["system_"+name+"_usage_ratio"]
			equal(t, "ratio of "+name+", too old, is in the metrics", known, false)
			equal(t, "age of "+name, page[`system_sample_age_seconds{reading="`+name+`"}`], 15.000000001)
		}
		g.sample(c.service.log)
		expect("after a new reading", 42, true)
		failure = errors.New("no such sensor")
		g.sample(c.service.log)
		expect("after a failed reading", 0, false)
	})
}

// --- 4. Metrics: the page as Prometheus must find it, which is more than promtool checks. ---

// scrape gets the page of metrics and returns its samples by series, as they are written.
func (c *client) scrape(t testing.TB) map[string]float64 {
	t.Helper()
	a := c.call(t, 200, "GET", "/metrics", "")
	equal(t, "Content-Type of the page", a.header.Get("Content-Type"), "text/plain; version=0.0.4; charset=utf-8")
	samples, faults := parsePage(a.body)
	for _, fault := range faults {
		t.Errorf("GET /metrics: %s", fault)
	}
	return samples
}

// parsePage is a strict reader of the text format 0.0.4. Half of what it refuses promtool lets pass, and Prometheus
// takes in silence: a histogram that does not add up, families in pieces, series that are there twice, NaN.
func parsePage(page string) (samples map[string]float64, faults []string) {
	samples = map[string]float64{}
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	if !strings.HasSuffix(page, "\n") || !utf8.ValidString(page) || strings.Contains(page, "\r") {
		fault("the page is not lines of UTF-8 that end in a line feed")
	}
	kinds := map[string]string{} // by family
	var helped, family string
	type bucket struct{ bound, count float64 }
	histograms := map[string][]bucket{}
	for line := range strings.Lines(page) {
		line = strings.TrimSuffix(line, "\n")
		word := strings.SplitN(line, " ", 4)
		switch {
		case len(word) == 4 && word[0] == "#" && word[1] == "HELP" && word[3] != "":
			helped = word[2]
			continue
		case len(word) == 4 && word[0] == "#" && word[1] == "TYPE":
			family = word[2]
			if kinds[family] != "" || helped != family {
				fault("%s is there twice, or in pieces, or without HELP", family)
			}
			kinds[family] = word[3]
			if !slices.Contains([]string{"counter", "gauge", "histogram", "summary"}, word[3]) ||
				strings.HasSuffix(family, "_total") != (word[3] == "counter") {
				fault("%s must not be a %s: counters, and they alone, end in _total", family, word[3])
			}
			continue
		}
		part := sampleLine.FindStringSubmatch(line)
		if part == nil {
			fault("no line of the format: %q", line)
			continue
		}
		name, series := part[1], part[1]+part[2]
		suffix, mine := strings.CutPrefix(name, family)
		allowed := map[string]string{"histogram": "_bucket _sum _count", "summary": "_sum _count"}[kinds[family]]
		if !mine || suffix != "" && !slices.Contains(strings.Fields(allowed), suffix) || suffix == "" && kinds[family] == "histogram" {
			fault("%s stands among the samples of %s", name, family)
		}
		value, err := strconv.ParseFloat(part[3], 64)
		if err != nil || math.IsNaN(value) || math.IsInf(value, 0) || value < 0 {
			fault("%s is %s", series, part[3])
		}
		if _, twice := samples[series]; twice {
			fault("%s is there twice", series)
		}
		samples[series] = value
		if _, err := parseLabels(part[2]); err != nil {
			fault("%s: %v", series, err)
		}
		if suffix == "_bucket" {
			at := strings.LastIndex(part[2], `le="`)
			labels, le := part[2][:at], part[2][at+len(`le="`):]
			bound, err := strconv.ParseFloat(strings.TrimSuffix(le, `"}`), 64)
			if err != nil || !strings.ContainsAny(le, ".I") { // Prometheus 3 would rename le="1"
				fault("%s: le is no canonical bound", series)
			}
			key := family + "_count" + strings.TrimSuffix(strings.TrimRight(labels, ",")+"}", "{}")
			histograms[key] = append(histograms[key], bucket{bound, value})
		}
	}
	for key, buckets := range histograms {
		last := bucket{math.Inf(-1), 0}
		for _, b := range buckets {
			if b.bound <= last.bound || b.count < last.count {
				fault("%s: the buckets %v are not in order, or not cumulative", key, buckets)
			}
			last = b
		}
		count, counted := samples[key]
		_, summed := samples[strings.Replace(key, "_count", "_sum", 1)]
		if !math.IsInf(last.bound, 1) || !counted || !summed || last.count != count {
			fault("%s is %v and does not fit the buckets %v, or there is no _sum", key, count, buckets)
		}
	}
	return samples, faults
}

// parseLabels reads {name="value",…}. It knows the three escapes of the format, and no others.
func parseLabels(text string) (pairs [][2]string, err error) {
	if text == "" {
		return nil, nil
	}
	names := map[string]bool{}
	for text != "}" {
		part := labelPair.FindStringSubmatch(text)
		if part == nil || names[part[1]] {
			return nil, fmt.Errorf("no label at %q, or one that is there twice", text)
		}
		names[part[1]] = true
		pairs = append(pairs, [2]string{part[1], strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\n`, "\n").Replace(part[2])})
		text = text[len(part[0]):]
	}
	return pairs, nil
}

// The checker itself must be able to fail.
func TestPageChecker(t *testing.T) {
	t.Parallel()
	const (
		head = "# HELP a_seconds h\n# TYPE a_seconds histogram\n"
		good = head + "a_seconds_bucket{le=\"0.1\"} 1\na_seconds_bucket{le=\"+Inf\"} 2\na_seconds_sum 3\na_seconds_count 2\n"
	)
	if _, faults := parsePage(good); faults != nil {
		t.Fatalf("a good page is refused: %q", faults)
	}
	for name, bad := range map[string]string{
		"no line feed at the end":    strings.TrimSuffix(good, "\n"),
		"carriage returns":           strings.ReplaceAll(good, "\n", "\r\n"),
		"no HELP":                    strings.Replace(good, "# HELP a_seconds h\n", "", 1),
		"no TYPE":                    strings.Replace(good, "# TYPE a_seconds histogram\n", "", 1),
		"a family in pieces":         good + "# HELP b h\n# TYPE b gauge\nb 1\na_seconds_sum{x=\"1\"} 1\n",
		"a family twice":             good + good,
		"a series twice":             good + "a_seconds_count 2\n",
		"no +Inf":                    strings.Replace(good, "+Inf", "0.2", 1),
		"+Inf is not _count":         strings.Replace(good, "_count 2", "_count 3", 1),
		"no _count":                  strings.Replace(good, "a_seconds_count 2\n", "", 1),
		"no _sum":                    strings.Replace(good, "a_seconds_sum 3\n", "", 1),
		"buckets that shrink":        strings.Replace(good, "\"0.1\"} 1", "\"0.1\"} 3", 1),
		"buckets out of order":       head + "a_seconds_bucket{le=\"+Inf\"} 2\na_seconds_bucket{le=\"0.1\"} 2\na_seconds_sum 3\na_seconds_count 2\n",
		"an integer bound":           strings.Replace(good, "0.1", "1", 1),
		"NaN":                        strings.Replace(good, "_sum 3", "_sum NaN", 1),
		"a negative value":           strings.Replace(good, "_sum 3", "_sum -3", 1),
		"a timestamp":                strings.Replace(good, "_sum 3", "_sum 3 1700000000", 1),
		"a counter without _total":   good + "# HELP b h\n# TYPE b counter\nb 1\n",
		"a gauge with _total":        good + "# HELP b_total h\n# TYPE b_total gauge\nb_total 1\n",
		"an escape of %q":            good + "# HELP b h\n# TYPE b gauge\nb{x=\"\\t\"} 1\n",
		"a label twice":              good + "# HELP b h\n# TYPE b gauge\nb{x=\"1\",x=\"2\"} 1\n",
		"a suffix of another type":   good + "# HELP b h\n# TYPE b gauge\nb_count 1\n",
		"invalid UTF-8 in a label":   good + "# HELP b h\n# TYPE b gauge\nb{x=\"\xff\"} 1\n",
		"a histogram without a type": strings.Replace(good, "histogram", "untyped", 1),
	} {
		if _, faults := parsePage(bad); faults == nil {
			t.Errorf("%s: the checker finds nothing wrong with\n%s", name, bad)
		}
	}
}

func TestMetricsAfterAScript(t *testing.T) {
	t.Parallel()
	c := start(t, "-max-tasks=2", "-slow=1h")
	const path = "/api/tasks"
	for _, row := range []struct {
		status             int
		method, path, body string
	}{
		{201, "POST", path, `{"task_name":"a"}`}, {201, "POST", path, `{"task_name":"b"}`}, {507, "POST", path, `{"task_name":"c"}`},
		{400, "POST", path, `{}`}, {400, "POST", path, `{`}, {400, "POST", path, `{"task_name":"a\u0000b"}`},
		{413, "POST", path, strings.Repeat(" ", 70_000)}, {200, "GET", path, ""}, {404, "GET", path + "/x", ""}, {404, "GET", path + "/y", ""},
		{200, "HEAD", path, ""}, {405, "DELETE", path, ""}, {404, "GET", "/x", ""}, {405, "BREW", "/health", ""}, {200, "GET", "/health", ""},
		{503, "GET", "/health/detailed", ""}, {200, "GET", "/debug/pprof/cmdline", ""}, {404, "GET", "/debug/pprof/x", ""},
	} {
		c.call(t, row.status, row.method, row.path, row.body)
	}
	c.call(t, 403, "GET", "/debug/storage", "", "Forwarded: for=x")
	var got []string
	exact := regexp.MustCompile(`^(http_requests_|log_events_|tasks?_|health_check_|http_request_duration_seconds_count.*POST)`)
	for series, value := range c.scrape(t) {
		if exact.MatchString(series) && value != 0 {
			got = append(got, fmt.Sprint(series, " ", value))
		}
	}
	want := strings.Split(`health_check_status{check="application"} 1
http_request_duration_seconds_count{method="POST",route="/api/tasks"} 7
http_requests_in_flight 1
http_requests_total{method="DELETE",route="unmatched",code="405"} 1
http_requests_total{method="GET",route="/api/tasks",code="200"} 1
http_requests_total{method="GET",route="/api/tasks/{task_id}",code="404"} 2
http_requests_total{method="GET",route="/debug/pprof/",code="200"} 1
http_requests_total{method="GET",route="/debug/pprof/",code="404"} 1
http_requests_total{method="GET",route="/debug/storage",code="403"} 1
http_requests_total{method="GET",route="/health",code="200"} 1
http_requests_total{method="GET",route="/health/detailed",code="503"} 1
http_requests_total{method="GET",route="unmatched",code="404"} 1
http_requests_total{method="HEAD",route="/api/tasks",code="200"} 1
http_requests_total{method="POST",route="/api/tasks",code="201"} 2
http_requests_total{method="POST",route="/api/tasks",code="400"} 3
http_requests_total{method="POST",route="/api/tasks",code="413"} 1
http_requests_total{method="POST",route="/api/tasks",code="507"} 1
http_requests_total{method="other",route="unmatched",code="405"} 1
log_events_total{category="ATTACK"} 1
log_events_total{category="SECURITY"} 2
log_events_total{category="VALIDATION"} 2
task_errors_total{error_code="BODY_TOO_LARGE"} 1
task_errors_total{error_code="FORBIDDEN"} 1
task_errors_total{error_code="MALFORMED_JSON"} 1
task_errors_total{error_code="METHOD_NOT_ALLOWED"} 2
task_errors_total{error_code="NOT_FOUND"} 4
task_errors_total{error_code="STORE_FULL"} 1
task_errors_total{error_code="VALIDATION_ERROR"} 2
tasks_capacity 2
tasks_created_total 2
tasks_stored 2`, "\n")
	if diff := difference(got, want); diff != "" {
		t.Errorf("what is not 0 after the script (- got, + want):\n%s", diff)
	}
}

// difference lists what is in only one of two lists.
func difference(got, want []string) (diff string) {
	for sign, lists := range map[string][2][]string{"- ": {got, want}, "+ ": {want, got}} {
		for _, line := range lists[0] {
			if !slices.Contains(lists[1], line) {
				diff += sign + line + "\n"
			}
		}
	}
	return diff
}

// Who has the end of an answer can rely on the counters, however long it is.
func TestAnswersEndWhenTheyAreCounted(t *testing.T) {
	t.Parallel()
	c := start(t)
	for range 100 {
		c.call(t, 201, "POST", "/api/tasks", `{"task_name":"a"}`)
	}
	for range 100 {
		a := c.call(t, 200, "GET", "/api/tasks", "")
		equal(t, a.curl+"\nrequests in flight, after the answer", c.metrics.inFlight.Load(), 0)
	}
}

// With a series missing, an alert's ratio is no number, and the first error is no increase.
func TestSeriesExistBeforeTheFirstRequest(t *testing.T) {
	t.Parallel()
	c := start(t)
	page := c.scrape(t)
	want := []string{"tasks_created_total"}
	for _, route := range c.routes() {
		success := map[string]string{"GET": "200", "POST": "201"}[route.Method]
		endpoint := []string{"method", route.Method, "route", route.Path}
		want = append(want, "http_requests_total"+labels(append(endpoint, "code", success)...), "http_requests_total"+labels(append(endpoint, "code", "500")...),
			"http_request_duration_seconds_bucket"+labels(append(endpoint, "le", "0.1")...), "http_request_duration_seconds_bucket"+labels(append(endpoint, "le", "1.0")...))
	}
	for code := range errorCodes() {
		want = append(want, "task_errors_total"+labels("error_code", code))
	}
	for category := range strings.FieldsSeq("VALIDATION AUTHENTICATION SECURITY ATTACK PERFORMANCE TIMEOUT") {
		want = append(want, "log_events_total"+labels("category", category))
	}
	for _, series := range want {
		if got, there := page[series]; !there || got != 0 {
			t.Errorf("%s before the first request\n got: %v (there: %v)\nwant: 0", series, got, there)
		}
	}
}

// No client can make the page grow: labels come from a closed set.
func TestLabelsAreClosed(t *testing.T) {
	t.Parallel()
	c := start(t, "-log-level=critical")
	send := func(method, path string) {
		req := httptest.NewRequest("GET", "/", nil)
		req.Method, req.URL.Path = method, path
		c.ServeHTTP(deadlines{httptest.NewRecorder()}, req)
	}
	methods := strings.Fields("GET HEAD POST PUT PATCH DELETE CONNECT OPTIONS TRACE")
	runtime.GC() // one family tells when the last collection was
	fresh := slices.Collect(maps.Keys(c.scrape(t)))
	for _, method := range append(methods, "BREW", rand.Text()) {
		send(method, "/"+rand.Text())
		send(rand.Text(), "/api/tasks")
	}
	if diff := difference(slices.Collect(maps.Keys(c.scrape(t))), fresh); diff != "" {
		t.Errorf("series that unknown methods and paths have added (-) or removed (+):\n%s", diff)
	}
	for _, method := range append(methods, "BREW") {
		for _, route := range c.routes() {
			send(method, strings.TrimSuffix(route.Path, "{$}"))
		}
	}
	series := func() (names []string) {
		for name := range c.scrape(t) {
			if strings.HasPrefix(name, "http_request_duration_seconds_count") { // has the labels of all, but for the code
				names = append(names, name)
			}
		}
		return names
	}
	before := series()
	for range 1000 {
		send(rand.Text()[:1+mathrand.IntN(20)], "/"+rand.Text())
		send(methods[mathrand.IntN(len(methods))], []string{"/api/tasks/", "/debug/pprof/", "/health/", "/%/"}[mathrand.IntN(4)]+rand.Text())
	}
	if diff := difference(series(), before); diff != "" {
		t.Errorf("series that 2000 random requests have added (-) or removed (+):\n%s", diff)
	}
	if got, limit := len(c.call(t, 200, "GET", "/metrics", "").body), 64<<10; got > limit {
		t.Errorf("the page after every method on every route\n got: %d bytes\nwant: at most %d", got, limit)
	}
}

// Under load, every page adds up by itself, and after it the counters add up to what was sent.
func TestMetricsUnderLoad(t *testing.T) {
	t.Parallel()
	c := start(t)
	const clients, each, scrapes = 4, 100, 10
	var load sync.WaitGroup
	for range clients {
		load.Go(func() {
			for range each {
				c.call(t, 201, "POST", "/api/tasks", `{"task_name":"a"}`)
				c.call(t, 404, "GET", "/nowhere", "")
			}
		})
	}
	for range scrapes {
		c.scrape(t)
	}
	load.Wait()
	sums := map[string]float64{}
	for series, value := range c.scrape(t) {
		name, _, _ := strings.Cut(series, "{")
		sums[name] += value
	}
	const sent = 2*clients*each + scrapes
	for name, want := range map[string]float64{"http_requests_total": sent, "http_request_duration_seconds_count": sent,
		"task_errors_total": clients * each, "tasks_created_total": clients * each, "tasks_stored": clients * each, "http_requests_in_flight": 1} {
		equal(t, "sum of "+name+" after the load", sums[name], want)
	}
	c.logFile.flush()
	written := float64(len(c.log.String()))
	equal(t, "log_written_bytes_total", c.scrape(t)["log_written_bytes_total"], written)
}

// --- 5. Logs: one line per request, which greps find and no client can forge. ---

// logCase is a request, and what its line says.
type logCase struct {
	name, flags, request, body string
	header                     http.Header
	status                     int
	want                       string // level, category, msg
}

func logCases() []logCase {
	const task = `{"task_name":"a","user_id":"u"}`
	return []logCase{
		{"a success", "", "GET /health", "", nil, 200, "INFO - request"},
		{"a request for no body", "", "HEAD /nowhere", "", nil, 404, "INFO - request"},
		{"a created task", "", "POST /api/tasks", task, nil, 201, "INFO - request"},
		{"no such path", "", "GET /nowhere", "", nil, 404, "INFO - request"},
		{"no such method", "", "PUT /health", "", nil, 405, "INFO - request"},
		{"another media type", "", "POST /api/tasks", task, http.Header{"Content-Type": {"text/plain"}}, 415, "INFO - request"},
		{"a broken rule", "", "POST /api/tasks", "{}", nil, 400, "WARNING VALIDATION request"},
		{"no JSON", "", "POST /api/tasks", "{", nil, 400, "WARNING VALIDATION request"},
		{"a bad limit", "", "GET /api/tasks?limit=0", "", nil, 400, "WARNING VALIDATION request"},
		{"no token", "-token-file=TOKEN", "GET /api/tasks", "", nil, 401, "WARNING AUTHENTICATION request"},
		{"a page of another site", "", "POST /api/tasks", task, http.Header{"Sec-Fetch-Site": {"cross-site"}}, 403, "WARNING SECURITY request"},
		{"a body too large", "", "POST /api/tasks", strings.Repeat(" ", 70_000), nil, 413, "WARNING SECURITY request"},
		{"too many creations", "-rate=1", "POST /api/tasks", task, nil, 429, "WARNING SECURITY request"},
		{"a control character inside a value", "", "POST /api/tasks", `{"task_name":"a\u0007b"}`, nil, 400, "WARNING ATTACK request"},
		{"a control character in a wrong user", "", "POST /api/tasks", `{"user_id":"a\u001bb","x":1}`, nil, 400, "WARNING ATTACK request"},
		{"a control character that is trimmed away", "", "POST /api/tasks", `{"task_name":"a\n"}`, nil, 201, "INFO - request"},
		{"damaged text is a fault and no attack", "", "POST /api/tasks", `{"task_name":"\ud800"}`, nil, 400, "WARNING VALIDATION request"},
		{"invalid UTF-8", "", "POST /api/tasks", "{\"task_name\":\"\xff\"}", nil, 400, "WARNING ATTACK request"},
		{"a body that does not arrive", "", "POST /api/tasks", "late", nil, 408, "WARNING TIMEOUT request"},
		{"a slow request", "", "GET /slow", "", nil, 200, "WARNING PERFORMANCE SLOW request"},
		{"just not slow", "-slow=1s", "GET /slow", "", nil, 200, "INFO - request"},
		{"a slow mistake is a mistake first", "-slow=0s", "POST /api/tasks", "slow", nil, 400, "WARNING VALIDATION SLOW request"},
		{"an unhealthy host", "", "GET /health/detailed", "", nil, 503, "WARNING - request"},
		{"a full store", "-max-tasks=1", "POST /api/tasks", task, nil, 507, "ERROR - request"},
		{"a panic", "", "GET /panic", "", nil, 500, "CRITICAL - request"},
	}
}

// serve runs one case in a bubble, where no time passes but what is slept, and returns its line with the fields.
func (row logCase) serve(t *testing.T, format string) (line string, fields map[string]string, keys []string) {
	t.Helper()
	flags := strings.Fields(strings.ReplaceAll(row.flags, "TOKEN", write(t, "token", "s3cret")))
	s, log := build(t, append(flags, "-log-format="+format)...)
	s.mux.HandleFunc("GET /slow", func(w http.ResponseWriter, _ *http.Request) { time.Sleep(time.Second); io.WriteString(w, "at last") })
	s.mux.HandleFunc("GET /panic", func(http.ResponseWriter, *http.Request) { panic("boom") })
	header := http.Header{"Content-Type": {"application/json"}, "X-Request-Id": {"r1"}}
	maps.Copy(header, row.header)
	if row.status == 429 || row.status == 507 {
		serveOnce(t, s, 201, "POST", "/api/tasks", strings.NewReader(row.body), header)
	}
	var body io.Reader = strings.NewReader(row.body)
	switch row.body {
	case "late":
		body = iotest.ErrReader(os.ErrDeadlineExceeded)
	case "slow":
		body = readerFunc(func([]byte) (int, error) { time.Sleep(time.Second); return 0, io.EOF })
	}
	s.logFile.flush()
	before := len(log.String())
	method, target, _ := strings.Cut(row.request, " ")
	serveOnce(t, s, row.status, method, target, body, header)
	s.logFile.flush()
	line = log.String()[before:]
	if strings.Count(line, "\n") != 1 || !strings.HasSuffix(line, "\n") {
		t.Fatalf("%s: the log\n got: %q\nwant: one line", row.name, line)
	}
	fields, keys = parseLine(t, line, format)
	return line, fields, keys
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// parseLine reads a line as other programs do: key=value, quoted where needed, or JSON.
func parseLine(t *testing.T, line, format string) (fields map[string]string, keys []string) {
	t.Helper()
	fields = map[string]string{}
	if format == "json" {
		var object map[string]any
		if err := json.Unmarshal([]byte(line), &object); err != nil {
			t.Fatalf("the log\n got: %q\nwant: JSON (%v)", line, err)
		}
		for key, value := range object {
			fields[key] = fmt.Sprint(value)
		}
		return fields, slices.Sorted(maps.Keys(fields))
	}
	for rest := strings.TrimSpace(line); rest != ""; rest = strings.TrimPrefix(rest, " ") {
		key, value, ok := strings.Cut(rest, "=")
		quoted, err := strconv.QuotedPrefix(value)
		if err == nil {
			fields[key], _ = strconv.Unquote(quoted)
			rest = value[len(quoted):]
		} else {
			fields[key], _, _ = strings.Cut(value, " ")
			rest = value[len(fields[key]):]
		}
		if !ok || strings.ContainsAny(key, "\" ") {
			t.Fatalf("the log\n got: %q\nwant: key=value", line)
		}
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return fields, keys
}

func TestLogLines(t *testing.T) {
	t.Parallel()
	for _, row := range logCases() {
		for _, format := range []string{"text", "json"} {
			t.Run(row.name+", "+format, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					line, f, keys := row.serve(t, format)
					equal(t, row.request, strings.Join([]string{f["level"], cmp.Or(f["category"], "-"), f["msg"]}, " "), row.want)
					want := []string{"bytes", "duration", "level", "method", "msg", "path", "remote", "request_id", "route", "status", "time"}
					switch {
					case f["category"] != "":
						want = append(want, "category")
					case row.status == 201:
						want = append(want, "task_id", "user_id")
					case f["level"] == "CRITICAL":
						want = append(want, "panic", "stack")
					}
					for _, key := range want {
						if f[key] == "" && key != "user_id" || !slices.Contains(keys, key) {
							t.Errorf("%s\n got: %s\nwant: a line with %s", row.request, line, key)
						}
					}
					method, path, _ := strings.Cut(row.request, " ")
					path, _, _ = strings.Cut(path, "?")
					wantValues := [5]string{method, path, strconv.Itoa(row.status), "r1", "192.0.2.1:1234"}
					equal(t, row.request, [5]string{f["method"], f["path"], f["status"], f["request_id"], f["remote"]}, wantValues)
					if row.name == "a created task" && format == "text" { // one line to the letter, as the operations guide shows it
						equal(t, row.request, normalise(line), "time=2000-01-01T00:00:00.000Z level=INFO msg=request method=POST route=/api/tasks "+
							"path=/api/tasks status=201 duration=0s bytes=156 remote=192.0.2.1:1234 request_id=r1 task_id=task_ID user_id=u")
					}
					if method == "HEAD" {
						equal(t, "bytes of an answer without a body", f["bytes"], "0")
					}
					// grep -E "(ERROR|CRITICAL)" finds trouble and nothing else.
					trouble := strings.Contains(line, "ERROR") || strings.Contains(line, "CRITICAL")
					if want := f["level"] == "ERROR" || f["level"] == "CRITICAL"; trouble != want {
						t.Errorf("%s\n got: %s\nwant: a line that a grep for trouble finds: %v", row.request, line, want)
					}
					if f["level"] == "CRITICAL" && !(strings.Contains(f["stack"], "handlers_test.go") && f["panic"] == "boom") {
						t.Errorf("%s\n got: %s\nwant: the panic and its stack", row.request, line)
					}
				})
			})
		}
	}
}

func TestLogCannotBeForged(t *testing.T) {
	t.Parallel()
	const forged = "x\r\ntime=2000-01-01T00:00:00Z level=CRITICAL category=SECURITY \"msg\"=\\\" \x1b[2J\u009b\u202e\u2028\xff\",\"level\":\"ERROR"
	const user = "x level=CRITICAL category=SECURITY \\\" \u202e\u2028 \\\",\\\"level\\\":\\\"ERROR" // is valid, and in the line
	for _, format := range []string{"text", "json"} {
		s, log := build(t, "-log-format="+format)
		attacks := []func(*http.Request){
			func(r *http.Request) { r.URL.Path = "/" + forged },
			func(r *http.Request) { r.URL.RawQuery = forged },
			func(r *http.Request) { r.Method = "`|'level*CRITICAL" }, // net/http lets no other characters pass in a method
			func(r *http.Request) { r.Header.Set("X-Request-Id", forged) },
			func(r *http.Request) { r.Header.Set("User-Agent", forged) },
		}
		for _, attack := range attacks {
			req := httptest.NewRequest("GET", "/nowhere", nil)
			attack(req)
			s.ServeHTTP(httptest.NewRecorder(), req)
		}
		equal(t, "status of a creation with a hostile user", create(s, `{"task_name":"a","user_id":"`+user+`"}`).Code, 201)
		s.logFile.flush()
		equal(t, "lines of "+strconv.Quote(log.String()), strings.Count(log.String(), "\n"), len(attacks)+1)
		for line := range strings.Lines(log.String()) {
			f, keys := parseLine(t, line, format)
			allowed := "bytes duration level method msg path remote request_id route status time"
			if f["task_id"] != "" {
				allowed = strings.Replace(allowed, " time", " task_id time user_id", 1)
			}
			equal(t, "fields of "+line, strings.Join(keys, " "), allowed)
			equal(t, "level of "+line, f["level"], "INFO")
			if regexp.MustCompile("[\r\x1b\u009b\u202e\u2028\ufffd]| (category|level)=[CS]").MatchString(line) {
				t.Errorf("the line of a hostile request\n got: %q\nwant: printable text, and nothing that greps take for another field", line)
			}
		}
	}
}

func TestLogLevels(t *testing.T) {
	t.Parallel()
	want := "DEBUG INFO WARNING ERROR CRITICAL "
	for level := range strings.FieldsSeq("debug info warning error critical") {
		s, log := build(t, "-log-level="+level)
		for _, write := range []func(string, ...any){s.log.Debug, s.log.Info, s.log.Warn, s.log.Error} {
			write("x")
		}
		s.mux.HandleFunc("GET /panic", func(http.ResponseWriter, *http.Request) { panic("boom") })
		serveOnce(t, s, 500, "GET", "/panic", nil, nil)
		s.logFile.flush()
		var got strings.Builder
		for line := range strings.Lines(log.String()) {
			f, _ := parseLine(t, line, "text")
			got.WriteString(f["level"] + " ")
		}
		equal(t, "levels with -log-level="+level, got.String(), want)
		_, want, _ = strings.Cut(want, " ")
	}
}

// A panic costs one answer, and no more: not the process, and not the connection unless the answer had begun.
func TestPanic(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.mux.HandleFunc("GET /panic", func(http.ResponseWriter, *http.Request) { panic("secret of the inside") })
	c.mux.HandleFunc("POST /half", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "half"); panic("boom") })
	if a := c.call(t, 500, "GET", "/panic", ""); a.brief() != "INTERNAL_ERROR" || strings.Contains(a.body, "secret") {
		t.Errorf("%s\n got: %s\nwant: INTERNAL_ERROR that tells nothing", a.curl, a.body)
	}
	if resp, err := c.http.Post(c.base+"/half", "", nil); err == nil { // a GET would be tried again
		if body, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("a panic after half an answer\n got: %d %q\nwant: a broken connection, not something that looks whole", resp.StatusCode, body)
		}
	}
	page := c.scrape(t)
	for series, want := range map[string]float64{
		`http_requests_total{method="GET",route="/panic",code="500"}`: 1, `task_errors_total{error_code="INTERNAL_ERROR"}`: 1, "http_requests_in_flight": 1,
	} {
		equal(t, series+" after panics", page[series], want)
	}
	c.logFile.flush()
	equal(t, "CRITICAL lines", strings.Count(c.log.String(), "level=CRITICAL"), 2)
}

// --- 6. Running: how it is started, how slow clients are bounded, and how it stops without losing a request. ---

// pipes is a listener whose connections exist in memory only: a bubble's clock stands still while a real one waits.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8000} }

func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.conns <- server:
		return client, nil
	case <-p.closed:
		return nil, syscall.ECONNREFUSED
	}
}

// startInBubble is start for synctest.
func startInBubble(t testing.TB, flags ...string) *client {
	t.Helper()
	ln := newPipes()
	return startOn(t, ln, &http.Transport{DialContext: ln.dial}, flags...)
}

func TestRateLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := startInBubble(t, "-rate=2")
		create := func(want int) answer {
			t.Helper()
			return c.call(t, want, "POST", "/api/tasks", `{"task_name":"a"}`)
		}
		for range 10 { // only valid creations count
			c.call(t, 400, "POST", "/api/tasks", `{}`)
			c.call(t, 200, "GET", "/api/tasks", "")
		}
		create(201)
		create(201)
		a := create(429)
		equal(t, a.curl, a.brief()+", Retry-After: "+a.header.Get("Retry-After"), "RATE_LIMITED, Retry-After: 1")
		time.Sleep(499 * time.Millisecond)
		create(429)
		time.Sleep(time.Millisecond) // half a second gives one token
		create(201)
		create(429)
		time.Sleep(time.Hour) // and an hour gives no more than a burst
		create(201)
		create(201)
		create(429)
	})
}

// A slow client costs one goroutine for a bounded time.
func TestTimeouts(t *testing.T) {
	t.Parallel()
	const head = "POST /api/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
	for _, row := range []struct {
		name, send string
		after      time.Duration
		want       string
	}{
		{"a connection that says nothing", "", 5 * time.Second, ""},
		{"half a header", head + "Content-Le", 5 * time.Second, "HTTP/1.1 400 …"},
		{"half a body", head + "Content-Length: 20\r\n\r\n{", 10 * time.Second, `HTTP/1.1 408 …"error_code":"REQUEST_TIMEOUT"…`},
		{"an idle connection", "GET /health/liveness HTTP/1.1\r\nHost: x\r\n\r\n", 75 * time.Second, "HTTP/1.1 200 …"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				conn, err := startInBubble(t).dial()
				must(t, err)
				defer conn.Close()
				start := time.Now()
				go io.WriteString(conn, row.send)
				got, err := io.ReadAll(conn)
				// net/http lingers for half a second when it hangs up on somebody who may still be sending.
				if d := time.Since(start); !matches(string(got), row.want) || d < row.after || d > row.after+time.Second {
					t.Errorf("%s\n got: %q, hung up after %v (%v)\nwant: %q after %v", row.name, got, d, err, row.want, row.after)
				}
			})
		})
	}
}

// Stopping loses no request: what is in flight ends, what comes during the drain is answered, and nobody is kept.
func TestDrain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := startInBubble(t, "-drain=5s", "-shutdown-timeout=10s")
		c.mux.HandleFunc("GET /slow", func(w http.ResponseWriter, _ *http.Request) { time.Sleep(8 * time.Second); io.WriteString(w, "done") })
		idle, err := c.dial() // and a connection on which nothing comes
		must(t, err)
		defer idle.Close()
		var clients sync.WaitGroup
		clients.Go(func() {
			if a := c.call(t, 200, "GET", "/slow", ""); a.body != "done" || a.header.Get("Connection") != "close" {
				t.Errorf("a request in flight\n got: %q %q\nwant: its whole answer, and Connection: close", a.header, a.body)
			}
		})
		synctest.Wait()
		began := time.Now()
		stopped := make(chan error)
		go func() { stopped <- c.stop() }()
		synctest.Wait()
		for path, status := range map[string]int{"/health/readiness": 503, "/health/detailed": 503, "/health/liveness": 200, "/health": 200, "/api/tasks": 200} {
			if a := c.call(t, status, "GET", path, ""); a.header.Get("Connection") != "close" {
				t.Errorf("%s, draining\n got: %q\nwant: Connection: close", a.curl, a.header)
			}
		}
		c.call(t, 201, "POST", "/api/tasks", `{"task_name":"a"}`)
		time.Sleep(5*time.Second + time.Millisecond)
		if conn, err := c.dial(); err == nil {
			conn.Close()
			t.Errorf("a connection after the drain\n got: accepted\nwant: refused")
		}
		clients.Wait()
		err = <-stopped
		if d := time.Since(began); err != nil || d < 8*time.Second || d > 9*time.Second {
			t.Errorf("stopping with 8 s of work\n got: %v after %v\nwant: no error after 8 s", err, d)
		}
	})
}

// A client that keeps its connection may be sending just when the service stops: it is heard, not hung up on.
func TestIdleConnectionHasALastWord(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := startInBubble(t)
		conn, err := c.dial()
		must(t, err)
		defer conn.Close()
		answers := bufio.NewReader(conn)
		get := func() string {
			io.WriteString(conn, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
			resp, err := http.ReadResponse(answers, nil)
			if err != nil {
				return err.Error()
			}
			io.Copy(io.Discard, resp.Body)
			return fmt.Sprint(resp.StatusCode, ", the last one: ", resp.Close)
		}
		equal(t, "before the end", get(), "200, the last one: false")
		stopped := make(chan error)
		go func() { stopped <- c.stop() }()
		time.Sleep(100 * time.Millisecond)
		equal(t, "while stopping", get(), "200, the last one: true")
		equal(t, "error of stopping", <-stopped, nil)
	})
}

func TestStoppingIsBounded(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		sleep  time.Duration
		fails  bool
		atMost time.Duration
	}{
		{"a connection that sends nothing delays the end by a second at most", 0, false, time.Second},
		{"a request within the time ends", 2900 * time.Millisecond, false, 3 * time.Second},
		{"a request beyond the time is cut off, and the end is a failure", time.Minute, true, 3100 * time.Millisecond},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := startInBubble(t, "-shutdown-timeout=3s")
				c.mux.HandleFunc("GET /slow", func(http.ResponseWriter, *http.Request) { time.Sleep(row.sleep) })
				silent, err := c.dial()
				must(t, err)
				defer silent.Close()
				if row.sleep > 0 {
					go io.WriteString(silent, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
					go io.Copy(io.Discard, silent)
				}
				synctest.Wait()
				began := time.Now()
				err = c.stop()
				if d := time.Since(began); (err != nil) != row.fails || d > row.atMost {
					t.Errorf("%s\n got: %v after %v\nwant: failure: %v, after %v at most", row.name, err, d, row.fails, row.atMost)
				}
				time.Sleep(row.sleep) // the bubble waits for the handler
			})
		})
	}
}

// refusals are command lines that end the program before it serves. {dir} is an empty folder, {busy} an address in use.
func refusals() map[string]int {
	return map[string]int{ // to the exit status
		"-nonsense": 2, "serve": 2, "-max-tasks=0": 2, "-max-tasks=many": 2, "-rate=-1": 2, "-tls-cert=x": 2, "-tls-key=x": 2, "-log-format=xml": 2,
		"-log-level=loud": 2, "-addr=": 2, "-cpu-high=101": 2, "-memory-high=-1": 2, "-disk-high=NaN": 2, "-slow=-1s": 2, "-drain=1": 2,
		"-cors-origins=*": 2, "-cors-origins=a.example": 2, "-cors-origins=https://a.example/": 2, "-cors-origins=https://a.example,*": 2,
		"-token-file={dir}/missing": 1, "-token-file=" + os.DevNull: 1, "-log-file={dir}/missing/log": 1, "-tls-cert={dir}/c -tls-key={dir}/k": 1,
		"-addr={busy}": 1, "-addr=nowhere": 1,
	}
}

func TestRefusedCommandLines(t *testing.T) {
	t.Parallel()
	busy := strings.TrimPrefix(start(t).base, "http://")
	bin := ""
	if !testing.Short() && runtime.GOOS != "windows" {
		bin = buildProgram(t)
	}
	for line, status := range refusals() {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			args := strings.Fields("-addr=127.0.0.1:0 " + strings.NewReplacer("{dir}", t.TempDir(), "{busy}", busy).Replace(line))
			err := run(t.Context(), args, io.Discard, io.Discard)
			if err == nil || strings.Contains(err.Error(), "\n") {
				t.Errorf("run %s\n got: %v\nwant: an error of one line", args, err)
			}
			if bin == "" {
				return
			}
			var stdout, stderr bytes.Buffer
			cmd := exec.Command(bin, args...)
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			cmd.Run()
			if got := cmd.ProcessState.ExitCode(); got != status || strings.Count(stderr.String(), "\n") != 1 || stdout.Len() > 0 {
				t.Errorf("taskapi %s\n got: exit status %d, %q %q\nwant: %d, and one line on standard error", args, got, stderr.String(), stdout.String(), status)
			}
		})
	}
}

// help returns what -h prints, and the defaults by flag.
func help(t *testing.T) (text string, flags map[string]string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if err := run(t.Context(), []string{"-h"}, &stdout, &stderr); err != nil || stderr.Len() > 0 {
		t.Fatalf("taskapi -h\n got: %v, %q\nwant: success, and nothing on standard error", err, stderr.String())
	}
	flags = map[string]string{}
	for _, f := range regexp.MustCompile(`(?m)^  -(\S+).*(?:\n    .*?(?:\(default (.*?)\))?$)?`).FindAllStringSubmatch(stdout.String(), -1) {
		flags[f[1]] = strings.Trim(f[2], `"`)
	}
	return stdout.String(), flags
}

func TestHelpAndVersion(t *testing.T) {
	t.Parallel()
	_, got := help(t)
	want := map[string]string{"addr": "127.0.0.1:8000", "max-tasks": "1000000", "rate": "", "token-file": "", "cors-origins": "", "tls-cert": "", "tls-key": "",
		"log-file": "standard error", "log-format": "text", "log-level": "info", "slow": "100ms", "cpu-high": "80", "memory-high": "80", "disk-high": "80",
		"disk-path": "/", "drain": "", "shutdown-timeout": "10s", "version": ""}
	if !maps.Equal(got, want) {
		t.Errorf("flags and defaults of taskapi -h\n got: %v\nwant: %v", got, want)
	}
	var stdout bytes.Buffer
	err := run(t.Context(), []string{"-version"}, &stdout, io.Discard)
	if err != nil || !matches(stdout.String(), "… … … "+runtime.Version()+"\n") {
		t.Errorf("taskapi -version\n got: %q (%v)\nwant: version, revision and %s", stdout.String(), err, runtime.Version())
	}
}

// runHere runs the program inside the test until stop, or the end of the test.
func runHere(t *testing.T, scheme string, transport *http.Transport, args ...string) *client {
	t.Helper()
	c := newClient("", transport)
	c.log = &buffer{}
	text := c.log.String
	for _, arg := range args {
		if path, ok := strings.CutPrefix(arg, "-log-file="); ok {
			before, _ := os.ReadFile(path) // by an earlier run
			text = func() string { now, _ := os.ReadFile(path); return string(now[len(before):]) }
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, append([]string{"-addr=127.0.0.1:0"}, args...), io.Discard, c.log) }()
	c.stop = sync.OnceValue(func() error { cancel(); c.http.CloseIdleConnections(); return <-ended })
	t.Cleanup(func() { c.stop() })
	c.base = scheme + listening(t, text)
	return c
}

// listening waits until the log tells the address, and returns it.
func listening(t *testing.T, log func() string) (addr string) {
	t.Helper()
	eventually(t, "the log tells the address", func() bool {
		addr = regexp.MustCompile(`127\.0\.0\.1:[1-9]\d*`).FindString(log())
		return addr != ""
	})
	return addr
}

func TestRunEndsWithItsContext(t *testing.T) {
	t.Parallel()
	c := runHere(t, "http://", &http.Transport{})
	if d := c.detail(t, c.call(t, 200, "GET", "/health", "").status); d.shown("memory") == "unknown" {
		t.Errorf("the first answer after the start\n got: %+v\nwant: real numbers", d)
	}
	if err := c.stop(); err != nil {
		t.Errorf("run, when its context has ended\n got: %v\nwant: no error", err)
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "taskapi"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(chain)
	c := runHere(t, "https://", &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted}, ForceAttemptHTTP2: true},
		"-tls-cert="+write(t, "cert.pem", string(chain)),
		"-tls-key="+write(t, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))))
	c.call(t, 201, "POST", "/api/tasks", `{"task_name":"a"}`)
	addr := strings.TrimPrefix(c.base, "https://")
	conn, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: trusted, NextProtos: []string{"h2", "http/1.1"}})
	must(t, err)
	defer conn.Close()
	if got := conn.ConnectionState().NegotiatedProtocol; got == "h2" {
		t.Errorf("the protocol for a client that prefers HTTP/2\n got: %q\nwant: HTTP/1.1", got)
	}
	if conn, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: trusted, MaxVersion: tls.VersionTLS11}); err == nil {
		conn.Close()
		t.Error("TLS 1.1\n got: a connection\nwant: none")
	}
}

// --- The built binary, as systemd and an operator's shell see it. ---

func buildProgram(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "taskapi")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return bin
}

// program is a running binary.
type program struct {
	*client
	cmd *exec.Cmd
}

// launch starts a binary; with a socket, as systemd passes one: the child must be told its own pid, so a shell does it.
func launch(t *testing.T, bin string, socket *net.TCPListener, args ...string) *program {
	t.Helper()
	p := &program{client: newClient("", &http.Transport{}), cmd: exec.Command(bin, append([]string{"-addr=127.0.0.1:0"}, args...)...)}
	if socket != nil {
		file, err := socket.File()
		must(t, err)
		defer file.Close()
		p.cmd = exec.Command("sh", append([]string{"-c", `LISTEN_PID=$$ exec "$0" "$@"`, bin}, args...)...)
		p.cmd.Env = append(os.Environ(), "LISTEN_FDS=1")
		p.cmd.ExtraFiles = []*os.File{file}
	}
	p.client.log = &buffer{}
	p.cmd.Stderr = p.client.log
	must(t, p.cmd.Start())
	t.Cleanup(func() { p.cmd.Process.Kill(); p.cmd.Wait() })
	p.base = "http://" + listening(t, p.client.log.String)
	return p
}

// end sends SIGTERM and returns the exit status, or -1 if the signal killed it.
func (p *program) end(t *testing.T) int {
	t.Helper()
	p.terminate(t)
	p.cmd.Wait()
	return p.cmd.ProcessState.ExitCode()
}

func (p *program) terminate(t *testing.T) {
	t.Helper()
	must(t, p.cmd.Process.Signal(syscall.SIGTERM))
}

func TestProgram(t *testing.T) {
	if testing.Short() || runtime.GOOS == "windows" {
		t.Skip("needs SIGTERM, and a few seconds")
	}
	t.Parallel()
	bin := buildProgram(t)
	const body = `{"task_name":"a"}`
	// half sends a request but for the end of its body, and waits until the program has begun with it.
	half := func(t *testing.T, p *program) net.Conn {
		t.Helper()
		conn, err := p.dial()
		must(t, err)
		t.Cleanup(func() { conn.Close() })
		fmt.Fprintf(conn, "POST /api/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n{", len(body))
		eventually(t, "the request is in flight", func() bool { return p.scrape(t)["http_requests_in_flight"] == 2 })
		p.http.CloseIdleConnections()
		return conn
	}
	stopping := func(t *testing.T, p *program) {
		t.Helper()
		eventually(t, "it is stopping", func() bool {
			conn, err := p.dial()
			if err == nil {
				conn.Close()
			}
			return err != nil
		})
	}

	t.Run("SIGTERM lets a request in flight end", func(t *testing.T) {
		t.Parallel()
		p := launch(t, bin, nil)
		conn := half(t, p)
		p.terminate(t)
		stopping(t, p)
		io.WriteString(conn, body[1:])
		got, err := io.ReadAll(conn)
		if want := "HTTP/1.1 201 Created…\r\nConnection: close\r\n…task created…"; !matches(string(got), want) {
			t.Errorf("a request in flight at SIGTERM\n got: %q (%v)\nwant: %q", got, err, want)
		}
		p.cmd.Wait()
		equal(t, "exit status", p.cmd.ProcessState.ExitCode(), 0)
	})
	t.Run("a request beyond -shutdown-timeout is cut off, and the status says so", func(t *testing.T) {
		t.Parallel()
		p := launch(t, bin, nil, "-shutdown-timeout=50ms")
		half(t, p)
		equal(t, "exit status", p.end(t), 1)
	})
	t.Run("a second signal ends it at once", func(t *testing.T) {
		t.Parallel()
		p := launch(t, bin, nil, "-drain=1h")
		p.terminate(t)
		eventually(t, "readiness says 503", func() bool {
			resp, err := p.http.Get(p.base + "/health/readiness")
			if err == nil {
				resp.Body.Close()
			}
			return err == nil && resp.StatusCode == 503
		})
		if got := p.end(t); got == 0 {
			t.Errorf("exit status\n got: %d\nwant: a failure", got)
		}
	})
	t.Run("without a log file SIGHUP keeps its default action", func(t *testing.T) {
		t.Parallel()
		if signal.Ignored(syscall.SIGHUP) {
			t.Skip("under nohup nobody gets it")
		}
		p := launch(t, bin, nil)
		p.cmd.Process.Signal(syscall.SIGHUP)
		if err := p.cmd.Wait(); err == nil {
			t.Error("SIGHUP\n got: exit status 0\nwant: death")
		}
	})
	// The socket belongs to somebody else, as with systemd: while nobody serves, clients wait in its queue.
	t.Run("restarts under load lose nothing", func(t *testing.T) {
		t.Parallel()
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		defer ln.Close()
		p := launch(t, bin, ln.(*net.TCPListener))
		var load sync.WaitGroup
		var done atomic.Bool
		for i := range 4 {
			c := newClient("http://"+ln.Addr().String(), &http.Transport{DisableKeepAlives: i%2 == 0})
			load.Go(func() {
				for !done.Load() { // POST: Go's client would send a lost GET again, and hide it
					c.call(t, 201, "POST", "/api/tasks", body)
				}
				c.http.CloseIdleConnections()
			})
		}
		for range 4 {
			eventually(t, "tasks are being created", func() bool { return p.scrape(t)["tasks_created_total"] > 50 })
			p.http.CloseIdleConnections()
			equal(t, "exit status under load", p.end(t), 0)
			p = launch(t, bin, ln.(*net.TCPListener))
		}
		done.Store(true)
		load.Wait()
	})
	t.Run("systemd passes one socket and no more", func(t *testing.T) {
		t.Parallel()
		var stderr buffer
		cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=2 exec "$0"`, bin)
		cmd.Stderr = &stderr
		cmd.Run()
		if got := cmd.ProcessState.ExitCode(); got != 1 || strings.Count(stderr.String(), "\n") != 1 {
			t.Errorf("two sockets\n got: exit status %d, %q\nwant: 1, and one line", got, stderr.String())
		}
	})
}

func TestSystemdIsToldTheState(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("needs a Unix datagram socket")
	}
	dir, err := os.MkdirTemp("", "n") // a socket's path must be short
	must(t, err)
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	must(t, err)
	defer conn.Close()
	must(t, conn.SetReadDeadline(time.Now().Add(20*time.Second)))
	t.Setenv("NOTIFY_SOCKET", socket)
	t.Setenv("WATCHDOG_USEC", "20000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	c := runHere(t, "http://", &http.Transport{})
	for _, want := range []string{"READY=1", "WATCHDOG=1", "WATCHDOG=1", "STOPPING=1"} {
		if want == "STOPPING=1" {
			c.stop()
		}
		for got, state := "", make([]byte, 100); got != want; {
			n, err := conn.Read(state)
			must(t, err) // systemd waits in vain
			got = string(state[:n])
		}
	}
}

func TestLogFile(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("needs SIGHUP")
	}
	// Whatever becomes of the service's own handler, SIGHUP must not end the tests.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)

	path := filepath.Join(t.TempDir(), "log")
	content := func(path string) string { text, _ := os.ReadFile(path); return string(text) }
	runHere(t, "http://", &http.Transport{}, "-log-file="+path).stop()
	info, err := os.Stat(path)
	must(t, err)
	equal(t, "mode of the log file", info.Mode().Perm(), os.FileMode(0o640))
	first := content(path)
	c := runHere(t, "http://", &http.Transport{}, "-log-file="+path)
	if got := content(path); !strings.HasPrefix(got, first) || len(got) <= len(first) {
		t.Errorf("the log after a second start\n got: %q\nwant: more after %q", got, first)
	}

	// Rotation under load: every request has its line, in one file or the other.
	const requests = 300
	var load sync.WaitGroup
	load.Go(func() {
		for range requests {
			c.call(t, 404, "GET", "/counted", "")
		}
	})
	must(t, os.Rename(path, path+".1"))
	self, _ := os.FindProcess(os.Getpid())
	self.Signal(syscall.SIGHUP)
	eventually(t, "the log file is there again", func() bool { _, err := os.Stat(path); return err == nil })
	load.Wait()
	c.call(t, 404, "GET", "/counted", "")
	if !strings.Contains(content(path), "/counted") {
		t.Error("the log went on in the file that was moved away")
	}

	// A file that cannot be opened costs no line, either: the log goes on where it was, and says so.
	must(t, os.Rename(path, path+".2"))
	must(t, os.Mkdir(path, 0o700))
	self.Signal(syscall.SIGHUP)
	eventually(t, "the log tells that it could not be reopened", func() bool { return strings.Contains(content(path+".2"), "level=ERROR") })
	c.call(t, 404, "GET", "/counted", "")
	c.stop()
	equal(t, "lines in all log files", strings.Count(content(path+".1")+content(path+".2"), " path=/counted "), requests+2)
}

// --- 7. The store: state has one owner, and what it hands out is a copy. ---

func TestStoreUnderConcurrentUse(t *testing.T) {
	t.Parallel()
	const writers, each, capacity = 8, 100, 500
	s, _ := build(t, fmt.Sprint("-max-tasks=", capacity))
	var refused atomic.Int64
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := range each {
				rec := create(s, fmt.Sprintf(`{"task_name":"%d","user_id":"%d"}`, i, w))
				if rec.Code == 507 {
					refused.Add(1)
					continue
				}
				id := path.Base(rec.Header().Get("Location"))
				task, _ := s.store.get(id)
				equal(t, "the task just created", [3]string{task.ID, task.Name, task.UserID}, [3]string{id, fmt.Sprint(i), fmt.Sprint(w)})
				_, _, ok := s.store.page(id, 10)
				equal(t, "there is a page after the task just created", ok, true)
			}
		})
	}
	all.Wait()
	tasks, next, _ := s.store.page("", 1000)
	equal(t, "tasks listed, stored and refused", [3]int{len(tasks), s.store.len(), int(refused.Load())}, [3]int{capacity, capacity, writers*each - capacity})
	equal(t, "next after all tasks", next, "")
	last := map[string]int{} // of each writer, the tasks are in the order in which it created them
	for _, task := range tasks {
		i, _ := strconv.Atoi(task.Name)
		equal(t, fmt.Sprintf("task %d of writer %s comes after its task %d", i, task.UserID, last[task.UserID]-1), i >= last[task.UserID], true)
		last[task.UserID] = i + 1
	}
	// Who has a task or a page has a copy.
	task, _ := s.store.get(tasks[0].ID)
	want := task
	task.Name, tasks[0].Name = "changed", "changed"
	task, _ = s.store.get(want.ID)
	tasks, _, _ = s.store.page("", 1)
	equal(t, "the stored task, after somebody changed a copy", [2]Task{task, tasks[0]}, [2]Task{want, want})
}

// create posts a task without a connection.
func create(s *service, body string) *httptest.ResponseRecorder {
	req := httptest.NewRequest("POST", "/api/tasks", strings.NewReader(body))
	req.Header.Set("Content-Type", "application/json")
	rec := httptest.NewRecorder()
	s.ServeHTTP(rec, req)
	return rec
}

// --- 8. README and program say the same. ---

func TestReadmeIsInStep(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("README.md")
	must(t, err)
	readme := string(text)
	compare := func(what string, inReadme *regexp.Regexp, want []string) {
		t.Helper()
		var got []string
		for _, match := range inReadme.FindAllStringSubmatch(readme, -1) {
			got = append(got, strings.TrimSuffix(strings.Join(match[1:], " "), "{$}"))
		}
		if diff := difference(got, want); diff != "" {
			t.Errorf("%s of README.md (-) and of the program (+):\n%s", what, diff)
		}
	}
	c := start(t)
	c.startSampler()
	runtime.GC() // one family tells when the last collection was
	var routes, families []string
	for _, route := range c.routes() {
		routes = append(routes, route.Method+" "+strings.TrimSuffix(route.Path, "{$}"))
	}
	for _, match := range regexp.MustCompile(`(?m)^# TYPE (\S+ \S+)$`).FindAllStringSubmatch(c.call(t, 200, "GET", "/metrics", "").body, -1) {
		families = append(families, match[1])
	}
	compare("routes", regexp.MustCompile("(?m)^\\| `((?:GET|POST) /[^`?…]*)[^`]*` "), routes)
	compare("metrics", regexp.MustCompile("(?m)^\\| `([a-z_]+)(?:{[^`]*})?` \\| (counter|gauge|histogram|summary) "), families)
	usage, flags := help(t)
	var names []string
	for name := range flags {
		names = append(names, name)
	}
	compare("flags", regexp.MustCompile(`(?m)^  -([a-z-]{3,})`), names)
	for line := range strings.Lines(usage) {
		if line = strings.TrimRight(line, "\n"); !strings.Contains(readme, strings.TrimSpace(line)) {
			t.Errorf("README.md lacks a line of taskapi -h:\n%s", line)
		}
	}
}

// --- 9. Fuzzing: what no table thinks of. ---

func FuzzCreateTask(f *testing.F) {
	for _, row := range creations() {
		f.Add([]byte(row.body))
	}
	s, _ := build(f, "-log-level=critical")
	f.Fuzz(func(t *testing.T, body []byte) {
		rec := create(s, string(body))
		if code := rec.Code; code != 201 {
			read(t, rec.Result(), map[bool]int{true: code, false: 400}[code == 413], "/api/tasks", fmt.Sprintf("POST %q", body))
			return
		}
		var sent map[string]any
		if err := json.Unmarshal(body, &sent); err != nil || !utf8.Valid(body) {
			t.Fatalf("POST %q\n got: 201\nwant: an error: %v", body, err)
		}
		name, _ := sent["task_name"].(string)
		user, given := sent["user_id"].(string)
		if !given {
			user = "system"
		}
		var answered Task
		json.Unmarshal(rec.Body.Bytes(), &answered)
		want := Task{answered.ID, strings.TrimSpace(name), strings.TrimSpace(user), "pending", answered.CreatedAt}
		if got, _ := s.store.get(answered.ID); got != want || answered != want || utf8.RuneCountInString(got.Name) > 100 {
			t.Errorf("POST %q\n got: %+v, and stored %+v\nwant: %+v", body, answered, got, want)
		}
	})
}

func FuzzListQuery(f *testing.F) {
	for _, seed := range []string{"", "limit=1", "limit=1000", "limit=1001", "limit=-1", "limit=1&limit=2", "limit=%31", "after=", "after=task_A", "limit=01", "a;b", "%zz", "limit=1e2", "limit=١"} {
		f.Add(seed)
	}
	s, _ := build(f, "-log-level=critical")
	for range 3 {
		create(s, `{"task_name":"a"}`)
	}
	f.Fuzz(func(t *testing.T, query string) {
		req := httptest.NewRequest("GET", "/api/tasks", nil)
		req.URL.RawQuery = query
		rec := httptest.NewRecorder()
		s.ServeHTTP(rec, req)
		limit, err := strconv.Atoi(cmp.Or(req.URL.Query().Get("limit"), "100"))
		want := 200
		if err != nil || limit < 1 || limit > 1000 || rec.Code == 400 {
			want = 400
		}
		a := read(t, rec.Result(), want, "/api/tasks", fmt.Sprintf("GET /api/tasks?%q", query))
		if got := strings.Count(a.body, `"task_id"`); want == 200 && got > limit {
			t.Errorf("%s\n got: %d tasks\nwant: at most %d", a.curl, got, limit)
		}
	})
}

func FuzzRequestID(f *testing.F) {
	for _, seed := range []string{"", "a", "a.b_c-D9", strings.Repeat("x", 64), strings.Repeat("x", 65), "a b", "é", "a\r\nX: y", "\x00", "\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, id string) {
		got := requestID(&http.Request{Header: http.Header{"X-Request-Id": {id}}})
		if !validID.MatchString(got) || validID.MatchString(id) && got != id {
			t.Errorf("request id for X-Request-Id %q\n got: %q\nwant: the same if it is valid, or else a fresh one", id, got)
		}
	})
}

func FuzzLabels(f *testing.F) {
	for _, seed := range []string{"", "a", `"`, `\`, "\n", `\n`, `\"`, "\t\r\x00\x7f", "é\u200b", "\xff\xfe", `"} 1`} {
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, first, second string) {
		text := labels("a", first, "b", second)
		got, err := parseLabels(text)
		want := [][2]string{{"a", strings.ToValidUTF8(first, "\uFFFD")}, {"b", strings.ToValidUTF8(second, "\uFFFD")}}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("labels %q, read back\n got: %q (%v)\nwant: %q", text, got, err, want)
		}
	})
}

// --- 10. Benchmarks, and beside them floors: what bare net/http can do with the same request and the same answer. ---

// compareWithFloor measures a request to the whole service (checks, metrics, the log to a file) and to the floor.
func compareWithFloor(b *testing.B, method, path, body string, floor func(answer answer) http.HandlerFunc) {
	c := start(b, "-max-tasks=100000000", "-log-file="+filepath.Join(b.TempDir(), "log"))
	c.startSampler()
	for range 100 {
		c.call(b, 201, "POST", "/api/tasks", `{"task_name":"a"}`)
	}
	tasks, _, _ := c.store.page("", 1)
	path = strings.ReplaceAll(path, "{task_id}", tasks[0].ID)
	bare := httptest.NewServer(floor(c.call(b, map[string]int{"GET": 200, "POST": 201}[method], method, path, body)))
	defer bare.Close()
	for _, side := range []struct{ name, base string }{{"service", c.base}, {"floor", bare.URL}} {
		b.Run(side.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				req, _ := http.NewRequest(method, side.base+path, strings.NewReader(body))
				req.Header.Set("Content-Type", "application/json")
				resp, err := c.http.Do(req)
				if err != nil {
					b.Fatal(err)
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if resp.StatusCode >= 300 {
					b.Fatal(resp.Status)
				}
			}
		})
	}
}

// fixed is the floor of reading: an answer that is always the same.
func fixed(a answer) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, a.body)
	}
}

// decoding is the floor of creating: JSON into a map, and the same answer out of one.
func decoding(a answer) http.HandlerFunc {
	var fields map[string]string
	json.Unmarshal([]byte(a.body), &fields)
	return func(w http.ResponseWriter, r *http.Request) {
		task := maps.Clone(fields)
		if err := json.NewDecoder(r.Body).Decode(&task); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		json.NewEncoder(w).Encode(task)
	}
}

func BenchmarkCreate(b *testing.B) {
	compareWithFloor(b, "POST", "/api/tasks", `{"task_name":"会議資料の準備","user_id":"user123"}`, decoding)
}
func BenchmarkGet(b *testing.B)      { compareWithFloor(b, "GET", "/api/tasks/{task_id}", "", fixed) }
func BenchmarkListPage(b *testing.B) { compareWithFloor(b, "GET", "/api/tasks?limit=100", "", fixed) }
func BenchmarkHealth(b *testing.B)   { compareWithFloor(b, "GET", "/health", "", fixed) }
func BenchmarkDetailed(b *testing.B) { compareWithFloor(b, "GET", "/health/detailed", "", fixed) }
func BenchmarkMetrics(b *testing.B)  { compareWithFloor(b, "GET", "/metrics", "", fixed) }
