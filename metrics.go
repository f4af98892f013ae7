package main

// What is written down of each request: one line in the log and one count in the metrics. The
// Prometheus text format (0.0.4) is only text, if the set of labels is closed: no label has a
// value that a client can choose, so no client can make the metrics grow.

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
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

// record counts a reply and logs one line, before the reply is sent: a client that has the answer
// can rely on the counters.
func (s *service) record(w *reply, r *http.Request) {
	now := time.Now()
	duration := now.Sub(w.start)
	message := "request"
	if duration > s.slow {
		message = "SLOW request"
		if w.level == slog.LevelInfo { // there is nothing worse to say
			w.level = slog.LevelWarn
			w.category = "PERFORMANCE"
		}
	}
	s.metrics.inFlight.Add(-1)
	s.metrics.count(w, duration)
	s.logRequest(w, r, message, now)
}

// logRequest logs the line of one request. What a client can make long is cut, because rsyslog
// takes lines of 8 KiB.
func (s *service) logRequest(w *reply, r *http.Request, message string, now time.Time) {
	handler := s.log.Handler()
	if !handler.Enabled(r.Context(), w.level) {
		return
	}
	path := r.URL.EscapedPath()
	if len(path) > 1024 {
		path = path[:1024] + "…"
	}
	size := len(w.body)
	if r.Method == http.MethodHead {
		size = 0 // net/http leaves the body out
	}

	// The record is made here and not by s.log, which would look up who calls it.
	record := slog.NewRecord(now, w.level, message, 0)
	record.AddAttrs(
		slog.String("method", r.Method[:min(len(r.Method), 32)]),
		slog.String("route", w.traffic.route.Path),
		slog.String("path", strings.ReplaceAll(path, "=", "%3D")), // else it could look like a field
		slog.Int("status", w.status),
		slog.Duration("duration", now.Sub(w.start)),
		slog.Int("bytes", size),
		slog.String("remote", r.RemoteAddr),
		slog.String("request_id", w.requestID))
	record.AddAttrs(w.notes...)
	if w.category != "" {
		record.AddAttrs(slog.String("category", w.category))
	}
	handler.Handle(r.Context(), record) // never fails: see logFile.Write
}

// --- The log ---

// levelNames are those of the operations guide, from slog.LevelDebug on in steps of 4.
var levelNames = []string{"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}

// priorities are those of sd-daemon(3), for the same levels.
var priorities = []string{"<7>", "<6>", "<4>", "<3>", "<2>"}

const levelCritical = slog.LevelError + 4 // for what must not happen

// step returns the index of a level in levelNames and priorities.
func step(level slog.Level) int {
	index := int(level-slog.LevelDebug) / 4
	return max(0, min(index, len(levelNames)-1))
}

// newLogHandler returns slog's own handler, but with levelNames, and with times in UTC. On the way
// to the journal, each line begins with its priority.
func newLogHandler(out *logFile, cfg config) slog.Handler {
	lowest := slices.Index(levelNames, strings.ToUpper(cfg.logLevel))
	options := &slog.HandlerOptions{
		Level:       slog.LevelDebug + slog.Level(4*lowest),
		ReplaceAttr: replaceAttr,
	}
	newHandler := func(out io.Writer) slog.Handler {
		if cfg.logFormat == "json" {
			return slog.NewJSONHandler(out, options)
		}
		return slog.NewTextHandler(out, options)
	}
	if cfg.logFile != "" || !stderrIsJournal() {
		return newHandler(out)
	}
	line := &bytes.Buffer{}
	return &journalHandler{
		Handler: newHandler(line),
		line:    line,
		out:     out,
	}
}

// replaceAttr is the ReplaceAttr of slog's handlers.
func replaceAttr(_ []string, a slog.Attr) slog.Attr {
	switch a.Value.Kind() { // comes first, because Any allocates for each text in the line
	case slog.KindTime:
		a.Value = slog.TimeValue(a.Value.Time().UTC())
	case slog.KindAny:
		if level, ok := a.Value.Any().(slog.Level); ok {
			a.Value = slog.StringValue(levelNames[step(level)])
		}
	}
	return a
}

// stderrIsJournal reports whether standard error is the socket of systemd's journal, which
// JOURNAL_STREAM names by its device and inode (systemd.exec(5)).
func stderrIsJournal() bool {
	_, inode, isNamed := strings.Cut(os.Getenv("JOURNAL_STREAM"), ":")
	target, err := os.Readlink("/proc/self/fd/2")
	return isNamed && err == nil && target == "socket:["+inode+"]"
}

// journalHandler is a handler whose lines begin with their priority (sd-daemon(3)), which the
// journal takes off. The service has one logger, without attributes or groups of its own.
type journalHandler struct {
	slog.Handler // writes into line

	mu   sync.Mutex // guards line
	line *bytes.Buffer
	out  io.Writer
}

// Handle implements slog.Handler.
func (h *journalHandler) Handle(ctx context.Context, record slog.Record) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.line.Reset()
	h.line.WriteString(priorities[step(record.Level)])
	if err := h.Handler.Handle(ctx, record); err != nil {
		return err
	}
	_, err := h.out.Write(h.line.Bytes())
	return err
}

// logFile is where the log goes: a file that can be reopened, or standard error. What cannot be
// written is counted, and the service goes on.
type logFile struct {
	stderr        io.Writer // is told when lines begin to get lost
	written, lost atomic.Int64

	mu        sync.Mutex // guards what follows
	out       io.Writer
	file      *os.File // the same, but nil for standard error
	isTorn    bool     // out ends inside a line
	isFailing bool     // the last write has failed
}

// open lets the log go on in the file at path, which is created if need be. Without a path, and if
// the file cannot be opened, the log stays where it is.
func (l *logFile) open(path string) error {
	if path == "" {
		return nil
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	isTorn := endsInsideLine(file)

	l.mu.Lock()
	defer l.mu.Unlock()
	l.file.Close() // does nothing if there is none
	l.out = file
	l.file = file
	l.isTorn = isTorn
	return nil
}

// close closes the file. Standard error stays open.
func (l *logFile) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.file.Close() // does nothing if there is none
}

// endsInsideLine reports whether a log that another process has left lacks its last newline. A pipe
// and /dev/null have no size.
func endsInsideLine(file *os.File) bool {
	info, err := file.Stat()
	if err != nil || info.Size() == 0 {
		return false
	}
	last := make([]byte, 1)
	_, err = file.ReadAt(last, info.Size()-1)
	return err == nil && last[0] != '\n'
}

// Write implements io.Writer for whole lines. It never fails. While out is blocked, so is Write,
// and with it every request: otherwise, lines without number would gather in memory.
func (l *logFile) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := line
	if l.isTorn {
		text = append([]byte{'\n'}, line...) // the line begins on a line of its own
	}
	n, err := l.out.Write(text)
	l.written.Add(int64(n))
	l.lost.Add(int64(len(text) - n))
	if n > 0 {
		l.isTorn = text[n-1] != '\n'
	}

	// The first of the errors in a row is reported on standard error, unless that is what failed.
	if err != nil && !l.isFailing && l.file != nil {
		fmt.Fprintln(l.stderr, "taskapi: the log cannot be written, lines are lost:", err)
	}
	l.isFailing = err != nil
	return len(line), nil
}

// --- The counters ---

// bounds are the upper bounds of the duration histogram, in seconds. They are close together where
// most answers are, below 5 ms, and include the 0.1 and 1.0 of the alerts.
var bounds = [...]float64{0.0005, 0.001, 0.0025, 0.005, 0.025, 0.1, 0.5, 1}

// metrics counts what the service has done since its start.
type metrics struct {
	families []family
	heads    map[string]string       // HELP and TYPE, by family
	sources  []runtimemetrics.Sample // of all families, in their order
	bounds   []string                // of the histogram, as texts
	inFlight atomic.Int64

	mu        sync.Mutex // guards what follows
	unmatched *traffic   // what no route answers
	traffic   []*traffic // of all routes, in the order of the API, after unmatched
	events    []counter  // by category
	failures  []counter  // by error_code
}

// counter is a sample of a family that has a label.
type counter struct {
	label string
	count int
}

// traffic counts the requests of one route.
type traffic struct {
	route   route
	codes   []counter            // by status
	buckets [len(bounds) + 1]int // above the bound before; the last is above all
	seconds float64
}

// newMetrics returns metrics in which everything that an alert may divide by is there, at 0. If a
// series were missing, a ratio would be no number, and a first error no increase.
func newMetrics() *metrics {
	m := &metrics{
		families: parseFamilies(familyTable),
		heads:    map[string]string{},
	}
	for _, bound := range bounds {
		m.bounds = append(m.bounds, boundText(bound))
	}
	m.bounds = append(m.bounds, "+Inf")
	for _, f := range m.families {
		m.heads[f.name] = f.head
		for _, source := range f.sources {
			m.sources = append(m.sources, runtimemetrics.Sample{Name: source})
		}
	}
	m.unmatched = m.newTraffic(route{Method: "other", Path: "unmatched"}, 404, 405)
	for _, code := range errorCodes {
		m.events = add(m.events, code.category, 0)
		m.failures = add(m.failures, code.Name, 0)
	}
	m.events = add(m.events, "PERFORMANCE", 0)
	return m
}

// boundText returns a bound with a point in it: Prometheus 3 would rename "1" to "1.0".
func boundText(bound float64) string {
	text := strconv.FormatFloat(bound, 'f', -1, 64)
	if !strings.Contains(text, ".") {
		text += ".0"
	}
	return text
}

// newTraffic makes the series of a route, with the statuses that are there at 0 before the first
// request. Other statuses come with the first answer that has them.
func (m *metrics) newTraffic(rt route, statuses ...int) *traffic {
	t := &traffic{route: rt}
	for _, status := range statuses {
		t.codes = add(t.codes, strconv.Itoa(status), 0)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.traffic = append(m.traffic, t)
	return t
}

// add returns counters in which n more are counted for a label. Without a label, nothing is.
func add(counters []counter, label string, n int) []counter {
	if label == "" {
		return counters
	}
	for i := range counters {
		if counters[i].label == label {
			counters[i].count += n
			return counters
		}
	}
	return append(counters, counter{label: label, count: n})
}

// count counts one answer.
func (m *metrics) count(w *reply, duration time.Duration) {
	seconds := duration.Seconds()
	bucket, _ := slices.BinarySearch(bounds[:], seconds) // the first that is not below
	code := strconv.Itoa(w.status)

	m.mu.Lock()
	defer m.mu.Unlock()
	t := w.traffic
	t.codes = add(t.codes, code, 1)
	t.buckets[bucket]++
	t.seconds += seconds
	m.events = add(m.events, w.category, 1)
	m.failures = add(m.failures, w.errorCode, 1)
}

// --- The metrics as text ---

// familyTable has a row for each family of metrics: name, type and help, and, if its value is a sum
// of metrics of the Go runtime, their names. To add a family, add a row, and, unless it is such a
// sum, a call of exposition.add below, or for process_*, a value in readProcess. README.md lists
// the families, too. The go_* and process_* families are those that stock dashboards draw, by the
// names of client_golang.
//
//go:embed deploy/metrics.txt
var familyTable string

// family is one row of the table.
type family struct {
	name    string
	head    string   // HELP and TYPE
	sources []string // metrics of the Go runtime
}

func parseFamilies(table string) []family {
	var families []family
	for row := range strings.Lines(table) {
		cells := strings.Split(strings.TrimSpace(row), " | ")
		name, kind, help := cells[0], cells[1], cells[2]
		families = append(families, family{
			name:    name,
			head:    "# HELP " + name + " " + help + "\n# TYPE " + name + " " + kind + "\n",
			sources: cells[3:],
		})
	}
	return families
}

// exposition is the text of all metrics in the making. The samples of a family have to stand
// together.
type exposition struct {
	heads map[string]string
	text  []byte
	last  string // the family of the last sample
}

// add adds a sample. suffix is what follows the name of the family, in parts: "_sum", labels, or
// nothing. Nothing in the labels of this service needs an escape.
func (x *exposition) add(family string, value float64, suffix ...string) {
	if family != x.last {
		x.text = append(x.text, x.heads[family]...)
		x.last = family
	}
	x.text = append(x.text, family...)
	for _, part := range suffix {
		x.text = append(x.text, part...)
	}
	x.text = append(x.text, ' ')
	x.text = strconv.AppendFloat(x.text, value, 'f', -1, 64)
	x.text = append(x.text, '\n')
}

// addEach adds a sample for each of some counters. labels ends with the name of the label that
// tells them apart, as in "{category".
func (x *exposition) addEach(family, labels string, counters []counter) {
	for _, c := range counters {
		x.add(family, float64(c.count), labels, `="`, c.label, `"}`)
	}
}

// exposeMetrics: GET /metrics. What is not known is left out: 0 would be a lie, and NaN spoils
// sums.
func (s *service) exposeMetrics(w *reply, _ *http.Request) error {
	x := &exposition{
		heads: s.metrics.heads,
		text:  make([]byte, 0, 32<<10),
	}
	s.metrics.exposeCounters(x)
	s.exposeState(x, w.start)
	s.exposeHost(x, w.start)
	s.exposeProcess(x, w.start)
	w.fill(http.StatusOK, "text/plain; version=0.0.4; charset=utf-8", x.text)
	return nil
}

// exposeCounters adds all counters at once, so that they add up.
func (m *metrics) exposeCounters(x *exposition) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, t := range m.traffic {
		x.addEach("http_requests_total", t.labels()+",code", t.codes)
	}
	for _, t := range m.traffic {
		t.exposeDurations(x, m.bounds)
	}
	x.addEach("log_events_total", "{category", m.events)
	x.addEach("task_errors_total", "{error_code", m.failures)
}

// labels are those of a route, without the closing brace.
func (t *traffic) labels() string {
	return `{method="` + t.route.Method + `",route="` + t.route.Path + `"`
}

// exposeDurations adds the histogram of a route, in which each bucket contains those before it.
func (t *traffic) exposeDurations(x *exposition, bounds []string) {
	const family = "http_request_duration_seconds"
	labels := t.labels()
	count := 0
	for i, n := range t.buckets {
		count += n
		x.add(family, float64(count), "_bucket", labels, `,le="`, bounds[i], `"}`)
	}
	x.add(family, t.seconds, "_sum", labels, "}")
	x.add(family, float64(count), "_count", labels, "}")
}

// exposeState adds what the service knows of itself.
func (s *service) exposeState(x *exposition, now time.Time) {
	c := s.check(now)
	x.add("http_requests_in_flight", float64(s.metrics.inFlight.Load()))
	x.add("tasks_created_total", float64(c.Storage.Total-s.store.restored))
	x.add("tasks_stored", float64(c.Storage.Total))
	x.add("tasks_capacity", float64(s.maxTasks))
	x.add("log_written_bytes_total", float64(s.logOutput.written.Load()))
	x.add("log_lost_bytes_total", float64(s.logOutput.lost.Load()))
	x.add("go_info", 1, `{version="`, s.build.goVersion, `"}`)
	x.add("taskapi_build_info", 1, `{version="`, s.build.version, `",revision="`, s.build.revision,
		`",goversion="`, s.build.goVersion, `"}`)

	x.add("health_check_status", c.Application.number(), `{check="application"}`)
	x.add("health_check_status", c.Storage.number(), `{check="storage"}`)
	x.add("health_check_status", c.Resources.number(), `{check="system_resources"}`)
}

// number returns 1 for healthy, else 0.
func (v verdict) number() float64 {
	if v.Status == healthy {
		return 1
	}
	return 0
}

// exposeHost adds what the sensors have read of the host.
func (s *service) exposeHost(x *exposition, now time.Time) {
	hosts := []struct {
		ratio  string
		sensor *sensor[usage]
	}{
		{"system_cpu_usage_ratio", s.sensors.cpu},
		{"system_memory_usage_ratio", s.sensors.memory},
		{"system_disk_usage_ratio", s.sensors.disk},
	}
	for _, host := range hosts {
		if value, err := host.sensor.latest(now); err == nil {
			x.add(host.ratio, value.Percent/100)
		}
	}
	for _, host := range hosts {
		if age, ok := host.sensor.age(now); ok {
			x.add("system_sample_age_seconds", age, `{reading="`, host.sensor.name, `"}`)
		}
	}
}

// exposeProcess adds what the system and the Go runtime tell of the process. All sources together
// are read in little more time than one of them. (runtime.ReadMemStats would stop the world.)
func (s *service) exposeProcess(x *exposition, now time.Time) {
	x.add("process_start_time_seconds", float64(s.started.UnixMilli())/1000)
	x.add("go_goroutines", float64(runtime.NumGoroutine())) // not those of the runtime itself
	process, err := s.sensors.process.latest(now)
	if err != nil {
		process = &processUsage{}
	}
	sources := slices.Clone(s.metrics.sources) // because Read writes into it
	runtimemetrics.Read(sources)
	for _, f := range s.metrics.families {
		if value, isKnown := (*process)[f.name]; isKnown {
			x.add(f.name, value)
		}
		if len(f.sources) == 0 {
			continue
		}
		sum, isKnown := sumOf(sources[:len(f.sources)])
		sources = sources[len(f.sources):]
		if isKnown {
			x.add(f.name, sum)
		}
	}
	exposeCollector(x)
}

// sumOf adds up metrics of the Go runtime. It does not know the sum if this Go lacks one of them.
func sumOf(sources []runtimemetrics.Sample) (sum float64, isKnown bool) {
	for _, source := range sources {
		if source.Value.Kind() != runtimemetrics.KindUint64 {
			return 0, false
		}
		sum += float64(source.Value.Uint64())
	}
	return sum, true
}

// exposeCollector adds what the garbage collector has done.
func exposeCollector(x *exposition) {
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

// build is what the go command has recorded of this program. -version prints it, too.
type build struct {
	version   string
	revision  string
	goVersion string
}

func readBuild() build {
	info, _ := debug.ReadBuildInfo() // go build and go run always record it
	b := build{
		version:   cmp.Or(info.Main.Version, "(devel)"),
		revision:  "unknown",
		goVersion: info.GoVersion,
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			b.revision = setting.Value
		}
	}
	return b
}
