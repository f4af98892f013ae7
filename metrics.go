package main

// What is written down of each request: one line in the log and one count in the metrics. The
// Prometheus text format (0.0.4) is only text, if the set of labels is closed: no label has a
// value that a client can choose, so no client can make the metrics grow.

import (
	"bytes"
	"cmp"
	_ "embed"
	"fmt"
	"io"
	"log/slog"
	"math"
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
// can rely on the counters. What a client can make long is cut, because rsyslog takes lines of
// 8 KiB.
func (s *service) record(w *reply, r *http.Request) {
	duration := time.Since(w.start)
	message := "request"
	if duration > s.slow {
		message = "SLOW request"
		if w.code.level == slog.LevelInfo { // there is nothing worse to say
			w.code.level = slog.LevelWarn
			w.code.category = "PERFORMANCE"
		}
	}
	s.metrics.inFlight.Add(-1)
	s.metrics.count(w, duration)
	if w.code.category != "" {
		w.note(slog.String("category", w.code.category))
	}

	path := strings.ReplaceAll(r.URL.EscapedPath(), "=", "%3D") // else it could look like a field
	if len(path) > 1024 {
		path = path[:1024] + "…"
	}
	size := len(w.body)
	if r.Method == http.MethodHead {
		size = 0 // net/http leaves the body out
	}
	handler := s.log.Handler()
	if !handler.Enabled(r.Context(), w.code.level) {
		return
	}
	// The line is made here, because s.log would look up its caller.
	line := slog.NewRecord(w.start.Add(duration), w.code.level, message, 0)
	line.AddAttrs(
		slog.String("method", r.Method[:min(len(r.Method), 32)]),
		slog.String("route", w.traffic.route.Path),
		slog.String("path", path),
		slog.Int("status", w.status),
		slog.Duration("duration", duration),
		slog.Int("bytes", size),
		slog.String("remote", r.RemoteAddr),
		slog.String("request_id", w.requestID))
	line.AddAttrs(w.notes...)
	handler.Handle(r.Context(), line) // never fails: see logOutput.Write
}

// --- The log ---

// levelNames are those of the operations guide, from slog.LevelDebug on in steps of 4.
var levelNames = []string{"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}

// priorities are those of the journal (sd-daemon(3)), for the same levels.
var priorities = []string{"<7>", "<6>", "<4>", "<3>", "<2>"}

const levelCritical = slog.LevelError + 4 // for what must not happen

// levelStep returns the index of a name in levelNames, or -1.
func levelStep(name string) int { return slices.Index(levelNames, strings.ToUpper(name)) }

// newLogHandler returns slog's own handler, but with levelNames, and with times in UTC.
func newLogHandler(out io.Writer, format, lowest string) slog.Handler {
	options := &slog.HandlerOptions{
		Level:       slog.LevelDebug + slog.Level(4*levelStep(lowest)),
		ReplaceAttr: replaceAttr,
	}
	if format == "json" {
		return slog.NewJSONHandler(out, options)
	}
	return slog.NewTextHandler(out, options)
}

// replaceAttr is the ReplaceAttr of slog's handlers.
func replaceAttr(_ []string, a slog.Attr) slog.Attr {
	switch a.Value.Kind() { // comes first, because Any allocates for each text in the line
	case slog.KindTime:
		a.Value = slog.TimeValue(a.Value.Time().UTC())
	case slog.KindAny:
		if level, ok := a.Value.Any().(slog.Level); ok {
			step := int(level-slog.LevelDebug) / 4
			step = max(0, min(step, len(levelNames)-1))
			a.Value = slog.StringValue(levelNames[step])
		}
	}
	return a
}

// logOutput is where the log goes: a file that can be reopened, or standard error. What cannot be
// written is counted, and the service goes on.
type logOutput struct {
	stderr        io.Writer // is told when lines begin to get lost
	written, lost atomic.Int64

	mu   sync.Mutex // guards what follows
	out  io.Writer
	file *os.File // the file that out is, or nil for standard error
	torn bool     // out ends inside a line
	err  error    // of the last write
}

// open lets the log go on in the file at path, which is created if need be. Without a path, and if
// the file cannot be opened, the log stays where it is.
func (l *logOutput) open(path string) error {
	if path == "" {
		return nil
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	// A log that another process has left may end inside a line.
	last := []byte{'\n'}
	end, _ := file.Seek(0, io.SeekEnd)
	if end > 0 {
		file.ReadAt(last, end-1)
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	l.file.Close() // does nothing if there is none
	l.out = file
	l.file = file
	l.torn = last[0] != '\n'
	l.err = nil
	return nil
}

// Write implements io.Writer for whole lines. It never fails. While out is blocked, so is Write,
// and with it every request: otherwise, lines would gather in memory without end.
func (l *logOutput) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := line
	if l.file == nil && stderrIsJournal {
		text = append(priority(line), line...)
	}
	if l.torn {
		text = append([]byte{'\n'}, text...) // the line begins on a line of its own
	}
	n, err := l.out.Write(text)
	l.written.Add(int64(n))
	l.lost.Add(int64(len(text) - n))
	if n > 0 {
		l.torn = text[n-1] != '\n'
	}

	// The first of the errors in a row is reported on standard error, unless that is what failed.
	if err != nil && l.err == nil && l.file != nil {
		fmt.Fprintln(l.stderr, "taskapi: the log cannot be written, lines are lost:", err)
	}
	l.err = err
	return len(line), nil
}

// stderrIsJournal says whether standard error is the socket of systemd's journal, which
// JOURNAL_STREAM names by its device and inode (systemd.exec(5)).
var stderrIsJournal = func() bool {
	_, inode, _ := strings.Cut(os.Getenv("JOURNAL_STREAM"), ":")
	target, _ := os.Readlink("/proc/self/fd/2")
	return inode != "" && target == "socket:["+inode+"]"
}()

// priority returns what the journal wants to see before a line (sd-daemon(3)): <2> for CRITICAL to
// <7> for DEBUG. A line says its level before anything that a client has chosen.
func priority(line []byte) []byte {
	for step, name := range levelNames {
		if bytes.Contains(line[:min(len(line), 60)], []byte(name)) {
			return []byte(priorities[step])
		}
	}
	return nil
}

// --- The counters ---

// bounds are the upper bounds of the duration histogram, in seconds. They are close together where
// most answers are, below 5 ms, and include the 0.1 and 1.0 of the alerts.
var bounds = [...]float64{0.0005, 0.001, 0.0025, 0.005, 0.025, 0.1, 0.5, 1}

// boundTexts are the bounds, and the last bucket's. Prometheus 3 would rename "1" to "1.0".
var boundTexts = strings.Fields("0.0005 0.001 0.0025 0.005 0.025 0.1 0.5 1.0 +Inf")

// metrics counts what the service has done since its start.
type metrics struct {
	families *families
	inFlight atomic.Int64 // requests that are not recorded yet

	// These two are set before the first request.
	unmatched *traffic   // what no route answers
	traffic   []*traffic // of all routes, in the order of the API, after unmatched

	mu       sync.Mutex // guards the counters of traffic, and what follows
	events   counters   // by category
	failures counters   // by error_code
}

// traffic counts the requests of one route.
type traffic struct {
	route   route
	labels  string               // of its series, without the closing brace
	codes   counters             // by status
	buckets [len(bounds) + 1]int // above the bound before; the last is above all
	seconds float64
	series  []string // of the histogram, without its name: each bucket, sum and count
}

// newMetrics returns metrics in which everything that an alert may divide by is there, at 0. If a
// series were missing, a ratio would be no number, and a first error no increase.
func newMetrics() *metrics {
	m := &metrics{families: parseFamilies(familyTable)}
	m.unmatched = m.newTraffic(route{Method: "other", Path: "unmatched"}, "404", "405")
	for _, code := range errorCodes {
		m.events.add(code.category, 0)
		m.failures.add(code.Name, 0)
	}
	m.events.add("PERFORMANCE", 0)
	return m
}

// newTraffic makes the series of a route, with two statuses that are there at 0 before the first
// request. Other statuses come with the first answer that has them.
func (m *metrics) newTraffic(rt route, status, other string) *traffic {
	t := &traffic{route: rt}
	t.labels = `{method="` + rt.Method + `",route="` + rt.Path + `"`
	t.codes.add(status, 0)
	t.codes.add(other, 0)
	for _, bound := range boundTexts {
		t.series = append(t.series, "_bucket"+t.labels+`,le="`+bound+`"}`)
	}
	t.series = append(t.series, "_sum"+t.labels+"}", "_count"+t.labels+"}")
	m.traffic = append(m.traffic, t) // without the lock: nobody counts yet
	return t
}

// count counts one answer.
func (m *metrics) count(w *reply, duration time.Duration) {
	seconds := duration.Seconds()
	bucket, _ := slices.BinarySearch(bounds[:], seconds) // the first that is not below
	m.mu.Lock()
	defer m.mu.Unlock()
	w.traffic.codes.add(strconv.Itoa(w.status), 1)
	w.traffic.buckets[bucket]++
	w.traffic.seconds += seconds
	m.events.add(w.code.category, 1)
	m.failures.add(w.code.Name, 1)
}

// counters are the samples of a family by the value of a label, in the order in which they came.
// They are few: a list is as fast as a map, and need not be sorted to be shown.
type counters []counter

type counter struct {
	label string
	count int
}

// add counts n more for a label, and nothing without one.
func (c *counters) add(label string, n int) {
	for i := range *c {
		if (*c)[i].label == label {
			(*c)[i].count += n
			return
		}
	}
	if label != "" {
		*c = append(*c, counter{label: label, count: n})
	}
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

// families are the rows of the table.
type families struct {
	names   []string                // in the order of the table
	heads   map[string]string       // HELP and TYPE, by family
	sources []runtimemetrics.Sample // without values
	sums    []string                // for each of sources, the family that it is added to
}

func parseFamilies(table string) *families {
	f := &families{heads: map[string]string{}}
	for row := range strings.Lines(table) {
		cells := strings.Split(strings.TrimSpace(row), " | ")
		name, kind, help := cells[0], cells[1], cells[2]
		f.names = append(f.names, name)
		f.heads[name] = "# HELP " + name + " " + help + "\n# TYPE " + name + " " + kind + "\n"
		for _, source := range cells[3:] {
			f.sources = append(f.sources, runtimemetrics.Sample{Name: source})
			f.sums = append(f.sums, name)
		}
	}
	return f
}

// exposition is the text of all metrics in the making. The samples of a family have to stand
// together.
type exposition struct {
	*families
	text []byte
	last string // the family of the last sample
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
	if count := int64(value); float64(count) == value { // most are counts, and faster to write
		x.text = strconv.AppendInt(x.text, count, 10)
	} else {
		x.text = strconv.AppendFloat(x.text, value, 'f', -1, 64)
	}
	x.text = append(x.text, '\n')
}

// addEach adds a sample for each of some counters. labels ends with the name of the label that
// tells them apart, as in "{category".
func (x *exposition) addEach(family, labels string, samples counters) {
	for _, c := range samples {
		x.add(family, float64(c.count), labels, `="`, c.label, `"}`)
	}
}

// exposeMetrics: GET /metrics. What is not known is left out: 0 would be a lie, and NaN spoils
// sums.
func (s *service) exposeMetrics(w *reply, _ *http.Request) error {
	x := &exposition{families: s.metrics.families, text: make([]byte, 0, 28<<10)}
	s.metrics.exposeCounters(x)
	s.exposeState(x, w.start)
	x.text = append(x.text, *s.process.Load()...)
	w.fill(http.StatusOK, "text/plain; version=0.0.4; charset=utf-8", x.text)
	return nil
}

// exposeCounters adds all counters at once, so that they add up.
func (m *metrics) exposeCounters(x *exposition) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, t := range m.traffic {
		x.addEach("http_requests_total", t.labels+",code", t.codes)
	}
	for _, t := range m.traffic {
		t.exposeDurations(x)
	}
	x.addEach("log_events_total", "{category", m.events)
	x.addEach("task_errors_total", "{error_code", m.failures)
}

// exposeDurations adds the histogram of a route, in which each bucket contains those before it.
func (t *traffic) exposeDurations(x *exposition) {
	const family = "http_request_duration_seconds"
	count := 0
	for i, n := range t.buckets {
		count += n
		x.add(family, float64(count), t.series[i])
	}
	x.add(family, t.seconds, t.series[len(t.buckets)])
	x.add(family, float64(count), t.series[len(t.buckets)+1])
}

// exposeState adds what the service knows of itself and of its host.
func (s *service) exposeState(x *exposition, now time.Time) {
	total, _ := s.store.state(now)
	x.add("http_requests_in_flight", float64(s.metrics.inFlight.Load()))
	x.add("tasks_created_total", float64(total-s.store.restored))
	x.add("tasks_stored", float64(total))
	x.add("tasks_capacity", float64(s.maxTasks))
	x.add("log_written_bytes_total", float64(s.logOutput.written.Load()))
	x.add("log_lost_bytes_total", float64(s.logOutput.lost.Load()))
	x.add("go_info", 1, `{version="`, s.goVersion, `"}`)
	x.add("go_goroutines", float64(runtime.NumGoroutine())) // without those of the runtime
	x.add("taskapi_build_info", 1, `{version="`, s.version, `",revision="`, s.revision,
		`",goversion="`, s.goVersion, `"}`)

	checks := s.check(now).Checks
	x.add("health_check_status", checks.Application.number(), `{check="application"}`)
	x.add("health_check_status", checks.Storage.number(), `{check="storage"}`)
	x.add("health_check_status", checks.Resources.number(), `{check="system_resources"}`)
	sensors := []*sensor{s.cpu, s.memory, s.disk}
	for _, sensor := range sensors {
		if usage := sensor.report(&verdict{}, now); usage != nil {
			x.add("system_"+sensor.name+"_usage_ratio", math.Round(usage.Percent*10)/1000)
		}
	}
	for _, sensor := range sensors {
		if last := sensor.last.Load(); last != nil && last.err == nil {
			age := max(0, now.Sub(last.at).Seconds())
			x.add("system_sample_age_seconds", age, `{reading="`, sensor.name, `"}`)
		}
	}
}

// sampleProcess keeps what the system and the Go runtime tell of the process, as text. It is called
// as often as the sensors, because it takes as long as the rest of the page: a scrape only copies
// it. (runtime.ReadMemStats would stop the world.)
func (s *service) sampleProcess() {
	x := &exposition{families: s.metrics.families}
	numbers := readProcess()
	numbers["process_start_time_seconds"] = float64(s.started.UnixMilli()) / 1000
	sources := slices.Clone(x.sources) // because Read writes into it
	runtimemetrics.Read(sources)       // all, in little more time than one
	for i, source := range sources {
		if source.Value.Kind() == runtimemetrics.KindUint64 { // else it is unknown to this Go
			numbers[x.sums[i]] += float64(source.Value.Uint64())
		}
	}
	for _, family := range x.names {
		if value, isKnown := numbers[family]; isKnown {
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
	s.process.Store(&x.text)
}

// build is what the go command has recorded of this program. -version prints it, too.
type build struct{ version, revision, goVersion string }

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
