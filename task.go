package main

// Tasks over HTTP: a request is parsed once, judged once and answered once. Below the three handlers stand the rules
// for a request's body and query, and the one form in which every error of the service leaves it.

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"math"
	"mime"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	maxBody     = 64 << 10 // bytes of a request body
	maxText     = 100      // code points of a task_name or user_id
	maxDetails  = 20       // faults told in one answer
	defaultPage = 100      // tasks
	maxPage     = 1000     // tasks
)

// Task is what the service is about. The struct is its JSON form, too.
type Task struct {
	ID        string    `json:"task_id"` // set by the store; safe in a URL
	Name      string    `json:"task_name"`
	UserID    string    `json:"user_id"`
	Status    string    `json:"status"`     // "pending": this service only creates tasks
	CreatedAt time.Time `json:"created_at"` // UTC, whole seconds
}

// wholeSeconds is the precision of every timestamp in an answer: load tools count bodies of changing length as failed.
func wholeSeconds(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

// createTask: POST /api/tasks.
func (s *service) createTask(w *response, r *http.Request) error {
	name, userID, err := parseTask(w, r)
	if err != nil {
		return err
	}
	if wait := s.limiter.take(time.Now()); wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
		return &problem{Code: "RATE_LIMITED", Message: "too many tasks are being created; try again later"}
	}
	task, err := s.store.add(name, userID)
	if err != nil {
		return &problem{Code: "STORE_FULL", Message: err.Error()}
	}
	s.metrics.created.Add(1)
	w.created = task
	w.Header()["Location"] = []string{"/api/tasks/" + task.ID}
	return w.sendJSON(http.StatusCreated, struct {
		Task
		Message string `json:"message"`
	}{task, "task created"})
}

// getTask: GET /api/tasks/{task_id}.
func (s *service) getTask(w *response, r *http.Request) error {
	task, ok := s.store.get(r.PathValue("task_id"))
	if !ok {
		return &problem{Code: "NOT_FOUND", Message: "there is no such task"}
	}
	return w.sendJSON(http.StatusOK, task)
}

// taskPage is a part of the list of tasks, oldest first.
type taskPage struct {
	Tasks []Task `json:"tasks"`
	Next  string `json:"next,omitempty"` // what to pass as after for the next page; absent on the last one
}

// listTasks: GET /api/tasks.
func (s *service) listTasks(w *response, r *http.Request) error {
	page, err := s.page(r)
	if err != nil {
		return err
	}
	return w.sendJSON(http.StatusOK, page)
}

// page reads limit and after from the query and fetches that page.
func (s *service) page(r *http.Request) (taskPage, error) {
	limit, after := defaultPage, ""
	var faults faults
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		faults.add("query", "INVALID_VALUE", "the query string is not well formed")
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		values := query[name]
		switch n, err := strconv.ParseUint(values[0], 10, 64); {
		case name != "limit" && name != "after":
			faults.add(name, "UNKNOWN_FIELD", "this parameter is not known")
		case len(values) > 1:
			faults.add(name, "INVALID_VALUE", "this parameter is given more than once")
		case name == "after":
			if after = values[0]; after == "" {
				faults.add("after", "INVALID_VALUE", "after is empty")
			}
		case err != nil || n < 1 || n > maxPage:
			faults.add("limit", "INVALID_VALUE", "limit is a whole number from 1 to 1000")
		default:
			limit = int(n)
		}
	}
	tasks, next, ok := s.store.page(after, limit)
	if !ok {
		faults.add("after", "INVALID_VALUE", "there is no such task to continue after")
	}
	return taskPage{tasks, next}, faults.problem()
}

// parseTask reads the body of a creation: one JSON object with a task_name and perhaps a user_id, and nothing else.
// What it returns obeys every rule for them; its error is a *problem that names everything wrong with the request.
func parseTask(w *response, r *http.Request) (name, userID string, err error) {
	body, err := readJSON(w, r)
	if err != nil {
		return "", "", err
	}
	// A map, not a struct: encoding/json would take TASK_NAME for task_name, null for an empty string, and stop at the
	// first unknown field. An overflowing number is the one error after which the object is complete (and holds null).
	var value any
	err = json.Unmarshal(body, &value)
	object, isObject := value.(map[string]any)
	if _, overflow := errors.AsType[*json.UnmarshalTypeError](err); err != nil && !overflow {
		return "", "", malformed("the body is not valid JSON: " + err.Error())
	} else if !isObject {
		return "", "", malformed("the body is not a JSON object")
	}
	var faults faults
	userID = "system"
	for _, field := range []struct {
		name     string
		required bool
		value    *string
	}{
		{"task_name", true, &name},
		{"user_id", false, &userID},
	} {
		given, present := object[field.name]
		delete(object, field.name)
		if text, isString := given.(string); isString {
			*field.value = faults.text(field.name, text)
		} else if present {
			faults.add(field.name, "INVALID_TYPE", "this field is a string")
		} else if field.required {
			faults.add(field.name, "REQUIRED", "this field is missing")
		}
	}
	for _, field := range slices.Sorted(maps.Keys(object)) {
		faults.add(field, "UNKNOWN_FIELD", "this field is not known")
	}
	return name, userID, faults.problem()
}

// readJSON returns the body of a request that says it is JSON: at most maxBody bytes of valid UTF-8.
func readJSON(w *response, r *http.Request) ([]byte, error) {
	kind := r.Header.Get("Content-Type")
	if kind != "application/json" { // the common spelling needs no parser
		kind, _, _ = mime.ParseMediaType(kind)
	}
	if coding := r.Header.Get("Content-Encoding"); kind != "application/json" || coding != "" && coding != "identity" {
		return nil, &problem{Code: "UNSUPPORTED_MEDIA_TYPE", Message: "the body must be application/json, not compressed"}
	}
	var body bytes.Buffer
	body.Grow(int(min(max(r.ContentLength, 0), maxBody)) + bytes.MinRead)
	// MaxBytesReader tells net/http's own writer to close the connection, so it must not be given the wrapper.
	_, err := body.ReadFrom(http.MaxBytesReader(w.ResponseWriter, r.Body, maxBody))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return nil, &problem{Code: "BODY_TOO_LARGE", Message: "the body is larger than 64 KiB"}
	} else if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, &problem{Code: "REQUEST_TIMEOUT", Message: "the body did not arrive in time"}
	} else if err != nil {
		return nil, malformed("the body ended early or was framed wrongly")
	}
	if !utf8.Valid(body.Bytes()) {
		p := malformed("the body is not valid UTF-8")
		p.attack = true
		return nil, p
	}
	return body.Bytes(), nil
}

// problem is an error as a client sees it, and the JSON form of it. All that a client may know is in here; the cause of
// an error that is no problem goes to the log alone.
type problem struct {
	Code      string    `json:"error_code"` // a key of statusOf
	Message   string    `json:"error_message"`
	Details   faults    `json:"details"`
	Timestamp time.Time `json:"timestamp"`
	RequestID string    `json:"request_id"`

	attack bool // the request looks like an attempt to smuggle something in
}

func (p *problem) Error() string { return p.Message }

func malformed(message string) *problem { return &problem{Code: "MALFORMED_JSON", Message: message} }

// statusOf has every error_code of the service, and the status of the answer that carries it.
var statusOf = map[string]int{
	"VALIDATION_ERROR":       http.StatusBadRequest,
	"MALFORMED_JSON":         http.StatusBadRequest,
	"UNAUTHORIZED":           http.StatusUnauthorized,
	"FORBIDDEN":              http.StatusForbidden,
	"NOT_FOUND":              http.StatusNotFound,
	"METHOD_NOT_ALLOWED":     http.StatusMethodNotAllowed,
	"REQUEST_TIMEOUT":        http.StatusRequestTimeout,
	"BODY_TOO_LARGE":         http.StatusRequestEntityTooLarge,
	"UNSUPPORTED_MEDIA_TYPE": http.StatusUnsupportedMediaType,
	"RATE_LIMITED":           http.StatusTooManyRequests,
	"INTERNAL_ERROR":         http.StatusInternalServerError,
	"STORE_FULL":             http.StatusInsufficientStorage,
}

// fault is one thing wrong with one part of a request.
type fault struct {
	Field   string `json:"field"`
	Code    string `json:"code"`
	Message string `json:"message"`
	attack  bool
}

// faults collects all that is wrong with a request, so that its sender need not mend one thing at a time.
type faults []fault

func (f *faults) add(field, code, message string) {
	*f = append(*f, fault{Field: field, Code: code, Message: message})
}

// text judges the value of a text field and returns it without the white space around it.
func (f *faults) text(field, given string) string {
	text := strings.TrimSpace(given)
	switch n := utf8.RuneCountInString(text); {
	case n == 0:
		f.add(field, "REQUIRED", "this field is empty")
	case n > maxText:
		f.add(field, "TOO_LONG", "this field has more than 100 characters")
	}
	control := strings.ContainsFunc(text, unicode.IsControl)
	if control || strings.ContainsRune(text, utf8.RuneError) {
		f.add(field, "INVALID_CHARACTER", "this field has a control character or damaged text in it")
		(*f)[len(*f)-1].attack = control
	}
	if len(text) < len(given) {
		text = strings.Clone(text) // the store must not keep 60 KiB of blanks alive for the sake of a short name
	}
	return text
}

// problem returns a *problem with the first maxDetails faults, or nil if there is no fault.
func (f faults) problem() error {
	if len(f) == 0 {
		return nil
	}
	return &problem{
		Code:    "VALIDATION_ERROR",
		Message: "the request breaks " + strconv.Itoa(len(f)) + " rule(s); see details",
		Details: f[:min(len(f), maxDetails)],
		attack:  slices.ContainsFunc(f, func(one fault) bool { return one.attack }),
	}
}

// fail answers with the error envelope. An error that is no *problem tells the client nothing of the inside.
func (w *response) fail(err error) {
	p, ok := errors.AsType[*problem](err)
	if !ok {
		w.cause = err
		p = &problem{Code: "INTERNAL_ERROR", Message: "internal error"}
	}
	if p.Details == nil {
		p.Details = faults{} // [] in JSON, not null
	}
	p.Timestamp, p.RequestID = wholeSeconds(time.Now()), w.requestID
	w.problem = p
	if err := w.sendJSON(statusOf[p.Code], p); err != nil {
		panic(err) // strings, integers and times: it cannot happen
	}
}

// sendJSON encodes v before anything is sent, so that a failure can still become an error answer.
func (w *response) sendJSON(status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.send(status, contentJSON, append(body, '\n'))
	return nil
}

// limiter is a token bucket: rate tokens a second flow into it, it holds at most rate of them, and each creation takes
// one. A rate of 0 is no limit.
type limiter struct {
	rate float64

	mu     sync.Mutex // guards what follows
	tokens float64
	last   time.Time // when tokens was true; the zero time stands for a full bucket
}

// take takes a token and returns 0, or returns how long it will be until there is one.
func (l *limiter) take(now time.Time) time.Duration {
	if l.rate == 0 {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tokens = min(l.rate, l.tokens+l.rate*now.Sub(l.last).Seconds())
	l.last = now
	if l.tokens < 1 {
		return 1 + time.Duration((1-l.tokens)/l.rate*float64(time.Second))
	}
	l.tokens--
	return 0
}
