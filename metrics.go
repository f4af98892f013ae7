package main

// Metrics: Prometheus text format 0.0.4 is only text, if the set of labels is closed. No label has a value that a client
// can choose, so that no client can make the page grow.

import (
	"cmp"
	"maps"
	"net/http"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// bounds are the upper bounds of the duration histogram's buckets in seconds: fine where an answer from memory lies,
// and exact at the figures that alerts compare with, 0.1 and 1.0.
var bounds = [...]float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5}

// unmatched is the route of a request that no pattern matched, and otherMethod the method of one that RFC 9110 and
// RFC 5789 do not know.
const (
	unmatched   = "unmatched"
	otherMethod = "other"
)

var methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE"}

// metrics counts what the service does, from its start.
type metrics struct {
	inFlight atomic.Int64
	created  atomic.Uint64

	mu        sync.Mutex // guards what follows
	endpoints map[endpoint]*traffic
	events    map[string]uint64 // log lines by category
	problems  map[string]uint64 // error answers by error_code
}

// endpoint is a mux pattern in its two parts.
type endpoint struct{ method, route string }

// traffic is what an endpoint has answered.
type traffic struct {
	codes   map[int]uint64
	buckets [len(bounds) + 1]uint64 // not cumulative; the last one is for all above the bounds
	seconds float64                 // sum of the durations
}

// newMetrics returns metrics in which every series that an alert may divide by exists, at 0: a ratio with a series
// missing is no number, and the increase of a counter that is born at 1 is 0.
func newMetrics(routes []route) *metrics {
	m := &metrics{endpoints: map[endpoint]*traffic{}, events: map[string]uint64{}, problems: map[string]uint64{}}
	for _, r := range routes {
		method, path, _ := strings.Cut(r.pattern, " ")
		success := http.StatusOK
		if method == http.MethodPost {
			success = http.StatusCreated
		}
		m.endpoints[endpoint{method, path}] = &traffic{codes: map[int]uint64{success: 0, http.StatusInternalServerError: 0}}
	}
	for _, category := range categories {
		m.events[category] = 0
	}
	for code := range statusOf {
		m.problems[code] = 0
	}
	return m
}

// observe counts one answered request. category and code may be empty.
func (m *metrics) observe(method, route string, status int, d time.Duration, category, code string) {
	if !slices.Contains(methods, method) {
		method = otherMethod
	}
	seconds := d.Seconds()
	bucket, _ := slices.BinarySearch(bounds[:], seconds) // a value on a bound belongs below it: le
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.endpoints[endpoint{method, route}]
	if t == nil {
		t = &traffic{codes: map[int]uint64{}}
		m.endpoints[endpoint{method, route}] = t
	}
	t.codes[status]++
	t.buckets[bucket]++
	t.seconds += seconds
	if category != "" {
		m.events[category]++
	}
	if code != "" {
		m.problems[code]++
	}
}

// metricsPage: GET /metrics.
func (s *service) metricsPage(w *response, r *http.Request) error {
	page := make(page, 0, 32<<10)
	s.metrics.write(&page)
	s.writeState(&page)
	writeRuntime(&page, s.build.goVersion)
	w.Header().Del("Cache-Control")
	w.send(http.StatusOK, contentMetrics, page)
	return nil
}

// write adds the counters of requests and log lines. All are read under one lock, so that every page adds up; it is
// held for as long as it takes to append to memory.
func (m *metrics) write(p *page) {
	m.mu.Lock()
	defer m.mu.Unlock()
	order := slices.SortedFunc(maps.Keys(m.endpoints), func(a, b endpoint) int {
		return cmp.Or(cmp.Compare(a.route, b.route), cmp.Compare(a.method, b.method))
	})
	p.family("http_requests_total", "counter", "Requests answered, by mux pattern and status code.")
	for _, e := range order {
		codes := m.endpoints[e].codes
		for _, code := range slices.Sorted(maps.Keys(codes)) {
			p.sample("http_requests_total", float64(codes[code]),
				"method", e.method, "route", e.route, "code", strconv.Itoa(code))
		}
	}
	const duration = "http_request_duration_seconds"
	p.family(duration, "histogram", "Time from the end of a request's header to the end of its answer.")
	for _, e := range order {
		t := m.endpoints[e]
		count := uint64(0)
		for i, n := range t.buckets {
			count += n
			p.sample(duration+"_bucket", float64(count), "method", e.method, "route", e.route, "le", le(i))
		}
		p.sample(duration+"_sum", t.seconds, "method", e.method, "route", e.route)
		p.sample(duration+"_count", float64(count), "method", e.method, "route", e.route)
	}
	p.counts("log_events_total", "Log lines of requests, by category.", "category", m.events)
	p.counts("task_errors_total", "Error answers, by the error_code in their body.", "error_code", m.problems)
	p.scalar("http_requests_in_flight", "gauge", "Requests being answered, this one included.", float64(m.inFlight.Load()))
	p.scalar("tasks_created_total", "counter", "Tasks created since the start.", float64(m.created.Load()))
}

// le is the upper bound of the i-th bucket as a label. Whole numbers carry a fraction: Prometheus 3 would rename le="1".
func le(i int) string {
	if i == len(bounds) {
		return "+Inf"
	}
	text := strconv.FormatFloat(bounds[i], 'f', -1, 64)
	if !strings.Contains(text, ".") {
		text += ".0"
	}
	return text
}

// writeState adds the store, the checks, and the readings of the sampler. A reading that is not known is left out:
// a 0 would be a lie, and NaN would spoil every sum.
func (s *service) writeState(p *page) {
	now := time.Now()
	rep := s.report(now)
	p.scalar("tasks_stored", "gauge", "Tasks in the store.", float64(rep.Checks.Storage.Total))
	p.scalar("tasks_capacity", "gauge", "Tasks that the store can hold.", float64(rep.Checks.Storage.Capacity))
	p.family("health_check_status", "gauge", "1 if the check of the detailed health is healthy, else 0.")
	for _, check := range []struct {
		name string
		verdict
	}{
		{"application", rep.Checks.Application.verdict},
		{"storage", rep.Checks.Storage.verdict},
		{"system_resources", rep.Checks.System.verdict},
	} {
		healthy := 0.0
		if check.Reason == "" {
			healthy = 1
		}
		p.sample("health_check_status", healthy, "check", check.name)
	}
	p.scalar("log_written_bytes_total", "counter", "Bytes of log written.", float64(s.logged.written.Load()))
	p.family("taskapi_build_info", "gauge", "Always 1; the labels say what is running.")
	p.sample("taskapi_build_info", 1,
		"version", s.build.version, "revision", s.build.revision, "goversion", s.build.goVersion)

	readings := []*gauge[usage]{s.sampler.cpu, s.sampler.memory, s.sampler.disk}
	for _, g := range readings {
		if u, err := g.fresh(now); err == nil {
			p.scalar("system_"+g.name+"_usage_ratio", "gauge", "Share of the host's "+g.name+" in use, from 0 to 1.", u.ratio)
		}
	}
	p.family("system_sample_age_seconds", "gauge", "Time since the last successful reading.")
	for _, g := range readings {
		if last := g.last.Load(); last != nil && last.err == nil {
			p.sample("system_sample_age_seconds", now.Sub(last.at).Seconds(), "reading", g.name)
		}
	}
	p.scalar("process_start_time_seconds", "gauge", "Start of the process in seconds since 1970.",
		float64(s.started.UnixMilli())/1000)
	values, _ := s.sampler.process.fresh(now)
	for _, f := range processFamilies {
		if value, known := values[f.name]; known {
			p.scalar(f.name, f.kind, f.help, value)
		}
	}
}

// processFamilies are the readings of the sampler about this process.
var processFamilies = []struct{ name, kind, help string }{
	{"process_cpu_seconds_total", "counter", "CPU time used, user and system, in seconds."},
	{"process_open_fds", "gauge", "Open file descriptors."},
	{"process_max_fds", "gauge", "File descriptors that may be open."},
	{"process_virtual_memory_bytes", "gauge", "Size of the address space."},
	{"process_virtual_memory_max_bytes", "gauge", "Size that the address space may have."},
	{"process_resident_memory_bytes", "gauge", "Memory in use."},
}

// runtimeFamilies are the families that stock Go dashboards draw, each the sum of some metrics of the Go runtime.
// runtime/metrics reads them in a microsecond; runtime.ReadMemStats would stop the world.
var runtimeFamilies = []struct {
	name, kind, help string
	sources          []string
}{
	{"go_goroutines", "gauge", "Goroutines that exist.", []string{"/sched/goroutines:goroutines"}},
	{"go_threads", "gauge", "Operating system threads of the runtime.", []string{"/sched/threads/total:threads"}},
	{"go_sched_gomaxprocs_threads", "gauge", "Threads that can run Go code at once.",
		[]string{"/sched/gomaxprocs:threads"}},
	{"go_gc_gogc_percent", "gauge", "Heap growth that starts a collection (GOGC).", []string{"/gc/gogc:percent"}},
	{"go_gc_gomemlimit_bytes", "gauge", "Memory limit of the runtime (GOMEMLIMIT).", []string{"/gc/gomemlimit:bytes"}},
	{"go_memstats_alloc_bytes", "gauge", "Heap in use by objects.", []string{"/memory/classes/heap/objects:bytes"}},
	{"go_memstats_alloc_bytes_total", "counter", "Heap allocated since the start.", []string{"/gc/heap/allocs:bytes"}},
	{"go_memstats_sys_bytes", "gauge", "Memory obtained from the system.", []string{"/memory/classes/total:bytes"}},
	{"go_memstats_mallocs_total", "counter", "Objects allocated.",
		[]string{"/gc/heap/allocs:objects", "/gc/heap/tiny/allocs:objects"}},
	{"go_memstats_frees_total", "counter", "Objects freed.",
		[]string{"/gc/heap/frees:objects", "/gc/heap/tiny/allocs:objects"}},
	{"go_memstats_heap_alloc_bytes", "gauge", "Heap in use by objects, as go_memstats_alloc_bytes.",
		[]string{"/memory/classes/heap/objects:bytes"}},
	{"go_memstats_heap_sys_bytes", "gauge", "Heap obtained from the system.",
		[]string{"/memory/classes/heap/objects:bytes", "/memory/classes/heap/unused:bytes",
			"/memory/classes/heap/released:bytes", "/memory/classes/heap/free:bytes"}},
	{"go_memstats_heap_idle_bytes", "gauge", "Heap in unused spans.",
		[]string{"/memory/classes/heap/released:bytes", "/memory/classes/heap/free:bytes"}},
	{"go_memstats_heap_inuse_bytes", "gauge", "Heap in used spans.",
		[]string{"/memory/classes/heap/objects:bytes", "/memory/classes/heap/unused:bytes"}},
	{"go_memstats_heap_released_bytes", "gauge", "Heap given back to the system.",
		[]string{"/memory/classes/heap/released:bytes"}},
	{"go_memstats_heap_objects", "gauge", "Objects on the heap.", []string{"/gc/heap/objects:objects"}},
	{"go_memstats_stack_inuse_bytes", "gauge", "Stacks of goroutines.", []string{"/memory/classes/heap/stacks:bytes"}},
	{"go_memstats_stack_sys_bytes", "gauge", "Stacks of goroutines and of the system.",
		[]string{"/memory/classes/heap/stacks:bytes", "/memory/classes/os-stacks:bytes"}},
	{"go_memstats_mspan_inuse_bytes", "gauge", "mspan structures in use.",
		[]string{"/memory/classes/metadata/mspan/inuse:bytes"}},
	{"go_memstats_mspan_sys_bytes", "gauge", "mspan structures obtained from the system.",
		[]string{"/memory/classes/metadata/mspan/inuse:bytes", "/memory/classes/metadata/mspan/free:bytes"}},
	{"go_memstats_mcache_inuse_bytes", "gauge", "mcache structures in use.",
		[]string{"/memory/classes/metadata/mcache/inuse:bytes"}},
	{"go_memstats_mcache_sys_bytes", "gauge", "mcache structures obtained from the system.",
		[]string{"/memory/classes/metadata/mcache/inuse:bytes", "/memory/classes/metadata/mcache/free:bytes"}},
	{"go_memstats_buck_hash_sys_bytes", "gauge", "Hash tables of the profiler.",
		[]string{"/memory/classes/profiling/buckets:bytes"}},
	{"go_memstats_gc_sys_bytes", "gauge", "Metadata of the collector.", []string{"/memory/classes/metadata/other:bytes"}},
	{"go_memstats_other_sys_bytes", "gauge", "Other memory of the runtime.", []string{"/memory/classes/other:bytes"}},
	{"go_memstats_next_gc_bytes", "gauge", "Heap size that starts the next collection.", []string{"/gc/heap/goal:bytes"}},
}

// writeRuntime adds the go_* families.
func writeRuntime(p *page, goVersion string) {
	var samples []runtimemetrics.Sample
	for _, f := range runtimeFamilies {
		for _, source := range f.sources {
			samples = append(samples, runtimemetrics.Sample{Name: source})
		}
	}
	runtimemetrics.Read(samples)
	for _, f := range runtimeFamilies {
		sum := uint64(0)
		for _, sample := range samples[:len(f.sources)] {
			sum += sample.Value.Uint64()
		}
		samples = samples[len(f.sources):]
		p.scalar(f.name, f.kind, f.help, float64(sum))
	}

	gc := debug.GCStats{PauseQuantiles: make([]time.Duration, 5)}
	debug.ReadGCStats(&gc)
	p.family("go_gc_duration_seconds", "summary", "Pauses of the garbage collector.")
	for i, pause := range gc.PauseQuantiles {
		p.sample("go_gc_duration_seconds", pause.Seconds(), "quantile", strconv.FormatFloat(float64(i)/4, 'f', -1, 64))
	}
	p.sample("go_gc_duration_seconds_sum", gc.PauseTotal.Seconds())
	p.sample("go_gc_duration_seconds_count", float64(gc.NumGC))
	if gc.NumGC > 0 {
		p.scalar("go_memstats_last_gc_time_seconds", "gauge", "End of the last collection in seconds since 1970.",
			float64(gc.LastGC.UnixMilli())/1000)
	}
	p.family("go_info", "gauge", "Always 1; the label is the version of Go.")
	p.sample("go_info", 1, "version", goVersion)
}

// page is Prometheus text in the making. All samples of a family follow its heading at once.
type page []byte

// family begins a family. kind is counter, gauge, histogram or summary.
func (p *page) family(name, kind, help string) {
	*p = append(*p, "# HELP "+name+" "+help+"\n# TYPE "+name+" "+kind+"\n"...)
}

// sample adds one line. labels are names and values in turn.
func (p *page) sample(name string, value float64, labels ...string) {
	*p = append(*p, name...)
	separator := byte('{')
	for i := 0; i < len(labels); i += 2 {
		*p = append(*p, separator)
		*p = append(*p, labels[i]...)
		*p = append(*p, `="`...)
		*p = append(*p, escapeLabel(labels[i+1])...)
		*p = append(*p, '"')
		separator = ','
	}
	if len(labels) > 0 {
		*p = append(*p, '}')
	}
	*p = append(*p, ' ')
	*p = strconv.AppendFloat(*p, value, 'f', -1, 64)
	*p = append(*p, '\n')
}

// scalar adds a family of one sample without labels.
func (p *page) scalar(name, kind, help string, value float64) {
	p.family(name, kind, help)
	p.sample(name, value)
}

// counts adds a family of counters with one label.
func (p *page) counts(name, help, label string, counts map[string]uint64) {
	p.family(name, "counter", help)
	for _, value := range slices.Sorted(maps.Keys(counts)) {
		p.sample(name, float64(counts[value]), label, value)
	}
}

var labelEscaper = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// escapeLabel writes a label value as the format wants it: three escapes and no others (%q has more), in valid UTF-8 (one
// bad byte would fail the whole scrape).
func escapeLabel(value string) string {
	return labelEscaper.Replace(strings.ToValidUTF8(value, "\uFFFD"))
}
