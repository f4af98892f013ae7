package main

// One request is parsed once, judged once and answered once. The handlers of tasks come first,
// then the rules for what a request may say, then the forms of every answer of the service.

import (
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
	maxBody     = 64 << 10 // bytes
	maxText     = 100      // characters (code points) in a field
	maxDetails  = 20       // of one error
	maxPage     = 1000     // tasks
	defaultPage = 100      // tasks
)

// Task is what the service is about: in memory and, as a taskJSON, in answers and the data file.
type Task struct {
	ID        string    `json:"task_id"` // given by the service; safe in a URL
	Name      string    `json:"task_name"`
	UserID    string    `json:"user_id"`
	Status    string    `json:"status"`     // always pending: this service does not execute tasks
	CreatedAt time.Time `json:"created_at"` // in UTC and whole seconds
}

const pending = "pending"

// timestamp returns t as the API shows it (RFC 3339). Load tools count answers of changing length
// as failures, so there are no fractions of a second.
func timestamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// taskJSON is a task as it is sent and stored. Its CreatedAt hides that of Task, so encoding/json
// gets the time as a text. The JSON is the same, but to encode a time.Time takes as long as all the
// other fields of a task.
type taskJSON struct {
	*Task
	CreatedAt string `json:"created_at"`
	Message   string `json:"message,omitempty"` // only in the answer to a creation
}

func (t *Task) toJSON(msg string) taskJSON { return taskJSON{t, timestamp(t.CreatedAt), msg} }

// createTask: POST /api/tasks.
func (s *service) createTask(w *response, r *http.Request) error {
	text, err := readNewTask(r) // the task_name and the user_id
	if err != nil {
		return err
	}

	now := time.Now() // not w.start: the body may have taken a while
	if s.rate > 0 && !s.limiter.take(s.rate, now) {
		w.Header().Set("Retry-After", "1") // seconds
		return newError(rateLimited, "too many tasks are being created; try again later")
	}
	task := &Task{newID(), text[0], text[1], pending, now.UTC().Truncate(time.Second)}
	if err := s.store.add(task); err != nil {
		return err
	}

	w.note(slog.String("task_id", task.ID), slog.String("user_id", url.QueryEscape(task.UserID)))
	w.Header().Set("Location", "/api/tasks/"+task.ID)
	return w.sendJSON(http.StatusCreated, task.toJSON("task created"))
}

// getTask: GET /api/tasks/{task_id}.
func (s *service) getTask(w *response, r *http.Request) error {
	task := s.store.get(r.PathValue("task_id"))
	if task == nil {
		return newError(notFound, "there is no such task")
	}
	return w.sendJSON(http.StatusOK, task.toJSON(""))
}

// listTasks: GET /api/tasks.
func (s *service) listTasks(w *response, r *http.Request) error { return s.sendPage(w, r, nil) }

// storage: GET /debug/storage.
func (s *service) storage(w *response, r *http.Request) error {
	stats := map[string]any{"capacity": s.maxTasks, "storage_type": "in_memory"}
	stats["total_tasks"], _ = s.store.state()
	if s.dataFile != "" {
		stats["storage_type"], stats["file"] = "file", s.dataFile
	}
	return s.sendPage(w, r, stats)
}

// sendPage answers with the tasks that the query asks for, and with stats if there are any.
func (s *service) sendPage(w *response, r *http.Request, stats map[string]any) error {
	broken := newError(validationError, "the input breaks the rules in details")
	params, err := url.ParseQuery(r.URL.RawQuery)
	broken.require(err == nil, "query", "INVALID_VALUE", "must be well formed")
	for _, name := range slices.Sorted(maps.Keys(params)) {
		isKnown := name == "limit" || name == "after"
		isOne := len(params[name]) == 1 && params[name][0] != ""
		broken.require(isKnown, name, "UNKNOWN_FIELD", "is not known; known are limit and after")
		broken.require(isOne || !isKnown, name, "INVALID_VALUE", "must have one value")
	}

	limit, err := strconv.Atoi(cmp.Or(params.Get("limit"), strconv.Itoa(defaultPage)))
	inRange := err == nil && 1 <= limit && limit <= maxPage
	broken.require(inRange, "limit", "INVALID_VALUE", "must be from 1 to %d", maxPage)
	after := params.Get("after")
	isStored := after == "" || s.store.get(after) != nil
	broken.require(isStored, "after", "INVALID_VALUE", "must be the task_id of a stored task")
	if len(broken.Details) > 0 {
		return broken
	}

	tasks, next := s.store.page(after, limit)
	page := make([]taskJSON, len(tasks))
	for i, task := range tasks {
		page[i] = task.toJSON("")
	}
	return w.sendJSON(http.StatusOK, struct {
		Stats map[string]any `json:"storage_stats,omitempty"`
		Tasks []taskJSON     `json:"tasks"`
		Next  string         `json:"next,omitempty"` // the after of the next page, if there is one
	}{stats, page, next})
}

// --- What a request may say ---

// readNewTask returns the task_name and the user_id in the body of a request, which has to be JSON
// in UTF-8, not compressed and not too large.
func readNewTask(r *http.Request) ([]string, error) {
	mediaType, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	isUTF8 := strings.EqualFold(cmp.Or(params["charset"], "utf-8"), "utf-8")
	isPlain := strings.EqualFold(cmp.Or(r.Header.Get("Content-Encoding"), "identity"), "identity")
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
		return nil, newError(bodyTooLarge, fmt.Sprint("the limit is ", maxBody, " bytes"))
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, newError(requestTimeout, "the body did not arrive in time")
	case err != nil:
		return nil, badJSON("ends early or is framed wrongly", len(body))
	}
	// A user_id need not be given: then it is system.
	return readTexts(string(body), []string{"", "system"}, "task_name", "user_id")
}

// parseStoredTask returns the task in a line of the data file. Its texts obey the same rules as
// those of a request.
func parseStoredTask(line string) (task Task, err error) {
	text := cutTexts(line)
	if text[0] == "" { // the line is not just as the service writes it
		text, err = readTexts(line, text, "task_id", "task_name", "user_id", "status", "created_at")
	}

	// Even with an error, readTexts returns five texts.
	random, isID := strings.CutPrefix(text[0], "task_")
	at, _ := time.Parse(time.RFC3339, text[4])
	switch {
	case err != nil:
	case !isID || random == "" || url.QueryEscape(random) != random:
		err = errors.New("task_id is not as the service writes it")
	case text[3] != pending || text[4] != timestamp(at) || strings.HasPrefix(line, "\uFEFF"):
		err = errors.New("status, created_at or the beginning is not as the service writes it")
	}
	return Task{text[0], text[1], text[2], pending, at}, err
}

// cutTexts returns the five texts of a line that is just as the service writes it, if nothing in it
// is escaped or breaks a rule, or else five empty ones, for readTexts to fill. Nearly all lines are
// like that, and cutting them takes a quarter of the time of parsing JSON, so that a million tasks
// are read in seconds.
func cutTexts(line string) []string {
	rest, isStart := strings.CutPrefix(line, `{"task_id":"`)
	id, rest, _ := strings.Cut(rest, `","task_name":"`) // if it is missing, rest is empty: no isEnd
	name, rest, _ := strings.Cut(rest, `","user_id":"`)
	user, rest, _ := strings.Cut(rest, `","status":"pending","created_at":"`)
	created, isEnd := strings.CutSuffix(rest, `"}`)

	// Five names and five texts have 20 quotes: with any other number, one is inside a text.
	asWritten := strings.Count(line, `"`) == 20 && !strings.Contains(line, `\`)
	var broken apiError
	for _, text := range []string{id, name, user} {
		asWritten = asWritten && broken.checkText("", text) == text
	}
	if !isStart || !isEnd || !asWritten || broken.Details != nil {
		return make([]string, 5) // readTexts trims the texts, or says what is wrong
	}

	// Copies: the parts would keep the whole line in memory.
	return []string{strings.Clone(id), strings.Clone(name), strings.Clone(user), pending, created}
}

// readTexts reads a JSON object that has these fields, all of them texts, and no other. For each
// field, texts has the default, or an empty text if the field must be given. readTexts overwrites
// them with what it reads, and returns texts, even with an error. The error names everything that
// is wrong.
//
// The members go into a map, because a struct would hide keys in another case, null, and unknown
// members. A key that is there twice counts with its last value.
func readTexts(body string, texts []string, fields ...string) ([]string, error) {
	// No text in UTF-8 has the byte FF, so it can mark what is not valid.
	if i := strings.IndexByte(strings.ToValidUTF8(body, "\xFF"), '\xFF'); i >= 0 {
		return texts, badJSON("is not valid UTF-8", i+1)
	}
	var members map[string]any
	object := strings.TrimPrefix(body, "\uFEFF") // a byte order mark, RFC 8259 section 8.1
	err := json.Unmarshal([]byte(object), &members)
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return texts, badJSON(syntax.Error(), len(body)-len(object)+int(syntax.Offset))
	} else if members == nil { // an array, a string, null, …
		return texts, badJSON("must be one JSON object", 1)
	}

	// The only other error is a number out of range. Its member is nil, and so no string.
	broken := newError(validationError, "the input breaks the rules in details")
	for i, field := range fields {
		value, given := members[field]
		text, isText := value.(string)
		broken.require(given || texts[i] != "", field, "REQUIRED", "must be given")
		broken.require(isText || !given, field, "INVALID_TYPE", "must be a string")
		if isText {
			// A copy: the trimmed text alone would keep the blanks around it in memory.
			texts[i] = strings.Clone(broken.checkText(field, text))
		}
		delete(members, field) // so that the unknown ones remain
	}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		broken.require(false, name, "UNKNOWN_FIELD", "is not in %s", fields)
	}
	if len(broken.Details) > 0 {
		return texts, broken
	}
	return texts, nil
}

// checkText returns a text without the white space around it. This is the one place for the rules
// that every text obeys. A control character turns the error into controlCharacter.
func (e *apiError) checkText(field, given string) string {
	text := strings.TrimSpace(given)
	size := utf8.RuneCountInString(text)
	control := strings.ContainsFunc(text, unicode.IsControl)
	isClean := !control && !strings.ContainsRune(text, utf8.RuneError) // the mark of damaged text
	e.require(strings.ContainsFunc(text, isVisible), field, "REQUIRED", "must not look empty")
	e.require(size <= maxText, field, "TOO_LONG", "must have at most %d characters", maxText)
	e.require(isClean, field, "INVALID_CHARACTER", "must not have control characters or U+FFFD")
	if control {
		e.errorCode = controlCharacter
	}
	return text
}

// isVisible says no to marks, blanks and format characters, and to letters that are invisible by
// design, such as the Hangul fillers.
func isVisible(r rune) bool {
	return unicode.In(r, unicode.L, unicode.N, unicode.P, unicode.S) &&
		!unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r)
}

// --- What the service may answer ---

// errorCode is a kind of failure. Statuses are those of RFC 9110, RFC 6585 and RFC 4918.
type errorCode struct {
	Name     string `json:"error_code"` // empty for an unhealthy answer, which has no envelope
	status   int
	level    slog.Level // of the line in the log
	category string     // of the same line
}

// All kinds of failures. TestDocumentsAreInStep fails if one is missing in errorCodes, in README.md
// or in openapi.json.
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
	unhealthy        = errorCode{"", 503, slog.LevelWarn, ""}
)

// statusErrors say how record treats an error that was sent without sendError, as pprof does. The
// 500 stands for every 5xx.
var statusErrors = map[int]errorCode{400: validationError, 404: notFound, 500: internalError}

var errorCodes = [...]errorCode{validationError, controlCharacter, malformedJSON, unauthorized,
	forbidden, notFound, methodNotAllowed, requestTimeout, bodyTooLarge, unsupportedMedia,
	rateLimited, internalError, panicked, storeFull, unhealthy}

// detail is one rule that a request breaks.
type detail struct {
	Field   string `json:"field"`
	Code    string `json:"code"`    // the kind of rule: README.md lists them
	Message string `json:"message"` // what must be
}

// apiError is an error that the client is told about, in the envelope that all errors have.
type apiError struct {
	errorCode
	Message   string   `json:"error_message"`
	Details   []detail `json:"details"`
	Timestamp string   `json:"timestamp"` // this and the next are set when the error is sent
	RequestID string   `json:"request_id"`
}

func newError(code errorCode, message string) *apiError {
	return &apiError{errorCode: code, Message: message, Details: []detail{}}
}

// badJSON says why a body cannot be read, and at which byte, counted from 1.
func badJSON(reason string, at int) *apiError {
	e := newError(malformedJSON, "the body is not one JSON object in UTF-8")
	e.require(false, "body", "INVALID_VALUE", "%s (at byte %d)", reason, max(1, at))
	return e
}

// require adds a detail unless a rule is kept, but not more than maxDetails: many mistakes do not
// make a long answer.
func (e *apiError) require(kept bool, field, code, message string, args ...any) {
	if !kept && len(e.Details) < maxDetails {
		e.Details = append(e.Details, detail{field, code, fmt.Sprintf(message, args...)})
	}
}

// Error implements error, for texts that are no envelope: the reason why the data file cannot be
// read, and the reason why a health check says unhealthy.
func (e *apiError) Error() string {
	return strings.TrimSuffix(fmt.Sprint(e.Message, " ", e.Details), " []")
}

// response is the http.ResponseWriter of every handler. It remembers what record has to know.
// ServeHTTP makes it (main.go: newResponse).
type response struct {
	http.ResponseWriter
	service            *service
	start              time.Time
	requestID, pattern string      // pattern is of the mux
	status, bytes      int         // of the answer, as far as it has been sent
	failure            errorCode   // if there is one
	notes              []slog.Attr // more for the line in the log
}

// note adds to the line in the log.
func (w *response) note(attrs ...slog.Attr) { w.notes = append(w.notes, attrs...) }

// WriteHeader implements http.ResponseWriter.
func (w *response) WriteHeader(status int) {
	// A service that stops wants no next request; this is asked late, because the drain may have
	// begun during this one. And before net/http answers on a connection that it means to keep, it
	// reads up to 256 KiB of what is left of the body: too much for one that is too large.
	if w.service.draining.Load() || status == bodyTooLarge.status {
		w.Header().Set("Connection", "close")
	}
	w.status = cmp.Or(w.status, status)
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *response) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	n, err := w.ResponseWriter.Write(p)
	w.bytes += n
	return n, err
}

// Unwrap lets http.ResponseController find the connection.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// send answers with a whole body. It sets no Content-Length: with one, a client could have the end
// of a long body before the request is counted.
func (w *response) send(status int, contentType string, body []byte) error {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	w.Write(body) // fails only if the client is gone, and then there is nobody to tell
	return nil
}

// sendJSON encodes v before it sends anything, so that a failure can still become an error.
func (w *response) sendJSON(status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return w.send(status, "application/json", append(body, '\n'))
}

// sendError answers with the envelope that all errors have. The text of an error that is no
// apiError goes to the log alone: a client learns nothing of the inside. If an answer has begun,
// the connection is cut, so that nobody takes half of it for the whole. The log has the status that
// was sent.
func (w *response) sendError(err error) {
	e, ok := errors.AsType[*apiError](err)
	if !ok {
		w.note(slog.Any("cause", err))
		e = newError(internalError, "internal error")
	}
	w.failure = e.errorCode
	if w.status != 0 {
		panic(http.ErrAbortHandler)
	}
	e.Timestamp, e.RequestID = timestamp(time.Now()), w.requestID
	w.sendJSON(e.status, e)
}
