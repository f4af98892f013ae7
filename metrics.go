package main

// What is written down of each request: one line in the log and one count in the metrics. The
// Prometheus text format (0.0.4) is only text, if the set of labels is closed: no label has a
// value that a client can choose, so no client can make the metrics grow.

import (
	"cmp"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"runtime"
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

// record is deferred before a request is looked at, so that it sees every panic. It
// counts the request and logs one line before net/http sends the end of the answer: a client that
// has the whole answer can rely on the counters.
func (s *service) record(w *response, r *http.Request) {
	cause := recover()
	crashed := cause != nil && cause != http.ErrAbortHandler
	if crashed {
		w.note(slog.Any("panic", cause), slog.String("stack", string(debug.Stack())))
	}
	if crashed && w.status == 0 {
		w.sendError(errInternal)
	} else if cause != nil { // an answer that has begun is cut: half of it must not look whole
		w.status = cmp.Or(w.status, http.StatusInternalServerError)
		defer panic(http.ErrAbortHandler)
	}

	w.status = cmp.Or(w.status, http.StatusOK) // what net/http sends if a handler sends nothing

	d := time.Since(w.start)
	level, category, msg := w.failure.level, w.failure.category, "request"
	slow := d > s.slow
	if slow {
		msg = "SLOW request"
	}
	switch {
	case crashed:
		level = levelCritical
	case level == slog.LevelInfo && w.status >= 500: // a page of pprof
		level = slog.LevelError
	case level == slog.LevelInfo && slow:
		level, category = slog.LevelWarn, "PERFORMANCE"
	}
	if r.Method == http.MethodHead {
		w.bytes = 0 // net/http leaves the body out
	}

	s.metrics.inFlight.Add(-1)
	s.metrics.count(w.pattern, w.status, d, category, w.failure.name)
	if category != "" {
		w.note(slog.String("category", category))
	}

	path := strings.ReplaceAll(r.URL.EscapedPath(), "=", "%3D") // looks like no other field
	_, route, _ := strings.Cut(w.pattern, " ")
	s.log.LogAttrs(r.Context(), level, msg, slices.Concat([]slog.Attr{
		slog.String("method", cut(r.Method)), slog.String("route", cmp.Or(route, "unmatched")),
		slog.String("path", cut(path)), slog.Int("status", w.status), slog.Duration("duration", d),
		slog.Int("bytes", w.bytes), slog.String("remote", r.RemoteAddr),
		slog.String("request_id", w.requestID),
	}, w.notes)...)
}

// cut shortens what a client can make long: rsyslog takes lines of 8 KiB, and cuts off the rest.
func cut(text string) string {
	if len(text) > 1024 {
		return text[:1024] + "…"
	}
	return text
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
		if a.Value.Kind() == slog.KindTime {
			return slog.Time(a.Key, a.Value.Time().UTC())
		} else if a.Value.Kind() != slog.KindAny {
			return a
		}
		if level, ok := a.Value.Any().(slog.Level); ok {
			step := max(0, min(int(level-slog.LevelDebug)/4, len(levelNames)-1))
			return slog.String(a.Key, levelNames[step])
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
type logFile struct {
	path          string    // empty for standard error
	stderr        io.Writer // is told when lines begin to get lost
	written, lost atomic.Int64

	mu   sync.Mutex // guards what follows
	out  io.Writer
	torn bool  // out ends inside a line
	err  error // of the last line
}

// openLogFile opens the file at path. Without a path, the log goes to stderr.
func openLogFile(path string, stderr io.Writer) (l *logFile, err error) {
	l = &logFile{path: path, stderr: stderr, out: stderr}
	if path != "" {
		err = l.reopen()
	}
	return l, err
}

// reopen opens the file at the path. If that fails, the log goes on where it was.
func (l *logFile) reopen() error {
	file, err := os.OpenFile(l.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	last := []byte{'\n'}
	if end, _ := file.Seek(0, io.SeekEnd); end > 0 {
		file.ReadAt(last, end-1)
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	if old, ok := l.out.(*os.File); ok && l.out != l.stderr {
		old.Close()
	}
	l.out, l.torn = file, last[0] != '\n'
	return nil
}

// reopenOn reopens the file at each signal: logrotate has moved it away.
func (l *logFile) reopenOn(signals <-chan os.Signal, log *slog.Logger) {
	for range signals {
		if err := l.reopen(); err != nil {
			log.Error("the log file cannot be reopened", "cause", err)
		}
	}
}

// Write implements io.Writer. After a torn line, the next one begins on a line of its own.
func (l *logFile) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.torn {
		line = append([]byte{'\n'}, line...)
	}
	n, err := l.out.Write(line)
	l.written.Add(int64(n))
	l.lost.Add(int64(len(line) - n))
	if n > 0 {
		l.torn = line[n-1] != '\n'
	}
	if err != nil && l.err == nil && l.path != "" {
		fmt.Fprintln(l.stderr, "taskapi: the log cannot be written, lines are lost:", err)
	}
	l.err = err
	return n, err
}

// --- The counters ---

// bounds are the upper bounds of the duration histogram, in seconds: fine where an answer from
// memory takes its time, and exact where the alerts compare. Prometheus 2 and 3 both keep them as
// they are; Prometheus 3 would make 1.0 of 1.
const bounds = "0.0005 0.001 0.0025 0.005 0.025 0.1 0.5 1.0 +Inf"

// metrics counts what the service has done since its start.
type metrics struct {
	inFlight atomic.Int64
	// labels are by pattern of the mux, "" for what no route answers. None comes after the start.
	labels map[string]string

	mu                                    sync.Mutex // guards what follows
	requests, durations, events, failures *family
}

// newMetrics returns metrics in which everything that an alert may divide by is there, at 0. If a
// series were missing, a ratio would be no number, and a first error no increase.
func newMetrics() *metrics {
	m := &metrics{
		labels:    map[string]string{},
		requests:  newFamily("http_requests_total", "Requests answered, by route and status."),
		durations: newFamily("http_request_duration_seconds", "Time from header to answer."),
		events:    newFamily("log_events_total", "Requests by the category of their log line."),
		failures:  newFamily("task_errors_total", "Error answers by error_code."),
	}
	m.durations.kind = "histogram"
	m.add("", "other", "unmatched", notFound.status, methodNotAllowed.status)
	m.events.add(`{category="PERFORMANCE"}`, 0)
	for _, code := range errorCodes() {
		if code.category != "" {
			m.events.add(`{category="`+code.category+`"}`, 0)
		}
		if code.name != "" {
			m.failures.add(`{error_code="`+code.name+`"}`, 0)
		}
	}
	return m
}

// add makes the series of a pattern of the mux. Nothing in its labels needs an escape.
func (m *metrics) add(pattern, method, route string, statuses ...int) {
	labels := `{method="` + method + `",route="` + route + `"`
	m.labels[pattern] = labels
	for _, status := range statuses {
		m.requests.add(labels+`,code="`+strconv.Itoa(status)+`"}`, 0)
	}
	for bound := range strings.FieldsSeq(bounds) {
		m.durations.add("_bucket"+labels+`,le="`+bound+`"}`, 0)
	}
	m.durations.add("_sum"+labels+"}", 0)
	m.durations.add("_count"+labels+"}", 0) // which is derived from the buckets
}

// count counts one answer. What add does not know is a request that no route answers; category
// and error_code may be empty.
func (m *metrics) count(pattern string, status int, d time.Duration, category, code string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	labels := cmp.Or(m.labels[pattern], m.labels[""])
	m.requests.add(labels+`,code="`+strconv.Itoa(status)+`"}`, 1)
	m.durations.add("_sum"+labels+"}", d.Seconds())
	for bound := range strings.FieldsSeq(bounds) {
		if limit, _ := strconv.ParseFloat(bound, 64); d.Seconds() <= limit {
			m.durations.add("_bucket"+labels+`,le="`+bound+`"}`, 1)
			break
		}
	}
	if category != "" {
		m.events.add(`{category="`+category+`"}`, 1)
	}
	if code != "" {
		m.failures.add(`{error_code="`+code+`"}`, 1)
	}
}

// --- The metrics as text ---

// family is a metric with all its series.
type family struct {
	name, help, kind string
	series           []string       // what follows the name in the text
	values           []float64      // of the series
	index            map[string]int // of both, by series
}

// newFamily returns a counter or a gauge.
func newFamily(name, help string) *family {
	return &family{name: name, help: help, kind: kindOf(name), index: map[string]int{}}
}

// kindOf returns the type of a metric: the names of counters, and no others, end in _total.
func kindOf(name string) string {
	if strings.HasSuffix(name, "_total") {
		return "counter"
	}
	return "gauge"
}

// add adds n to a series, which it makes if it is not there.
func (f *family) add(series string, n float64) {
	i, ok := f.index[series]
	if !ok {
		i = len(f.series)
		f.index[series] = i
		f.series, f.values = append(f.series, series), append(f.values, 0)
	}
	f.values[i] += n
}

// exposition is text in the Prometheus format in the making. All samples of a family directly
// follow its head.
type exposition []byte

func (x *exposition) head(name, help, kind string) {
	*x = append(*x, "# HELP "+name+" "+help+"\n# TYPE "+name+" "+kind+"\n"...)
}

func (x *exposition) sample(name, series string, value float64) {
	*x = append(append(append(*x, name...), series...), ' ')
	*x = append(strconv.AppendFloat(*x, value, 'f', -1, 64), '\n')
}

// single adds a family of one series without labels.
func (x *exposition) single(name, help string, value float64) {
	x.head(name, help, kindOf(name))
	x.sample(name, "", value)
}

// family adds a family with its series. In a histogram, each bucket contains those before it, and
// the count is that of the last bucket.
func (x *exposition) family(f *family) {
	x.head(f.name, f.help, f.kind)
	sum := 0.0
	for i, series := range f.series {
		value := f.values[i]
		if f.kind == "histogram" && strings.HasPrefix(series, "_bucket") {
			sum += value
			value = sum
		} else if f.kind == "histogram" && strings.HasPrefix(series, "_count") {
			value, sum = sum, 0
		}
		x.sample(f.name, series, value)
	}
}

// exposeMetrics: GET /metrics. The text is complete before any of it is sent, because half of it
// would be valid, too.
func (s *service) exposeMetrics(w *response, _ *http.Request) error {
	x := make(exposition, 0, 32<<10)
	m := s.metrics
	m.mu.Lock() // for all counters at once, so that they add up
	for _, f := range []*family{m.requests, m.durations, m.events, m.failures} {
		x.family(f)
	}
	m.mu.Unlock()
	s.exposeState(&x, w.start)
	process, _ := s.process.fresh(w.start)
	x.stock(process.values)
	w.Header().Del("Cache-Control")
	return w.send(http.StatusOK, "text/plain; version=0.0.4; charset=utf-8", x)
}

// exposeState adds what the service knows of itself, and its sensors of the host. What is not
// known is left out: 0 would be a lie, and NaN spoils sums.
func (s *service) exposeState(x *exposition, now time.Time) {
	total, _ := s.store.state()
	inFlight, created := s.metrics.inFlight.Load(), total-s.store.restored
	written, lost := s.logFile.written.Load(), s.logFile.lost.Load()
	started := float64(s.started.UnixMilli()) / 1000
	x.single("http_requests_in_flight", "Requests that are being answered.", float64(inFlight))
	x.single("tasks_created_total", "Tasks created since the start.", float64(created))
	x.single("tasks_stored", "Tasks in the store.", float64(total))
	x.single("tasks_capacity", "Tasks that the store can hold.", float64(s.maxTasks))
	x.single("log_written_bytes_total", "Bytes of log that were written.", float64(written))
	x.single("log_lost_bytes_total", "Bytes of log that could not be written.", float64(lost))
	x.single("process_start_time_seconds", "Start of the process, in Unix time.", started)
	x.head("go_info", "Always 1; the label tells the version of Go.", "gauge")
	x.sample("go_info", `{version="`+runtime.Version()+`"}`, 1)
	x.head("taskapi_build_info", "Always 1; the labels tell what is running.", "gauge")
	x.sample("taskapi_build_info", fmt.Sprintf(`{version="%s",revision="%s",goversion="%s"}`,
		s.version, s.revision, runtime.Version()), 1) // nothing in them needs an escape

	x.head("health_check_status", "1 if the check is healthy, else 0.", "gauge")
	for name, check := range s.checks(now) {
		healthy := map[bool]float64{true: 1}[check["reason"] == nil]
		x.sample("health_check_status", `{check="`+name+`"}`, healthy)
	}
	for _, sensor := range s.host {
		if reading, err := sensor.fresh(now); err == nil {
			ratio := reading.values["usage_percent"] / 100
			x.single(sensor.ratio, "Share of the resource in use, from 0 to 1.", ratio)
		}
	}
	x.head("system_sample_age_seconds", "Age of the last reading, if it succeeded.", "gauge")
	for _, sensor := range s.host {
		if last := sensor.last.Load(); last != nil && last.err == nil {
			age := max(0, now.Sub(last.at).Seconds())
			x.sample("system_sample_age_seconds", `{reading="`+sensor.name+`"}`, age)
		}
	}
}

// stockFamilies are what stock dashboards draw, by the names of client_golang. What has no source
// is read by the sensor of the process. The others are sums of metrics of the package
// runtime/metrics, which are read in microseconds, while runtime.ReadMemStats stops the world. A
// source without a slash in front is a class of memory.
var stockFamilies = []struct{ name, help, sources string }{
	{"process_cpu_seconds_total", "CPU time used, user and system.", ""},
	{"process_resident_memory_bytes", "Memory in use.", ""},
	{"process_virtual_memory_bytes", "Size of the address space.", ""},
	{"process_virtual_memory_max_bytes", "Limit of the size of the address space.", ""},
	{"process_open_fds", "Open file descriptors.", ""},
	{"process_max_fds", "Limit of open file descriptors.", ""},
	{"go_goroutines", "Goroutines that exist.", "/sched/goroutines:goroutines"},
	{"go_threads", "Threads of the runtime.", "/sched/threads/total:threads"},
	{"go_sched_gomaxprocs_threads", "GOMAXPROCS.", "/sched/gomaxprocs:threads"},
	{"go_gc_gogc_percent", "Growth that starts a collection: GOGC.", "/gc/gogc:percent"},
	{"go_gc_gomemlimit_bytes", "Limit of memory: GOMEMLIMIT.", "/gc/gomemlimit:bytes"},
	{"go_memstats_alloc_bytes", "Heap in use by objects.", "heap/objects"},
	{"go_memstats_alloc_bytes_total", "Heap allocated since the start.", "/gc/heap/allocs:bytes"},
	{"go_memstats_mallocs_total", "Objects allocated.",
		"/gc/heap/allocs:objects /gc/heap/tiny/allocs:objects"},
	{"go_memstats_frees_total", "Objects freed.",
		"/gc/heap/frees:objects /gc/heap/tiny/allocs:objects"},
	{"go_memstats_heap_alloc_bytes", "The same as go_memstats_alloc_bytes.", "heap/objects"},
	{"go_memstats_heap_sys_bytes", "Heap from the system.",
		"heap/objects heap/unused heap/released heap/free"},
	{"go_memstats_heap_idle_bytes", "Heap in unused spans.", "heap/released heap/free"},
	{"go_memstats_heap_inuse_bytes", "Heap in used spans.", "heap/objects heap/unused"},
	{"go_memstats_heap_released_bytes", "Heap given back to the system.", "heap/released"},
	{"go_memstats_heap_objects", "Objects on the heap.", "/gc/heap/objects:objects"},
	{"go_memstats_stack_inuse_bytes", "Stacks of goroutines.", "heap/stacks"},
	{"go_memstats_stack_sys_bytes", "Stacks of goroutines and threads.", "heap/stacks os-stacks"},
	{"go_memstats_mspan_inuse_bytes", "mspan structures in use.", "metadata/mspan/inuse"},
	{"go_memstats_mspan_sys_bytes", "mspans.", "metadata/mspan/inuse metadata/mspan/free"},
	{"go_memstats_mcache_inuse_bytes", "mcache structures in use.", "metadata/mcache/inuse"},
	{"go_memstats_mcache_sys_bytes", "mcaches.", "metadata/mcache/inuse metadata/mcache/free"},
	{"go_memstats_buck_hash_sys_bytes", "Hash tables of the profiler.", "profiling/buckets"},
	{"go_memstats_gc_sys_bytes", "Metadata of the collector.", "metadata/other"},
	{"go_memstats_other_sys_bytes", "Other memory of the runtime.", "other"},
	{"go_memstats_sys_bytes", "Memory from the system.", "total"},
	{"go_memstats_next_gc_bytes", "Heap at the next collection.", "/gc/heap/goal:bytes"},
}

// stock adds the families of the process, as far as they are known, and of the Go runtime.
func (x *exposition) stock(process values) {
	var samples []runtimemetrics.Sample
	for _, row := range stockFamilies {
		for source := range strings.FieldsSeq(row.sources) {
			if source[0] != '/' {
				source = "/memory/classes/" + source + ":bytes"
			}
			samples = append(samples, runtimemetrics.Sample{Name: source})
		}
	}
	runtimemetrics.Read(samples) // all at once costs little more than one
	for _, row := range stockFamilies {
		value, known := process[row.name]
		for range strings.FieldsSeq(row.sources) {
			value, known = value+float64(samples[0].Value.Uint64()), true
			samples = samples[1:]
		}
		if known {
			x.single(row.name, row.help, value)
		}
	}

	gc := debug.GCStats{PauseQuantiles: make([]time.Duration, 5)}
	debug.ReadGCStats(&gc)
	x.head("go_gc_duration_seconds", "Pauses of the garbage collector.", "summary")
	for i, quantile := range []string{"0", "0.25", "0.5", "0.75", "1"} {
		pause := gc.PauseQuantiles[i].Seconds()
		x.sample("go_gc_duration_seconds", `{quantile="`+quantile+`"}`, pause)
	}
	x.sample("go_gc_duration_seconds_sum", "", gc.PauseTotal.Seconds())
	x.sample("go_gc_duration_seconds_count", "", float64(gc.NumGC))
	if gc.NumGC > 0 {
		last := float64(gc.LastGC.UnixMilli()) / 1000
		x.single("go_memstats_last_gc_time_seconds", "Last collection, in Unix time.", last)
	}
}
