package main

// The specification, as seen from the wire. The sections follow the order in which a user meets
// the service: requests and their answers, health, metrics, logs, starting and stopping; then what
// is inside: the store; then what keeps README.md and openapi.json true; then fuzzing and
// benchmarks. The harness comes first: whatever the test, every answer goes through judge.
//
// Most tests are scripts: requests and their answers, one exchange a line. This is one of them,
// with what its parts are:
//
//	// a task keeps its user                        the name of the exchanges below it
//	POST /api/tasks                                 method and path
//	  {"task_name":"a"}                             the body, JSON if no header says otherwise
//	  | X-Request-Id: r1                            headers of the request, each behind a bar
//	  -> 201                                        the status of the answer
//	  {"task_id":"task_ID",…,"created_at":"TIME",…} its body: … is any text, task_ID any id
//	  | X-Request-Id: r1 | Retry-After:             its headers; one without value is missing
//
// The body of an error may be short: its error_code, and field:CODE of each detail, sorted. In a
// body, <3 a> stands for aaa, with the escapes of Go. A line that begins with a bar or an arrow
// goes on with the line before. TestOneTask, the plainest test of all, has the same exchange.

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"math/big"
	"mime"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
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

func TestOneTask(t *testing.T) {
	t.Parallel()
	play(t, start(t), parse(`
// a task keeps its user
POST /api/tasks {"task_name":"a","user_id":"u"} | X-Request-Id: r1
-> 201 {"task_id":"task_ID","task_name":"a","user_id":"u",…,"created_at":"TIME",…}
| X-Request-Id: r1 | Retry-After:
`))
}

// --- The harness: a client that checks on every answer what every answer promises. ---

// client talks to a service over real connections.
type client struct {
	*service // nil if it runs in another process
	base     string
	http     *http.Client
	log      *buffer
	stop     func() error // as a signal would; returns what serve or run has returned
}

// dial opens a connection of which the client's transport knows nothing.
func (c *client) dial() (net.Conn, error) {
	addr := strings.TrimPrefix(c.base, "http://")
	return c.http.Transport.(*http.Transport).DialContext(context.Background(), "tcp", addr)
}

// open dials for a test, until it ends.
func (c *client) open(t *testing.T) net.Conn {
	t.Helper()
	conn, err := c.dial()
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

// answer is a response that has been read completely.
type answer struct {
	status             int
	header             http.Header
	method, path, body string // method and path are those of the request
	curl               string // a command that repeats the request
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

// setUp returns a service with these flags, and its log.
func setUp(t testing.TB, flags ...string) (*service, *buffer) {
	t.Helper()
	var log buffer
	cfg, err := parseFlags(flags)
	must(t, err)
	s, err := newService(context.Background(), cfg, &log)
	must(t, err)
	t.Cleanup(s.store.close)
	return s, &log
}

// start serves a service with these flags on the loopback interface until the test ends.
func start(t testing.TB, flags ...string) *client {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	return startOn(t, ln, &http.Transport{DialContext: new(net.Dialer).DialContext}, flags...)
}

// startOn is start with a listener and the transport that reaches it.
func startOn(t testing.TB, ln net.Listener, transport *http.Transport, flags ...string) *client {
	t.Helper()
	s, log := setUp(t, flags...)
	c := newClient("http://"+ln.Addr().String(), transport)
	c.service, c.log = s, log
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.serve(ctx, ln, nil) }()
	tested := false
	wait := sync.OnceValue(func() error {
		cancel()
		c.http.CloseIdleConnections()
		defer s.store.close()
		return <-served
	})
	c.stop = func() error { tested = true; return wait() }
	t.Cleanup(func() {
		if err := wait(); err != nil && !tested {
			t.Errorf("the service did not stop cleanly: %v", err)
		}
		// So net/http tells of a second WriteHeader, of a body longer than announced, and of a
		// panic that got through: exactly one status leaves the service for each request. What it
		// has to say of a TLS handshake is the client's doing.
		for _, complaint := range find(log.String(), `"(http: .*)"`) {
			if !strings.HasPrefix(complaint, "http: TLS handshake error") {
				t.Errorf("net/http complains: %s", complaint)
			}
		}
	})
	return c
}

func newClient(base string, transport *http.Transport) *client {
	return &client{base: base, http: &http.Client{
		Transport: transport,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}}
}

// call sends a request, whose headers are lines of the form "Name: value", and judges the answer.
// The path goes out as it is. A body is JSON unless a header says something else.
func (c *client) call(t testing.TB, want int, method, path, body string, headers ...string) answer {
	t.Helper()
	words := []string{"curl -iX", method, "--request-target '" + path + "'", c.base}
	req, err := http.NewRequest(method, c.base, strings.NewReader(body))
	must(t, err)
	req.URL.Opaque = path
	if strings.HasPrefix(path, "//") { // which Opaque would take for a host
		req.URL.Opaque, req.URL.Path = "", path
	}
	if body != "" && !strings.Contains(strings.Join(headers, "\n"), "Content-Type:") {
		headers = append(headers, "Content-Type: application/json")
	}
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ":")
		req.Header.Add(name, strings.TrimSpace(value))
		words = append(words, "-H '"+line+"'")
	}
	req.Host = req.Header.Get("Host")
	data := fmt.Sprintf("--data-binary '%.300s'", strings.ReplaceAll(body, "'", `'\''`))
	curl := strings.Join(append(words, data), " ")
	resp, err := c.http.Do(req)
	if err != nil {
		t.Errorf("%s\n got: %v\nwant: %d", curl, err, want)
		return answer{}
	}
	return judge(t, resp, want, path, curl)
}

// serve is call without a connection, for tests with a clock of their own. curl says what is asked.
func serve(t testing.TB, s *service, want int, curl string, req *http.Request) answer {
	t.Helper()
	rec := httptest.NewRecorder()
	s.ServeHTTP(rec, req)
	return judge(t, rec.Result(), want, req.URL.Path, curl)
}

func get(t testing.TB, s *service, want int, target string) answer {
	t.Helper()
	return serve(t, s, want, "GET "+target, httptest.NewRequest("GET", target, nil))
}

func post(t testing.TB, s *service, want int, body string) answer {
	t.Helper()
	req := httptest.NewRequest("POST", "/api/tasks", strings.NewReader(body))
	req.Header.Set("Content-Type", "application/json")
	return serve(t, s, want, "POST /api/tasks "+strconv.Quote(body), req)
}

// judge reads an answer and checks what holds for every answer of the service. A status other than
// the one that the test wants is a failure: no 5xx goes by. (Who wants 0 looks at the status
// himself.) curl is what call would make of the request, or at least begins with its method.
func judge(t testing.TB, resp *http.Response, want int, path, curl string) answer {
	t.Helper()
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("%s\nthe answer ended early: %v", curl, err)
	}
	if resp.Close { // net/http's client has taken the header off
		resp.Header.Set("Connection", "close")
	}
	method, _, _ := strings.Cut(strings.TrimPrefix(curl, "curl -iX "), " ")
	a := answer{resp.StatusCode, resp.Header, method, path, string(body), curl}
	if a.status != want && want != 0 {
		t.Errorf("%s\n got: %d %s\nwant: %d", curl, a.status, body, want)
	}
	for _, fault := range a.faults() {
		t.Errorf("%s\n%s\n got: %d %v\n%s", curl, fault, a.status, a.header, body)
	}
	return a
}

// faults are what is wrong with an answer, whatever was asked: with the headers that all answers
// have, and with whatever openapi.json does not say, or says otherwise.
func (a answer) faults() (faults []string) {
	var value any = a.body
	mediaType, _, _ := mime.ParseMediaType(a.header.Get("Content-Type"))
	if mediaType == "application/json" {
		json.Unmarshal([]byte(a.body), &value) // leaves a string if it is no JSON
	}
	name, status := operation(a.method, a.path), strconv.Itoa(a.status)
	response := member(operations[name], status)
	content, known := member(response, "content")[mediaType].(map[string]any)
	own := name == unmatched && (a.status == 200 || strings.HasPrefix(a.path, "/do/")) // a test's
	produced.Store(name+" "+status, true)

	// RFC 9110 forbids the length of a 204; under HEAD, it is that of the answer to GET.
	length := a.header.Get("Content-Length")
	wantLength := length
	switch {
	case a.status == 204:
		wantLength = ""
	case a.method != "HEAD":
		wantLength = strconv.Itoa(len(a.body))
	case length == "":
		wantLength = "that of GET"
	}
	ids := find(a.body, `"request_id":"(.*?)"`) // of an error
	for _, rule := range []struct {
		isBroken bool
		fault    string
	}{
		{response == nil && !own, name + " " + status + " is not in openapi.json"},
		{response["content"] != nil && !known, mediaType + " is not in openapi.json"},
		{a.header.Get("X-Content-Type-Options") != "nosniff", "no nosniff"},
		{a.header.Get("Cache-Control") != "no-store", "no no-store"},
		{length != wantLength, fmt.Sprintf("Content-Length is %q, not %q", length, wantLength)},
		{ids != nil && ids[0] != a.header.Get("X-Request-Id"), "another id in the body"},
	} {
		if rule.isBroken {
			faults = append(faults, rule.fault)
		}
	}
	for header := range member(response, "headers") {
		rule := member(response, "headers", header)
		if values := a.header.Values(header); values != nil {
			got := strings.Join(values, " | ")
			faults = append(faults, defects(header, got, rule["schema"])...)
		} else if rule["required"] == true {
			faults = append(faults, header+" is missing")
		}
	}
	if a.method != "HEAD" {
		faults = append(faults, defects("body", value, content["schema"])...)
		faults = append(faults, a.strangeWords(value, member(content, "examples"))...)
	}
	return faults
}

// strangeWords names the error_code and the status of an answer, if no example of the response has
// them: openapi.json has one schema for many answers.
func (a answer) strangeWords(value any, examples map[string]any) (faults []string) {
	body, _ := value.(map[string]any)
	for _, key := range []string{"error_code", "status"} {
		var words []any
		for name := range examples {
			words = append(words, member(examples, name, "value")[key])
		}
		if word, has := body[key]; has && words != nil && !slices.Contains(words, word) {
			faults = append(faults, fmt.Sprint(key, " is ", word, "; examples have ", words))
		}
	}
	return faults
}

// brief is an error in the short form of the tables, "CODE field:CODE …", or else the body, which
// a table may want of an error, too, without what differs from run to run.
func (a answer) brief(want string) string {
	code := find(a.body, `^{"error_code":"(\w+)"`)
	if code == nil || strings.HasPrefix(want, "{") {
		return normalise(a.body)
	}
	details := find(a.body, `"field":"([^"]*)","code":"(\w+)"`)
	slices.Sort(details)
	return strings.Join(append(code, details...), " ")
}

// normalise replaces what differs from run to run.
func normalise(text string) string {
	id := regexp.MustCompile(`task_[0-9a-z]{26,}`) // 26 characters of base32 hold 128 bits
	at := regexp.MustCompile(`"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ"`)
	text = at.ReplaceAllString(id.ReplaceAllString(text, "task_ID"), `"TIME"`)
	return strings.TrimSuffix(text, "\n")
}

// find returns what a regexp finds in a text: its groups, with a colon between them.
func find(text, form string) (found []string) {
	for _, match := range regexp.MustCompile(form).FindAllStringSubmatch(text, -1) {
		found = append(found, strings.Join(match[1:], ":"))
	}
	return found
}

// equal fails the test unless got is want.
func equal[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s\n got: %v\nwant: %v", what, got, want)
	}
}

// like fails the test unless got is want, in which … stands for any text.
func like(t testing.TB, what, got, want string) {
	t.Helper()
	form := strings.ReplaceAll(regexp.QuoteMeta(want), "…", ".*")
	if !regexp.MustCompile(`(?s)^` + form + `$`).MatchString(got) {
		t.Errorf("%s\n got: %s\nwant: %s", what, got, want)
	}
}

// must ends the test if its own preparations fail.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually polls until ok. The deadline is for a program that hangs; no test depends on how fast
// it is.
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

// --- openapi.json, as far as a judge needs it. ---

// document is openapi.json; operations are the responses in it, by method and path.
var document, operations = map[string]any{}, map[string]map[string]any{}

const unmatched = "x-unmatched" // has the answers to requests that no operation takes

func init() {
	if err := json.Unmarshal(openAPIDocument, &document); err != nil {
		panic(err)
	}
	operations[unmatched] = member(document, unmatched)
	for path, methods := range member(document, "paths") {
		for method, operation := range methods.(map[string]any) {
			name := strings.ToUpper(method) + " " + path
			operations[name] = member(operation.(map[string]any), "responses")
		}
	}
}

// member returns the object at the end of a path through objects and references, nil if there is
// none.
func member(object map[string]any, path ...string) map[string]any {
	for _, key := range path {
		object, _ = object[key].(map[string]any)
		if ref, ok := object["$ref"].(string); ok {
			object = member(document, strings.Split(ref, "/")[1:]...)
		}
	}
	return object
}

// operation returns the name of the operation that takes a request: the one with this very path, or
// else the first of those whose {…} stands for a part of it.
func operation(method, target string) string {
	target, _, _ = strings.Cut(strings.Replace(method, "HEAD", "GET", 1)+" "+target, "?")
	if operations[target] != nil {
		return target
	}
	for _, name := range slices.Sorted(maps.Keys(operations)) {
		form := regexp.MustCompile(`\{.*?\}`).ReplaceAllString(name, "?*")
		isOne, _ := path.Match(form, target)
		if isOne || strings.HasSuffix(name, "/pprof/") && strings.HasPrefix(target, name) {
			return name
		}
	}
	return unmatched
}

// defects returns what is wrong with a value according to a JSON schema. It knows the keywords that
// the document uses; any other is a defect, too.
func defects(name string, value, schema any) (found []string) {
	text, isText := value.(string)
	list, isList := value.([]any)
	object, isObject := value.(map[string]any)
	size, isNumber := value.(float64)
	size += float64(utf8.RuneCountInString(text) + len(list)) // of which it has one only
	rules, _ := schema.(map[string]any)                       // none if anything will do
	for keyword, rule := range rules {
		limit, _ := rule.(float64)
		rows, _ := rule.([]any)
		ok := true
		switch keyword {
		case "description": // which no value can break
		case "format":
			_, err := time.Parse(time.RFC3339, text)
			ok = rule == "int64" || rule == "date-time" && err == nil
		case "$ref":
			target := member(document, strings.Split(rule.(string), "/")[1:]...)
			ok = target != nil
			found = append(found, defects(name, value, target)...)
		case "type":
			isInteger := isNumber && size == math.Trunc(size)
			ok = map[any]bool{"string": isText, "array": isList, "object": isObject,
				"number": isNumber, "integer": isInteger}[fmt.Sprint(rule)]
		case "enum":
			ok = slices.Contains(rows, value)
		case "pattern":
			ok = regexp.MustCompile(rule.(string)).MatchString(text)
		case "minimum", "minLength":
			ok = size >= limit
		case "maximum", "maxLength", "maxItems":
			ok = size <= limit
		case "items":
			for _, item := range list {
				found = append(found, defects(name+"[]", item, rule)...)
			}
		case "required":
			for _, key := range rows {
				ok = ok && object[key.(string)] != nil
			}
		case "properties":
			for key, property := range rule.(map[string]any) {
				if field, there := object[key]; there {
					found = append(found, defects(name+"."+key, field, property)...)
				}
			}
		case "additionalProperties":
			for key := range object {
				ok = ok && rule == false && member(rules, "properties")[key] != nil
			}
		default:
			ok = false
		}
		if !ok {
			found = append(found, fmt.Sprintf("%s breaks %s: %.200v", name, keyword, rule))
		}
	}
	return found
}

// --- Scripts: a request and its answer, as a reader would type and see them. ---

// exchange is a request and what its answer must be.
type exchange struct {
	name, method, path, body string
	header                   []string // of the request, "Name: value"
	status                   int
	want                     string   // see brief; … stands for any text
	headers                  []string // of the answer; those without a value are not there
}

// parse reads a script: the head of this file says how it is written.
func parse(script string) (rows []exchange) {
	repeated, name := regexp.MustCompile(`<(\d+) (.+?)>`), ""
	repeat := func(text string) string {
		m := repeated.FindStringSubmatch(text)
		n, _ := strconv.Atoi(m[1])
		text, _ = strconv.Unquote(`"` + m[2] + `"`)
		return strings.Repeat(text, n)
	}
	script = strings.NewReplacer("\n| ", " | ", "\n-> ", " -> ").Replace(script)
	for line := range strings.SplitSeq(script, "\n") {
		left, right, ok := strings.Cut(repeated.ReplaceAllStringFunc(line, repeat), " -> ")
		if !ok {
			name = strings.TrimPrefix(line, "// ")
			continue
		}
		request, answer := strings.Split(left, " | "), strings.Split(right, " | ")
		method, rest, _ := strings.Cut(request[0], " ")
		path, body, _ := strings.Cut(rest, " ")
		status, want, _ := strings.Cut(answer[0], " ")
		code, _ := strconv.Atoi(status)
		rows = append(rows, exchange{name, method, path, body, request[1:], code, want, answer[1:]})
	}
	return rows
}

// play sends the requests of a script one after the other. Whatever GET can ask, HEAD can; and what
// has been created is there, and nothing else. A row that fails leaves the others as they are.
func play(t *testing.T, c *client, rows []exchange) {
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			before, _ := c.store.state(time.Now())
			a := c.call(t, row.status, row.method, row.path, row.body, row.header...)
			like(t, a.curl, a.brief(row.want), row.want)
			for _, line := range row.headers {
				name, want, _ := strings.Cut(line, ":")
				got := strings.Join(a.header.Values(name), " | ")
				equal(t, a.curl+"\n"+name, got, strings.TrimSpace(want))
			}
			if row.method == "GET" {
				b := c.call(t, row.status, "HEAD", row.path, "", row.header...)
				equal(t, b.curl, b.header.Get("Content-Type"), a.header.Get("Content-Type"))
			}
			created := 0
			if row.status == 201 {
				created = 1
				b := c.call(t, 200, "GET", a.header.Get("Location"), "", row.header...)
				task := strings.Replace(a.body, `,"message":"task created"`, "", 1)
				equal(t, b.curl, b.body, task)
			}
			after, _ := c.store.state(time.Now())
			equal(t, a.curl+"\ntasks that it has stored", after-before, created)
		})
	}
}

// --- 1. Creating tasks: what a body may say, and every way in which it may not. ---

// creations are the bodies of POST /api/tasks. They are also the seeds of FuzzCreateTask.
func creations() []exchange {
	return parse(regexp.MustCompile(`(?m)^[^/\n-]`).ReplaceAllString(`
// a name is enough
{"task_name":"a"} -> 201 {"task_id":"task_ID","task_name":"a","user_id":"system",…}
// any script will do
{"task_name":"会議資料","user_id":"user123"} -> 201 {…"会議資料","user_id":"user123"…}
// white space around values goes, Unicode's too
{"task_name":"\t a  b\u3000\n","user_id":" u "} -> 201 {…"a  b","user_id":"u"…}
// markup is kept, and escaped so that the body is safe in a page
{"task_name":"<b>&"} -> 201 {…"\u003cb\u003e\u0026"…}
// escaped surrogates in a pair are one character
{"task_name":"\ud83d\ude00"} -> 201 {…"😀"…}
// joiners and right-to-left marks inside a name stay
{"task_name":"a\u200db\u200f\u3164"} -> 201 {…"task_name":"a…b…"…}
// characters that Unicode 15 does not know are visible, and so are those for private use
{"task_name":"🫩"} -> 201 …
{"task_name":"𮯰","user_id":"\u20c1"} -> 201 …
{"task_name":"\ue000"} -> 201 …
// 100 code points are the limit, however many bytes, and what is trimmed does not count
{"task_name":"<300 \x20><100 😀>"} -> 201 {…"<100 😀>"…}
{"task_name":"<101 a>"} -> 400 VALIDATION_ERROR task_name:TOO_LONG
// 64 KiB are the limit of a body
{"task_name":"a"}<65519 \x20> -> 201 …
{"task_name":"a"}<65520 \x20> -> 413 BODY_TOO_LARGE | Connection: close
// white space around the object is fine, and a byte order mark is ignored
<1 \r\n >{"task_name":"a"}<2 \n> -> 201 …
<1 \ufeff>{"task_name":"a"} -> 201 …
// no name
{} -> 400 VALIDATION_ERROR task_name:REQUIRED
// a blank name
{"task_name":" \t\u3000"} -> 400 VALIDATION_ERROR task_name:REQUIRED
// nobody could see a name of zero-width spaces, joiners or Hangul fillers
{"task_name":"\u200b\u200d\u3164\u115f\u1160\uffa0"} -> 400 VALIDATION_ERROR task_name:REQUIRED
// nor one of Braille without dots, of a variation selector, or of combining marks alone
{"task_name":"\u2800"} -> 400 VALIDATION_ERROR task_name:REQUIRED
{"task_name":"\ufe0f\u0301"} -> 400 VALIDATION_ERROR task_name:REQUIRED
// a user that is there and empty is no default
{"task_name":"a","user_id":""} -> 400 VALIDATION_ERROR user_id:REQUIRED
// null, numbers, lists, objects and truth values are no strings
{"task_name":null,"user_id":[]} -> 400 VALIDATION_ERROR task_name:INVALID_TYPE user_id:INVALID_TYPE
{"task_name":{},"user_id":true} -> 400 VALIDATION_ERROR task_name:INVALID_TYPE user_id:INVALID_TYPE
// NUL, line breaks, DEL and C1 controls inside a value
{"task_name":"a\u0000b"} -> 400 VALIDATION_ERROR task_name:INVALID_CHARACTER
{"task_name":"a\nb"} -> 400 VALIDATION_ERROR task_name:INVALID_CHARACTER
{"task_name":"a\u007fb"} -> 400 VALIDATION_ERROR task_name:INVALID_CHARACTER
{"task_name":"a","user_id":"a\u009bb"} -> 400 VALIDATION_ERROR user_id:INVALID_CHARACTER
// the mark of damaged text, and a lone surrogate, which becomes one
{"task_name":"a�"} -> 400 VALIDATION_ERROR task_name:INVALID_CHARACTER
{"task_name":"\ud800"} -> 400 VALIDATION_ERROR task_name:INVALID_CHARACTER
// an unknown field is named, not dropped, whatever it holds
{"task_name":"a","x":[{"y":1e999}]} -> 400 VALIDATION_ERROR x:UNKNOWN_FIELD
// one of 65,000 characters is not repeated in full
{"<65000 <>":1} -> 400 {…"field":"<100 \\u003c>…","code":"UNKNOWN_FIELD",…}],…}
{"<102 é>":1} -> 400 {…"field":"<100 é>…","code":"UNKNOWN_FIELD",…}
{"<100 é>":1} -> 400 {…"field":"<100 é>","code":"UNKNOWN_FIELD",…}
// a number out of range is no string
{"task_name":1e999,"user_id":-1e999}
-> 400 VALIDATION_ERROR task_name:INVALID_TYPE user_id:INVALID_TYPE
// a key in another case is another key
{"Task_Name":"a"} -> 400 VALIDATION_ERROR Task_Name:UNKNOWN_FIELD task_name:REQUIRED
// so is one with a long s (U+017F), which encoding/json takes for an s when it fills a struct
{"task_name":"a","u\u017fer_id":"b"} -> 400 VALIDATION_ERROR uſer_id:UNKNOWN_FIELD

// what is no JSON is told with the byte at which it goes wrong
{"task_name":"a"}{} -> 400 {…"MALFORMED_JSON",…[{"field":"body",…(at byte 18)"}],…}
{'task_name':'a'} -> 400 {…"MALFORMED_JSON",…[{"field":"body",…(at byte 2)"}],…}
// be it the first byte of a character that does not belong there
{"task_name":"a"}é -> 400 {…"MALFORMED_JSON",…[{"field":"body",…(at byte 18)"}],…}
{会:1} -> 400 {…"MALFORMED_JSON",…[{"field":"body",…(at byte 2)"}],…}
<1 \ufeff>{"task_name":😀} -> 400 {…"MALFORMED_JSON",…[{"field":"body",…(at byte 17)"}],…}
// so is what is JSON, and no object
[{"task_name":"a"}] -> 400 {…"MALFORMED_JSON",…[{"field":"body",…(at byte 1)"}],…}
null -> 400 MALFORMED_JSON body:INVALID_VALUE
1e999 -> 400 MALFORMED_JSON body:INVALID_VALUE
// and half an object, endless nesting, and nothing
{"task_name":{"task_name":<30000 [> -> 400 MALFORMED_JSON body:INVALID_VALUE
<0 a> | Content-Type: application/json -> 400 MALFORMED_JSON body:INVALID_VALUE
// a raw control character in a value, and what is not UTF-8, be it in an unknown key
{"task_name":"a<1 \x01>b"} -> 400 {…"MALFORMED_JSON",…"message":"…(at byte 16)"}…}
{"task_name":"a<1 \xff>b"} -> 400 {…"MALFORMED_JSON",…"message":"…(at byte 16)"}…}
<1 \ufeff>{"<1 \xc3>":1} -> 400 {…"MALFORMED_JSON",…"message":"…(at byte 6)"}…}
// all faults at once
{"task_name":"<101 a>\u0001","x":1}
-> 400 VALIDATION_ERROR task_name:INVALID_CHARACTER task_name:TOO_LONG x:UNKNOWN_FIELD
`, "POST /api/tasks $0"))
}

func TestCreateTask(t *testing.T) {
	t.Parallel()
	play(t, start(t), creations())
}

// endless is a body without an end. It knows how much of it was read.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	e.read += len(p)
	if e.read > 1<<20 {
		return 0, errors.New("more than a mebibyte was read")
	}
	return copy(p, strings.Repeat(" ", len(p))), nil
}

func TestAnEndlessBodyIsReadUpToTheLimit(t *testing.T) {
	t.Parallel()
	s, _ := setUp(t)
	body := &endless{}
	req := httptest.NewRequest("POST", "/api/tasks", body)
	req.Header.Set("Content-Type", "application/json")
	serve(t, s, 413, "POST without an end", req)
	equal(t, fmt.Sprint(body.read, " bytes are few"), body.read <= maxBody+1, true)
}

// An id of 128 random bits has 26 characters, of which the first 25 are any of 32.
func TestIDsCannotBeGuessed(t *testing.T) {
	t.Parallel()
	var seen [25]map[byte]bool
	for range 1000 {
		id, _ := strings.CutPrefix(newID(), "task_")
		if len(id) < 26 {
			t.Fatalf("an id of %d characters: %s", len(id), id)
		}
		for i := range seen {
			if seen[i] == nil {
				seen[i] = map[byte]bool{}
			}
			seen[i][id[i]] = true
		}
	}
	for i, characters := range seen {
		equal(t, fmt.Sprint("characters at place ", i, " of an id"), len(characters), 32)
	}
}

// --- 2. Everything else on the wire: routes, methods, headers, and who may ask. ---

// conversations are scripts, and the flags of the service that each of them is held with. TOKEN
// stands for a file that holds the token "s3cret".
var conversations = []struct{ flags, script string }{{"", `
// the index lists the endpoints
GET / -> 200 {"endpoints":[{"method":"GET","path":"/",…}],"service":"Task Management API",…}
// the service describes itself
GET /openapi.json -> 200 {…"3.1.0"…}
// and has a page for people
GET /docs -> 200 <!doctype html>… | Content-Type: text/html; charset=utf-8
// an empty list is a list
GET /api/tasks -> 200 {"tasks":[]} | Content-Type: application/json
// a created task, to the letter
POST /api/tasks {"task_name":"a","user_id":"u"}
-> 201 {"task_id":"task_ID",…,"status":"pending","created_at":"TIME","message":"task created"}
// a list of one has no next page
GET /api/tasks -> 200 {"tasks":[{"task_id":"task_ID",…,"created_at":"TIME"}]}
// an error, to the letter
POST /api/tasks {"user_id":"u"}
-> 400 {"error_code":…,"error_message":…,"details":[…],"timestamp":"TIME","request_id":"…"}
// no such task
GET /api/tasks/task_AAAA -> 404 NOT_FOUND
// pages have from 1 to 1000 tasks
GET /api/tasks?limit=1000 -> 200 {"tasks":[…]}
GET /api/tasks?limit=0 -> 400 VALIDATION_ERROR limit:INVALID_VALUE
GET /api/tasks?limit=1001 -> 400 VALIDATION_ERROR limit:INVALID_VALUE
GET /api/tasks?limit=ten -> 400 VALIDATION_ERROR limit:INVALID_VALUE
// a parameter has one value
GET /api/tasks?limit= -> 400 VALIDATION_ERROR limit:INVALID_VALUE
GET /api/tasks?limit=1&limit=2
-> 400 {…"details":[{"field":"limit","code":"INVALID_VALUE","message":"must have one value"}],…}
GET /api/tasks?after=task_A&after=task_A
-> 400 {…"details":[{"field":"after","code":"INVALID_VALUE","message":"must have one value"},…}
// all faults of a query at once
GET /api/tasks?limit=0&after=task_AAAA&page=2
-> 400 VALIDATION_ERROR after:INVALID_VALUE limit:INVALID_VALUE page:UNKNOWN_FIELD
// but 20 at most
GET /api/tasks?a&b&c&d&e&f&g&h&i&j&k&l&m&n&o&p&q&r&s&t&u&v&w&x&y&z
-> 400 VALIDATION_ERROR a:UNKNOWN_FIELD …t:UNKNOWN_FIELD
// a query that cannot be read
GET /api/tasks?limit=%zz -> 400 VALIDATION_ERROR query:INVALID_VALUE

// the media type may have parameters and capitals, and names UTF-8 if it names a charset
POST /api/tasks {"task_name":"a"} | Content-Type: Application/JSON; charset=utf-8; v=1 -> 201 …
POST /api/tasks {"task_name":"a"} | Content-Type: application/json; Charset="UTF-8" -> 201 …
// in all its names, or only its first 128 characters
POST /api/tasks {"task_name":"a"} | Content-Type: application/json; charset=utf8 -> 201 …
POST /api/tasks {"task_name":"a"} | Content-Type: application/json; charset=us-ascii -> 201 …
POST /api/tasks {"task_name":"a"} | Content-Type: application/json; charset=US-ASCII -> 201 …
// no other
POST /api/tasks {"task_name":"a"} | Content-Type: application/json; charset=latin1 -> 415 …
POST /api/tasks a | Content-Type: application/json; CHARSET="Shift_JIS" -> 415 …
// what a page may send anywhere is no JSON
POST /api/tasks {"task_name":"a"} | Content-Type: text/plain -> 415 UNSUPPORTED_MEDIA_TYPE
POST /api/tasks {"task_name":"a"} | Content-Type: -> 415 UNSUPPORTED_MEDIA_TYPE
// a compressed body could be a bomb
POST /api/tasks {"task_name":"a"} | Content-Encoding: gzip -> 415 UNSUPPORTED_MEDIA_TYPE

// four answers about health
GET /health -> 200 {"status":"healthy","timestamp":"TIME","service":"Task Management API",…}
GET /health/liveness -> 200 {"status":"alive","timestamp":"TIME",…,"uptime_seconds":…}
GET /health/readiness -> 200 {"status":"ready","timestamp":"TIME",…,"uptime_seconds":…}
GET /health/detailed -> 200 {"status":"healthy","timestamp":"TIME","checks":{…}}
// metrics are not kept either: a cache in front would hold them for minutes
GET /metrics -> 200 …
| Cache-Control: no-store | Content-Type: text/plain; version=0.0.4; charset=utf-8
// a request keeps the id that its sender gave it
GET /health | X-Request-Id: AZ-09._z -> 200 … | X-Request-Id: AZ-09._z
// an id that is none is replaced by one
GET / | X-Request-Id: a"b -> 200 …
GET / | X-Request-Id: 11111111111111111111111111111111111111111111111111111111111111111 -> 200 …

// no such path
GET /nowhere -> 404 NOT_FOUND
GET /api -> 404 NOT_FOUND
GET /debug -> 404 NOT_FOUND
// a slash at the end is another path
GET /api/tasks/ -> 404 NOT_FOUND
// an escaped slash does not make a task
GET /api/tasks/a%2fb -> 404 NOT_FOUND
// what is no path at all
GET * -> 404 NOT_FOUND
CONNECT example.com:443 -> 405 METHOD_NOT_ALLOWED | Allow: GET, HEAD
// paths are cleaned
GET //api/./tasks -> 307 … | Location: /api/tasks
// a path has the methods that Allow names
DELETE /api/tasks -> 405 METHOD_NOT_ALLOWED | Allow: GET, HEAD, POST
PUT /api/tasks/task_A {"task_name":"a"} -> 405 METHOD_NOT_ALLOWED | Allow: GET, HEAD
BREW /health -> 405 METHOD_NOT_ALLOWED | Allow: GET, HEAD
// OPTIONS of a path that exists tells them, too
OPTIONS /api/tasks -> 204 | Allow: GET, HEAD, POST | Access-Control-Allow-Methods:
OPTIONS / -> 204 | Allow: GET, HEAD | Content-Length:
OPTIONS /api/tasks | Origin: https://a.example -> 204 | Access-Control-Allow-Origin: | Vary:
OPTIONS /debug/pprof/heap -> 204 | Allow: GET, HEAD
OPTIONS /nowhere -> 404 NOT_FOUND
OPTIONS //api/tasks -> 307 | Location: /api/tasks

// no origin is allowed by default
OPTIONS /api/tasks | Origin: https://a.example | Access-Control-Request-Method: POST
-> 403 FORBIDDEN | Access-Control-Allow-Origin: | Vary:
// a page of another site cannot write
POST /api/tasks {"task_name":"a"} | Origin: https://c.example -> 403 FORBIDDEN
POST /api/tasks {"task_name":"a"} | Sec-Fetch-Site: cross-site -> 403 FORBIDDEN
// a page of the service's own can
POST /api/tasks {"task_name":"a"} | Origin: https://c.example | Sec-Fetch-Site: same-origin
-> 201 …

// the storage, for who is on this host
GET /debug/storage -> 200 {"storage_stats":{…"storage_type":"in_memory",…},"tasks":[…]}
GET /debug/storage?limit=0 -> 400 VALIDATION_ERROR limit:INVALID_VALUE
// and calls it by a name of its own
GET /debug/storage | Host: LocalHost -> 200 …
GET /debug/storage | Host: [::1]:9 -> 200 …
GET /debug/storage | Host: [0:0:0:0:0:0:0:1]:9 -> 200 …
GET /debug/storage | Host: 127.0.0.256 -> 403 FORBIDDEN
// a name that has been pointed at this host is DNS rebinding
GET /debug/storage | Host: evil.example:8000 -> 403 FORBIDDEN
GET /debug/storage | Host: 127.0.0.1.evil.example -> 403 FORBIDDEN
// what is inside is not shown through a proxy
GET /debug/storage | X-Forwarded-For: 127.0.0.1 -> 403 FORBIDDEN
GET /debug/storage | Forwarded: for=127.0.0.1 -> 403 FORBIDDEN
GET /debug/storage | X-Real-Ip: 127.0.0.1 -> 403 FORBIDDEN
GET /debug/pprof/ | Via: 1.1 proxy -> 403 FORBIDDEN
GET /debug/pprof/heap | Via: 1.1 proxy -> 403 FORBIDDEN
// what is not there is the same for everybody: openapi.json tells what is
GET /debug/nowhere | Via: 1.1 proxy -> 404 NOT_FOUND
POST /debug/storage {} | Via: 1.1 proxy -> 405 METHOD_NOT_ALLOWED | Allow: GET, HEAD
GET /debug/pprof | Via: 1.1 proxy -> 307 … | Location: /debug/pprof/
// profiles
GET /debug/pprof -> 307 … | Location: /debug/pprof/
GET /debug/pprof/ -> 200 …goroutine…
GET /debug/pprof/goroutine?debug=1 -> 200 goroutine profile: …
GET /debug/pprof/trace?seconds=0.01 -> 200 …
// their errors are pages of pprof
GET /debug/pprof/nothing -> 404 Unknown profile
GET /debug/pprof/heap?seconds=x -> 400 … | Content-Type: text/plain; charset=utf-8
`}, {"-max-tasks=1", `
// a full store takes nothing more, and keeps what it has
POST /api/tasks {"task_name":"a"} -> 201 …
POST /api/tasks {"task_name":"b"} -> 507 STORE_FULL
GET /api/tasks -> 200 {"tasks":[{…"task_name":"a",…}]}
`}, {"-token-file=TOKEN", `
// a token that is missing
GET /api/tasks -> 401 UNAUTHORIZED | WWW-Authenticate: Bearer realm="taskapi"
POST /api/tasks {"task_name":"a"} -> 401 UNAUTHORIZED
GET /api/tasks/task_A -> 401 UNAUTHORIZED
GET /debug/storage -> 401 UNAUTHORIZED
GET /debug/pprof/ -> 401 UNAUTHORIZED
// a token that is wrong
GET /api/tasks | Authorization: Bearer s3cre -> 401 UNAUTHORIZED
| WWW-Authenticate: Bearer realm="taskapi", error="invalid_token"
// a scheme without a token has none
GET /api/tasks | Authorization: Bearer -> 401 … | WWW-Authenticate: Bearer realm="taskapi"
// a token of another scheme is none
GET /api/tasks | Authorization: Basic s3cret -> 401 … | WWW-Authenticate: Bearer realm="taskapi"
// the token, after any number of blanks, and of a scheme in any case
POST /api/tasks {"task_name":"a"} | Authorization: Bearer s3cret -> 201 …
GET /debug/storage | Authorization: bearer   s3cret -> 200 {…}
// what is not there is the same for everybody
GET /api -> 404 NOT_FOUND
PUT /api/tasks -> 405 METHOD_NOT_ALLOWED | Allow: GET, HEAD, POST
OPTIONS /api/tasks -> 204 | Allow: GET, HEAD, POST
GET /debug/nowhere -> 404 NOT_FOUND
// through a proxy, the token does not help
GET /debug/storage | Via: 1.1 proxy | Authorization: Bearer s3cret -> 403 FORBIDDEN
// everything else needs none
GET /docs -> 200 …
GET /openapi.json -> 200 …
GET /health -> 200 …
GET /metrics -> 200 …
GET /nowhere -> 404 NOT_FOUND
`}, {"-token-file=TOKEN -cors-origins=https://a.example,http://b.example:8080", `
// a preflight of an allowed origin, which has no token
OPTIONS /api/tasks | Origin: https://a.example | Access-Control-Request-Method: POST
-> 204 | Access-Control-Allow-Origin: https://a.example | Access-Control-Allow-Credentials: true
| Access-Control-Allow-Headers: Authorization, Content-Type, X-Request-Id
| Access-Control-Allow-Methods: GET, POST | Access-Control-Max-Age: 600 | Vary: Origin
| Access-Control-Expose-Headers: Location, Retry-After, X-Request-Id | Allow: GET, HEAD, POST
// a preflight of another origin, or of another port
OPTIONS /api/tasks | Origin: https://c.example | Access-Control-Request-Method: POST
-> 403 FORBIDDEN | Access-Control-Allow-Origin: | Vary: Origin
OPTIONS / | Origin: https://a.example:8443 | Access-Control-Request-Method: GET -> 403 FORBIDDEN
// an allowed origin may write, and its scripts may read more than scripts can
POST /api/tasks {"task_name":"a"} | Authorization: Bearer s3cret | Origin: http://b.example:8080
-> 201 … | Access-Control-Allow-Origin: http://b.example:8080 | Vary: Origin
| Access-Control-Expose-Headers: Location, Retry-After, X-Request-Id
| Access-Control-Allow-Credentials: true
// OPTIONS without the wish for a method is no preflight
OPTIONS /api/tasks | Origin: https://a.example
-> 204 | Access-Control-Allow-Methods: | Access-Control-Allow-Origin: https://a.example
// a path that is not there has no preflight
OPTIONS /nowhere | Origin: https://a.example | Access-Control-Request-Method: GET -> 404 NOT_FOUND
// an allowed origin may read errors
GET /api/tasks | Origin: https://a.example
-> 401 … | Access-Control-Allow-Origin: https://a.example
// another origin's read is the browser's business, and caches know that the origin matters
GET /health | Origin: https://c.example -> 200 … | Access-Control-Allow-Origin: | Vary: Origin
// even without one
GET /health -> 200 … | Vary: Origin
// a sandboxed page is of no origin
POST /api/tasks {"task_name":"a"} | Authorization: Bearer s3cret | Origin: null -> 403 FORBIDDEN
`}}

func TestWire(t *testing.T) {
	t.Parallel()
	for _, talk := range conversations {
		t.Run("taskapi "+talk.flags, func(t *testing.T) {
			t.Parallel()
			flags := strings.ReplaceAll(talk.flags, "TOKEN", write(t, "token", " s3cret\n"))
			play(t, start(t, strings.Fields(flags)...), parse(talk.script))
		})
	}
}

// What the Go at hand does in its own way: the old form and the mended one are right, and the test
// says which one it has seen.
func TestTheGoAtHand(t *testing.T) {
	t.Parallel()
	c := start(t)
	redirect := c.call(t, 307, "GET", "/api//%E4%BC%9A", "").header.Get("Location")
	fault := c.call(t, 400, "GET", "/api/tasks?%ff", "").body
	written := strings.Join(find(fault, `"field":"(.*?)"`), "")
	for _, row := range []struct{ what, got, old, mended string }{
		{"net/http redirects to", redirect, "/api/%25E4%25BC%259A", "/api/%E4%BC%9A"},
		{"encoding/json writes what is not UTF-8 as", written, `\ufffd`, "\ufffd"},
	} {
		t.Log(runtime.Version(), row.what, row.got)
		equal(t, fmt.Sprintf("%s %s, which is %q or %q", row.what, row.got, row.old, row.mended),
			row.got == row.old || row.got == row.mended, true)
	}
}

func TestPaging(t *testing.T) {
	t.Parallel()
	c := start(t)
	for name := range strings.FieldsSeq("a b c d e") {
		c.call(t, 201, "POST", "/api/tasks", `{"task_name":"`+name+`"}`)
	}
	for _, path := range []string{"/api/tasks", "/debug/storage"} {
		// A full last page is the last one, too.
		for limit, want := range map[string]string{"1": "a b c d e", "2": "ab cd e", "5": "abcde"} {
			got, after := "", ""
			for more := true; more; {
				body := c.call(t, 200, "GET", path+"?limit="+limit+after, "").body
				got += strings.Join(find(body, `"task_name":"(.)"`), "") + " "
				next := find(body, `"next":"(.*)"`)
				if more = next != nil; more {
					after = "&after=" + next[0]
				}
			}
			equal(t, "pages of "+path+" by "+limit, got, want+" ")
		}
	}
}

// The peer's address decides who may look inside. On a real connection, it is the loopback here.
func TestDebugIsForThisHost(t *testing.T) {
	t.Parallel()
	s, _ := setUp(t)
	for peer, want := range map[string]int{
		"127.0.0.1:9": 200, "127.8.8.8:9": 200, "[::1]:9": 200, "[::ffff:127.0.0.1]:9": 200,
		"192.0.2.1:9": 403, "[2001:db8::1]:9": 403, "[::ffff:192.0.2.1]:9": 403, "": 403, "@": 403,
	} {
		req := httptest.NewRequest("GET", "http://localhost/debug/storage", nil)
		req.RemoteAddr = peer
		serve(t, s, want, "GET /debug/storage from "+peer, req)
	}
}

// Hostile clients: what is no request is refused, and nobody else notices. What net/http refuses by
// itself has no envelope.
func TestHostileClients(t *testing.T) {
	t.Parallel()
	c := start(t)
	const get, host, bare = "GET / HTTP/1.1\r\n", "Host: x\r\n", "…\r\n\r\n400 Bad Request…"
	const post = "POST /api/tasks HTTP/1.1\r\n" + host + "Content-Type: application/json\r\n"
	for _, row := range []struct{ name, send, want string }{
		{"no HTTP", "\x16\x03\x01\x02\x00hello\r\n\r\n", "400" + bare},
		{"no host", get + "\r\n", "400" + bare},
		{"a broken escape", "GET /api/tasks/100% HTTP/1.1\r\n" + host + "\r\n", "400" + bare},
		{"a header of 15 KiB", get + host + strings.Repeat("a", 15<<10) + ":\r\n\r\n", "200 …"},
		{"a header of 24 KiB", get + host + strings.Repeat("a", 24<<10) + ":\r\n\r\n", "431 …"},
		{"haproxy's check", "OPTIONS / HTTP/1.0\r\n\r\n", "204 …Allow: GET, HEAD\r\n…\r\n\r\n"},
		{"an unknown wish", get + host + "Expect: cake\r\n\r\n", "417 …Length: 0\r\n\r\n"},
		{"OPTIONS *", "OPTIONS * HTTP/1.1\r\n" + host + "\r\n", "200 …Length: 0\r\n…\r\n\r\n"},
		{"a body too large is not even asked for", post + "Expect: 100-continue\r\n" +
			"Content-Length: 65537\r\n\r\n", `413 …"BODY_TOO_LARGE"…`},
		{"a cut body", post + "Content-Length: 50\r\n\r\n{", `400 …"MALFORMED_JSON"…`},
		{"chunks beyond the limit", post + "Transfer-Encoding: chunked\r\n\r\n10001\r\n" +
			strings.Repeat(" ", 0x10001) + "\r\n0\r\n\r\n", `413 …"BODY_TOO_LARGE"…`},
	} {
		t.Run(row.name, func(t *testing.T) {
			conn := c.open(t)
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			io.WriteString(conn, row.send)
			conn.(*net.TCPConn).CloseWrite()
			got, _ := io.ReadAll(conn) // a reset after the answer is the service's right
			// net/http answers in the version of the request.
			got = bytes.ReplaceAll(got, []byte("HTTP/1.0 "), []byte("HTTP/1.1 "))
			like(t, fmt.Sprintf("sent %.200q", row.send), string(got), "HTTP/1.1 "+row.want)
			equal(t, "answers in "+string(got), bytes.Count(got, []byte("HTTP/1.1 ")), 1)
		})
	}
	late := httptest.NewRequest("POST", "/api/tasks", iotest.ErrReader(os.ErrDeadlineExceeded))
	late.Header.Set("Content-Type", "application/json")
	serve(t, c.service, 408, "POST too late", late)
	for range 100 { // half a request costs a goroutine for a while, and nobody else anything
		io.WriteString(c.open(t), post+"Content-Le")
	}
	c.call(t, 201, "POST", "/api/tasks", `{"task_name":"a"}`)
	stored, _ := c.store.state(time.Now())
	equal(t, "tasks after hostile clients", stored, 1)
}

// The methods that a preflight allows are those that the API has.
func TestPreflightsAllowTheMethodsOfTheAPI(t *testing.T) {
	t.Parallel()
	s, _ := setUp(t)
	methods := map[string]bool{}
	for _, rt := range s.api() {
		methods[rt.Method] = true
	}
	equal(t, "corsMethods", corsMethods, strings.Join(slices.Sorted(maps.Keys(methods)), ", "))
}

// A browser runs nothing of the page but its one script, and asks nobody but this service.
func TestDocsAreUnderAPolicy(t *testing.T) {
	t.Parallel()
	a := start(t).call(t, 200, "GET", "/docs", "")
	policy := map[string]string{}
	for directive := range strings.SplitSeq(a.header.Get("Content-Security-Policy"), ";") {
		name, sources, _ := strings.Cut(strings.TrimSpace(directive), " ")
		policy[name] = sources
	}
	want := map[string]string{"default-src": "'none'", "connect-src": "'self'", "img-src": "data:",
		"base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'"}
	for name, directive := range map[string]string{"script": "script-src", "style": "style-src"} {
		texts := find(a.body, `(?s)<`+name+`>(.*?)</`+name+`>`)
		equal(t, "elements "+name, len(texts), 1)
		sum := sha256.Sum256([]byte(strings.Join(texts, "")))
		want[directive] = "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	equal(t, "policy", fmt.Sprint(policy), fmt.Sprint(want))
	others := find(a.body, `(<(?:script|style|iframe|object) [^>]*>|<link rel="[^i]|\son[a-z]+=)`)
	equal(t, "other scripts, styles and handlers", fmt.Sprint(others), "[]")
	equal(t, "the page is the file", a.body, content("deploy/docs.html"))
}

// The recipe of README.md, Development, with what the mux makes hard: a literal beside a wildcard.
// A row is all that the service needs; the rest is for openapi.json.
func TestALearnerAddsARoute(t *testing.T) {
	var responses map[string]any
	must(t, json.Unmarshal([]byte(`{
		"200": {"content": {"application/json": {"schema": {"required": ["count"]}}}},
		"401": {"$ref": "#/components/responses/Unauthorized"}
	}`), &responses))
	const name = "GET /api/tasks/tally"
	operations[name] = responses // tests that run in parallel have not begun
	defer delete(operations, name)

	c := start(t, "-token-file="+write(t, "token", "s3cret"))
	c.register(route{"GET", "/api/tasks/tally", "how many tasks there are", withToken, 200,
		func(w *reply, _ *http.Request) error {
			total, _ := c.store.state(w.start)
			return w.json(http.StatusOK, map[string]int{"count": total})
		}})
	play(t, c, parse(`
// the new route, and the routes beside it
POST /api/tasks {"task_name":"a"} | Authorization: Bearer s3cret -> 201 …
GET /api/tasks/tally | Authorization: Bearer s3cret -> 200 {"count":1}
GET /api/tasks/tallies | Authorization: Bearer s3cret -> 404 NOT_FOUND
// it needs the token, and has its methods
GET /api/tasks/tally -> 401 UNAUTHORIZED
OPTIONS /api/tasks/tally -> 204 | Allow: GET, HEAD
DELETE /api/tasks/tally -> 405 METHOD_NOT_ALLOWED | Allow: GET, HEAD
`))
	for code, want := range map[string]float64{"200": 2, "401": 2, "500": 0} {
		series := `http_requests_total{method="GET",route="/api/tasks/tally",code="` + code + `"}`
		equal(t, series, scrape(t, c.service)[series], want)
	}
	equal(t, "lines of the route", len(find(c.log.String(), `route=(/api/tasks/tally) `)), 4)
}

// A route that says nothing about access is closed to everybody.
func TestARouteWithoutAccessIsClosed(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.register(route{Method: "GET", Path: "/forgotten", handle: c.index})
	c.call(t, 403, "GET", "/forgotten", "")
}

// --- 3. Health: from what the host says, however absurd, to what an operator reads. ---

// rows splits a table into its cells.
func rows(table string) (rows [][]string) {
	bar := regexp.MustCompile(`\s*\|\s*`)
	for line := range strings.Lines(table) {
		if cells := bar.Split(strings.TrimSpace(line), -1); len(cells) > 1 {
			rows = append(rows, cells)
		}
	}
	return rows
}

const quietCPU, quietMemory = "100 0 40 848 0 8 4", "1000 542" // 15.2 % and 45.8 %

// fakeProc makes gopsutil read these numbers of the CPU and of memory, in kB. For - there is no
// line, and without numbers no file.
func fakeProc(t *testing.T, cpu, memory string) {
	t.Helper()
	meminfo, names := "", strings.Fields("MemTotal: MemAvailable: MemFree: Cached: Shmem:")
	for i, kB := range strings.Fields(memory) {
		if kB != "-" {
			meminfo += names[i] + " " + kB + " kB\n"
		}
	}
	files := map[string]string{"stat": "cpu  " + cpu + "\n", "meminfo": meminfo}
	maps.DeleteFunc(files, func(_, text string) bool {
		return !strings.ContainsAny(text, "0123456789")
	})
	fakeHost(t, files)
}

// fakeHost makes gopsutil read these files of /proc, and no other.
func fakeHost(t *testing.T, files map[string]string) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("gopsutil reads /proc on Linux only")
	}
	dir := t.TempDir()
	for name, text := range files {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700))
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	t.Setenv("HOST_PROC", dir)
}

// health gets the detailed health, and what it says in short of the CPU, the memory and the disk:
// "15.2:normal", or why a reading is left out. The form of a number matters to bc.
func health(t testing.TB, s *service, want int) (body string, says map[string]string) {
	t.Helper()
	body, says = get(t, s, want, "/health/detailed").body, map[string]string{}
	for name := range strings.FieldsSeq("cpu memory disk") {
		form := `"` + name + `":{"usage_percent":(\d+(?:\.\d)?),[^}]*"status":"(\w+)"}`
		why := find(body, `"reason":"(?:[^"]*; )?`+name+`: ([^;"]*)`)
		says[name] = strings.Join(append(find(body, form), why...), " and yet ")
	}
	return body, says
}

// sample reads the host once, as the sensors do at each interval.
func sample(s *service) {
	s.sampleProcess()
	for _, sensor := range []*sensor{s.cpu, s.memory, s.disk} {
		sensor.sample(s.log)
	}
}

func TestReadings(t *testing.T) {
	for _, row := range rows(`
		cpu    | 100 0 40 848 0 8 4      | 15.2:normal | user, system and interrupts are work
		cpu    | 10 0 0 60 20 0 0 10     | 20:normal   | stolen time is no rest, waiting is no work
		cpu    | 800 0 0 200 0 0 0       | 80:normal   | 80 percent are normal
		cpu    | 801 0 0 199 0 0 0       | 80.1:high   | a little more is high
		cpu    | 1 0 0 2 0 0 0           | 33.3:normal | one fraction digit is enough
		cpu    | 1 0 0 99999999999 0 0 0 | 0:normal    | next to nothing has no exponent
		cpu    | 0 0 0 0 0 0 0           | …failed     | no time has ever passed
		cpu    | -100 0 0 50 0 0 0       | …failed     | negative time
		cpu    | NaN 0 0 1 0 0 0         | …failed     | no number
		cpu    | 100 0 0 800 -5 0 0      | …failed     | waiting for less than no time
		cpu    | 2e307 0 0 1e308 0 0 0   | 16.7:normal | as much as a number can be
		cpu    |                         | …failed     | no file
		memory | 1000 199                | 80.1:high   | what is not available is in use
		memory | 1000 60 50 800 790      | 94:high     | a full tmpfs is no free page cache
		memory | 1000 0 199              | 80.1:high   | nothing available: what is free is
		memory | 1000 0 0                | 100:high    | not even that
		memory | 1000 1001 542           | 45.8:normal | more available than there is
		memory | 1000 542 1001           | …failed     | more free than there is
		memory | 0 0 0                   | …failed     | no memory at all
		memory | 1000 - 542              | 45.8:normal | no line that says what is available
		memory | - 542                   | …failed     | no line that says what there is
		memory |                         | …failed     | no file`) {
		name, numbers, want := row[0], row[1], row[2]
		t.Run(row[3]+", "+name, func(t *testing.T) {
			proc := map[string]string{"cpu": quietCPU, "memory": quietMemory}
			proc[name] = numbers
			fakeProc(t, proc["cpu"], proc["memory"])
			s, _ := setUp(t, "-disk-path="+t.TempDir(), "-disk-high=100")
			sample(s)
			_, _, isKnown := strings.Cut(want, ":")
			_, says := health(t, s, map[bool]int{true: 200, false: 503}[isKnown])
			like(t, name, says[name], want)
			checkRatio(t, s, name, want)
		})
	}
}

// checkRatio fails the test unless the metrics say of a resource what the detailed health says, as
// in "15.2:normal", and nothing if that has no number.
func checkRatio(t *testing.T, s *service, name, health string) {
	t.Helper()
	number, _, want := strings.Cut(health, ":")
	percent, _ := strconv.ParseFloat(number, 64)
	ratio, isKnown := scrape(t, s)["system_"+name+"_usage_ratio"]
	equal(t, name+" ratio is in the metrics", isKnown, want)
	equal(t, fmt.Sprint(name, " ratio ", ratio), math.Abs(ratio-percent/100) < 1e-9, true)
}

// Hosts as they are: what their /proc has, and what the detailed health and the metrics make of
// it. What the process itself uses is read from its own /proc, whatever HOST_PROC has to say of a
// process with the same number.
func TestHosts(t *testing.T) {
	const stat = "cpu  100 20 30 750 50 10 15 25 0 0\n" // 200 of 1,000 are work
	const meminfo = "MemTotal: 16000 kB\nMemFree: 2000 kB\nMemAvailable: 12000 kB\n" +
		"Buffers: 100 kB\nCached: 9000 kB\nShmem: 10 kB\n"
	const failed = "the reading failed"
	var cores strings.Builder
	for i := range 256 {
		fmt.Fprintf(&cores, "cpu%d %s", i, strings.TrimPrefix(stat, "cpu  "))
	}
	pid := fmt.Sprint(os.Getpid()) // in the pid namespace of the host, the number of a stranger
	stranger := map[string]string{
		pid + "/stat":   pid + " (kthreadd) S" + strings.Repeat(" 0", 49) + "\n",
		pid + "/statm":  "0 0 0 0 0 0 0\n",
		pid + "/limits": "Limit Soft Hard Units\nMax open files 7 8 files\n",
	}
	for _, row := range []struct {
		host          string
		stat, meminfo string            // those above if empty; no file if "-"
		more          map[string]string // files
		cpu, memory   string            // as health has them; 20:normal and 25:normal if empty
	}{
		{host: "one with hidepid: no process is seen"},
		{host: "a container that sees its host", more: stranger},
		{host: "256 CPUs", stat: strings.ReplaceAll(stat, "0 ", "0  ") + cores.String()},
		{host: "a busy neighbour", stat: "cpu  10 0 10 80 0 0 0 100 0 0\n", cpu: "60:normal"},
		{host: "guests", stat: "cpu  50 0 0 50 0 0 0 0 50 0\n", cpu: "50:normal"},
		{host: "an old kernel with seven columns", stat: "cpu  100 20 30 750 50 10 40\n"},
		{host: "LXC with more available than there is",
			meminfo: strings.Replace(meminfo, "12000", "96000", 1), memory: "87.5:high"},
		{host: "a kernel at its reserve",
			meminfo: strings.Replace(meminfo, "12000", "0", 1), memory: "87.5:high"},
		{host: "LXC that is full",
			meminfo: "MemTotal: 16000 kB\nMemFree: 0 kB\nMemAvailable: 0 kB\n", memory: "100:high"},
		{host: "gVisor", stat: "cpu  0 0 0 0 0 0 0 0 0 0\n", cpu: failed,
			meminfo: "MemTotal: 16000 kB\nMemFree: 4000 kB\nMemAvailable: 0 kB\n",
			memory:  "75:normal"},
		{host: "WSL 1, without MemAvailable",
			meminfo: "MemTotal: 16000 kB\nMemFree: 4000 kB\n", memory: "75:normal"},
		{host: "no MemTotal either", meminfo: "MemFree: 4000 kB\n", memory: failed},
		{host: "an empty /proc", stat: "-", meminfo: "-", cpu: failed, memory: failed},
	} {
		t.Run(row.host, func(t *testing.T) {
			row.cpu, row.memory = cmp.Or(row.cpu, "20:normal"), cmp.Or(row.memory, "25:normal")
			files := map[string]string{"stat": cmp.Or(row.stat, stat),
				"meminfo": cmp.Or(row.meminfo, meminfo)}
			maps.DeleteFunc(files, func(_, text string) bool { return text == "-" })
			maps.Copy(files, row.more)
			fakeHost(t, files)
			s, _ := setUp(t, "-disk-path="+t.TempDir(), "-disk-high=100")
			sample(s)
			isHealthy := !strings.Contains(row.cpu+row.memory, "failed")
			_, says := health(t, s, map[bool]int{true: 200, false: 503}[isHealthy])
			equal(t, "cpu", says["cpu"], row.cpu)
			equal(t, "memory", says["memory"], row.memory)
			checkRatio(t, s, "cpu", row.cpu)
			checkRatio(t, s, "memory", row.memory)

			samples := scrape(t, s)
			for _, name := range []string{"resident_memory_bytes", "virtual_memory_bytes"} {
				size := samples["process_"+name]
				equal(t, fmt.Sprint(name, " of this process: ", size), size > 1<<20, true)
			}
			limit := samples["process_max_fds"]
			equal(t, fmt.Sprint("max_fds is not the stranger's 7: ", limit), limit > 7, true)
		})
	}
}

// Where the system counts the blocks of a disk in a unit of its own (FUSE), the bytes are left out:
// 0 would be a lie.
func TestFreeBytesThatAreNotKnownAreLeftOut(t *testing.T) {
	fakeProc(t, quietCPU, quietMemory)
	s, _ := setUp(t)
	s.disk.read = func() (usage, error) { return usage{Percent: 37.1}, nil }
	sample(s)
	body, says := health(t, s, 200)
	equal(t, "disk", says["disk"], "37.1:normal")
	equal(t, "free_bytes in "+body, strings.Contains(body, "free_bytes"), false)
}

func TestHighIsInformationAndNoFault(t *testing.T) {
	fakeProc(t, "90 0 0 10 0 0 0", quietMemory)
	s, _ := setUp(t, "-cpu-high=95", "-memory-high=45.7", "-disk-high=0")
	sample(s)
	_, says := health(t, s, 200)
	like(t, "readings", fmt.Sprint(says), "map[cpu:90:normal disk:…:high memory:45.8:high]")
}

func TestCPUIsReadSinceBootAndThenSinceTheLastReading(t *testing.T) {
	s, _ := setUp(t)
	for _, row := range rows(`
		10 0 0 90 0 0 0    | 10:normal | since boot
		10 0 0 90 0 0 0    | 10:normal | no time has passed: the last value stands
		40 0 0 160 0 0 0   | 30:normal | since the last reading
		50 0 0 160 40 0 0  | 20:normal | with some waiting for the disk
		90 0 0 200 30 0 0  | 20:normal | iowait went back, as it may: the last value stands
		140 0 0 250 30 0 0 | 50:normal | and the next one counts from there`) {
		fakeProc(t, row[0], quietMemory)
		sample(s)
		_, says := health(t, s, 200)
		equal(t, "CPU, "+row[2], says["cpu"], row[1])
	}
}

// What is wrong with one part makes the service unhealthy. It is ready as long as it takes tasks,
// and alive whatever happens: who restarts or watches it must not take its end for a failure.
func TestUnhealthy(t *testing.T) {
	fakeProc(t, quietCPU, quietMemory)
	checks := strings.Fields("application storage system_resources")
	for _, row := range []struct {
		check, reason string
		ready         int
		hurt          func(*testing.T, *service)
	}{
		{checks[2], "memory: the reading failed; disk: the reading failed", 200,
			func(_ *testing.T, s *service) {
				s.disk.read = config{diskPath: "/no/such/disk"}.readDisk
				s.memory.read = s.disk.read
				sample(s)
			}},
		{checks[1], "the store is full", 503, func(t *testing.T, s *service) {
			post(t, s, 201, body)
		}},
		{checks[1], "the data file has failed: …", 503, func(t *testing.T, s *service) {
			s.store.file.file.(*os.File).Close()
			post(t, s, 500, body)
		}},
		{checks[0], "…stop", 503, func(_ *testing.T, s *service) { s.draining.Store(true) }},
	} {
		t.Run(row.reason, func(t *testing.T) {
			s, _ := setUp(t, "-max-tasks=1", "-data-file="+write(t, "tasks", ""))
			sample(s)
			health(t, s, 200)
			row.hurt(t, s)
			body, _ := health(t, s, 503)
			page := scrape(t, s)
			said := find(body, `"status":"((?:un)?healthy)",(?:"reason":"([^"]*)")?`)[1:]
			for i, check := range checks {
				want := map[bool]string{false: "healthy: 1", true: "unhealthy:" + row.reason + " 0"}
				got := fmt.Sprint(said[i], " ", page[`health_check_status{check="`+check+`"}`])
				like(t, check, got, want[check == row.check])
			}
			get(t, s, row.ready, "/health/readiness")
			get(t, s, 200, "/health/liveness")
			get(t, s, 200, "/health")
		})
	}
}

// Whoever asks a hung file system how full it is has to wait. Nobody waits for him: not the start,
// not an answer, not another sensor. Sensors that outlive their context fail the bubble.
func TestASensorThatHangsLosesItsOwnReadingAndNoOther(t *testing.T) {
	fakeProc(t, quietCPU, quietMemory)
	synctest.Test(t, func(t *testing.T) {
		s, _ := setUp(t)
		answer := make(chan error)
		defer close(answer)
		var free uint64
		s.disk.read = func() (usage, error) { return usage{Percent: 37.1, Free: &free}, <-answer }
		expect := func(when string, status int, disk string) {
			t.Helper()
			_, says := health(t, s, status)
			want := "map[cpu:15.2:normal disk:" + disk + " memory:45.8:normal]"
			equal(t, when, fmt.Sprint(says), want)
			checkRatio(t, s, "disk", map[bool]string{true: disk}[status == 200])
		}
		finish := func(err error) { answer <- err; synctest.Wait() }
		began := time.Now()
		s.startSensors(t.Context())
		equal(t, "the start goes on within a second", time.Since(began) <= time.Second, true)
		expect("the first answer", 503, "not read yet")
		finish(nil)
		expect("when the disk has answered", 200, "37.1:normal")
		time.Sleep(sampleInterval) // now the next reader hangs
		time.Sleep(3 * sampleInterval)
		expect("a reader may take three intervals", 200, "37.1:normal")
		equal(t, "age", scrape(t, s)[`system_sample_age_seconds{reading="disk"}`], 20)
		time.Sleep(time.Nanosecond)
		expect("after a little more", 503, "the reading does not end")
		time.Sleep(time.Hour)
		expect("after an hour without the disk", 503, "the reading does not end")
		finish(errors.New("no such disk"))
		expect("when the disk has failed", 503, "the reading failed")
		time.Sleep(sampleInterval)
		finish(nil)
		expect("when it answers again", 200, "37.1:normal")
	})
}

// A process that was paused (SIGSTOP, a frozen container, a moved VM) comes back with old readings,
// and no reader that hangs: they stand until the next.
func TestAPauseIsNoFault(t *testing.T) {
	fakeProc(t, quietCPU, quietMemory)
	synctest.Test(t, func(t *testing.T) {
		s, _ := setUp(t, "-disk-high=100")
		sample(s)
		time.Sleep(time.Hour)
		_, says := health(t, s, 200)
		const want = "map[cpu:15.2:normal disk:…:normal memory:45.8:normal]"
		like(t, "after an hour", fmt.Sprint(says), want)
		equal(t, "age", scrape(t, s)[`system_sample_age_seconds{reading="cpu"}`], 3600)
	})
}

// --- 4. Metrics: the page as Prometheus must find it, which is more than promtool checks. ---

// scrape gets the page of metrics and returns its samples by series, as they are written.
func scrape(t testing.TB, s *service) map[string]float64 {
	t.Helper()
	samples, faults := parsePage(get(t, s, 200, "/metrics").body)
	equal(t, "faults of the page of metrics: "+strings.Join(faults, "\n"), len(faults), 0)
	return samples
}

// What begins a family, and a sample after the family's name. Prometheus 3 would rename le="1".
var (
	familyHead = regexp.MustCompile(`^(\S+) .+\n# TYPE (\S+) (counter|gauge|histogram|summary)\n`)
	sampleTail = regexp.MustCompile(`^((?:_bucket|_sum|_count|)(?:\{(?:[a-z_]+="[^"\\]*",?)*?` +
		`(?:le="(\d+\.\d+|\+Inf)")?\})?) ([0-9.e+-]+)\n$`)
)

// parsePage is a strict reader of the text format 0.0.4. Half of what it refuses promtool lets
// pass, and Prometheus takes in silence: a histogram that does not add up, families in pieces,
// series that are there twice, NaN. The samples of a histogram have to stand together.
func parsePage(page string) (samples map[string]float64, faults []string) {
	samples = map[string]float64{}
	check := func(ok bool, text string) {
		if !ok {
			faults = append(faults, strconv.Quote(text))
		}
	}
	check(strings.ToValidUTF8(page, "") == page && strings.HasPrefix(page, "# HELP "), "the page")
	families := map[string]bool{}
	for text := range strings.SplitSeq(strings.TrimPrefix(page, "# HELP "), "# HELP ") {
		head := append(familyHead.FindStringSubmatch(text), "", "", "", "")
		family, kind := head[1], head[3]
		isCounter := strings.HasSuffix(family, "_total") == (kind == "counter")
		check(family != "" && family == head[2] && !families[family] && isCounter, text)
		families[family] = true
		var bound, count, summed float64 // of the histogram whose buckets have begun
		for line := range strings.Lines(text[len(head[0]):]) {
			tail, mine := strings.CutPrefix(line, family)
			part := append(sampleTail.FindStringSubmatch(tail), "", "", "", "")
			suffix, _, _ := strings.Cut(part[1], "{")
			value, err := strconv.ParseFloat(part[3], 64)
			_, twice := samples[family+part[1]]
			samples[family+part[1]] = value
			check(mine && err == nil && value >= 0 && !twice, line)
			switch le, _ := strconv.ParseFloat(part[2], 64); kind + suffix {
			case "histogram_bucket":
				check(le > bound && value >= count, line)
				bound, count = le, value
			case "histogram_sum":
				summed++
			case "histogram_count":
				check(math.IsInf(bound, 1) && value == count && summed == 1, line)
				bound, count, summed = 0, 0, 0
			default: // a summary has samples of all three kinds
				check(suffix == "" || kind == "summary" && suffix != "_bucket", line)
			}
		}
		check(bound == 0, family)
	}
	return samples, faults
}

// The checker itself must be able to fail.
func TestPageChecker(t *testing.T) {
	const good = `# HELP a_seconds h
# TYPE a_seconds histogram
a_seconds_bucket{x="1",le="0.1"} 1
a_seconds_bucket{x="1",le="+Inf"} 2
a_seconds_sum{x="1"} 3
a_seconds_count{x="1"} 2
# HELP b h
# TYPE b gauge
b{x="1",y="1"} 1
`
	_, faults := parsePage(good)
	equal(t, "faults of a good page "+strings.Join(faults, " "), len(faults), 0)
	for _, edit := range [][2]string{
		{"} 1\n", "} 1"}, {"\n", "\r\n"}, {"# HELP b h\n", ""}, {"# TYPE b gauge\n", ""},
		{" b", " a_seconds"}, {"b{", "c{"}, {"b{", "b_sum{"}, {"gauge", "counter"}, {"gauge", "x"},
		{"0.1", "1"}, {"0.1", "+Inf"}, {"+Inf", "0.2"}, {`0.1"} 1`, `0.1"} 3`}, {"3\n", "3 17\n"},
		{"3\n", "NaN\n"}, {"3\n", "-3\n"}, {"_sum", "_count"}, {`count{x="1"} 2`, `count{x="1"} 3`},
		{"a_seconds_count{x=\"1\"} 2\n", ""}, {"a_seconds_sum{x=\"1\"} 3\n", ""}, {`y="1"`, `y="1`},
		{`y="1"`, `y="\t"`}, {`y="1"`, "y=\"\xff\""},
	} {
		bad := strings.ReplaceAll(good, edit[0], edit[1])
		_, faults := parsePage(bad)
		equal(t, "a fault is found in\n"+bad, len(faults) > 0 && bad != good, true)
	}
}

// With a series missing, an alert's ratio is no number, and the first error is no increase.
func TestSeriesExistBeforeTheFirstRequest(t *testing.T) {
	t.Parallel()
	s, _ := setUp(t)
	s.sampleProcess()
	page := get(t, s, 200, "/metrics").body
	equal(t, fmt.Sprint("a fresh page of ", len(page), " bytes is small"), len(page) < 25_000, true)
	samples, _ := parsePage(page)
	equal(t, "GOMAXPROCS", int(samples["go_sched_gomaxprocs_threads"]), runtime.GOMAXPROCS(0))
	zero := []string{"tasks_created_total", "log_lost_bytes_total",
		`log_events_total{category="PERFORMANCE"}`}
	for _, rt := range append(s.api(), route{Method: "other", Path: "unmatched", success: 404}) {
		labels := fmt.Sprintf(`{method="%s",route="%s",`, rt.Method, rt.Path)
		failure := map[bool]string{true: "405", false: "500"}[rt.Method == "other"]
		zero = append(zero,
			fmt.Sprintf(`http_requests_total%scode="%d"}`, labels, rt.success),
			"http_requests_total"+labels+`code="`+failure+`"}`,
			"http_request_duration_seconds_bucket"+labels+`le="0.1"}`,
			"http_request_duration_seconds_bucket"+labels+`le="1.0"}`)
	}
	for _, code := range errorCodes {
		zero = append(zero, `task_errors_total{error_code="`+code.Name+`"}`)
		if code.category != "" {
			zero = append(zero, `log_events_total{category="`+code.category+`"}`)
		}
	}
	for _, series := range zero {
		value, there := samples[series]
		equal(t, fmt.Sprint(series, " is there: ", there, ", ", value), there && value == 0, true)
	}
}

// What stock Go dashboards draw, by the names, types and meanings of client_golang.
func TestStockDashboardsFindWhatTheyDraw(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("elsewhere, not all of them can be read")
	}
	t.Parallel()
	s, _ := setUp(t)
	runtime.GC() // one family tells when the last collection was
	s.sampleProcess()
	page := get(t, s, 200, "/metrics").body
	for kind, names := range map[string]string{
		"summary": "go_gc_duration_seconds",
		"counter": `process_cpu_seconds_total go_memstats_alloc_bytes_total
			go_memstats_mallocs_total go_memstats_frees_total`,
		"gauge": `process_open_fds process_max_fds process_resident_memory_bytes
			process_virtual_memory_bytes process_virtual_memory_max_bytes process_start_time_seconds
			go_info go_goroutines go_threads go_sched_gomaxprocs_threads go_gc_gogc_percent
			go_gc_gomemlimit_bytes go_memstats_alloc_bytes go_memstats_sys_bytes
			go_memstats_heap_alloc_bytes go_memstats_heap_sys_bytes go_memstats_heap_idle_bytes
			go_memstats_heap_inuse_bytes go_memstats_heap_released_bytes go_memstats_heap_objects
			go_memstats_stack_inuse_bytes go_memstats_stack_sys_bytes go_memstats_mspan_inuse_bytes
			go_memstats_mspan_sys_bytes go_memstats_mcache_inuse_bytes go_memstats_mcache_sys_bytes
			go_memstats_buck_hash_sys_bytes go_memstats_gc_sys_bytes go_memstats_other_sys_bytes
			go_memstats_next_gc_bytes go_memstats_last_gc_time_seconds`,
	} {
		for name := range strings.FieldsSeq(names) {
			head := "\n# TYPE " + name + " " + kind + "\n" + name
			equal(t, "there is a "+kind+" "+name, strings.Contains(page, head), true)
		}
	}
	labels := find(page, `\n(?:go_info{version|go_gc_duration_seconds{quantile)="(.*)"} `)
	want := "[" + runtime.Version() + " 0 0.25 0.5 0.75 1]"
	equal(t, "labels of go_info and go_gc_duration_seconds", fmt.Sprint(labels), want)

	samples, _ := parsePage(page)
	eventually(t, "go_goroutines are those of the program, without the runtime's own", func() bool {
		return scrape(t, s)["go_goroutines"] == float64(runtime.NumGoroutine())
	})
	for sum, parts := range map[string]string{
		"alloc_bytes": "heap_alloc_bytes", "mallocs_total": "frees_total heap_objects",
		"heap_sys_bytes": "heap_idle_bytes heap_inuse_bytes",
		"sys_bytes": `heap_sys_bytes stack_sys_bytes mspan_sys_bytes mcache_sys_bytes
			buck_hash_sys_bytes gc_sys_bytes other_sys_bytes`,
	} {
		got, want := samples["go_memstats_"+sum], 0.0
		for part := range strings.FieldsSeq(parts) {
			want += samples["go_memstats_"+part]
		}
		equal(t, "go_memstats_"+sum+" is the sum of "+parts, got, want)
	}
}

// No client can make the page grow: labels come from a closed set.
func TestLabelsAreClosed(t *testing.T) {
	t.Parallel()
	s, _ := setUp(t, "-log-level=critical")
	var before map[string]float64
	for i := range 50 {
		if i == 1 { // every status that an attack can have has been there
			before = scrape(t, s)
		}
		for method := range strings.FieldsSeq("GET HEAD POST PUT CONNECT OPTIONS " + newID()) {
			for path := range strings.FieldsSeq("/ /api/tasks/ /debug/pprof/ /health/ /%/ //") {
				req := httptest.NewRequest("GET", "/", nil)
				req.Method, req.URL.Path = method, path+newID()
				s.ServeHTTP(httptest.NewRecorder(), req)
			}
		}
	}
	after := scrape(t, s)
	maps.DeleteFunc(after, func(key string, _ float64) bool { _, old := before[key]; return old })
	equal(t, fmt.Sprint("series that unknown methods and paths have added: ", after), len(after), 0)
}

// Under load, every page adds up by itself, and after it the counters add up to what was sent, with
// as many tasks as there is room for. Who has the end of an answer can rely on them, however long
// it is.
func TestMetricsUnderLoad(t *testing.T) {
	t.Parallel()
	const old = `{"task_id":"task_A","task_name":"a","user_id":"u","status":"pending",` +
		`"created_at":"2025-10-23T10:30:00Z"}` + "\n"
	c := start(t, "-max-tasks=151", "-data-file="+write(t, "tasks", old))
	sums := func() map[string]float64 {
		sums := map[string]float64{}
		for series, value := range scrape(t, c.service) {
			name, _, _ := strings.Cut(series, "{")
			sums[name] += value
		}
		counted := sums["http_requests_total"]
		equal(t, "requests timed", sums["http_request_duration_seconds_count"], counted)
		return sums
	}
	const clients, each, more = 4, 50, 10
	var load sync.WaitGroup
	for range clients {
		load.Go(func() {
			for range each {
				post(t, c.service, 0, body) // of which 150 find room
				c.call(t, 404, "GET", "/nowhere", "")
			}
		})
	}
	for range more {
		sums()
	}
	load.Wait()
	for range more {
		a := c.call(t, 200, "GET", "/api/tasks", "")
		equal(t, a.curl+"\nrequests in flight, after the answer", c.metrics.inFlight.Load(), 0)
	}
	written, got := float64(len(c.log.String())), sums()
	for name, want := range map[string]float64{
		"http_requests_total": 2*clients*each + 2*more, "task_errors_total": 2*clients*each - 150,
		"tasks_created_total": 150, "tasks_stored": 151, "tasks_capacity": 151,
		"http_requests_in_flight": 1, "log_written_bytes_total": written,
	} {
		equal(t, "sum of "+name+" after the load", got[name], want)
	}
}

// --- 5. Logs: one line per request, which greps find and no client can forge. ---

// steps are what the routes /do/{what} can be asked to do, one after the other.
var steps = map[string]func(*reply) error{
	"sleep": func(*reply) error { time.Sleep(time.Second); return nil },
	"write": func(w *reply) error {
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Location", "/half")
		w.WriteHeader(201)
		_, err := io.WriteString(w, "half")
		return err
	},
	"503":     func(w *reply) error { w.WriteHeader(503); return nil },
	"nothing": func(*reply) error { return nil },
	"miss":    func(*reply) error { return newError(notFound, "x") },
	"err":     func(*reply) error { return newError(validationError, "x") },
	"fail":    func(*reply) error { return errors.New("secret") },
	"panic":   func(*reply) error { panic("secret") },
	"abort":   func(*reply) error { panic(http.ErrAbortHandler) },
}

func do(w *reply, r *http.Request) (err error) {
	for step := range strings.SplitSeq(r.PathValue("what"), "-") {
		err = cmp.Or(err, steps[step](w))
	}
	return err
}

// doRoutes are not in openapi.json: judge takes their answers for those of unknown paths.
var doRoutes = []route{
	{"POST", "/do/{what}", "", anyone, 200, do},
	{"GET", "/do/{what}", "", anyone, 200, do},
}

// records are what the line of a request says (status, level, category and msg without its last
// word, and behind a semicolon its faults), the request (to /api/tasks, if it names no path; with a
// header or a flag of the service), and how the metrics count it: by method and route, if those are
// not what the request says. Each error code has a row.
const records = `
// What goes well.
200 INFO - | GET /health                        | GET /health
200 INFO - | HEAD /health                       | GET /health
201 INFO - | POST {"task_name":"a"}             | POST /api/tasks
201 INFO - | POST {"task_name":"a\n"}           | POST /api/tasks
204 INFO - | OPTIONS                            | other unmatched
204 INFO - | OPTIONS; Origin: https://a.example | other unmatched
307 INFO - | GET /api//tasks                    | other unmatched
200 INFO - | POST /do/nothing                   | POST /do/{what}
// What may happen to anybody. The pages of pprof are no errors of the service.
404 INFO - | GET /api/tasks/task_A             | GET /api/tasks/{task_id}
404 INFO - | GET /debug/pprof/nosuch           | GET /debug/pprof/
400 INFO - | GET /debug/pprof/heap?seconds=x   | GET /debug/pprof/
404 INFO - | GET /nowhere                      | other unmatched
405 INFO - | BREW /health                      | other unmatched
415 INFO - | POST {}; Content-Type: text/plain | POST /api/tasks
// What clients do wrong. Damaged text is no attack, and neither is what is trimmed away.
400 WARNING VALIDATION; task_name:INVALID_CHARACTER | POST {"task_name":"\ud800"}
400 WARNING VALIDATION; body:INVALID_VALUE          | POST {"task_name":"\xff"}
400 WARNING VALIDATION; limit:INVALID_VALUE         | GET /api/tasks?limit=x
400 WARNING ATTACK; task_name:INVALID_CHARACTER     | POST {"task_name":"a\u0007b"}
400 WARNING ATTACK; task_name:INVALID_CHARACTER x:UNKNOWN_FIELD | POST {"task_name":"\u001b","x":1}
401 WARNING AUTHENTICATION | GET; -token-file=TOKEN             | GET /api/tasks
403 WARNING SECURITY       | POST {}; Sec-Fetch-Site: same-site | POST /api/tasks
403 WARNING SECURITY       | OPTIONS; Origin: https://b.example | other unmatched
408 WARNING TIMEOUT        | POST late                          | POST /api/tasks
413 WARNING SECURITY       | POST 70kB                          | POST /api/tasks
429 WARNING SECURITY       | POST {"task_name":"a"}; -rate=1    | POST /api/tasks
// What is slow, if there is nothing worse to say.
200 INFO -                   | POST /do/sleep-nothing; -slow=1s | POST /do/{what}
200 WARNING PERFORMANCE SLOW | POST /do/sleep-nothing           | POST /do/{what}
404 WARNING PERFORMANCE SLOW | POST /do/sleep-miss              | POST /do/{what}
400 WARNING VALIDATION SLOW  | POST /do/sleep-err               | POST /do/{what}
500 ERROR - SLOW             | POST /do/sleep-fail              | POST /do/{what}
// What operators do at once: two CPU profiles.
500 WARNING - | GET /debug/pprof/profile | GET /debug/pprof/
// What the service does wrong.
503 WARNING -  | GET /health/detailed                 | GET /health/detailed
503 WARNING -  | GET /health/readiness; -max-tasks=1  | GET /health/readiness
503 ERROR -    | POST /do/503                         | POST /do/{what}
507 ERROR -    | POST {"task_name":"a"}; -max-tasks=1 | POST /api/tasks
500 ERROR -    | POST /do/write-fail                  | POST /do/{what}
500 CRITICAL - | POST /do/panic                       | POST /do/{what}
500 CRITICAL - | POST /do/write-panic                 | POST /do/{what}
500 CRITICAL - | POST /do/write-abort                 | POST /do/{what}`

func TestRecords(t *testing.T) {
	t.Parallel()
	for _, row := range rows(records) {
		t.Run(row[1], func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testRecord(t, row) })
		})
	}
}

func testRecord(t *testing.T, row []string) {
	says, faults, _ := strings.Cut(row[0], "; ")
	request, setting, _ := strings.Cut(row[1], "; ")
	method, body, _ := strings.Cut(request, " ")
	path := "/api/tasks"
	if strings.HasPrefix(body, "/") {
		path, body = body, ""
	}
	body = strings.NewReplacer("70kB", strings.Repeat(" ", 70_000), `\xff`, "\xff").Replace(body)
	pattern, _, _ := strings.Cut(path, "?")
	labels := []string{method, pattern}
	if len(row) > 2 {
		labels = strings.Fields(row[2])
	}
	series := `{method="` + labels[0] + `",route="` + labels[1] + `"`
	header := http.Header{"Content-Type": {"application/json"}, "X-Request-Id": {"r1"},
		"Access-Control-Request-Method": {"POST"}}
	flags := []string{"-log-format=json", "-cors-origins=https://a.example"}
	if name, value, ok := strings.Cut(setting, ": "); ok {
		header.Set(name, value)
	} else if setting != "" {
		flags = append(flags, strings.Replace(setting, "TOKEN", write(t, "token", "s3cret"), 1))
	}
	s, log := setUp(t, flags...)
	for _, rt := range doRoutes {
		s.register(rt)
	}
	s.limiter.take(1, time.Now()) // the one token of -rate=1, and the one place of -max-tasks=1
	must(t, s.store.add(&Task{}))
	req := httptest.NewRequest(method, "http://localhost"+path, strings.NewReader(body))
	req.Header, req.RemoteAddr = header, "127.0.0.1:1234" // which may see profiles
	if body == "late" {
		req.Body = io.NopCloser(iotest.ErrReader(os.ErrDeadlineExceeded))
	}
	if strings.HasSuffix(path, "/profile") && pprof.StartCPUProfile(io.Discard) == nil {
		defer pprof.StopCPUProfile() // until then, another profile fails
	}
	status, _ := strconv.Atoi(says[:3])
	answer := serve(t, s, status, request, req).body
	line := log.String()
	var object map[string]any
	must(t, json.Unmarshal([]byte(line), &object)) // one line
	f := map[string]string{}
	for key, value := range object {
		f[key] = fmt.Sprint(value)
	}

	said := []string{f["status"], f["level"], cmp.Or(f["category"], "-"), f["msg"], f["method"],
		f["route"], f["path"], f["remote"], f["request_id"], f["panic"] + f["cause"]}
	want := []string{says, "request", method, labels[1], req.URL.Path, req.RemoteAddr, "r1", ""}
	answered := "http_requests_total" + series + `,code="` + f["status"] + `"}`
	counted := map[string]float64{answered: 1}
	more := map[string]bool{"faults": faults != "", "category": f["category"] != "",
		"task_id": status == 201, "user_id": status == 201}
	switch {
	case strings.HasSuffix(path, "panic"), strings.HasSuffix(path, "abort"):
		more["panic"], more["stack"] = true, true
		want[7] = "secret"
		if strings.HasSuffix(path, "abort") {
			want[7] = http.ErrAbortHandler.Error()
		}
		equal(t, line+"leads to the cause", strings.Contains(f["stack"], ".do("), true)
	case strings.HasSuffix(path, "fail"):
		more["cause"], want[7] = true, "secret"
	}
	equal(t, line, strings.Join(said, " "), strings.Join(want, " "))
	equal(t, line+"faults", f["faults"], faults)
	keys := strings.Fields("bytes duration level method msg path remote request_id route status " +
		"time")
	for key, is := range more {
		if is {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	equal(t, line+"has keys", fmt.Sprint(slices.Sorted(maps.Keys(f))), fmt.Sprint(keys))
	equal(t, line+"HEAD has no bytes", f["bytes"] == "0" || method != "HEAD", true)
	trouble := regexp.MustCompile("ERROR|CRITICAL") // what the guide greps for finds nothing else
	equal(t, line+"is trouble", trouble.FindString(line), trouble.FindString(f["level"]))
	equal(t, answer+"\ntells of the inside", strings.Contains(answer, "secret"), false)
	equal(t, answer+"\nhas half of another", strings.Contains(answer, "half"), false)

	if f["category"] != "" {
		counted[`log_events_total{category="`+f["category"]+`"}`] = 1
	}
	for _, code := range find(answer, `"error_code":"(\w+)"`) {
		counted[`task_errors_total{error_code="`+code+`"}`] = 1
		level := strings.TrimPrefix(strings.Fields(says)[1], "-")
		provoked.Store(fmt.Sprint(code, " ", status, " ", level, " ", f["category"]), true)
	}
	page := scrape(t, s)
	if strings.Contains(path, "sleep") { // for a second, which a bucket of a second contains
		bucket := page["http_request_duration_seconds_bucket"+series+`,le="1.0"}`]
		equal(t, "a second", bucket*page["http_request_duration_seconds_sum"+series+"}"], 1)
	}
	answers := regexp.MustCompile(`^(http_requests|log_events|task_errors)_total`)
	maps.DeleteFunc(page, func(series string, value float64) bool {
		return value == 0 || !answers.MatchString(series)
	})
	equal(t, request+" counts", fmt.Sprint(page), fmt.Sprint(counted))
}

// In the log, a refused request says why: at most five faults, each in at most 64 bytes, and client
// text escaped as in a query string.
func TestTheLogSaysWhyARequestIsRefused(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`{"task_name":"","user_id":7}`:   "task_name:REQUIRED user_id:INVALID_TYPE",
		`{"task_name":"a","b c=\"\n":1}`: "b+c%3D%22%0A:UNKNOWN_FIELD",
		`{"task_name":"a","` + strings.Repeat("é", 50) + `":1}`: strings.Repeat("%C3%A9", 8) +
			"%C:UNKNOWN_FIELD",
		`{"g":1,"f":1,"e":1,"d":1,"c":1,"b":1}`: "task_name:REQUIRED b:UNKNOWN_FIELD " +
			"c:UNKNOWN_FIELD d:UNKNOWN_FIELD e:UNKNOWN_FIELD",
		"[]": "body:INVALID_VALUE",
	} {
		s, log := setUp(t)
		post(t, s, 400, body)
		_, got, _ := strings.Cut(log.String(), " faults=")
		got, _, _ = strings.Cut(got, " category=")
		equal(t, body+" in "+log.String(), strings.Trim(got, `"`), want)
	}
}

func TestLogCannotBeForged(t *testing.T) {
	t.Parallel()
	const forged = "x\r\ntime=2000-01-01T00:00:00Z level=CRITICAL category=SECURITY \"msg\"=\\\" " +
		"\x1b[2J\u009b\u202e\u2028\xff\",\"level\":\"ERROR"
	const user = "x level=CRITICAL category=SECURITY %20 \" \u202e\u2028 \\\",\"level\":\"ERROR"
	for format, separator := range map[string]string{"text": "=", "json": `":`} {
		s, log := setUp(t, "-log-format="+format)
		req := httptest.NewRequest("`|'level*CRITICAL", "/", nil) // net/http takes no other methods
		req.URL.Path, req.URL.RawQuery = "/nowhere"+forged, forged
		req.Header = http.Header{"X-Request-Id": {forged}, "User-Agent": {forged}}
		s.ServeHTTP(httptest.NewRecorder(), req)
		body, _ := json.Marshal(map[string]string{"task_name": "a", "user_id": user})
		post(t, s, 201, string(body))
		text := log.String()
		equal(t, "lines of "+text, strings.Count(text, "\n"), 2)
		equal(t, "keys in "+text, strings.Count(text, separator), 11+13) // task_id and user_id
		bad := regexp.MustCompile("[\r\x1b\u009b\u202e\u2028\ufffd]|(category|level)=[CS]|:\"[CS]")
		equal(t, text+"\nin which greps find", bad.FindString(text), "")
		equal(t, text+"\ntells the user", strings.Contains(text, url.QueryEscape(user)), true)
	}
}

func TestLineIsAsTheGuideShowsIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, log := setUp(t)
		post(t, s, 201, `{"task_name":"a","user_id":"u=1"}`)
		like(t, "line", normalise(log.String()), "time=2000-01-01T00:00:00.000Z level=INFO "+
			"msg=request method=POST route=/api/tasks path=/api/tasks status=201 duration=0s "+
			"bytes=… remote=192.0.2.1:1234 request_id=… task_id=task_ID user_id=u%3D1")
	})
}

func TestLongPathsAreCut(t *testing.T) {
	long := "/" + strings.Repeat("a", 1020)
	for end, want := range map[string]string{
		"bcd": "bcd", "bcde": "bcd…", "===": "%3D…", "é": "%C3…",
	} {
		s, log := setUp(t)
		get(t, s, 404, long+end)
		field := regexp.MustCompile(` path=\S*`).FindString(log.String())
		got := strings.Replace(field, " path="+long, "", 1)
		equal(t, "the end of the logged path after 1,021 bytes and "+end, got, want)
	}
}

// Nothing of the connection can be reached through a reply, and it takes the status of an answer
// only. What a handler does wrong is a 500, whole.
func TestNoHandlerReachesTheConnection(t *testing.T) {
	t.Parallel()
	c := start(t)
	for name, handle := range map[string]handler{
		"flush": func(w *reply, _ *http.Request) error {
			w.Write([]byte("half"))
			return http.NewResponseController(w).Flush()
		},
		"hijack": func(w *reply, _ *http.Request) error {
			_, _, err := http.NewResponseController(w).Hijack()
			return err
		},
		"early hints":    func(w *reply, _ *http.Request) error { w.WriteHeader(103); return nil },
		"status of 7":    func(w *reply, _ *http.Request) error { w.WriteHeader(7); return nil },
		"status of 1000": func(w *reply, _ *http.Request) error { w.WriteHeader(1000); return nil },
	} {
		path := "/wrong/" + strings.ReplaceAll(name, " ", "-")
		c.register(route{Method: "GET", Path: path, access: anyone, success: 200, handle: handle})
		a := c.call(t, 500, "GET", path, "")
		equal(t, name, a.brief(""), "INTERNAL_ERROR")
	}
}

// A level that is lower or higher than all names has the nearest one. An attribute may have any
// key, and times are in UTC.
func TestLogLevels(t *testing.T) {
	noon := time.Date(2025, 10, 23, 12, 0, 0, 0, time.FixedZone("JST", 9*60*60))
	for i, name := range strings.Fields("DEBUG DEBUG INFO WARNING ERROR CRITICAL CRITICAL") {
		s, log := setUp(t, "-log-level="+strings.ToLower(name))
		h, level := s.log.Handler(), slog.Level(4*i-8)
		record := slog.NewRecord(noon, level, "x", 0)
		record.Add("level", "high", "time", 12, "at", noon)
		must(t, h.Handle(t.Context(), record))
		equal(t, "line", log.String(), "time=2025-10-23T03:00:00.000Z level="+name+
			" msg=x level=high time=12 at=2025-10-23T03:00:00.000Z\n")
		if 0 < i && i < 6 {
			equal(t, name+" is logged", h.Enabled(t.Context(), level), true)
			equal(t, "less is logged, with "+name, h.Enabled(t.Context(), level-1), false)
		}
	}
}

// An error or a panic after a write replaces what was written by the envelope, with a length of its
// own and without the headers of the other, for HEAD, too.
func TestNoHalfOfAnAnswerIsSent(t *testing.T) {
	t.Parallel()
	c := start(t)
	for _, rt := range doRoutes {
		c.register(rt)
	}
	for what, status := range map[string]int{"write-fail": 500, "write-panic": 500, "panic": 500,
		"write-abort": 500, "abort": 500, "write-miss": 404} {
		t.Run(what, func(t *testing.T) {
			var lengths []string
			for method := range strings.FieldsSeq("GET HEAD POST") {
				a := c.call(t, status, method, "/do/"+what, "")
				if method != "HEAD" {
					code := map[int]string{500: "INTERNAL_ERROR", 404: "NOT_FOUND"}[status]
					equal(t, a.curl, a.brief(""), code)
				}
				lengths = append(lengths, a.header.Get("Content-Length"))
				equal(t, a.curl+"\nContent-Type", a.header.Get("Content-Type"), "application/json")
				equal(t, a.curl+"\nLocation", a.header.Get("Location"), "")
			}
			equal(t, "lengths of GET, HEAD and POST", fmt.Sprint(lengths),
				fmt.Sprint(slices.Repeat(lengths[:1], 3)))
		})
	}
	equal(t, "requests in flight", scrape(t, c.service)["http_requests_in_flight"], 1)
}

// The line of a request is written before its answer is sent. If the answer is not delivered, the
// log says that, too.
func TestAnAnswerThatIsNotDeliveredIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := startInBubble(t)
		c.register(route{"GET", "/slow", "", anyone, 200, func(w *reply, _ *http.Request) error {
			time.Sleep(15*time.Second + 1) // longer than WriteTimeout
			w.fill(200, "text/plain", []byte("done"))
			return nil
		}})
		req, err := http.NewRequest("GET", c.base+"/slow", nil)
		must(t, err)
		req.Header.Set("X-Request-Id", "r1")
		resp, err := c.http.Do(req)
		equal(t, fmt.Sprintf("an answer after WriteTimeout: %v", resp), err != nil, true)
		synctest.Wait()
		like(t, "the log", c.log.String(), `…level=WARNING msg="SLOW request" … status=200 …`+
			`level=WARNING msg="an answer was not delivered" request_id=r1 status=200 `+
			`cause="…timeout"`+"\n")
	})
}

// A profile may take longer than WriteTimeout: pprof puts that off, if it can reach the connection.
func TestALongProfileArrives(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := startInBubble(t)
		c.register(route{"GET", "/profile", "", anyone, 200, func(w *reply, r *http.Request) error {
			r.URL.Path = "/debug/pprof/goroutine" // which is for clients on this host
			return c.profile(w, r)
		}})
		a := c.call(t, 200, "GET", "/profile?seconds=20", "")
		equal(t, "a profile is compressed with gzip", strings.HasPrefix(a.body, "\x1f\x8b"), true)
		equal(t, "log\n"+c.log.String(), len(find(c.log.String(), "not (delivered)")), 0)
	})
}

// The first line says what an operator wants to know of this start. Addresses are text in both
// formats.
func TestTheFirstLineSaysWhatIsServed(t *testing.T) {
	t.Parallel()
	tokenFile, dataFile := write(t, "token", "s3cret"), filepath.Join(t.TempDir(), "tasks")
	certificate, key := writeCertificate(t)
	for flags, want := range map[string]string{
		"":                         "token=false tls=false data_file=false",
		"-token-file=" + tokenFile: "token=true tls=false data_file=false",
		"-data-file=" + dataFile:   "token=false tls=false data_file=true",
		"-tls-cert=" + certificate + " -tls-key=" + key: "token=false tls=true data_file=false",
	} {
		c := start(t, strings.Fields(flags)...)
		addr := strings.TrimPrefix(c.base, "http://")
		eventually(t, "the line is there", func() bool {
			return strings.Contains(c.log.String(), "msg=serving")
		})
		like(t, "the log", c.log.String(), "…level=INFO msg=serving address="+addr+" docs=/docs "+
			want+" version=… revision=…\n")
	}
	c := start(t, "-log-format=json")
	c.call(t, 200, "GET", "/health", "")
	eventually(t, "both lines are there", func() bool {
		return strings.Count(c.log.String(), "\n") == 2
	})
	addr := strings.TrimPrefix(c.base, "http://")
	for _, line := range []string{`…"msg":"serving","address":"` + addr + `","docs":"/docs",` +
		`"token":false,"tls":false,"data_file":false,…`, `…,"remote":"127.0.0.1:…"…`} {
		like(t, "the log", c.log.String(), line)
	}
}

// writeCertificate returns the paths of a certificate and of its key.
func writeCertificate(t *testing.T) (certificate, key string) {
	t.Helper()
	pair := httptest.NewTLSServer(nil)
	defer pair.Close()
	secret, err := x509.MarshalPKCS8PrivateKey(pair.TLS.Certificates[0].PrivateKey)
	must(t, err)
	return writePEM(t, "CERTIFICATE", pair.Certificate().Raw), writePEM(t, "PRIVATE KEY", secret)
}

// writePEM makes a PEM file and returns its path.
func writePEM(t *testing.T, kind string, der []byte) string {
	t.Helper()
	return write(t, "pem", string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})))
}

// What net/http has to say goes to the log. A check that only opens the HTTPS port, as load
// balancers do, is no reason for a WARNING; one that speaks another protocol is.
func TestChecksOfTheHTTPSPort(t *testing.T) {
	t.Parallel()
	certificate, key := writeCertificate(t)
	for sent, want := range map[string]string{"": "INFO", "GET / HTTP/1.0\r\n\r\n": "WARNING"} {
		c := start(t, "-tls-cert="+certificate, "-tls-key="+key)
		conn := c.open(t)
		io.WriteString(conn, sent)
		conn.(*net.TCPConn).CloseWrite()
		const form = `level=(\w+) msg="http: TLS handshake error from 127.0.0.1:`
		eventually(t, fmt.Sprintf("the log tells of %q", sent), func() bool {
			return find(c.log.String(), form) != nil
		})
		equal(t, fmt.Sprintf("level of the line for %q", sent), find(c.log.String(), form)[0], want)
	}
}

// logrotate has moved the log file away: after SIGHUP, the service must not keep it open, or its
// blocks would never be free.
func TestTheOldLogFileIsClosed(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	s, _ := setUp(t, "-log-file="+path)
	old := s.logOutput.file
	must(t, os.Rename(path, path+".1"))
	must(t, s.logOutput.open(path))
	_, err := old.WriteString("x")
	equal(t, fmt.Sprint("the old file is closed: ", err), errors.Is(err, os.ErrClosed), true)
	get(t, s, 404, "/nowhere")
	equal(t, "lines in the new file", strings.Count(content(path), "\n"), 1)
	equal(t, "the old file", content(path+".1"), "")
}

// Where standard error is the journal, each line has its priority in front. What is the journal,
// JOURNAL_STREAM says; a log file is none, and neither is another socket.
func TestPrioritiesForTheJournal(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a few seconds")
	}
	if runtime.GOOS != "linux" {
		t.Skip("systemd is on Linux only")
	}
	t.Parallel()
	for name, row := range map[string]struct {
		flags, inode string // of JOURNAL_STREAM; empty for the true one
		isJournal    bool
	}{
		"text": {"", "", true}, "json": {"-log-format=json", "", true},
		"another inode": {"", "1", false}, "a log file": {"-log-file=FILE", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, err := os.MkdirTemp("", "j") // the path of a socket must be short
			must(t, err)
			defer os.RemoveAll(dir)
			journal, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/s", Net: "unix"})
			must(t, err)
			defer journal.Close()
			conn, err := net.DialUnix("unix", nil, journal.Addr().(*net.UnixAddr))
			must(t, err)
			defer conn.Close()
			stderr, err := conn.File()
			must(t, err)
			defer stderr.Close()
			reader, err := journal.Accept()
			must(t, err)
			defer reader.Close()
			link, err := os.Readlink(fmt.Sprint("/proc/self/fd/", stderr.Fd()))
			must(t, err)
			inode := cmp.Or(row.inode, strings.Join(find(link, `socket:\[(\d+)\]`), ""))

			data, logFile := dir+"/tasks", dir+"/log"
			flags := strings.Fields(strings.Replace(row.flags, "FILE", logFile, 1))
			cmd := command(t, "JOURNAL_STREAM=8:"+inode,
				append(flags, "-addr=127.0.0.1:0", "-data-file="+data, "-log-level=debug")...)
			cmd.Stderr = stderr
			must(t, cmd.Start())
			defer func() { cmd.Process.Kill(); cmd.Wait() }()
			var log buffer
			go io.Copy(&log, reader)
			address := func() []string {
				return find(log.String()+content(logFile), `address"?[=:]"?([0-9.:]+)`)
			}
			eventually(t, "the log tells the address", func() bool { return address() != nil })
			c := newClient("http://"+address()[0], &http.Transport{DisableKeepAlives: true})
			c.call(t, 400, "POST", "/api/tasks", `{"task_name":"<3>\n<2>"}`)
			must(t, os.Remove(data))
			c.call(t, 500, "POST", "/api/tasks", body)
			must(t, cmd.Process.Signal(syscall.SIGTERM))
			must(t, cmd.Wait())

			eventually(t, "the last line is there", func() bool {
				return strings.Contains(log.String()+content(logFile), "stopped")
			})
			priorities := map[string]string{"INFO": "<6>", "WARNING": "<4>", "ERROR": "<3>",
				"CRITICAL": "<2>"}
			seen := map[string]bool{}
			for line := range strings.Lines(log.String() + content(logFile)) {
				level := find(line, `level"?[=:]"?([A-Z]+)`)[0]
				seen[level] = true
				want := map[bool]string{true: priorities[level]}[row.isJournal]
				rest := strings.TrimPrefix(line, want)
				isWhole := strings.HasPrefix(rest, "time=") || strings.HasPrefix(rest, `{"time":`)
				equal(t, fmt.Sprintf("%q begins with %q", line, want),
					strings.HasPrefix(line, want) && isWhole, true)
			}
			equal(t, "levels seen in\n"+log.String(), len(seen), len(priorities))
		})
	}
}

// Lines that cannot be written are counted, and the first of a row is told on standard error. When
// there is room again, the log goes on with a whole line.
func TestLogOnAFullDisk(t *testing.T) {
	t.Parallel()
	s, stderr := setUp(t, "-log-level=critical", "-log-file="+write(t, "log", "torn before"))
	disk, full := newFaultyFile(t, ""), map[bool]error{true: syscall.ENOSPC}
	disk.before = func(string) error { return full[disk.share < 100] }
	s.logOutput.out = disk
	for _, row := range rows(`
		100 | whole       | 0 0
		0   | lost        | 1 5
		0   | lost, too   | 1 15
		30  | torn line   | 1 22
		100 | whole again | 1 22
		30  | torn again  | 2 30
		0   | lost again  | 2 42
		100 | whole       | 2 42`) {
		disk.share, _ = strconv.Atoi(row[0]) // percentage for which there is room
		fmt.Fprintln(s.logOutput, row[1])
		lost := scrape(t, s)["log_lost_bytes_total"]
		got := fmt.Sprint(strings.Count(stderr.String(), "\n"), " ", lost)
		like(t, row[1]+": lines that tell, and bytes lost", got, row[2])
	}
	equal(t, "the log", content(disk.Name()), "\nwhole\ntor\nwhole again\ntor\nwhole\n")
}

// --- 6. Running: how slow clients are bounded, and how it stops without losing a request. ---

// pipes is a listener whose connections exist in memory only: the clock of a bubble stands still
// while a real connection waits.
type pipes struct {
	context.Context // ends when it is closed
	close           func()
	conns           chan net.Conn
}

func (p *pipes) Close() error   { p.close(); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8000} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.Done():
		return nil, net.ErrClosed
	}
}

func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.conns <- server:
		return client, nil
	case <-p.Done():
		return nil, net.ErrClosed
	}
}

// startInBubble is start for synctest. The bubble also fails a test after which something of the
// service, such as a sensor, goes on.
func startInBubble(t testing.TB, flags ...string) *client {
	t.Helper()
	ctx, end := context.WithCancel(context.Background())
	ln := &pipes{ctx, end, make(chan net.Conn)}
	return startOn(t, ln, &http.Transport{DialContext: ln.dial}, flags...)
}

func TestRateLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := startInBubble(t, "-rate=2")
		for range 10 { // only valid creations count
			c.call(t, 400, "POST", "/api/tasks", `{}`)
			c.call(t, 200, "GET", "/api/tasks", "")
		}
		// Half a second gives one token, and an hour gives no more than a burst.
		for step := range strings.FieldsSeq("0s 201 201 429 499ms 429 1ms 201 429 1h 201 201 429") {
			status, err := strconv.Atoi(step)
			if err != nil {
				pause, _ := time.ParseDuration(step)
				time.Sleep(pause)
				continue
			}
			a := c.call(t, status, "POST", "/api/tasks", `{"task_name":"a"}`)
			want := map[int]string{429: "1"}[status]
			equal(t, a.curl+"\nRetry-After", a.header.Get("Retry-After"), want)
		}
	})
}

// A slow client costs one goroutine for a bounded time.
func TestTimeouts(t *testing.T) {
	t.Parallel()
	const get = "GET /health/liveness HTTP/1.1\r\nHost: x\r\n\r\n"
	const post = "POST /api/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
	for _, row := range []struct {
		send  string
		after time.Duration // in seconds
		want  string
	}{
		{"", 5, ""}, {post + "Content-Le", 5, "HTTP/1.1 400 …"}, {get, 75, "HTTP/1.1 200 …"},
		{post + "Content-Length: 9\r\n\r\n{", 10, `HTTP/1.1 408 …"REQUEST_TIMEOUT"…`},
	} {
		synctest.Test(t, func(t *testing.T) {
			conn := startInBubble(t).open(t)
			start := time.Now()
			go io.WriteString(conn, row.send)
			got, _ := io.ReadAll(conn)
			// net/http lingers for half a second with somebody who may still be sending.
			late := time.Since(start) - row.after*time.Second
			like(t, fmt.Sprintf("%q, and no more", row.send), string(got), row.want)
			equal(t, fmt.Sprintf("%q, hung up %v late", row.send, late),
				0 <= late && late <= time.Second, true)
		})
	}
}

// While it drains, every request is answered. Then the listener closes, and what is in flight may
// end. A client that keeps its connection may be sending just then: it has half a second, and it is
// heard, not hung up on.
// One that sends nothing delays the end by a second at most.
func TestStopping(t *testing.T) {
	t.Parallel()
	const done = "HTTP/1.1 200 OK\r\n…Connection: close\r\n…done… <nil>"
	for _, row := range []struct {
		work, end time.Duration // of a request in flight, and of the service, in ms
		want      string        // of the answer, and of the error of stopping
	}{{0, 5000, done}, {7900, 7900, done}, {60000, 8000, " …cut off"}} {
		synctest.Test(t, func(t *testing.T) {
			c := startInBubble(t, "-drain=5s", "-shutdown-timeout=3s")
			slow := func(w *reply, _ *http.Request) error {
				time.Sleep(row.work * time.Millisecond)
				w.fill(200, "text/plain", []byte("done"))
				return nil
			}
			c.register(route{"GET", "/slow", "", anyone, 200, slow})
			var conns [3]net.Conn
			for i := range conns {
				conns[i] = c.open(t)
			}
			const get = "GET %s HTTP/1.1\r\nHost: x\r\n\r\n"
			answers := bufio.NewReader(conns[0])
			last := func() bool { // on the connection that is kept
				fmt.Fprintf(conns[0], get, "/")
				resp, err := http.ReadResponse(answers, nil)
				must(t, err)
				io.Copy(io.Discard, resp.Body)
				return resp.Close
			}
			equal(t, "the answer before the drain is the last one", last(), false)
			var answer []byte
			var client sync.WaitGroup
			client.Go(func() { answer, _ = io.ReadAll(conns[1]) })
			start, stopped := time.Now(), make(chan error)
			go func() { stopped <- c.stop() }()
			synctest.Wait()
			fmt.Fprintf(conns[1], get, "/slow")
			for path, status := range map[string]int{"/health/readiness": 503, "/health": 200,
				"/health/detailed": 503, "/health/liveness": 200, "/api/tasks/x": 404} {
				a := c.call(t, status, "GET", path, "")
				equal(t, a.curl+"\nConnection, in the drain", a.header.Get("Connection"), "close")
			}
			c.call(t, 201, "POST", "/api/tasks", body)
			time.Sleep(5*time.Second + 400*time.Millisecond)
			_, err := c.dial()
			equal(t, "after the drain, a new connection is refused", err != nil, true)
			equal(t, "the answer after the drain is the last one", last(), true)
			err = <-stopped
			took := time.Since(start)
			client.Wait()
			what := fmt.Sprintf("%d ms in flight, stopped after %v", row.work, took)
			like(t, what, fmt.Sprint(string(answer), " ", err), row.want)
			late := took - row.end*time.Millisecond
			equal(t, what+", in time", 0 <= late && late <= time.Second, true)
			time.Sleep(row.work * time.Millisecond) // the bubble waits for the handler
		})
	}
}

// listenAsSystemd returns the socket to which this process sends its state until the test ends.
func listenAsSystemd(t *testing.T) *net.UnixConn {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("needs a Unix datagram socket")
	}
	dir, err := os.MkdirTemp("", "n") // the path of a socket must be short
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"}
	conn, err := net.ListenUnixgram("unixgram", socket)
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", socket.Name)
	return conn
}

// hear returns what has been said on a socket, until nothing is for a tenth of a second.
func hear(conn net.Conn) string {
	said, state := []string{}, make([]byte, 100)
	for {
		conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		n, err := conn.Read(state)
		if err != nil {
			return strings.Join(said, " ")
		}
		said = append(said, string(state[:n]))
	}
}

// systemd hears when the service can be used and when it stops, and in between, twice in the time
// of the watchdog, that the store can be read. A watchdog of another process is none.
func TestSystemdIsToldTheState(t *testing.T) {
	conn := listenAsSystemd(t)
	for pid, want := range map[string]string{
		"":                        "READY=1 WATCHDOG=1 WATCHDOG=1 STOPPING=1 WATCHDOG=1",
		strconv.Itoa(os.Getpid()): "READY=1 WATCHDOG=1 WATCHDOG=1 STOPPING=1 WATCHDOG=1",
		"1":                       "READY=1 STOPPING=1",
	} {
		t.Setenv("WATCHDOG_USEC", "20000000")
		t.Setenv("WATCHDOG_PID", pid)
		synctest.Test(t, func(t *testing.T) {
			c := startInBubble(t, "-drain=10s")
			time.Sleep(25 * time.Second)
			c.stop()
			time.Sleep(time.Hour) // and nobody speaks any more
		})
		equal(t, "what systemd hears in 25 s and a drain of 10 s", hear(conn), want)
	}
}

// Whoever holds the lock of the store for ever makes systemd restart the service.
func TestTheWatchdogAsksTheStore(t *testing.T) {
	conn := listenAsSystemd(t)
	t.Setenv("WATCHDOG_USEC", "20000") // a word each 10 ms
	c := start(t)
	words := func(during time.Duration) (n int) {
		conn.SetReadDeadline(time.Now().Add(during))
		for {
			if _, err := conn.Read(make([]byte, 100)); err != nil {
				return n
			}
			n++
		}
	}
	equal(t, "the state is told", words(time.Second) > 1, true)
	c.store.mu.Lock()
	words(300 * time.Millisecond) // what was said before
	equal(t, "words while the store cannot be read", words(300*time.Millisecond), 0)
	c.store.mu.Unlock()
	equal(t, "the state is told again", words(time.Second) > 1, true)
}

// Each word to systemd takes a descriptor, and gives it back.
func TestWordsToSystemdLeaveNothingOpen(t *testing.T) {
	const open = "/proc/self/fd"
	if _, err := os.Stat(open); err != nil {
		t.Skip("needs " + open)
	}
	conn := listenAsSystemd(t)
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // the collector would close what was forgotten
	before, err := os.ReadDir(open)
	must(t, err)
	for range 50 {
		notify("STATUS=x")
		_, err := conn.Read(make([]byte, 100))
		must(t, err)
	}
	after, err := os.ReadDir(open)
	must(t, err)
	equal(t, "descriptors after 50 words", len(after), len(before))
}

// --- The command line, and the program as a process of its own. ---

// command runs the test binary as the program. The environment is set by a shell, which knows the
// number of the process.
func command(t *testing.T, environment string, args ...string) *exec.Cmd {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("needs a shell and signals")
	}
	script := environment + ` TASKAPI_TEST=program exec "$0" "$@"`
	return exec.Command("sh", append([]string{"-c", script, os.Args[0]}, args...)...)
}

// taskapi runs a command line that ends by itself.
func taskapi(t *testing.T, environment string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, err buffer
	cmd := command(t, environment, args...)
	cmd.Stdout, cmd.Stderr = &out, &err
	must(t, cmd.Start())
	defer time.AfterFunc(10*time.Second, func() { cmd.Process.Kill() }).Stop() // if it serves
	cmd.Wait()
	return cmd.ProcessState.ExitCode(), out.String(), err.String()
}

func TestCommandLines(t *testing.T) {
	t.Parallel()
	refused := map[string]int{ // to the exit status
		"-nonsense": 2, "serve": 2, "-max-tasks=0": 2, "-max-tasks=many": 2, "-rate=-1": 2,
		"-tls-cert=x": 2, "-tls-key=x": 2, "-log-format=xml": 2, "-log-level=loud": 2,
		"-addr=": 2, "-cpu-high=101": 2, "-memory-high=-1": 2, "-disk-high=NaN": 2,
		"-slow=-1s": 2, "-drain=1": 2, "-shutdown-timeout=-1ns": 2, "-version=maybe": 2,
		// An unset variable: without what it should say, the service must not start.
		"-token-file=": 2, "-tls-cert= -tls-key=": 2, "-tls-cert={pem} -tls-key=": 2,
		"-data-file=": 2, "-log-file=": 2, "-cors-origins=": 2, "-disk-path=": 2,
		// One file has one use, whatever it is called.
		"-log-file={dir}/a -data-file={dir}/a": 2, "-log-file={dir}/a -data-file={dir}/./a": 2,
		"-log-file={dir}/./a -token-file={dir}/a": 1, "-token-file={link} -data-file={token}": 2,
		"-log-file={dir}/a -data-file={folder}/a": 2, "-token-file={token} -log-file={hard}": 2,
		"-data-file={link} -log-file={hard}": 2,
		"-tls-cert={dir}/c -tls-key={dir}/k": 1, "-log-file={dir}/missing/log": 1,
		"-data-file={dir}/missing/tasks": 1, "-data-file={dir}": 1, "-addr=nowhere": 1,
		"-token-file={dir}/missing": 1, "-data-file=" + write(t, "tasks", "{}\n"): 1,
		// Who has the port may be using the same files.
		"-addr={busy} -data-file={dir}/tasks -log-file={dir}/log": 1,
		"-log-file={dir}/log -token-file={dir}/missing":           1,
		"-log-file={dir}/log -tls-cert={dir}/c -tls-key={dir}/k":  1,
		"-log-file={dir}/log -data-file={dir}/missing/tasks":      1,
		"-log-file={dir}/log -data-file={token}":                  1,
		"-data-file={dir}/tasks -log-file={dir}/missing/log":      1,
		"-data-file={dir}/tasks -token-file={dir}/missing":        1,
	}
	token := write(t, "token", "s3cret")
	link, hard := filepath.Join(t.TempDir(), "link"), filepath.Join(t.TempDir(), "hard")
	must(t, os.Symlink(token, link))
	must(t, os.Link(token, hard))
	certificate, _ := writeCertificate(t)
	for origin := range strings.FieldsSeq(`* null a.example //a.example ftp://a.example https://
		https://* https://*.a.example https://a.example/ https://a.example/x https://a.example?x
		https://a.example# https://u@a.example https://u:p@a.example HTTPS://a.example
		https://A.example https://例え.jp https://a.example:443 http://a.example:80
		https://a.example: https://a.example:0 https://a.example:08443 https://a.example:x
		https://127.1 https://2130706433 https://0x7f.0.0.1 https://0x7f000001 https://a.1
		https://[::1 https://::1 https://[fe80::1%25eth0] https://[::A] https://a..example
		https://a:70000 https://1.2.3.256 https://[0:0::1] https://.example https://a%2eexample
		https://a.example,* https://a.example,,`) {
		refused["-cors-origins="+origin] = 2 // no browser sends it
	}
	for token := range strings.SplitSeq("| \n|a\nb|a b|a\tb|\uFEFFa|é|\"a\"|a=b|=|a\x00|"+
		strings.Repeat("a", 8193), "|") {
		refused["-token-file="+write(t, "token", token)] = 1 // no Authorization header can carry it
	}
	for origins := range strings.FieldsSeq(`https://a.example http://localhost:3000 http://a
		https://xn--r8jz45g.jp https://a-b.c_d.example https://a.example. https://1.a.example
		http://a.example:443 https://a.example:80 http://a.example:65535 http://127.0.0.1:8080
		http://[::1] https://[2001:db8::1]:8443 https://a.example,http://3d:8080`) {
		_, err := parseFlags([]string{"-cors-origins=" + origins})
		equal(t, "browsers send "+origins, err, nil)
	}
	busy := strings.TrimPrefix(start(t).base, "http://")
	for line, want := range refused {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			folder := filepath.Join(t.TempDir(), "folder")
			must(t, os.Symlink(dir, folder))
			line = strings.NewReplacer("{dir}", dir, "{folder}", folder, "{busy}", busy, "{pem}",
				certificate, "{token}", token, "{link}", link, "{hard}", hard).Replace(line)
			args := append([]string{"-addr=127.0.0.1:0"}, strings.Fields(line)...)
			got, stdout, stderr := taskapi(t, "", args...)
			files, _ := os.ReadDir(dir)
			equal(t, fmt.Sprintf("taskapi %q says %q\nexit status, lines, files", args, stderr),
				fmt.Sprintf("%d, %d%s, %v", got, strings.Count(stderr, "\n"), stdout, files),
				fmt.Sprintf("%d, 1, []", want))
		})
	}
	got, _, stderr := taskapi(t, "LISTEN_PID=$$ LISTEN_FDS=2")
	equal(t, "exit status if systemd passes more than one socket: "+stderr, got, 1)

	// Of several mistakes, the same one is told again and again.
	mistakes := []string{"-addr=", "-rate=-1", "-max-tasks=0", "-drain=-1s", "-cpu-high=101",
		"-log-level=loud", "-cors-origins=null", "-disk-high=-1", "x"}
	told := map[string]bool{}
	for range 50 {
		_, err := parseFlags(mistakes)
		told[fmt.Sprint(err)] = true
	}
	equal(t, fmt.Sprint("mistakes told of the same command line ", told), len(told), 1)
}

func TestHelpAndVersion(t *testing.T) {
	t.Parallel()
	status, help, stderr := taskapi(t, "", "-h")
	flags := find(help, `(?m)^  -(\S+).*\n    .*?(?:\(default "?(.*?)"?\))?$`)
	equal(t, "taskapi -h", fmt.Sprint(status, stderr, help[:18], strings.Join(flags, " ")),
		`0Usage of taskapi:
addr:127.0.0.1:8000 cors-origins: cpu-high:80 data-file:in memory disk-high:80 disk-path:/ drain: `+
			`log-file:standard error log-format:text log-level:info max-tasks:1000000 `+
			`memory-high:80 rate: shutdown-timeout:10s slow:100ms tls-cert: tls-key: `+
			`token-file: version:`)
	status, version, stderr := taskapi(t, "", "-version")
	like(t, "taskapi -version", fmt.Sprint(status, stderr, " ", version),
		"0 taskapi … … "+runtime.Version()+"\n")
}

// program is a process that serves. Its standard error has lost its reader: who listens to that
// goes away when the address has been told.
type program struct {
	*client
	cmd *exec.Cmd
}

func (p *program) Write(line []byte) (int, error) {
	p.log.Write(line)
	if strings.Contains(p.log.String(), "address=") {
		return 0, io.ErrClosedPipe // so os/exec closes the pipe
	}
	return len(line), nil
}

// launch starts a program; on a socket, if there is one, as systemd does.
func launch(t *testing.T, socket net.Listener, args ...string) *program {
	t.Helper()
	return launchIn(t, "", socket, args...)
}

// launchIn is launch with an environment, as command takes it.
func launchIn(t *testing.T, environment string, socket net.Listener, args ...string) *program {
	t.Helper()
	p := &program{client: newClient("", &http.Transport{DialContext: new(net.Dialer).DialContext})}
	p.client.log = &buffer{}
	p.cmd = command(t, environment, append([]string{"-addr=127.0.0.1:0"}, args...)...)
	if socket != nil {
		file, err := socket.(*net.TCPListener).File()
		must(t, err)
		defer file.Close()
		p.cmd = command(t, environment+" LISTEN_PID=$$ LISTEN_FDS=1", args...)
		p.cmd.ExtraFiles = []*os.File{file}
	}
	p.cmd.Stderr = p
	must(t, p.cmd.Start())
	t.Cleanup(func() { p.cmd.Process.Kill(); p.cmd.Wait() })
	logFile := strings.Join(find(strings.Join(args, " "), `-log-file=(\S+)`), "")
	eventually(t, "the log tells the address", func() bool {
		address := find(p.log.String()+content(logFile), `address=(\S+)`)
		p.base = "http://" + strings.Join(address, "")
		return address != nil
	})
	return p
}

// content returns the text of a file, which may be missing.
func content(path string) string { text, _ := os.ReadFile(path); return string(text) }
func mode(path string) string    { info, _ := os.Stat(path); return info.Mode().String() }

func (p *program) signal(t *testing.T, s os.Signal) {
	t.Helper()
	p.http.CloseIdleConnections()
	must(t, p.cmd.Process.Signal(s))
}

// end ends a program with a signal and returns the exit status, or -1 if that killed it.
func (p *program) end(t *testing.T, s os.Signal) int {
	t.Helper()
	p.signal(t, s)
	p.cmd.Wait()
	return p.cmd.ProcessState.ExitCode()
}

const body = `{"task_name":"a"}`

func TestProgram(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a few seconds")
	}
	t.Parallel()
	for end, timeout := range map[string]string{"in time": "1h", "cut off": "0", "killed": "1h"} {
		t.Run("a request in flight, "+end, func(t *testing.T) {
			t.Parallel()
			p := launch(t, nil, "-shutdown-timeout="+timeout)
			conn := p.open(t)
			fmt.Fprintf(conn, "POST /api/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n"+
				"Content-Type: application/json\r\n\r\n{", len(body))
			eventually(t, "it is in flight", func() bool {
				page := p.call(t, 200, "GET", "/metrics", "").body
				return strings.Contains(page, "\nhttp_requests_in_flight 2\n")
			})
			if end == "killed" {
				p.signal(t, os.Interrupt)
			} else {
				p.signal(t, syscall.SIGTERM)
			}
			eventually(t, "the listener is closed", func() bool {
				other, err := p.dial()
				return err != nil || other.Close() != nil
			})
			if end == "in time" {
				io.WriteString(conn, body[1:])
				got, _ := io.ReadAll(conn)
				like(t, "the answer", string(got),
					"HTTP/1.1 201 Created…\r\nConnection: close\r\n…task created…")
			} else if end == "killed" { // by a second signal, which has its default action
				p.signal(t, syscall.SIGTERM)
			}
			p.cmd.Wait()
			status := map[string]int{"cut off": 1, "killed": -1}[end]
			equal(t, "exit status", p.cmd.ProcessState.ExitCode(), status)
		})
	}
	for name, test := range map[string]func(*testing.T){
		"without a log file SIGHUP stops it": func(t *testing.T) {
			if signal.Ignored(syscall.SIGHUP) {
				t.Skip("under nohup nobody gets it")
			}
			p := launch(t, nil, "-data-file="+filepath.Join(t.TempDir(), "tasks"))
			equal(t, "exit status", p.end(t, syscall.SIGHUP), 0)
		},
		"under nohup SIGHUP does nothing": func(t *testing.T) {
			p := launchIn(t, "trap '' HUP;", nil)
			p.signal(t, syscall.SIGHUP)
			time.Sleep(50 * time.Millisecond)
			p.call(t, 201, "POST", "/api/tasks", body)
			equal(t, "exit status", p.end(t, syscall.SIGTERM), 0)
		},
		"with a socket of systemd, -addr is not used": func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			must(t, err)
			defer ln.Close()
			path := filepath.Join(t.TempDir(), "log")
			p := launch(t, ln, "-addr=127.0.0.1:1", "-log-file="+path)
			equal(t, "address", p.base, "http://"+ln.Addr().String())
			p.call(t, 200, "GET", "/health", "")
			equal(t, "exit status", p.end(t, syscall.SIGTERM), 0)
			like(t, "the log", content(path), `…level=WARNING msg="-addr is not used: systemd `+
				`has passed a socket" addr=127.0.0.1:1…`)
		},
		"without a reader of standard error lines are lost, and no tasks": func(t *testing.T) {
			p := launch(t, nil)
			for lost := false; !lost; { // the first line may still fit into the pipe
				task := p.call(t, 201, "POST", "/api/tasks", body).header.Get("Location")
				p.call(t, 200, "GET", task, "")
				page := p.call(t, 200, "GET", "/metrics", "").body
				lost = find(page, `\nlog_lost_bytes_total ([1-9])`) != nil
			}
			equal(t, "exit status", p.end(t, syscall.SIGTERM), 0)
		},
		"restarts under load lose nothing": func(t *testing.T) { restarts(t, syscall.SIGTERM, 0) },
		"kill -9 under load loses no task": func(t *testing.T) { restarts(t, syscall.SIGKILL, -1) },
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); test(t) })
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	pair := httptest.NewTLSServer(nil) // for its certificate, and a client that trusts it
	defer pair.Close()
	secret, err := x509.MarshalPKCS8PrivateKey(pair.TLS.Certificates[0].PrivateKey)
	must(t, err)
	p := launch(t, nil, "-tls-key="+writePEM(t, "PRIVATE KEY", secret),
		"-tls-cert="+writePEM(t, "CERTIFICATE", pair.Certificate().Raw))
	addr := strings.TrimPrefix(p.base, "http://")
	p.base, p.client.http = "https://"+addr, pair.Client()
	first := p.call(t, 200, "GET", "/health/detailed", "").body
	equal(t, "readings in the first answer "+first, len(find(first, `"usage_percent":[0-9]`)), 3)
	trust := pair.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	conn, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: trust, NextProtos: []string{"h2"}})
	must(t, err)
	defer conn.Close()
	equal(t, "HTTP/2 is spoken", conn.ConnectionState().NegotiatedProtocol == "h2", false)
	old := &tls.Config{RootCAs: trust, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	_, err = tls.Dial("tcp", addr, old)
	equal(t, "TLS 1.1 is refused", err != nil, true)
}

func TestAnExpiredCertificateIsTold(t *testing.T) {
	t.Parallel()
	public, private, err := ed25519.GenerateKey(nil)
	must(t, err)
	yesterday := x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(-time.Hour)}
	der, err := x509.CreateCertificate(nil, &yesterday, &yesterday, public, private)
	must(t, err)
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	must(t, err)
	c := start(t, "-tls-key="+writePEM(t, "PRIVATE KEY", secret),
		"-tls-cert="+writePEM(t, "CERTIFICATE", der))
	eventually(t, "the log tells it", func() bool {
		return strings.Contains(c.log.String(), `level=WARNING msg="the certificate has expired"`)
	})
}

func TestLogFile(t *testing.T) {
	t.Parallel()
	path := write(t, "log", "an older line\n")
	p := launch(t, nil, "-log-file="+path)
	var load sync.WaitGroup
	for range 300 { // each request has its line, in one file or another
		load.Go(func() { p.call(t, 404, "GET", "/counted", "") })
	}
	must(t, os.Rename(path, path+".1"))
	p.signal(t, syscall.SIGHUP)
	eventually(t, "there is a log file again", func() bool { return content(path) != "" })
	load.Wait()
	equal(t, "mode of a new log file", mode(path), "-rw-r-----")

	// Where no file can be opened, the log goes on in the old one, and says so.
	must(t, os.Rename(path, path+".2"))
	must(t, os.Mkdir(path, 0o700))
	p.signal(t, syscall.SIGHUP)
	eventually(t, "so", func() bool { return find(content(path+".2"), "level=ERROR") != nil })
	p.call(t, 404, "GET", "/counted", "")
	equal(t, "exit status", p.end(t, syscall.SIGTERM), 0)
	all := content(path+".1") + content(path+".2")
	equal(t, "lines in all log files", strings.Count(all, " path=/counted "), 301)
	like(t, "all log files", all, "an older line\n…msg=stopped\n")
}

// restarts starts a program on the socket of somebody else, as with systemd, and ends it by a
// signal under load, again and again: between two programs, clients wait. Whatever the signal, each
// task that was acknowledged is in the data file, and what was there stays in its place.
func restarts(t *testing.T, end syscall.Signal, status int) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	var acknowledged sync.Map // tasks that nobody has seen in the file since
	var total atomic.Int64
	var done atomic.Bool
	var load sync.WaitGroup
	defer done.Store(true)
	for i := range 4 {
		c := newClient("http://"+ln.Addr().String(), &http.Transport{DisableKeepAlives: i%2 == 0})
		load.Go(func() {
			defer c.http.CloseIdleConnections()
			for !done.Load() { // POST: Go's client would send a lost GET again, and hide it
				send := strings.NewReader(body)
				resp, err := c.http.Post(c.base+"/api/tasks", "application/json", send)
				var task Task
				if err == nil {
					err = json.NewDecoder(resp.Body).Decode(&task)
					resp.Body.Close()
				}
				if err == nil && resp.StatusCode == 201 {
					acknowledged.Store(task, true)
					total.Add(1)
				} else if end != syscall.SIGKILL {
					t.Errorf("a creation during restarts\n got: %v %v\nwant: 201", resp, err)
				}
			}
		})
	}
	path, before := filepath.Join(t.TempDir(), "tasks"), ""
	for round := range int64(6) {
		p := launch(t, ln, "-data-file="+path)
		goal := total.Load() + 20*round
		eventually(t, "tasks are created", func() bool { return total.Load() > goal })
		equal(t, "exit status under load", p.end(t, end), status)
		s, err := openStore(context.Background(), path, 1, slog.New(slog.DiscardHandler))
		must(t, err)
		all, _ := s.page("", 1<<30)
		s.close()
		now := lines(all...)
		equal(t, "what was there stays in its place", now[:min(len(now), len(before))], before)
		before = now
		for _, task := range all {
			acknowledged.Delete(*task)
		}
		for task := range acknowledged.Range {
			t.Errorf("round %d\n got: %d tasks\nwant: %v, too", round, len(all), task)
		}
	}
	launch(t, ln, "-data-file="+path) // for those who still wait
	done.Store(true)
	load.Wait()
}

// --- 7. The store: what it has accepted is on the disk. ---

// lines are tasks as they are in a data file.
func lines(tasks ...*Task) string {
	var text strings.Builder
	for _, task := range tasks {
		json.NewEncoder(&text).Encode(task)
	}
	return text.String()
}

// faultyFile is a file that can fail. It knows what a power cut would leave of it.
type faultyFile struct {
	*os.File
	synced string
	before func(call string) error // of "read", "write", …, which fails with this error
	share  int                     // percentage that a write writes when it fails
}

// newFaultyFile returns a file with this text that has not failed yet.
func newFaultyFile(t testing.TB, text string) *faultyFile {
	t.Helper()
	file, err := os.OpenFile(write(t, "faulty", text), os.O_RDWR|os.O_APPEND, 0)
	must(t, err)
	t.Cleanup(func() { file.Close() })
	return &faultyFile{File: file, before: func(string) error { return nil }}
}

// keep makes a store keep its tasks in a file.
func (d *faultyFile) keep(s *store) {
	s.file = &dataFile{path: d.Name(), realPath: d.Name(), file: d, syncFolder: syncFolder}
}

func (d *faultyFile) Read(p []byte) (n int, err error) {
	if err := d.before("read"); err != nil {
		return 0, err
	}
	return d.File.Read(p)
}

func (d *faultyFile) Write(p []byte) (n int, err error) {
	fault := d.before("write")
	if fault != nil {
		p = p[:len(p)*d.share/100]
	}
	n, err = d.File.Write(p)
	return n, cmp.Or(fault, err)
}

func (d *faultyFile) Sync() error {
	if err := d.before("sync"); err != nil {
		return err
	}
	d.synced = content(d.Name())
	return nil
}

func (d *faultyFile) Truncate(size int64) error {
	if err := d.before("truncate"); err != nil {
		return err
	}
	return d.File.Truncate(size)
}

// Before its task is synced, no creation is answered and no reader sees the task. Creations that
// come during a sync share the next one, and they share its failure.
func TestTasksAreSyncedBeforeAnybodySeesThem(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, _ := setUp(t, "-max-tasks=6")
		var events buffer
		result := make(chan error) // of the sync that goes on
		d := newFaultyFile(t, "")
		d.before = func(call string) error {
			fmt.Fprint(&events, call, " ")
			if call == "sync" {
				return <-result
			}
			return nil
		}
		d.keep(s.store)
		heard := 0
		// expect has these tasks created, and says what happens next, and who sees what then.
		expect := func(names, happens, seen string) {
			t.Helper()
			synctest.Wait()
			for name := range strings.FieldsSeq(names) {
				go func() {
					a := post(t, s, 0, `{"task_name":"`+name+`"}`)
					fmt.Fprint(&events, name, ":", a.status, " ")
				}()
				synctest.Wait()
			}
			news := strings.Fields(events.String()[heard:])
			heard = len(events.String())
			slices.Sort(news) // those that waited together return in any order
			total, _ := s.store.state(time.Now())
			tasks, _ := s.store.page("", 10)
			listed, found := "", 0
			for _, task := range tasks {
				listed += task.Name
			}
			file := content(d.Name())
			for _, id := range find(file, `"task_id":"(.*?)"`) {
				if s.store.get(id) != nil {
					found++
				}
			}
			n := len(seen)
			equal(t, "with "+names+": what happens; tasks listed, counted and found",
				fmt.Sprint(news, listed, total, found), fmt.Sprint(happens, seen, n, n))
			written := strings.Join(find(file, `"task_name":"(.*?)"`), "")
			like(t, "the names in the file, in order", written, seen+"…")
		}
		expect("a", "[sync write]", "")
		expect("b c d", "[]", "")
		result <- nil
		expect("", "[a:201 sync write]", "a")
		expect("e f", "[]", "a")
		result <- nil
		expect("", "[b:201 c:201 d:201 sync write]", "abcd")
		expect("g", "[g:507]", "abcd") // those that wait have their places
		result <- syscall.EIO
		expect("", "[sync truncate]", "abcd") // of what is left when the failed lines are cut off
		result <- nil
		expect("", "[e:500 f:500]", "abcd")
	})
}

// The first failure is final, whichever it is, and even if the disk is mended at once: nothing is
// written or acknowledged after it. What was acknowledged before it is in what was synced, and in
// the file there is nothing else: the kernel keeps in memory what it could not write, and a restart
// would take that for stored.
func TestFailuresOfTheDataFile(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		call         string
		share, calls int // share of the failed write; calls from the failed one on
		isOnce       bool
	}{
		{"write", 0, 3, true}, {"write", 50, 3, true}, {"write", 100, 3, true},
		{"write", 50, 3, false}, {"sync", 0, 4, true}, {"sync", 0, 4, false},
	} {
		for k := range 4 {
			what := fmt.Sprintf("%s %d fails after %d %%, once %t\n",
				row.call, k+1, row.share, row.isOnce)
			s, log := setUp(t, fmt.Sprint("-max-tasks=", k+1)) // full, too, after the failure
			calls, failures, acknowledged := 0, 0, ""
			d := newFaultyFile(t, "")
			d.share = row.share
			d.before = func(call string) error {
				calls++
				if call != row.call || calls <= 2*k || row.isOnce && failures > 0 {
					return nil
				}
				failures++
				return &os.PathError{Op: call, Path: "/secret", Err: syscall.EIO}
			}
			d.keep(s.store)
			for i := range 6 {
				a := post(t, s, 0, body)
				want := map[bool]int{true: 201, false: 500}[i < k]
				equal(t, fmt.Sprint(what, "status of creation ", i+1), a.status, want)
				if a.status == 201 {
					acknowledged += strings.Replace(a.body, `,"message":"task created"`, "", 1)
				}
			}
			equal(t, what+"calls", calls, 2*k+row.calls)
			equal(t, what+"what a power cut leaves", d.synced, acknowledged)
			equal(t, what+"what a restart reads", content(d.Name()), acknowledged)
			list := get(t, s, 200, "/api/tasks").body
			equal(t, what+"list", strings.Count(list, `"task_id":`), k)
			health := get(t, s, 503, "/health/readiness").body +
				get(t, s, 503, "/health/detailed").body
			const reason = `"reason":"the data file has failed: input/output error"`
			const want = "…" + reason + `…"storage":{"status":"unhealthy",` + reason + "…"
			like(t, what+"health", health, want)
			equal(t, what+"CRITICAL lines", len(find(log.String(), "level=CRITICAL.*file=")), 1)
			equal(t, what+"ERROR lines", len(find(log.String(), "level=ERROR.*cause=")), 6-k)
		}
	}
}

// A disk that does not answer holds up creations, and nothing else. After ten seconds, readiness
// and the storage check say so; when it answers again, all is well.
func TestADiskThatHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, _ := setUp(t)
		sample(s)
		d := newFaultyFile(t, "")
		answered := make(chan bool)
		d.before = func(call string) error {
			if call == "sync" {
				<-answered
			}
			return nil
		}
		d.keep(s.store)
		var creations sync.WaitGroup
		for range 2 {
			creations.Go(func() { post(t, s, 201, body) })
			synctest.Wait()
		}
		time.Sleep(10*time.Second - time.Nanosecond)
		get(t, s, 200, "/health/readiness")
		get(t, s, 200, "/health/detailed")
		time.Sleep(time.Nanosecond)
		const reason = `"reason":"the data file has not answered for 10s"`
		like(t, "readiness", get(t, s, 503, "/health/readiness").body, "…"+reason+"…")
		like(t, "health", get(t, s, 503, "/health/detailed").body, "…"+
			`"storage":{"status":"unhealthy",`+reason+"…")
		get(t, s, 200, "/health")
		get(t, s, 200, "/health/liveness")
		equal(t, "tasks", get(t, s, 200, "/api/tasks").body, `{"tasks":[]}`+"\n")
		equal(t, "tasks waiting", s.store.waiting, 2)
		answered <- true
		synctest.Wait()
		get(t, s, 200, "/health/readiness") // the second batch has its own ten seconds
		answered <- true
		creations.Wait()
		get(t, s, 200, "/health/readiness")
		get(t, s, 200, "/health/detailed")
	})
}

// slowWriter is a log that takes nothing until it is closed.
type slowWriter chan bool

func (w slowWriter) Write(p []byte) (int, error) { <-w; return len(p), nil }

// When the file fails and the log hangs, too, the line waits, and nobody else does: readers and
// probes are answered, and so are the creations of the same batch.
func TestAFailureWhileTheLogHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, _ := setUp(t, "-log-level=critical") // other lines would wait before their answers
		sample(s)
		log := make(slowWriter)
		s.logOutput.out = log
		d := newFaultyFile(t, "")
		results := make(chan error)
		d.before = func(call string) error {
			if call == "write" {
				return <-results
			}
			return nil
		}
		d.keep(s.store)
		var creations sync.WaitGroup
		var refused atomic.Int64
		for range 4 { // the first is a batch, and the others are the next
			creations.Go(func() { post(t, s, 0, body); refused.Add(1) })
			synctest.Wait()
		}
		results <- nil
		results <- syscall.EIO
		synctest.Wait()
		equal(t, "creations answered", refused.Load(), 3) // all but the one that tells it
		get(t, s, 503, "/health/readiness")
		get(t, s, 503, "/health/detailed")
		get(t, s, 200, "/health/liveness")
		get(t, s, 200, "/api/tasks")
		post(t, s, 500, body)
		close(log)
		creations.Wait()
	})
}

// What an operator does to the live file: no creation is acknowledged that no restart would find.
// The file is left as it is, which may be a backup that was put there. Reading goes on.
func TestTheLiveFileIsTouched(t *testing.T) {
	t.Parallel()
	const gone, changed = "no such file or directory", "another program has replaced or changed it"
	remove := func(path, _, _ string) error { return os.Remove(path) }
	move := func(path, _, _ string) error { return os.Rename(path, path+".1") }
	moveFolder := func(path, _, _ string) error {
		return os.Rename(filepath.Dir(path), filepath.Dir(path)+".1")
	}
	replace := func(path, text string) error { // as sed -i, rsync and editors do
		must(t, os.WriteFile(path+".new", []byte(text), 0o600))
		return os.Rename(path+".new", path)
	}
	edit := func(path, text, _ string) error { return replace(path, text) }
	moveOver := func(path, _, backup string) error { return replace(path, backup) }
	copyOver := func(path, _, backup string) error { // into the same file, as the shell does
		return os.WriteFile(path, []byte(backup), 0o600)
	}
	empty := func(path, _, _ string) error { return os.Truncate(path, 0) }
	cut := func(path, text, _ string) error { return os.Truncate(path, int64(len(text)-9)) }
	add := func(path, text, _ string) error {
		return os.WriteFile(path, []byte(text+"\n"), 0o600)
	}
	for name, row := range map[string]struct {
		touch  func(path, text, backup string) error // text is what is there
		reason string
	}{
		"rm": {remove, gone}, "mv": {move, gone}, "mv of its folder": {moveFolder, gone},
		"sed -i": {edit, changed}, "mv backup": {moveOver, changed},
		"cp backup": {copyOver, changed}, ": >": {empty, changed},
		"truncate": {cut, changed}, "echo >>": {add, changed},
	} {
		for _, isIdle := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", idle ", isIdle), func(t *testing.T) {
				t.Parallel()
				path := filepath.Join(t.TempDir(), "folder", "tasks")
				must(t, os.Mkdir(filepath.Dir(path), 0o700))
				s, log := setUp(t, "-data-file="+path)
				sample(s)
				s.store.verify() // sees nothing
				post(t, s, 201, body)
				backup := content(path)
				location := post(t, s, 201, body).header.Get("Location")
				get(t, s, 200, "/health/readiness")
				must(t, row.touch(path, content(path), backup))
				left, info := content(path), fmt.Sprint(os.Stat(path))

				if isIdle {
					s.store.verify()
				} else {
					post(t, s, 500, body)
				}
				reason := `"reason":"the data file has failed: ` + row.reason + `"`
				like(t, "readiness", get(t, s, 503, "/health/readiness").body, "…"+reason+"…")
				like(t, "health", get(t, s, 503, "/health/detailed").body, "…"+
					`"storage":{"status":"unhealthy",`+reason+"…")
				post(t, s, 500, body)
				s.store.verify()
				get(t, s, 200, location)
				told := find(log.String(), "level=CRITICAL.*"+row.reason)
				equal(t, "CRITICAL lines", len(told), 1)
				equal(t, "the file", content(path), left)
				equal(t, "its inode and times", fmt.Sprint(os.Stat(path)), info)
			})
		}
	}
}

// It is seen after a sync, too, what somebody has done during it. And if that fails, nothing is cut
// off a file that somebody else writes to.
func TestTheFileIsTouchedDuringASync(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		touch func(path string) error
		left  string // after the line of the task
	}{
		"rm": {os.Remove, ""},
		"echo >>": {func(path string) error {
			return os.WriteFile(path, []byte(content(path)+"mine"), 0)
		}, "mine"},
		"echo >> and a failure": {func(path string) error {
			must(t, os.WriteFile(path, []byte(content(path)+"mine"), 0))
			return syscall.EIO
		}, "mine"},
		"another file and a failure": {func(path string) error {
			text := content(path)
			must(t, os.Remove(path))
			must(t, os.WriteFile(path, []byte(text+"mine"), 0))
			return syscall.EIO
		}, "mine"},
	} {
		s, log := setUp(t)
		d := newFaultyFile(t, "")
		written := ""
		d.before = func(call string) error {
			if call == "sync" {
				written = content(d.Name())
				return row.touch(d.Name())
			}
			equal(t, name+": a call", call, "write")
			return nil
		}
		d.keep(s.store)
		post(t, s, 500, body)
		equal(t, name+": lines written", strings.Count(written, "\n"), 1)
		if row.left != "" {
			equal(t, name+": the file", content(d.Name()), written+row.left)
		}
		equal(t, name+": CRITICAL lines", len(find(log.String(), "level=CRITICAL")), 1)
		get(t, s, 503, "/health/readiness")
	}
}

// It is seen in a few seconds that the live file is gone, even if nobody creates a task.
func TestAnIdleServiceLooksAtItsFile(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a few seconds")
	}
	t.Parallel()
	path := filepath.Join(t.TempDir(), "tasks")
	c := start(t, "-data-file="+path)
	c.call(t, 200, "GET", "/health/readiness", "")
	must(t, os.Remove(path))
	eventually(t, "the log tells it", func() bool {
		return strings.Contains(c.log.String(), "level=CRITICAL")
	})
	c.call(t, 503, "GET", "/health/readiness", "")
}

// One process has a file, whatever the port and the path of the second. After kill -9 the next one
// takes over, and it is one process again.
func TestOneProcessHasAFile(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a few seconds")
	}
	t.Parallel()
	dir := t.TempDir()
	path, link := filepath.Join(dir, "tasks"), filepath.Join(dir, "link")
	must(t, os.Symlink("tasks", link))
	for round := range 2 {
		p := launch(t, nil, "-data-file="+path)
		p.call(t, 201, "POST", "/api/tasks", body)
		before := content(path)
		for _, other := range []string{path, link, filepath.Join(dir, ".", "tasks")} {
			status, _, said := taskapi(t, "", "-addr=127.0.0.1:0", "-data-file="+other)
			equal(t, "exit status and words of a second process", fmt.Sprint(status, " ", said),
				"1 taskapi: "+other+": another process has it\n")
		}
		equal(t, "the file", content(path), before)
		p.call(t, 201, "POST", "/api/tasks", body)
		equal(t, "tasks in the file", strings.Count(content(path), "\n"), 2*round+2)
		p.end(t, syscall.SIGKILL)
		_, err := os.Lstat(path + ".lock")
		equal(t, "the lock that is left after kill -9", err, nil)
	}
	p := launch(t, nil, "-data-file="+link)
	equal(t, "exit status", p.end(t, syscall.SIGTERM), 0)
	files, _ := filepath.Glob(dir + "/*")
	equal(t, "files after a clean stop", fmt.Sprint(files), fmt.Sprint([]string{link, path}))
}

// Where there can be no lock, a WARNING says so, and the start goes on.
func TestWithoutALock(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), strings.Repeat("x", 120)) // too long for a socket
	s, log := setUp(t, "-data-file="+path)
	post(t, s, 201, body)
	like(t, "the log", log.String(), "…level=WARNING msg=\"the data file has no lock…")

	// What is in the place of the lock, and is no socket, is somebody's file.
	path = write(t, "tasks", "")
	must(t, os.WriteFile(path+".lock", []byte("mine"), 0o600))
	s, log = setUp(t, "-data-file="+path)
	post(t, s, 201, body)
	like(t, "the log", log.String(), "…level=WARNING msg=\"the data file has no lock…")
	equal(t, "the file in the place of the lock", content(path+".lock"), "mine")
}

// At the start, the file is read, its end is mended, then it is synced, then the folder. A start
// that is refused calls nothing but read. A folder that cannot be synced is a WARNING.
func TestTheOrderOfAStart(t *testing.T) {
	t.Parallel()
	whole := lines(samples()...)
	damaged := strings.Replace(whole, "task_B", "task_A", 1)
	for _, row := range []struct {
		text, fails, calls, log, err string
	}{
		{"", "", "read sync folder", "", "<nil>"},
		{whole, "", "read sync folder", "", "<nil>"},
		{whole[:len(whole)-1], "", "read truncate write sync folder", "", "<nil>"},
		{whole + "\x00", "", "read truncate sync folder", "…torn last line…bytes=1\n", "<nil>"},
		{whole + `{"task`, "", "read truncate sync folder",
			"…torn last line…bytes=6\n", "<nil>"},
		{whole, "folder", "read sync folder",
			"…level=WARNING…folder…cannot be synced…", "<nil>"},
		{whole, "sync", "read sync", "", "input/output error"},
		{whole, "read", "read", "", "line 1: input/output error"},
		{whole[:len(whole)-1], "truncate", "read truncate", "", "line 3: input/output error"},
		{whole[:len(whole)-1], "write", "read truncate write", "", "line 3: input/output error"},
		{damaged, "", "read", "", "line 2: its task_id is there twice"},
		{damaged[:len(whole)-1], "", "read", "", "line 2: its task_id is there twice"},
		{whole + "a token", "", "read", "", "line 4: is no JSON object: " +
			"invalid character 'a' looking for beginning of value"},
	} {
		var log buffer
		s := &store{log: slog.New(newLogHandler(&log, "text", "warning")), index: map[string]int{}}
		var calls []string
		d := newFaultyFile(t, row.text)
		d.before = func(call string) error {
			calls = append(calls, call)
			if call == row.fails {
				return syscall.EIO
			}
			return nil
		}
		d.keep(s)
		s.file.syncFolder = func(path string) error {
			equal(t, "the folder that is synced", path, filepath.Dir(d.Name()))
			return d.before("folder")
		}
		err := s.restore(context.Background())
		s.close()
		got := strings.Join(slices.Compact(calls), " ")
		what := fmt.Sprintf("%.20q… (%d bytes), %s fails: ", row.text, len(row.text), row.fails)
		equal(t, what+"calls", got, row.calls)
		equal(t, what+"error", fmt.Sprint(err), row.err)
		like(t, what+"log", log.String(), row.log)
		if !strings.Contains(row.calls, "truncate") {
			equal(t, what+"the file", content(d.Name()), row.text)
		}
	}
}

// SIGTERM ends the reading of a file at once, wherever it is, without a trace.
func TestAStartIsStopped(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	for i := range 50_000 { // 5 MB
		task := *samples()[0]
		task.ID = fmt.Sprint("task_", i)
		text.WriteString(lines(&task))
	}
	d := newFaultyFile(t, text.String())
	ctx, stop := context.WithCancel(context.Background())
	reads := 0
	d.before = func(call string) error {
		equal(t, "a call", call, "read")
		if reads++; reads == 2 {
			stop()
		}
		return nil
	}
	s := &store{log: slog.New(slog.DiscardHandler), index: map[string]int{}}
	d.keep(s)
	err := s.restore(ctx)
	s.close()
	equal(t, "a start that is stopped: "+fmt.Sprint(err), errors.Is(err, context.Canceled), true)
	equal(t, "reads", reads, 2)

	dir := t.TempDir()
	args := []string{"-addr=127.0.0.1:0", "-log-file=" + dir + "/log", "-data-file=" + dir + "/new"}
	equal(t, "the program, stopped before it serves", run(ctx, args, io.Discard, io.Discard), nil)
	files, _ := os.ReadDir(dir)
	equal(t, "new files", len(files), 0)
}

func TestDataFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "tasks")
	c := start(t, "-data-file="+path)
	for _, name := range []string{"会議", `<\"\u2028>`, "😀"} {
		c.call(t, 201, "POST", "/api/tasks", `{"task_name":"`+name+`"}`)
	}
	list := c.call(t, 200, "GET", "/api/tasks", "").body
	before := content(path)
	array := strings.ReplaceAll(strings.TrimSuffix(before, "\n"), "\n", ",")
	equal(t, "the list, and the lines of the file", list, `{"tasks":[`+array+"]}\n")
	equal(t, "mode of the data file", mode(path), "-rw-------")
	c.stop()

	c = start(t, "-data-file="+path, "-max-tasks=2") // less than it holds: it is full
	equal(t, "tasks read", fmt.Sprint(find(c.log.String(), `tasks=(\d+) duration=`)), "[3]")
	equal(t, "the list", c.call(t, 200, "GET", "/api/tasks", "").body, list)
	c.call(t, 507, "POST", "/api/tasks", body)
	c.call(t, 503, "GET", "/health/readiness", "")
	got := c.call(t, 200, "GET", "/debug/storage", "").body
	want := `{"storage_stats":{"capacity":2,"file":"` + path + `","storage_type":"file",` +
		`"total_tasks":3},` + list[1:]
	equal(t, "GET /debug/storage", got, want)
	equal(t, "the file", content(path), before)
}

// A link that leads to no file yet leads to the file afterwards.
func TestADanglingLink(t *testing.T) {
	t.Parallel()
	path, link := filepath.Join(t.TempDir(), "tasks"), filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(path, link))
	s, _ := setUp(t, "-data-file="+link)
	post(t, s, 201, body)
	equal(t, "tasks in the file", strings.Count(content(path), "\n"), 1)
	equal(t, "the file whose folder is synced, and that is locked", s.store.file.realPath, path)

	// What a restart would find is what the link leads to.
	other := write(t, "other", content(path))
	must(t, os.Remove(link))
	must(t, os.Symlink(other, link))
	post(t, s, 500, body)
	equal(t, "tasks in the file, which is touched no more", strings.Count(content(path), "\n"), 1)
	equal(t, "tasks in the other", strings.Count(content(other), "\n"), 1)
}

// samples are tasks with what JSON escapes, and what it does not.
func samples() []*Task {
	const at = "2026-01-02T03:04:05Z"
	return []*Task{{"task_A", `会 "<b>\`, "ü", pending, at},
		{"task_B", "b", "system", pending, at}, {"task_C-9_", "😀&", "c", pending, at}}
}

// restore opens a data file with this text. It returns the text that is in it then, too.
func restore(t testing.TB, path, text string) (s *store, log, after string, err error) {
	must(t, os.WriteFile(path, []byte(text), 0o600))
	var lines buffer
	logger := slog.New(newLogHandler(&lines, "text", "warning"))
	s, err = openStore(context.Background(), path, 10, logger)
	if err == nil {
		s.close() // the next one may have it
	}
	return s, lines.String(), content(path), err
}

// Wherever a crash cuts a line, what is whole is kept: a last line that lacks only its newline gets
// it. The beginning of a line is cut off, with the zeros that some file systems leave after it.
func TestWhatACrashLeftOfALine(t *testing.T) {
	t.Parallel()
	path, text := filepath.Join(t.TempDir(), "tasks"), lines(samples()[:2]...)
	for n := range len(text) + 1 {
		for _, zeros := range []int{0, 1, 5000} {
			whole := text[:strings.LastIndexByte(text[:n], '\n')+1]
			if n < len(text) && text[n] == '\n' {
				whole = text[:n+1]
			}
			s, log, after, err := restore(t, path, text[:n]+strings.Repeat("\x00", zeros))
			must(t, err)
			tasks, _ := s.page("", 10)
			must(t, s.add(&Task{}))
			warned := find(log, `level=(.*?) .* bytes=(\d+)`)
			got := fmt.Sprint(warned, lines(tasks...), after, content(path))
			warning := ""
			if cut := n + zeros - min(n, len(whole)); cut > 0 {
				warning = fmt.Sprint("WARNING:", cut)
			}
			want := fmt.Sprint("[", warning, "]", whole, whole, whole, lines(&Task{}))
			what := "warning, tasks, file, and with one more"
			equal(t, fmt.Sprintf("%q and %d zeros: %s", text[:n], zeros, what), got, want)
		}
	}
}

// A flipped bit never loses or adds a task, unless it takes the last newline, and never changes
// more than the text in which it lies: no form of JSON can tell that. (A checksum could.)
func TestFlippedBits(t *testing.T) {
	t.Parallel()
	path, text := filepath.Join(t.TempDir(), "tasks"), lines(samples()[:2]...)
	value := regexp.MustCompile(`:"(?:[^"\\]|\\.)*"`)
	for bit := range 8 * len(text) {
		damaged := []byte(text)
		damaged[bit/8] ^= 1 << (bit % 8)
		s, _, after, err := restore(t, path, string(damaged))
		file := string(damaged)
		if err == nil {
			tasks, _ := s.page("", 10)
			got, want := value.FindAllString(lines(tasks...), -1), value.FindAllString(text, -1)
			if bit/8 == len(text)-1 {
				file, want = lines(samples()[:1]...), want[:5]
			}
			for i, span := range value.FindAllStringIndex(text, -1) {
				if i < len(got) && span[0]+1 < bit/8 && bit/8 < span[1]-1 {
					want[i] = got[i]
				}
			}
			equal(t, fmt.Sprintf("tasks of %q", damaged), fmt.Sprint(got), fmt.Sprint(want))
		}
		equal(t, fmt.Sprintf("the file %q, refused with %v", damaged, err), after, file)
	}
}

// Anything but a torn last line ends the start with one line that names file, line and reason.
func TestDamagedDataFilesAreRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "tasks")
	first, good := lines(samples()[0]), lines(samples()[1])
	with := func(old, new string) string { return strings.Replace(good, old, new, 1) }
	long := func(n int) string { return with(`"b"`, `"`+strings.Repeat("b", n)+`"`) }
	const user = "user_id is missing, or no string"
	for name, row := range map[string]struct{ line, reason string }{
		"half an object":              {good[:20] + "\n", "JSON"},
		"two objects":                 {with("\n", "") + good, "JSON"},
		"a blank line":                {"\n", "JSON"},
		"bytes that are no UTF-8":     {with("system", "\xff"), "UTF-8"},
		"an id that stands twice":     {first, "its task_id is there twice"},
		"worse than an id twice":      {strings.Replace(first, "pending", "done", 1), "status"},
		"an id that no URL can carry": {with("task_B", "task_/"), "task_id"},
		"an id that a URL would cut":  {with("task_B", ".."), "task_id"},
		"an empty id":                 {with("task_B", ""), "task_id"},
		"a byte order mark":           {"\uFEFF" + good, "beginning"},
		"a raw tab":                   {with(`"b"`, "\"\tb\""), "JSON"},
		"an unknown member":           {with(`{`, `{"state":"a",`), "a member that is not known"},
		"a missing member":            {with(`"user_id":"system",`, ""), user},
		"a key in another case":       {with("task_id", "Task_ID"), "task_id"},
		"null":                        {with(`"system"`, "null"), user},
		"a number":                    {with(`"system"`, "1"), user},
		"zeros in the middle":         {"\x00\x00" + good, "JSON"},
		"a line over 4 KiB":           {long(4096), "longer than 4096"},
		"a line over 1 MiB":           {long(2 << 20), "longer than 4096"},
		"another status":              {with("pending", "done"), "status"},
		"a day that is none":          {with("01-02", "02-30"), "created_at"},
		"an array":                    {"[" + strings.TrimSpace(good) + "]\n", "JSON"},
	} {
		text := first + row.line + lines(samples()[2])
		_, _, after, err := restore(t, path, text)
		like(t, name, fmt.Sprint(err), path+": line 2: …"+row.reason+"…")
		equal(t, name+": lines of "+fmt.Sprint(err), strings.Count(fmt.Sprint(err), "\n"), 0)
		equal(t, name+": the file", after, text)
	}
}

// The rules for new texts do not apply to stored ones: an older Go, or a stricter release, reads
// what a newer one has stored, and what a person has written by hand. Answers show it, too.
func TestStoredTasksMayFollowOtherRules(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "tasks")
	for name, want := range map[string]*Task{
		"a name that only a newer Unicode knows": {Name: "\U000E0FFF"},
		"a name that is known to be invisible":   {Name: "\u3164"},
		"a name that is too long today":          {Name: strings.Repeat("会", 500)},
		"a name with white space around it":      {Name: " \ta\n"},
		"a user of another rule":                 {UserID: "\x01"},
		"an id of another form":                  {ID: "B"},
		"a very long id":                         {ID: strings.Repeat("b", 1000)},
	} {
		task := *samples()[1]
		task.ID, task.Name = cmp.Or(want.ID, task.ID), cmp.Or(want.Name, task.Name)
		task.UserID = cmp.Or(want.UserID, task.UserID)
		text := lines(samples()[0], &task, samples()[2])
		s, _, after, err := restore(t, path, text)
		equal(t, name, err, nil)
		tasks, _ := s.page("", 10)
		equal(t, name+": tasks read", lines(tasks...), text)
		equal(t, name+": the file", after, text)
		equal(t, name+": by its id", *s.get(task.ID), task)
	}
	const at = `"created_at":"2026-01-02T03:04:05Z"`
	for _, line := range []string{
		`{"task_id":"B","task_name":"b","user_id":"c","status":"pending",` + at + `}`,
		`{"task_id":"B","task_name":"\u0062","user_id":"c","status":"pending",` + at + `}`,
		` { ` + at + `, "user_id": "c", "status": "pending", "task_name": "b", "task_id": "B" } `,
		`{"task_id":"B","task_name":"b","user_id":"c","status":"pending",` +
			`"created_at":"2026-01-02T04:04:05+01:00"}`,
		`{"task_id":"B","task_name":"b","user_id":"c","status":"pending",` +
			`"created_at":"2026-01-02T03:04:05.9Z"}`,
		`{"task_id":"B","task_name":"b","user_id":"c","status":"pending",` +
			`"created_at":"2026-01-02T3:04:05,000Z"}`,
	} {
		s, _, after, err := restore(t, path, line+"\n")
		must(t, err)
		equal(t, line, *s.get("B"), Task{"B", "b", "c", pending, "2026-01-02T03:04:05Z"})
		equal(t, "the file", after, line+"\n")
	}
}

// What is given by mistake is refused at once, in one line, in little memory, and left alone.
func TestWhatIsNoDataFileIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	hole, holed := dir+"/hole", dir+"/holed"
	must(t, os.WriteFile(hole, nil, 0o600))
	must(t, os.Truncate(hole, 3<<30))
	must(t, os.WriteFile(holed, []byte(lines(samples()[0])), 0o600))
	must(t, os.Truncate(holed, 3<<30))
	fifo := dir + "/fifo"
	must(t, exec.Command("mkfifo", fifo).Run())
	nearly := lineBeginning + strings.Repeat("a", 5000)
	for path, want := range map[string]string{
		write(t, "token", "s3cret"):     "line 1: is no JSON…",
		write(t, "token", "s3cret\n"):   "line 1: is no JSON…",
		write(t, "nearly", nearly):      "line 1: is longer than 4096 bytes",
		write(t, "zeros", "\x00\n"):     "line 1: is no JSON…",
		write(t, "object", `{"a":"b"}`): "line 1: task_id is missing, or no string",
		hole:                            "line 1: is longer than 4096 bytes",
		holed:                           "line 2: is longer than 4096 bytes",
		fifo:                            "is no regular file",
		"/dev/zero":                     "is no regular file",
		"/dev/null":                     "is no regular file",
		dir:                             "is a directory",
	} {
		before, _ := os.Lstat(path)
		var used, left runtime.MemStats
		runtime.ReadMemStats(&used)
		_, err := openStore(context.Background(), path, 10, slog.New(slog.DiscardHandler))
		runtime.ReadMemStats(&left)
		equal(t, path+" takes little memory", left.TotalAlloc-used.TotalAlloc < 4<<20, true)
		said := fmt.Sprint(err)
		like(t, path, said[strings.LastIndex(said, path)+len(path)+2:], want)
		after, _ := os.Lstat(path)
		if path != "/dev/zero" && path != "/dev/null" && path != dir {
			equal(t, path+": size and time", fmt.Sprint(after.Size(), after.ModTime()),
				fmt.Sprint(before.Size(), before.ModTime()))
		}
		_, err = os.Lstat(path + ".lock")
		equal(t, path+": a lock is left", errors.Is(err, os.ErrNotExist), true)
	}
}

// --- 8. README.md, openapi.json and the program say the same. ---

//go:embed README.md
var readme string

//go:embed task.go
var source string

// Who adds a route, an error code, a category or a family is told here what else has to change.
func TestDocumentsAreInStep(t *testing.T) {
	t.Parallel()
	same := func(what string, there, here []string) {
		t.Helper()
		for _, item := range slices.Concat(there, here) {
			what := fmt.Sprintf("%q is in %s (want: as in the program)", item, what)
			equal(t, what, slices.Contains(there, item), slices.Contains(here, item))
		}
	}
	enum := func(schema, field string) []string {
		property := member(document, "components", "schemas", schema, "properties", field)
		return strings.Fields(strings.Trim(fmt.Sprint(property["enum"]), "[]"))
	}
	runtime.GC() // one family tells when the last collection was
	c := start(t)

	index := c.call(t, 200, "GET", "/", "").body
	var routes, codes, declared []string
	for _, rt := range c.api() {
		path := strings.TrimSuffix(rt.Path, "{$}")
		equal(t, "GET / lists "+path, strings.Contains(index, strconv.Quote(path)), true)
		routes = append(routes, rt.Method+" "+path)
		operation := member(document, "paths", path, strings.ToLower(rt.Method))
		summary := fmt.Sprint(operation["summary"])
		equal(t, "summary of "+path+" in openapi.json", summary, rt.Summary)
	}
	same("routes of README.md", find(readme, "(?m)^. `([A-Z]+ /[^`?{…]*(?:{task_id})?)"), routes)
	same("operations of openapi.json", slices.Collect(maps.Keys(operations)),
		append(routes, unmatched))

	for _, code := range errorCodes {
		declared = append(declared, fmt.Sprint(code.Name, ":", code.status, ":", code.category))
		if code.Name != "" {
			codes = append(codes, fmt.Sprint(code.status, ":", code.Name))
		}
	}
	details := find(source, `(?:field|name|"\w+"), "([A-Z_]+)", `)
	same("errorCodes", declared, find(source, `= errorCode\{"(\w*)", (\d+), .*, "(\w*)"\}`))
	same("errors of README.md", find(readme, "(?m)^\\| (\\d+) \\| `([A-Z_]+)` \\| .*[a-z]"), codes)
	same("errors of openapi.json", enum("ErrorEnvelope", "error_code"),
		find(source, `= errorCode\{"(\w+)"`))
	same("details of openapi.json", enum("ErrorDetail", "code"), details)
	same("details of README.md", find(readme, "`("+strings.Join(details, "|")+")`"), details)
	same("categories of README.md", find(readme, "(?m)^\\|.*\\| `[A-Z]+` \\| `([A-Z]+)`"),
		append(find(source, `= errorCode\{.*, "(\w+)"\}`), "PERFORMANCE"))

	page := c.call(t, 200, "GET", "/metrics", "").body
	declared = find(familyTable, `(?m)^(\w+) \| (\w+) \| .`)
	for _, sample := range find(page, `(?m)^([a-z_]+?)(?:_bucket|_sum|_count)?[ {]`) {
		isDeclared := strings.Contains("\n"+familyTable, "\n"+sample+" | ")
		equal(t, sample+" has a row in deploy/metrics.txt", isDeclared, true)
	}
	if runtime.GOOS == "linux" { // elsewhere, not all of them can be read
		same("metrics.txt", declared, find(page, `(?m)^# HELP (\S+) .+\n# TYPE \S+ (\S+)$`))
	}
	kinds := regexp.MustCompile(`(?m)^(go_|process_).*`) // for each of them, README.md has one row
	declared = strings.Fields(kinds.ReplaceAllString(strings.Join(declared, "\n"), "$1*:"))
	listed := find(readme, "(?m)^\\| `([a-z_]+\\*?)` \\| (counter|gauge|histogram|) ?\\|")
	same("metrics of README.md", listed, declared)

	usage, _ := parseFlags([]string{"-h"})
	for line := range strings.Lines(usage.answer) {
		what := "README.md has this line of taskapi -h: " + line
		equal(t, what, strings.Contains(readme, line), true)
	}
	there := strings.Contains(readme, usage.answer)
	equal(t, "README.md has all of taskapi -h, in its order", there, true)
}

// The bounds of the histogram stand twice, as numbers and as Prometheus 3 writes them.
func TestBoundsAreTheirTexts(t *testing.T) {
	t.Parallel()
	equal(t, "the last text", boundTexts[len(bounds)], "+Inf")
	for i, bound := range bounds {
		number, err := strconv.ParseFloat(boundTexts[i], 64)
		must(t, err)
		equal(t, "bound "+boundTexts[i], number, bound)
	}
}

// A judge that finds nothing proves nothing.
func TestJudgeFindsFaults(t *testing.T) {
	t.Parallel()
	for schema, wrong := range map[string]string{
		`{"$ref":"#/components/schemas/Timestamp"}`: `"x"`, `{"$ref":"#/nowhere"}`: `1`,
		`{"type":"integer"}`: `1.5`, `{"type":"string"}`: `1`, `{"type":["string"]}`: `"a"`,
		`{"format":"date-time"}`: `"2026-02-30T00:00:00Z"`,
		`{"enum":["a"]}`:         `"b"`, `{"pattern":"^a$"}`: `"ab"`,
		`{"minLength":2}`: `"é"`, `{"maxLength":1}`: `"ab"`, `{"minimum":1}`: `0`,
		`{"maximum":1}`: `2`, `{"maxItems":1}`: `[1,2]`, `{"items":{"type":"string"}}`: `["a",1]`,
		`{"required":["a"]}`: `{"b":1}`, `{"properties":{"a":{"enum":[1]}}}`: `{"a":2}`,
		`{"properties":{"a":{}},"additionalProperties":false}`: `{"a":1,"b":1}`, `{"not":{}}`: `1`,
	} {
		var pair []any
		must(t, json.Unmarshal([]byte("["+wrong+","+schema+"]"), &pair))
		equal(t, wrong+" breaks "+schema, len(defects("value", pair[0], pair[1])) > 0, true)
	}
	good := start(t).call(t, 405, "PUT", "/health", "")
	for what, spoil := range map[string]func(*answer){
		"a status that is not documented": func(a *answer) { a.status = 408 },
		"the error of another status": func(a *answer) {
			a.body = strings.Replace(a.body, "METHOD_NOT_ALLOWED", "NOT_FOUND", 1)
		},
		"a length that is missing":   func(a *answer) { a.header.Del("Content-Length") },
		"a length that is wrong":     func(a *answer) { a.header.Set("Content-Length", "1") },
		"an answer that may be kept": func(a *answer) { a.header.Del("Cache-Control") },
		"another media type":         func(a *answer) { a.header["Content-Type"] = nil },
		"a header that is missing":   func(a *answer) { a.header["Allow"] = nil },
		"half a body":                func(a *answer) { a.body = a.body[:40] },
		"the id of another request":  func(a *answer) { a.header["X-Request-Id"][0] = "x" },
	} {
		bad := good
		bad.header = good.header.Clone()
		spoil(&bad)
		equal(t, "judge finds "+what, len(bad.faults()) > 0, true)
	}
}

// provoked are the error codes that TestRecords has seen, as keys of errorCodes are written there.
var provoked sync.Map

// An example is found in openapi.json under an operation and a status. Its summary is the request
// as a script writes it, and its description names the flags of the service.
type example struct {
	status               int
	request, description string
	value                any
}

// examples are those of all responses, each once.
func examples(t *testing.T) (found []example) {
	seen := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(operations)) {
		for status := range operations[name] {
			content := member(operations[name], status, "content", "application/json")
			code, _ := strconv.Atoi(status)
			values := member(content, "examples")
			equal(t, name+" "+status+" has an example", content == nil || values != nil ||
				name == "GET /openapi.json", true)
			for key := range values {
				one := member(values, key)
				request, _ := one["summary"].(string)
				description, _ := one["description"].(string)
				if id := status + request + description; !seen[id] {
					found = append(found, example{code, request, description, one["value"]})
					seen[id] = true
				}
			}
		}
	}
	return found
}

// normaliseJSON returns a value as JSON with its keys in order, without what differs from run to
// run and from host to host.
func normaliseJSON(t *testing.T, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	must(t, err)
	numbers := regexp.MustCompile(`"(uptime_seconds|\w+_percent|\w+_bytes)":[0-9.]+`)
	names := regexp.MustCompile(`"(version|request_id)":"[^"]*"`)
	text = numbers.ReplaceAll(names.ReplaceAll(text, []byte(`"$1":""`)), []byte(`"$1":0`))
	return normalise(string(text))
}

// The examples of openapi.json are what the service says, after the two creations that are the
// examples of POST /api/tasks.
func TestExamplesAreAnswers(t *testing.T) {
	t.Parallel()
	creations := member(document, "paths", "/api/tasks", "post", "requestBody", "content",
		"application/json", "examples")
	token := write(t, "token", "s3cret")
	all := examples(t)
	equal(t, fmt.Sprint(len(all), " examples are many"), len(all) > 20, true)
	for _, e := range all {
		t.Run(fmt.Sprint(e.request, " ", e.status), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // where no token of -rate comes back meanwhile
				data := filepath.Join(t.TempDir(), "tasks")
				flags := []string{"-cpu-high=100", "-memory-high=100", "-disk-high=100"}
				for _, flag := range find(e.description, "With `(.*?)`") {
					flag = strings.Replace(flag, "-token-file token", "-token-file "+token, 1)
					flags = append(flags, strings.Fields(flag)...)
				}
				if e.description == "The data file has failed." {
					flags = append(flags, "-data-file", data)
				}
				s, _ := setUp(t, flags...)
				sample(s)
				send := func(status int, row exchange) answer {
					t.Helper()
					req := httptest.NewRequest(row.method, "http://localhost"+row.path,
						strings.NewReader(row.body))
					req.RemoteAddr = "127.0.0.1:1234"
					req.Header.Set("Content-Type", "application/json")
					for _, line := range row.header {
						name, value, _ := strings.Cut(line, ": ")
						req.Header.Set(name, value)
					}
					if strings.Contains(e.description, "does not come") && row.body == "" {
						req.Body = io.NopCloser(iotest.ErrReader(os.ErrDeadlineExceeded))
					}
					return serve(t, s, status, row.method+" "+row.path+" "+row.body, req)
				}
				var ids []string
				for _, name := range []string{"full", "short"} {
					text, _ := json.Marshal(member(creations, name)["value"])
					a := send(201, exchange{method: "POST", path: "/api/tasks", body: string(text),
						header: []string{"Authorization: Bearer s3cret"}})
					ids = append(ids, path.Base(a.header.Get("Location")))
				}
				if e.description == "The data file has failed." {
					must(t, os.Remove(data))
				}
				id := regexp.MustCompile(`task_[0-9a-z]{26,}`)
				request := id.ReplaceAllString(e.request, ids[0])
				rows := parse(request + " -> " + strconv.Itoa(e.status))
				equal(t, "requests in the summary "+e.request, len(rows), 1)
				var got any
				must(t, json.Unmarshal([]byte(send(e.status, rows[0]).body), &got))
				what := "the answer to " + request + " (want: the example in openapi.json)"
				equal(t, what, normaliseJSON(t, got), normaliseJSON(t, e.value))
			})
		})
	}
}

// produced are the operations and statuses of all answers that judge has seen.
var produced sync.Map

// notProduced are answers in the document that no test provokes: a panic could happen on any route,
// and TestRecords has a route of its own for that, and for the pages of pprof.
var notProduced = regexp.MustCompile(`^(GET /\S*|x-unmatched) 500$`)

// TestMain fails if no test has seen an answer that the document promises, or an error code. It
// cannot tell if only some of the tests have run.
func TestMain(m *testing.M) {
	if os.Getenv("TASKAPI_TEST") == "program" { // the test binary is the program, too
		main()
		return
	}
	// The first profile starts goroutines that stay: they must not belong to the bubble of a test.
	if pprof.StartCPUProfile(io.Discard) == nil {
		pprof.StopCPUProfile()
	}
	code := m.Run()
	isWhole := code == 0 && !testing.Short()
	for _, filter := range []string{"run", "skip", "list", "fuzz"} {
		isWhole = isWhole && flag.Lookup("test."+filter).Value.String() == ""
	}
	if missing := notSeen(); isWhole && missing != nil {
		fmt.Println("no test has seen:\n\t" + strings.Join(missing, "\n\t"))
		code = 1
	}
	os.Exit(code)
}

// notSeen names what openapi.json and errorCodes promise, and no test has provoked.
func notSeen() (missing []string) {
	for name, responses := range operations {
		for status := range responses {
			name := name + " " + status
			if _, seen := produced.Load(name); !seen && !notProduced.MatchString(name) {
				missing = append(missing, "an answer of openapi.json: "+name)
			}
		}
	}
	for _, code := range errorCodes {
		level := replaceAttr(nil, slog.Any("level", code.level)).Value
		key := fmt.Sprint(code.Name, " ", code.status, " ", level, " ", code.category)
		if _, seen := provoked.Load(key); !seen {
			missing = append(missing, "an error code in the rows of records: "+key)
		}
	}
	slices.Sort(missing)
	return missing
}

// --- 9. Fuzzing: what no table thinks of. ---

func FuzzCreateTask(f *testing.F) {
	for _, row := range creations() {
		f.Add([]byte(row.body))
	}
	s, _ := setUp(f, "-log-level=critical")
	f.Fuzz(func(t *testing.T, sent []byte) {
		a := post(t, s, 0, string(sent))
		if a.status != 201 {
			equal(t, a.curl, a.status, map[bool]int{true: 413, false: 400}[len(sent) > 64<<10])
			return
		}
		want := map[string]string{"user_id": "system"}
		must(t, json.Unmarshal(bytes.TrimPrefix(sent, []byte("\uFEFF")), &want))
		got := s.store.get(path.Base(a.header.Get("Location")))
		equal(t, fmt.Sprintf("task created by %q", sent), [2]string{got.Name, got.UserID},
			[2]string{strings.TrimSpace(want["task_name"]), strings.TrimSpace(want["user_id"])})
	})
}

// Whatever is in a data file, and whatever its end: a start refuses it and changes nothing, or it
// keeps every whole line. What is read comes back when it is written and read again.
func FuzzRestore(f *testing.F) {
	text := lines(samples()...)
	for _, seed := range []string{"", "\n", text, text[:len(text)-1], text + text, "\uFEFF" + text,
		strings.ReplaceAll(text, "\n", " \r\n"), strings.ReplaceAll(text, "05Z", "05,5Z"),
		strings.ReplaceAll(text, "05Z", "05.5+01:00"), text[:len(text)-9], text + "{}",
		strings.ReplaceAll(text, `name":"`, `name":" `), text + "\x00\x00", text + `{"task_id":"`,
		text[:len(text)-1] + "\x00\x00", text + "\x00{", text + "a token"} {
		f.Add([]byte(seed))
	}
	service, _ := setUp(f, "-log-level=critical")
	// read is restore on a disk that need not be waited for.
	read := func(t *testing.T, text string) (s *store, after string, err error) {
		d := newFaultyFile(t, text)
		s, _ = openStore(t.Context(), "", 10, slog.New(slog.DiscardHandler))
		d.keep(s)
		s.file.syncFolder = func(string) error { return nil }
		err = s.restore(t.Context())
		s.close()
		return s, content(d.Name()), err
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, after, err := read(t, string(data))
		if err != nil {
			equal(t, "the file, refused with "+err.Error(), after, string(data))
			return
		}
		whole := string(data[:bytes.LastIndexByte(data, '\n')+1])
		end := strings.TrimRight(string(data[len(whole):]), "\x00")
		if json.Valid([]byte(end)) { // only its newline is missing
			whole += end + "\n"
		}
		equal(t, "the file", after, whole)
		tasks, _ := s.page("", 1<<20)
		equal(t, "tasks in "+after, len(tasks), strings.Count(after, "\n"))
		service.store = s // judge knows the rules
		get(t, service, 200, "/api/tasks?limit=1000")
		again, _, err := read(t, lines(tasks...))
		must(t, err)
		tasksAgain, _ := again.page("", 1<<20)
		equal(t, "written and read again", lines(tasksAgain...), lines(tasks...))
	})
}

// --- 10. Benchmarks: a request of each kind, over a real connection. ---

func BenchmarkService(b *testing.B) {
	bodies := map[string]string{"POST": `{"task_name":"会議資料の準備","user_id":"user123"}`}
	file := "-data-file=" + b.TempDir() + "/tasks"
	for name, row := range map[string]struct{ method, path, flag string }{
		"create": {"POST", "/api/tasks", ""}, "create in a file": {"POST", "/api/tasks", file},
		"get": {"GET", "/api/tasks/{task_id}", ""}, "list": {"GET", "/api/tasks?limit=100", ""},
		"health": {"GET", "/health", ""}, "detailed": {"GET", "/health/detailed", ""},
		"metrics": {"GET", "/metrics", ""},
	} {
		c := start(b, "-max-tasks=100000000", "-log-file="+b.TempDir()+"/log",
			cmp.Or(row.flag, "-rate=0"))
		for range 100 {
			c.call(b, 201, "POST", "/api/tasks", bodies["POST"])
		}
		tasks, _ := c.store.page("", 1)
		path := strings.ReplaceAll(row.path, "{task_id}", tasks[0].ID)
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				body := strings.NewReader(bodies[row.method])
				req, _ := http.NewRequest(row.method, c.base+path, body)
				req.Header.Set("Content-Type", "application/json")
				resp, err := c.http.Do(req)
				must(b, err)
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				equal(b, "success", resp.StatusCode < 300, true)
			}
		})
	}
}
