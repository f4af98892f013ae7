package main

// What is written down of each request: one line in the log and one count in the metrics. The
// Prometheus text format (0.0.4) is only text, if the set of labels is closed: no label has a
// value that a client can choose, so no client can make the metrics grow.

import (
	"cmp"
	_ "embed"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// --- One record for each request ---

// record is deferred before the route is looked up, so that it sees every panic. It counts the
// request and logs one line before net/http sends the end of the answer: a client that has the
// whole answer can rely on the counters.
func (s *service) record(w *response, r *http.Request) {
	cause := recover()
	if cause != nil && cause != http.ErrAbortHandler { // which sendError uses to cut an answer
		w.note(slog.Any("panic", cause), slog.String("stack", string(debug.Stack())))
		w.failure = panicked
	}

	// Before an answer has begun, a panic becomes a 500. After that, http.ErrAbortHandler makes
	// net/http close the connection and log nothing: half an answer must not look whole.
	if w.failure == panicked && w.status == 0 {
		w.sendError(newError(panicked, "internal error"))
	} else if cause != nil {
		w.status = cmp.Or(w.status, http.StatusInternalServerError)
		defer panic(http.ErrAbortHandler)
	}
	w.status = cmp.Or(w.status, http.StatusOK) // what net/http sends if a handler sends nothing

	// The level and the category of the line are those of the errorCode. pprof sends its errors
	// itself, so only the status is known of them. Without an error, this is the zero errorCode,
	// and the zero Level is INFO.
	failure := cmp.Or(w.failure, statusErrors[min(w.status, http.StatusInternalServerError)])

	d := time.Since(w.start)
	msg := "request"
	if d > s.slow {
		msg = "SLOW request"
		if failure.level == slog.LevelInfo {
			failure.level, failure.category = slog.LevelWarn, "PERFORMANCE"
		}
	}
	if r.Method == http.MethodHead {
		w.bytes = 0 // net/http leaves the body out
	}

	s.metrics.inFlight.Add(-1)
	s.metrics.count(w.pattern, w.status, d, failure)
	if failure.category != "" {
		w.note(slog.String("category", failure.category))
	}

	// What a client can make long is cut, because rsyslog takes lines of 8 KiB.
	path := r.URL.EscapedPath()
	if len(path) > 1024 {
		path = path[:1024] + "…"
	}
	path = strings.ReplaceAll(path, "=", "%3D") // else a path could look like another field

	// Only the patterns of the API have a method and, after a blank, a path. The others answer 404
	// and 405: those requests are unmatched, here as in the metrics.
	_, target, _ := strings.Cut(w.pattern, " ")
	s.log.LogAttrs(r.Context(), failure.level, msg,
		slog.String("method", r.Method[:min(len(r.Method), 32)]),
		slog.String("route", cmp.Or(target, "unmatched")), slog.String("path", path),
		slog.Int("status", w.status), slog.Duration("duration", d), slog.Int("bytes", w.bytes),
		slog.String("remote", r.RemoteAddr), slog.String("request_id", w.requestID),
		slog.GroupAttrs("", w.notes...)) // slog inlines a group without a name
}

// --- The log ---

// levelNames are those of the operations guide, from slog.LevelDebug on in steps of 4.
var levelNames = []string{"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}

const levelCritical = slog.LevelError + 4 // for what must not happen

// levelStep returns the index of a name in levelNames, or -1.
func levelStep(name string) int { return slices.Index(levelNames, strings.ToUpper(name)) }

// newLogHandler returns slog's own handler, but with levelNames, and with times in UTC.
func newLogHandler(out io.Writer, format, lowest string) slog.Handler {
	options := &slog.HandlerOptions{Level: slog.LevelDebug + slog.Level(4*levelStep(lowest))}
	options.ReplaceAttr = func(_ []string, a slog.Attr) slog.Attr {
		// The Kind comes first, because Any allocates for each text in the line.
		switch a.Value.Kind() {
		case slog.KindTime:
			a.Value = slog.TimeValue(a.Value.Time().UTC())
		case slog.KindAny:
			if level, ok := a.Value.Any().(slog.Level); ok {
				step := max(0, min(int(level-slog.LevelDebug)/4, len(levelNames)-1))
				a.Value = slog.StringValue(levelNames[step])
			}
		}
		return a
	}
	if format == "json" {
		return slog.NewJSONHandler(out, options)
	}
	return slog.NewTextHandler(out, options)
}

// logFile is where the log goes: a file that can be reopened, or standard error. What cannot be
// written is counted, and the service goes on.
//
// A line after a quiet millisecond is written at once. Those of the next millisecond are written at
// its end, together: under load, a system call for each line would take at least a tenth of the
// time of a request.
type logFile struct {
	stderr        io.Writer // is told when lines begin to get lost
	written, lost atomic.Int64

	mu    sync.Mutex // guards what follows
	out   io.Writer
	file  *os.File // the same, but nil for standard error
	lines []byte   // not written yet
	busy  bool     // lines have been written within the last millisecond
	torn  bool     // out ends inside a line
	err   error    // of the last write
}

// open lets the log go on in the file at path, which is created if need be. Without a path, and if
// the file cannot be opened, the log stays where it is.
func (l *logFile) open(path string) error {
	if path == "" {
		return nil
	}
	l.flush()
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	// A log that another process has left may end inside a line. An empty file, a pipe and
	// /dev/null have an end of 0, and at -1, ReadAt reads nothing.
	last := []byte{'\n'}
	end, _ := file.Seek(0, io.SeekEnd)
	file.ReadAt(last, end-1)

	l.mu.Lock()
	defer l.mu.Unlock()
	l.file.Close() // does nothing if there is none
	l.out, l.file, l.torn = file, file, last[0] != '\n'
	return nil
}

// Write implements io.Writer. While out is blocked, so is Write, and with it every request:
// otherwise, lines without number would gather in memory.
func (l *logFile) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line...)
	if !l.busy {
		l.write()
	}
	return len(line), nil
}

// flush writes the lines that wait.
func (l *logFile) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.write()
}

// write writes the lines that wait, and starts the next millisecond. If no line waits, the last
// millisecond was quiet, and the next line is written at once. It needs the lock.
func (l *logFile) write() {
	if l.busy = len(l.lines) > 0; !l.busy {
		return
	}
	time.AfterFunc(time.Millisecond, l.flush)

	if l.torn { // the next line begins on a line of its own
		l.lines = slices.Insert(l.lines, 0, '\n')
	}
	n, err := l.out.Write(l.lines)
	l.written.Add(int64(n))
	l.lost.Add(int64(len(l.lines) - n))
	if n > 0 {
		l.torn = l.lines[n-1] != '\n'
	}

	// The first of the errors in a row is reported on standard error, unless that is what failed.
	if err != nil && l.err == nil && l.file != nil {
		fmt.Fprintln(l.stderr, "taskapi: the log cannot be written, lines are lost:", err)
	}
	l.err, l.lines = err, l.lines[:0]
}

// --- The counters ---

// bounds are the upper bounds of the duration histogram, in seconds. They are close together where
// most answers are, below 5 ms, and include the 0.1 and 1.0 of the alerts. It is "1.0", because
// Prometheus 3 would rename "1" to that, and Prometheus 2 would not.
var bounds = strings.Fields("0.0005 0.001 0.0025 0.005 0.025 0.1 0.5 1.0 +Inf")

// metrics counts what the service has done since its start.
type metrics struct {
	names    []string          // of the families, in the order of deploy/metrics.txt
	heads    map[string]string // HELP and TYPE, by family
	sources  []runtimemetrics.Sample
	sums     []string // for each of sources, the family that it is added to
	inFlight atomic.Int64

	mu       sync.Mutex          // guards what follows
	traffic  []*traffic          // first what no route answers, then the API in its order
	routes   map[string]*traffic // the same, by pattern of the mux or "other unmatched"
	events   values              // by category
	failures values              // by error_code
}

// traffic counts the requests of one route.
type traffic struct {
	labels  string // nothing in them needs an escape
	codes   values // by status
	buckets values // by upper bound: requests above the bound before; exposeCounters adds them up
	seconds float64
}

// newMetrics returns metrics in which everything that an alert may divide by is there, at 0. If a
// series were missing, a ratio would be no number, and a first error no increase.
func newMetrics() *metrics {
	m := &metrics{heads: map[string]string{}, routes: map[string]*traffic{},
		events: values{"PERFORMANCE": 0}, failures: values{}}
	for row := range strings.Lines(families) {
		cells := strings.Split(strings.TrimSpace(row), " | ")
		name, kind, help := cells[0], cells[1], cells[2]
		m.names = append(m.names, name)
		m.heads[name] = "# HELP " + name + " " + help + "\n# TYPE " + name + " " + kind + "\n"
		for _, source := range cells[3:] {
			m.sources = append(m.sources, runtimemetrics.Sample{Name: source})
			m.sums = append(m.sums, name)
		}
	}
	m.add("other", "unmatched", notFound.status, methodNotAllowed.status)
	for _, code := range errorCodes {
		m.events[code.category], m.failures[code.Name] = 0, 0
	}
	return m
}

// add makes the series of a route, with two statuses that are there at 0 before the first request.
// Other statuses come with the first answer that has them.
func (m *metrics) add(method, route string, status, other int) {
	t := &traffic{labels: `{method="` + method + `",route="` + route + `"`, buckets: values{},
		codes: values{strconv.Itoa(status): 0, strconv.Itoa(other): 0}}
	m.traffic = append(m.traffic, t)
	m.routes[method+" "+route] = t
}

// count counts one answer. A pattern that add does not know is one that no route of the API
// answers. The failure may be the zero errorCode: then the empty category and code are counted, and
// addEach leaves them out.
func (m *metrics) count(pattern string, status int, d time.Duration, failure errorCode) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := cmp.Or(m.routes[pattern], m.routes["other unmatched"])
	t.codes[strconv.Itoa(status)]++
	t.seconds += d.Seconds()
	first := slices.IndexFunc(bounds, func(bound string) bool {
		limit, _ := strconv.ParseFloat(bound, 64)
		return d.Seconds() <= limit
	})
	t.buckets[bounds[first]]++
	m.events[failure.category]++
	m.failures[failure.Name]++
}

// --- The metrics as text ---

// families has a row for each family of metrics: name, type and help, and, if its value is a sum of
// metrics of the Go runtime, their names. To add a family, add a row, and, unless it is such a sum,
// a call of exposition.add below, or for process_*, a value in readProcess. README.md lists the
// families, too. The go_* and process_* families are those that stock dashboards draw, by the names
// of client_golang.
//
//go:embed deploy/metrics.txt
var families string

// exposition is a page of metrics in the making. The samples of a family have to stand together.
type exposition struct {
	heads map[string]string
	page  []byte
	last  string // the family of the last sample
}

// add adds a sample. suffix is what follows the name of the family, in parts: "_sum", labels, or
// nothing.
func (x *exposition) add(family string, value float64, suffix ...string) {
	if family != x.last {
		x.page = append(x.page, x.heads[family]...)
		x.last = family
	}
	x.page = append(x.page, family...)
	for _, part := range suffix {
		x.page = append(x.page, part...)
	}
	x.page = strconv.AppendFloat(append(x.page, ' '), value, 'f', -1, 64)
	x.page = append(x.page, '\n')
}

// addEach adds a sample for each value of a label. labels ends with the name of that label, as in
// "{category". A value that is the empty string is left out.
func (x *exposition) addEach(family, labels string, samples values) {
	for _, name := range slices.Sorted(maps.Keys(samples)) {
		if name != "" {
			x.add(family, samples[name], labels, `="`, name, `"}`)
		}
	}
}

// exposeMetrics: GET /metrics. The page is complete before any of it is sent, because half of it
// would be valid, too. What is not known is left out: 0 would be a lie, and NaN spoils sums.
func (s *service) exposeMetrics(w *response, _ *http.Request) error {
	x := &exposition{heads: s.metrics.heads, page: make([]byte, 0, 32<<10)}
	s.metrics.exposeCounters(x)
	s.exposeState(x, w.start)
	s.exposeProcess(x, w.start)
	w.Header().Del("Cache-Control")
	return w.send(http.StatusOK, "text/plain; version=0.0.4; charset=utf-8", x.page)
}

// exposeCounters adds all counters at once, so that they add up. In a histogram, each bucket
// contains those before it.
func (m *metrics) exposeCounters(x *exposition) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, t := range m.traffic {
		x.addEach("http_requests_total", t.labels+",code", t.codes)
	}
	for _, t := range m.traffic {
		count := 0.0
		for _, bound := range bounds {
			count += t.buckets[bound]
			x.add("http_request_duration_seconds", count, "_bucket", t.labels, `,le="`, bound, `"}`)
		}
		x.add("http_request_duration_seconds", t.seconds, "_sum", t.labels, "}")
		x.add("http_request_duration_seconds", count, "_count", t.labels, "}")
	}
	x.addEach("log_events_total", "{category", m.events)
	x.addEach("task_errors_total", "{error_code", m.failures)
}

// exposeState adds what the service knows of itself and of its host.
func (s *service) exposeState(x *exposition, now time.Time) {
	total, _ := s.store.state()
	x.add("http_requests_in_flight", float64(s.metrics.inFlight.Load()))
	x.add("tasks_created_total", float64(total-s.store.restored))
	x.add("tasks_stored", float64(total))
	x.add("tasks_capacity", float64(s.maxTasks))
	x.add("log_written_bytes_total", float64(s.logFile.written.Load()))
	x.add("log_lost_bytes_total", float64(s.logFile.lost.Load()))

	// Nothing in these labels needs an escape.
	x.add("go_info", 1, `{version="`, s.goVersion, `"}`)
	x.add("taskapi_build_info", 1, `{version="`, s.version, `",revision="`, s.revision,
		`",goversion="`, s.goVersion, `"}`)

	ages, healthy := values{}, values{}
	for _, sensor := range s.host {
		if last, err := sensor.fresh(now); err == nil {
			x.add(sensor.ratio, last.Usage/100)
		}
		if last := sensor.last.Load(); last != nil && last.err == nil {
			ages[sensor.name] = max(0, now.Sub(last.at).Seconds())
		}
	}
	for name, c := range s.checks(now) {
		healthy[name] = map[bool]float64{true: 1}[c["reason"] == nil]
	}
	x.addEach("system_sample_age_seconds", "{reading", ages)
	x.addEach("health_check_status", "{check", healthy)
}

// buildInfo returns the version and the revision that the go command has recorded, and the version
// of Go. -version prints them, too.
func buildInfo() (version, revision, goVersion string) {
	info, _ := debug.ReadBuildInfo() // go build and go run always record it
	_, rest, _ := strings.Cut(info.String(), "vcs.revision=")
	revision, _, _ = strings.Cut(rest, "\n")
	return cmp.Or(info.Main.Version, "(devel)"), cmp.Or(revision, "unknown"), info.GoVersion
}

// exposeProcess adds what the system and the Go runtime tell of the process. All sources together
// are read in little more time than one of them. (runtime.ReadMemStats would stop the world.)
func (s *service) exposeProcess(x *exposition, now time.Time) {
	numbers := values{"process_start_time_seconds": float64(s.started.UnixMilli()) / 1000}
	process, _ := s.process.fresh(now)
	maps.Copy(numbers, process.values)
	sources := slices.Clone(s.metrics.sources) // because Read writes into it
	runtimemetrics.Read(sources)
	for i, source := range sources {
		if source.Value.Kind() == runtimemetrics.KindUint64 { // else it is unknown to this Go
			numbers[s.metrics.sums[i]] += float64(source.Value.Uint64())
		}
	}
	for _, family := range s.metrics.names {
		if value, known := numbers[family]; known {
			x.add(family, value)
		}
	}

	gc := debug.GCStats{PauseQuantiles: make([]time.Duration, 5)}
	debug.ReadGCStats(&gc)
	for i, q := range []string{"0", "0.25", "0.5", "0.75", "1"} {
		x.add("go_gc_duration_seconds", gc.PauseQuantiles[i].Seconds(), `{quantile="`, q, `"}`)
	}
	x.add("go_gc_duration_seconds", gc.PauseTotal.Seconds(), "_sum")
	x.add("go_gc_duration_seconds", float64(gc.NumGC), "_count")
	if gc.NumGC > 0 {
		x.add("go_memstats_last_gc_time_seconds", float64(gc.LastGC.UnixMilli())/1000)
	}
}
