package main

// Tasks over HTTP: a request is parsed once, judged once and answered once. Below the three handlers stand the rules
// for a request's body and query, and the one form in which every error of the service leaves it.

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"math"
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

// Task is what the service is about, and its JSON form, too.
type Task struct {
	ID        string `json:"task_id"` // set by the store; safe in a URL
	Name      string `json:"task_name"`
	UserID    string `json:"user_id"`
	Status    string `json:"status"` // "pending": this service only creates tasks
	CreatedAt string `json:"created_at"`
}

// timestamp returns RFC 3339 in UTC and whole seconds: load tools count bodies of changing length as failed.
func timestamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// createTask: POST /api/tasks.
func (s *service) createTask(w *response, r *http.Request) error {
	name, userID, err := parseTask(w, r)
	if err != nil {
		return err
	}
	now := time.Now() // not w.start: the body may have taken its time
	if wait := s.limiter.take(now); wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
		return refuse("RATE_LIMITED", "too many tasks are being created; try again later")
	}
	task, ok := s.store.add(name, userID, now)
	if !ok {
		return refuse("STORE_FULL", storeFull)
	}
	w.notes = append(w.notes, slog.String("task_id", task.ID), slog.String("user_id", printable(task.UserID)))
	w.Header().Set("Location", "/api/tasks/"+task.ID)
	return w.sendJSON(http.StatusCreated, struct {
		Task
		Message string `json:"message"`
	}{task, "task created"})
}

// printable makes text that a client chose safe for a log line: without what cannot be printed, and without what could
// look like the end of a value and the beginning of another field.
func printable(text string) string {
	return strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) || strings.ContainsRune(` "=`, c) {
			return '?'
		}
		return c
	}, text)
}

// getTask: GET /api/tasks/{task_id}.
func (s *service) getTask(w *response, r *http.Request) error {
	if task, ok := s.store.get(r.PathValue("task_id")); ok {
		return w.sendJSON(http.StatusOK, task)
	}
	return refuse("NOT_FOUND", "there is no such task")
}

// listTasks: GET /api/tasks.
func (s *service) listTasks(w *response, r *http.Request) error { return s.sendPage(w, r, nil) }

// storage: GET /debug/storage.
func (s *service) storage(w *response, r *http.Request) error {
	return s.sendPage(w, r, map[string]any{
		"total_tasks": s.store.len(), "capacity": s.store.capacity, "storage_type": "in_memory",
	})
}

// sendPage answers with the part of the list of tasks that the query asks for, and with stats if there are any.
func (s *service) sendPage(w *response, r *http.Request, stats map[string]any) error {
	limit, after := 100, ""
	var invalid faults
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		invalid.add("query", "INVALID_VALUE", "the query string is not well formed")
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		values := query[name]
		switch n, err := strconv.Atoi(values[0]); {
		case name != "limit" && name != "after":
			invalid.add(name, "UNKNOWN_FIELD", "this parameter is not known")
		case len(values) > 1 || values[0] == "":
			invalid.add(name, "INVALID_VALUE", "this parameter has one value, which is not empty")
		case name == "after":
			after = values[0]
		case err != nil || n < 1 || n > 1000:
			invalid.add("limit", "INVALID_VALUE", "limit is a whole number from 1 to 1000")
		default:
			limit = n
		}
	}
	tasks, next, ok := s.store.page(after, limit)
	if !ok {
		invalid.add("after", "INVALID_VALUE", "there is no such task to continue after")
	}
	if invalid != nil {
		return invalid.problem()
	}
	return w.sendJSON(http.StatusOK, struct {
		Stats map[string]any `json:"storage_stats,omitempty"`
		Tasks []Task         `json:"tasks"`
		Next  string         `json:"next,omitempty"` // the after of the next page; absent on the last one
	}{stats, tasks, next})
}

// parseTask reads the body of a creation: one JSON object with a task_name and perhaps a user_id, and nothing else.
// What it returns obeys every rule for them; its error is a *problem that names everything wrong with the request.
func parseTask(w *response, r *http.Request) (name, userID string, err error) {
	body, err := readJSON(w, r)
	if err != nil {
		return "", "", err
	}
	// A map, not a struct: encoding/json would take TASK_NAME for task_name, null for an empty string, and stop at the
	// first unknown field. The map is nil if the body is anything but one JSON object. The one error that leaves it
	// complete is a number that overflows, and stands as null.
	var object map[string]any
	json.Unmarshal(body, &object) // its error is in object, see above
	if object == nil {
		return "", "", refuse("MALFORMED_JSON", "the body is not one valid JSON object")
	}
	var invalid faults
	take := func(field, absent string) string { // absent is the value of an optional field that is not there
		given, present := object[field]
		delete(object, field)
		if text, isString := given.(string); isString {
			text = strings.Clone(strings.TrimSpace(text)) // or the store would keep the blanks around it, too
			switch n := utf8.RuneCountInString(text); {
			case n == 0:
				invalid.add(field, "REQUIRED", "this field is empty")
			case n > 100:
				invalid.add(field, "TOO_LONG", "this field has more than 100 characters")
			}
			control := strings.ContainsFunc(text, unicode.IsControl)
			if control || strings.ContainsRune(text, utf8.RuneError) {
				invalid.add(field, "INVALID_CHARACTER", "this field has a control character or damaged text in it")
			}
			w.attack = w.attack || control
			return text
		} else if present {
			invalid.add(field, "INVALID_TYPE", "this field is a string")
		} else if absent == "" {
			invalid.add(field, "REQUIRED", "this field is missing")
		}
		return absent
	}
	name, userID = take("task_name", ""), take("user_id", "system")
	for _, field := range slices.Sorted(maps.Keys(object)) {
		invalid.add(field, "UNKNOWN_FIELD", "this field is not known")
	}
	if invalid != nil {
		return "", "", invalid.problem()
	}
	return name, userID, nil
}

// readJSON returns the body of a request that says it is JSON: at most 64 KiB of valid UTF-8.
func readJSON(w *response, r *http.Request) (body []byte, err error) {
	const maxBody = 64 << 10
	kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";") // it may have parameters
	isJSON := strings.EqualFold(strings.TrimSpace(kind), "application/json")
	if coding := r.Header.Get("Content-Encoding"); !isJSON || coding != "" && !strings.EqualFold(coding, "identity") {
		return nil, refuse("UNSUPPORTED_MEDIA_TYPE", "the body must be application/json, not compressed")
	}
	if n := r.ContentLength; n >= 0 && n <= maxBody { // the common case, without a buffer that grows
		body = make([]byte, n)
		_, err = io.ReadFull(r.Body, body)
	} else {
		// MaxBytesReader tells net/http's own writer to close the connection, so it must not be given the wrapper.
		body, err = io.ReadAll(http.MaxBytesReader(w.ResponseWriter, r.Body, maxBody))
	}
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return nil, refuse("BODY_TOO_LARGE", "the body is larger than 64 KiB")
	} else if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, refuse("REQUEST_TIMEOUT", "the body did not arrive in time")
	} else if err != nil {
		return nil, refuse("MALFORMED_JSON", "the body ended early or was framed wrongly")
	}
	if !utf8.Valid(body) {
		w.attack = true
		return nil, refuse("MALFORMED_JSON", "the body is not valid UTF-8")
	}
	return body, nil
}

// problem is an error as a client sees it, and the JSON form of it. All that a client may know is in here; the cause of
// an error that is no problem goes to the log alone.
type problem struct {
	Code      string `json:"error_code"` // a key of kinds
	Message   string `json:"error_message"`
	Details   faults `json:"details"`
	Timestamp string `json:"timestamp"`
	RequestID string `json:"request_id"`
}

func (p *problem) Error() string { return p.Message }

func refuse(code, message string) *problem {
	return &problem{Code: code, Message: message, Details: faults{}} // [] in JSON, not null
}

// kinds has every error_code, the status of the answer that carries it, and the category of its log line, if any.
var kinds = map[string]struct {
	status   int
	category string
}{
	"VALIDATION_ERROR":       {http.StatusBadRequest, "VALIDATION"},
	"MALFORMED_JSON":         {http.StatusBadRequest, "VALIDATION"},
	"UNAUTHORIZED":           {http.StatusUnauthorized, "AUTHENTICATION"},
	"FORBIDDEN":              {http.StatusForbidden, "SECURITY"},
	"NOT_FOUND":              {http.StatusNotFound, ""},
	"METHOD_NOT_ALLOWED":     {http.StatusMethodNotAllowed, ""},
	"REQUEST_TIMEOUT":        {http.StatusRequestTimeout, "TIMEOUT"},
	"BODY_TOO_LARGE":         {http.StatusRequestEntityTooLarge, "SECURITY"},
	"UNSUPPORTED_MEDIA_TYPE": {http.StatusUnsupportedMediaType, ""},
	"RATE_LIMITED":           {http.StatusTooManyRequests, "SECURITY"},
	"INTERNAL_ERROR":         {http.StatusInternalServerError, ""},
	"STORE_FULL":             {http.StatusInsufficientStorage, ""},
}

// faults is what is wrong with the parts of a request: all of it, or at least the first 20 things.
type faults []fault

type fault struct {
	Field   string `json:"field"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

func (f *faults) add(field, code, message string) {
	if len(*f) < 20 {
		*f = append(*f, fault{field, code, message})
	}
}

func (f faults) problem() *problem {
	p := refuse("VALIDATION_ERROR", "the request breaks the rules in details")
	p.Details = f
	return p
}

// fail answers with the error envelope. An error that is no *problem tells the client nothing of the inside.
func (w *response) fail(err error) {
	p, ok := errors.AsType[*problem](err)
	if !ok {
		w.notes = append(w.notes, slog.Any("cause", err))
		p = refuse("INTERNAL_ERROR", "internal error")
	}
	p.Timestamp, p.RequestID = timestamp(time.Now()), w.requestID
	w.code = p.Code
	w.sendJSON(kinds[p.Code].status, p)
}

// sendJSON encodes v before anything is sent, so that a failure can still become an error answer.
func (w *response) sendJSON(status int, v any) error {
	body, err := json.Marshal(v)
	if err == nil {
		w.send(status, jsonType, append(body, '\n'))
	}
	return err
}

// limiter lets rate creations through in a second, at most rate of them at once; a rate of 0 is no limit. It is a token
// bucket in the form of GCRA: a token is a stretch of time, and used is the end of the last one that was taken.
type limiter struct {
	rate int
	mu   sync.Mutex // guards used
	used time.Time  // with its monotonic clock: the other one may be set back
}

// take takes a token and returns 0, or returns how long it will be until there is one.
func (l *limiter) take(now time.Time) time.Duration {
	if l.rate == 0 {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	wait := max(l.used.Sub(now), -time.Second) + time.Second/time.Duration(l.rate)
	if wait > 0 {
		return wait
	}
	l.used = now.Add(wait)
	return 0
}
