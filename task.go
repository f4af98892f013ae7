package main

// One request is parsed once, judged once and answered once. The handlers of tasks come first,
// then the rules for what a request may say, then the errors, and last the reply, which is the form
// of every answer of the service.

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// The limits of a request.
const (
	maxBody    = 64 << 10 // bytes
	maxText    = 100      // characters (code points) in a field
	maxDetails = 20       // of one error
)

// Task is what the service is about: the same in memory, in answers, and in the data file. A task
// never changes once it is stored.
type Task struct {
	ID        string `json:"task_id"` // given by the service; safe in a URL
	Name      string `json:"task_name"`
	UserID    string `json:"user_id"`
	Status    string `json:"status"`     // always pending: this service does not execute tasks
	CreatedAt string `json:"created_at"` // see timestamp
}

const pending = "pending"

// timestamp returns t as the API shows it: RFC 3339 in UTC. Load tools count answers of changing
// length as failures, so there are no fractions of a second.
func timestamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// createTask: POST /api/tasks.
func (s *service) createTask(w *reply, r *http.Request) error {
	name, userID, err := readNewTask(r)
	if err != nil {
		return err
	}

	now := time.Now() // not w.start: the body may have taken a while
	if s.rate > 0 && !s.limiter.take(s.rate, now) {
		err := newError(rateLimited, "too many tasks are being created; try again later")
		return err.with("Retry-After", "1") // second
	}
	task := &Task{
		ID:        newID(),
		Name:      name,
		UserID:    userID,
		Status:    pending,
		CreatedAt: timestamp(now),
	}
	if err := s.store.add(task); err != nil {
		return err
	}

	w.note(slog.String("task_id", task.ID), slog.String("user_id", url.QueryEscape(task.UserID)))
	w.Header().Set("Location", "/api/tasks/"+task.ID)
	return w.json(http.StatusCreated, struct {
		*Task
		Message string `json:"message"`
	}{
		Task:    task,
		Message: "task created",
	})
}

// getTask: GET /api/tasks/{task_id}.
func (s *service) getTask(w *reply, r *http.Request) error {
	task := s.store.get(r.PathValue("task_id"))
	if task == nil {
		return newError(notFound, "there is no such task")
	}
	return w.json(http.StatusOK, task)
}

// listTasks: GET /api/tasks.
func (s *service) listTasks(w *reply, r *http.Request) error { return s.sendPage(w, r, nil) }

// storage: GET /debug/storage.
func (s *service) storage(w *reply, r *http.Request) error {
	total, _ := s.store.state(w.start)
	stats := map[string]any{
		"total_tasks":  total,
		"capacity":     s.maxTasks,
		"storage_type": "in_memory",
	}
	if s.dataFile != "" {
		stats["storage_type"] = "file"
		stats["file"] = s.dataFile
	}
	return s.sendPage(w, r, stats)
}

// sendPage answers with the page of tasks that the query asks for, and with stats if there are any.
func (s *service) sendPage(w *reply, r *http.Request, stats map[string]any) error {
	after, limit, err := s.readQuery(r.URL.RawQuery)
	if err != nil {
		return err
	}
	tasks, next := s.store.page(after, limit)
	return w.json(http.StatusOK, struct {
		Stats map[string]any `json:"storage_stats,omitempty"`
		Tasks []*Task        `json:"tasks"`
		Next  string         `json:"next,omitempty"` // the after of the next page, if there is one
	}{stats, tasks, next})
}

// --- What a request may say ---

// readQuery returns which page of the tasks a query asks for. Its error names everything that is
// wrong.
func (s *service) readQuery(query string) (after string, limit int, err error) {
	var found faults
	params, err := url.ParseQuery(query)
	found.require(err == nil, "query", "INVALID_VALUE", "must be well formed")
	for _, name := range slices.Sorted(maps.Keys(params)) {
		isKnown := name == "limit" || name == "after"
		isOne := len(params[name]) == 1 && params[name][0] != ""
		found.require(isKnown, name, "UNKNOWN_FIELD", "is not known; known are limit and after")
		found.require(isOne || !isKnown, name, "INVALID_VALUE", "must have one value")
	}

	limit, err = strconv.Atoi(cmp.Or(params.Get("limit"), "100"))
	isInRange := err == nil && 1 <= limit && limit <= 1000
	found.require(isInRange, "limit", "INVALID_VALUE", "must be from 1 to 1000")
	after = params.Get("after")
	isStored := after == "" || s.store.get(after) != nil
	found.require(isStored, "after", "INVALID_VALUE", "must be the task_id of a stored task")
	return after, limit, found.err(validationError)
}

// readNewTask returns the task_name and the user_id in the body of a request. Its error names
// everything that is wrong.
func readNewTask(r *http.Request) (name, userID string, err error) {
	body, err := readBody(r)
	if err != nil {
		return "", "", err
	}
	members, err := parseObject(body)
	if err != nil {
		return "", "", err
	}

	var found faults
	name = found.takeText(members, "task_name", "")
	userID = found.takeText(members, "user_id", "system")
	for _, key := range slices.Sorted(maps.Keys(members)) { // those that are left
		rule := "is not known; known are task_name and user_id"
		found.require(false, key, "UNKNOWN_FIELD", rule)
	}
	code := validationError
	if len(found) > 0 && strings.ContainsFunc(name+userID, unicode.IsControl) {
		code = controlCharacter
	}
	return name, userID, found.err(code)
}

// charsets are the names of UTF-8, and of the part of it that has one byte for each character.
var charsets = []string{"", "utf-8", "utf8", "us-ascii"}

// readBody returns the body of a request, which has to be JSON in UTF-8, not compressed and not too
// large.
func readBody(r *http.Request) ([]byte, error) {
	mediaType, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	isUTF8 := slices.Contains(charsets, strings.ToLower(params["charset"]))
	coding := strings.ToLower(r.Header.Get("Content-Encoding"))
	isPlain := coding == "" || coding == "identity"
	if err != nil || mediaType != "application/json" || !isUTF8 || !isPlain {
		return nil, newError(unsupportedMedia, "the body must be application/json in UTF-8")
	}

	// Nothing is read of a body that is known to be too large, so net/http does not ask for it
	// with "100 Continue" (RFC 9110 section 10.1.1).
	var body []byte
	if r.ContentLength <= maxBody {
		body, err = io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	}
	switch {
	case r.ContentLength > maxBody, len(body) > maxBody:
		return nil, newError(bodyTooLarge, "the limit is 65536 bytes")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, newError(requestTimeout, "the body did not arrive in time")
	case err != nil:
		return nil, malformed("ends early or is framed wrongly", len(body))
	}
	return body, nil
}

// parseObject returns the members of one JSON object in UTF-8. A byte order mark before it is
// ignored (RFC 8259 section 8.1). A key that is there twice counts with its last value.
//
// The members go into a map, because a struct would hide keys in another case, null, and unknown
// members.
func parseObject(body []byte) (members map[string]any, err error) {
	for i, r := range string(body) {
		if r == utf8.RuneError && !bytes.HasPrefix(body[i:], []byte("\uFFFD")) {
			return nil, malformed("is not valid UTF-8", i+1)
		}
	}
	object := bytes.TrimPrefix(body, []byte("\uFEFF"))
	err = json.Unmarshal(object, &members)
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		// Offset counts the bytes up to the fault. Go 1.26 counts the first byte of a character
		// that does not belong there, Go 1.27 all of its bytes: the first is what is told.
		at := len(body) - len(object) + int(syntax.Offset)
		for at > 1 && !utf8.RuneStart(body[at-1]) {
			at--
		}
		return nil, malformed(syntax.Error(), at)
	}
	if members == nil { // an array, a string, null, …
		return nil, malformed("must be one JSON object", 1)
	}
	return members, nil // the only error left is a number out of range, which is no string anyway
}

// takeText takes a member out of an object and returns it without white space around it. It adds
// the rules that the text breaks. absent is what counts if the member is not there; if that is
// empty, it has to be. This is the one place for the rules of a new text.
func (f *faults) takeText(members map[string]any, field, absent string) string {
	value, isGiven := members[field]
	if !isGiven {
		f.require(absent != "", field, "REQUIRED", "must be given")
		return absent
	}
	delete(members, field)
	given, isText := value.(string)
	if !isText {
		f.require(false, field, "INVALID_TYPE", "must be a string")
		return ""
	}

	text := strings.TrimSpace(given)
	isShort := utf8.RuneCountInString(text) <= maxText
	isClean := !strings.ContainsFunc(text, unicode.IsControl) &&
		!strings.ContainsRune(text, utf8.RuneError) // U+FFFD, the mark of damaged text
	f.require(strings.ContainsFunc(text, isVisible), field, "REQUIRED", "must not look empty")
	f.require(isShort, field, "TOO_LONG", "must have at most 100 characters")
	f.require(isClean, field, "INVALID_CHARACTER", "must not have control characters or U+FFFD")
	return strings.Clone(text) // or the blanks around it would stay in memory
}

// isVisible says yes to what Unicode does not know to be invisible: not to white space, marks,
// format characters, letters that are invisible by design, such as the Hangul fillers, and the
// Braille pattern without dots. Characters that are newer than the tables of this Go, and those for
// private use, count as visible.
func isVisible(r rune) bool {
	const blankBraille = '\u2800'
	return r != blankBraille && !unicode.In(r, unicode.White_Space, unicode.M, unicode.Cf,
		unicode.Other_Default_Ignorable_Code_Point)
}

// --- The errors ---

// errorCode is a kind of failure. Statuses are those of RFC 9110, RFC 6585 and RFC 4918.
type errorCode struct {
	Name     string `json:"error_code"`
	status   int
	level    slog.Level // of the line in the log
	category string     // of the same line
}

// All kinds of failures. TestDocumentsAreInStep fails if one is missing in errorCodes, in README.md
// or in openapi.json, and TestMain if no test provokes it.
var (
	validationError  = errorCode{"VALIDATION_ERROR", 400, slog.LevelWarn, "VALIDATION"}
	controlCharacter = errorCode{"VALIDATION_ERROR", 400, slog.LevelWarn, "ATTACK"}
	malformedJSON    = errorCode{"MALFORMED_JSON", 400, slog.LevelWarn, "VALIDATION"}
	unauthorized     = errorCode{"UNAUTHORIZED", 401, slog.LevelWarn, "AUTHENTICATION"}
	forbidden        = errorCode{"FORBIDDEN", 403, slog.LevelWarn, "SECURITY"}
	notFound         = errorCode{"NOT_FOUND", 404, slog.LevelInfo, ""}
	methodNotAllowed = errorCode{"METHOD_NOT_ALLOWED", 405, slog.LevelInfo, ""}
	requestTimeout   = errorCode{"REQUEST_TIMEOUT", 408, slog.LevelWarn, "TIMEOUT"}
	bodyTooLarge     = errorCode{"BODY_TOO_LARGE", 413, slog.LevelWarn, "SECURITY"}
	unsupportedMedia = errorCode{"UNSUPPORTED_MEDIA_TYPE", 415, slog.LevelInfo, ""}
	rateLimited      = errorCode{"RATE_LIMITED", 429, slog.LevelWarn, "SECURITY"}
	internalError    = errorCode{"INTERNAL_ERROR", 500, slog.LevelError, ""}
	panicked         = errorCode{"INTERNAL_ERROR", 500, levelCritical, ""}
	storeFull        = errorCode{"STORE_FULL", 507, slog.LevelError, ""}
)

// errorCodes are all of them, for the metrics and the tests.
var errorCodes = []errorCode{
	validationError, controlCharacter, malformedJSON, unauthorized, forbidden, notFound,
	methodNotAllowed, requestTimeout, bodyTooLarge, unsupportedMedia, rateLimited, internalError,
	panicked, storeFull,
}

// detail is one rule that a request breaks.
type detail struct {
	Field   string `json:"field"`
	Code    string `json:"code"`    // the kind of rule: README.md lists them
	Message string `json:"message"` // what must be
}

// apiError is an error that the client is told about, in the envelope that all errors have.
type apiError struct {
	errorCode
	Message   string      `json:"error_message"`
	Details   []detail    `json:"details"`
	Timestamp string      `json:"timestamp"` // this and the next are set when it becomes a reply
	RequestID string      `json:"request_id"`
	header    http.Header // of the answer, beside those that all have
}

// newError returns an error. Without details, it has an empty list of them, as JSON shows it.
func newError(code errorCode, message string, details ...detail) *apiError {
	return &apiError{
		errorCode: code,
		Message:   message,
		Details:   append([]detail{}, details...),
	}
}

// with gives the answer a header. It has one at most, beside those that all answers have.
func (e *apiError) with(name, value string) *apiError {
	e.header = http.Header{http.CanonicalHeaderKey(name): {value}}
	return e
}

// faults are the rules that a request breaks, as far as they are known.
type faults []detail

// require adds a fault unless a rule is kept. A field can be a name that the client has chosen, and
// long.
func (f *faults) require(isKept bool, field, code, rule string) {
	if isKept {
		return
	}
	if characters := []rune(field); len(characters) > maxText {
		field = string(characters[:maxText]) + "…"
	}
	*f = append(*f, detail{field, code, rule})
}

// err returns an error with the faults, or nil if there are none. Many mistakes do not make a long
// answer.
func (f faults) err(code errorCode) error {
	if len(f) == 0 {
		return nil
	}
	return newError(code, "the input breaks the rules in details", f[:min(len(f), maxDetails)]...)
}

// malformed says why a body cannot be read, and at which byte, counted from 1.
func malformed(reason string, at int) *apiError {
	message := fmt.Sprintf("%s (at byte %d)", reason, max(1, at))
	fault := detail{"body", "INVALID_VALUE", message}
	return newError(malformedJSON, "the body is not one JSON object in UTF-8", fault)
}

// Error implements error. It is the reason that a health check gives, too.
func (e *apiError) Error() string { return e.Message }

// reasons returns what the log says of the details: field and code of the first five, each in at
// most 64 bytes. A field can be any text of the client, so it is escaped as in a query string.
func (e *apiError) reasons() string {
	var entries []string
	for _, d := range e.Details[:min(len(e.Details), 5)] {
		field := url.QueryEscape(d.Field)
		room := 64 - len(":"+d.Code)
		entries = append(entries, field[:min(len(field), room)]+":"+d.Code)
	}
	return strings.Join(entries, " ")
}

// --- The reply ---

// reply is the answer to one request while it is only a value. It is the http.ResponseWriter of
// every handler, of the mux and of pprof; nothing that they write reaches the connection before
// send (main.go). Only the goroutine of the request uses it.
type reply struct {
	conn      http.ResponseWriter // of net/http
	start     time.Time
	requestID string
	traffic   *traffic // of the route that answers, with its row; unmatched if there is none

	status int // 0 as long as nobody has decided
	body   []byte

	// What record (metrics.go) says of it. The code of an answer that is no failure is zero, and
	// its level INFO.
	code  errorCode
	notes []slog.Attr // more for the line in the log
}

// Header implements http.ResponseWriter. The header belongs to the connection, which sends nothing
// of it before WriteHeader.
func (w *reply) Header() http.Header { return w.conn.Header() }

// WriteHeader implements http.ResponseWriter: the first status is the one that counts. A status of
// 500 and above is the service's fault, unless the handler sets another level afterwards.
func (w *reply) WriteHeader(status int) {
	if w.status != 0 {
		return
	}
	if status < 200 || status > 999 {
		panic(fmt.Sprintf("%d is no status of an answer", status))
	}
	w.status = status
	if status >= http.StatusInternalServerError {
		w.code.level = slog.LevelError
	}
}

// Write implements http.ResponseWriter. It never fails.
func (w *reply) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	w.body = append(w.body, p...)
	return len(p), nil
}

// SetWriteDeadline lets pprof put the deadline off for a long profile (http.ResponseController).
// Nothing else of the connection can be reached through the reply.
func (w *reply) SetWriteDeadline(deadline time.Time) error {
	return http.NewResponseController(w.conn).SetWriteDeadline(deadline)
}

// note adds to the line in the log.
func (w *reply) note(attrs ...slog.Attr) { w.notes = append(w.notes, attrs...) }

// reset takes back what has been written so far.
func (w *reply) reset() {
	clear(w.Header())
	w.status = 0
	w.body = nil
	w.code = errorCode{}
}

// fill sets a whole answer.
func (w *reply) fill(status int, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	w.body = body
}

// json sets a whole answer, and returns an error, without having set anything, if v has no JSON.
func (w *reply) json(status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.fill(status, "application/json", append(body, '\n'))
	return nil
}

// fail replaces whatever has been written by the envelope that all errors have, if there is an
// error. The text of an error that is no apiError goes to the log alone: a client learns nothing of
// the inside.
func (w *reply) fail(err error) {
	if err == nil {
		return
	}
	e, ok := errors.AsType[*apiError](err)
	if !ok {
		w.note(slog.Any("cause", err))
		e = newError(internalError, "internal error")
	}
	e.Timestamp = timestamp(time.Now())
	e.RequestID = w.requestID
	if len(e.Details) > 0 {
		w.note(slog.String("faults", e.reasons()))
	}

	w.reset()
	maps.Copy(w.Header(), e.header)
	w.json(e.status, e) // cannot fail: it has texts only
	w.code = e.errorCode
}
