package main

// Metrics: the Prometheus text format (0.0.4) is only text, if the set of labels is closed. No label has a value that a
// client can choose, so no client can make the page grow.

import (
	"maps"
	"net/http"
	_ "net/http/pprof" // puts its handlers into the default mux
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

	"github.com/shirou/gopsutil/v3/process"
)

// bounds are the upper bounds of the duration histogram in seconds: fine where an answer from memory lies, and exact
// where alerts compare. As text, because Prometheus 3 would rename le="1".
var (
	bounds      = [...]float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5}
	boundLabels = strings.Fields("0.0005 0.001 0.0025 0.005 0.01 0.025 0.05 0.1 0.25 0.5 1.0 2.5 +Inf")
)

const unmatched = "unmatched" // the route of requests that no pattern matched

// methods are those of RFC 9110 and RFC 5789. A request with another one is counted as "other".
var methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "other"}

// metrics counts what the service does, from its start.
type metrics struct {
	inFlight atomic.Int64

	mu        sync.Mutex          // guards what follows
	endpoints map[string]*traffic // by their labels, method and route
	events    map[string]int      // log lines by category
	problems  map[string]int      // error answers by error_code
}

// traffic is what an endpoint has answered.
type traffic struct {
	codes   map[int]int
	buckets [len(bounds) + 1]int // not cumulative
	seconds float64              // sum of the durations
}

// newMetrics returns metrics in which all that an alert may divide by exists, at 0: with a series missing, a ratio is
// no number, and a counter that is born at 1 has not increased.
func newMetrics(routes []route) *metrics {
	m := &metrics{endpoints: map[string]*traffic{}, events: map[string]int{}, problems: map[string]int{}}
	for _, r := range routes {
		success := map[string]int{"GET": http.StatusOK, "POST": http.StatusCreated}[r.Method]
		m.endpoints[endpoint(r.Method, r.Path)] = &traffic{codes: map[int]int{success: 0, http.StatusInternalServerError: 0}}
	}
	for _, method := range methods {
		m.endpoints[endpoint(method, unmatched)] = &traffic{codes: map[int]int{http.StatusNotFound: 0, http.StatusMethodNotAllowed: 0}}
	}
	m.events["ATTACK"], m.events["PERFORMANCE"] = 0, 0
	for code, kind := range kinds {
		if m.problems[code] = 0; kind.category != "" {
			m.events[kind.category] = 0
		}
	}
	return m
}

// endpoint is the labels of a mux pattern. There is nothing to escape in methods and routes.
func endpoint(method, route string) string { return `method="` + method + `",route="` + route + `"` }

// observe counts one answer and its log line. The category and the error_code may be empty.
func (m *metrics) observe(method, route string, status int, d time.Duration, category, code string) {
	if !slices.Contains(methods, method) {
		method = "other"
	}
	bucket, _ := slices.BinarySearch(bounds[:], d.Seconds()) // what is equal to a bound belongs below it
	e := endpoint(method, route)
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.endpoints[e]
	if t == nil {
		t = &traffic{codes: map[int]int{}}
		m.endpoints[e] = t
	}
	t.codes[status]++
	t.buckets[bucket]++
	t.seconds += d.Seconds()
	if category != "" {
		m.events[category]++
	}
	if code != "" {
		m.problems[code]++
	}
}

// metricsPage: GET /metrics. The page is complete before it is sent, because half of it would be valid, too.
func (s *service) metricsPage(w *response, r *http.Request) error {
	p := make(page, 0, 64<<10)
	s.metrics.write(&p)
	s.writeState(&p, time.Now())
	p.writeRuntime()
	w.Header().Del("Cache-Control")
	w.send(http.StatusOK, []string{"text/plain; version=0.0.4; charset=utf-8"}, p)
	return nil
}

// write adds the counters. All are read under one lock, so that the page adds up; nothing is waited for while it is held.
func (m *metrics) write(p *page) {
	m.mu.Lock()
	defer m.mu.Unlock()
	order := slices.Sorted(maps.Keys(m.endpoints))
	p.family("http_requests_total", "counter", "Requests answered, by mux pattern and status code.")
	for _, e := range order {
		t := m.endpoints[e]
		for _, code := range slices.Sorted(maps.Keys(t.codes)) {
			p.sample(float64(t.codes[code]), "http_requests_total{", e, `,code="`, strconv.Itoa(code), `"}`)
		}
	}
	const duration = "http_request_duration_seconds"
	p.family(duration, "histogram", "Time from the end of a request's header to the end of its handler.")
	for _, e := range order {
		t, count := m.endpoints[e], 0
		for i, n := range t.buckets {
			count += n
			p.sample(float64(count), duration+"_bucket{", e, `,le="`, boundLabels[i], `"}`)
		}
		p.sample(t.seconds, duration+"_sum{", e, "}")
		p.sample(float64(count), duration+"_count{", e, "}")
	}
	p.counters("log_events_total", "Requests by the category of their log line.", "category", m.events)
	p.counters("task_errors_total", "Error answers, by the error_code in their body.", "error_code", m.problems)
	p.scalar("http_requests_in_flight", "gauge", "Requests in the making, this one included.", float64(m.inFlight.Load()))
}

// writeState adds store, checks and readings. What is not known is left out: 0 would be a lie, and NaN spoils sums.
func (s *service) writeState(p *page, now time.Time) {
	stored := float64(s.store.len())
	p.scalar("tasks_stored", "gauge", "Tasks in the store.", stored)
	p.scalar("tasks_created_total", "counter", "Tasks created since the start.", stored) // none is ever removed
	p.scalar("tasks_capacity", "gauge", "Tasks that the store can hold.", float64(s.store.capacity))
	p.scalar("log_written_bytes_total", "counter", "Bytes of log written.", float64(s.logFile.written.Load()))
	p.family("taskapi_build_info", "gauge", "Always 1; the labels say what is running.")
	p.sample(1, "taskapi_build_info", labels("version", s.version, "revision", s.revision, "goversion", runtime.Version()))
	p.family("health_check_status", "gauge", "1 if the check of the detailed health is healthy, else 0.")
	for _, c := range s.checks(now) {
		healthy := 1.0
		if c.reason != "" {
			healthy = 0
		}
		p.sample(healthy, "health_check_status", labels("check", c.name))
	}
	for _, res := range s.host {
		if u, reason := res.fresh(now); reason == "" {
			p.scalar("system_"+res.name+"_usage_ratio", "gauge", "Share of the host's "+res.name+" in use, 0 to 1.", u.ratio)
		}
	}
	p.family("system_sample_age_seconds", "gauge", "Time since the reading, if it did not fail.")
	for _, res := range s.host {
		if last := res.last.Load(); last != nil && last.err == nil {
			p.sample(max(0, now.Sub(last.at).Seconds()), "system_sample_age_seconds", labels("reading", res.name))
		}
	}
	p.scalar("process_start_time_seconds", "gauge", "Start of the process, as Unix time.", float64(s.started.UnixMilli())/1e3)
	process, _ := s.process.fresh(now)
	*p = append(*p, process...)
}

// readProcess reads what this process uses, for the sampler, as a part of the page. What is not known is left out.
func readProcess() (p page, err error) {
	self := &process.Process{Pid: int32(os.Getpid())}
	if t, err := self.Times(); err == nil {
		p.scalar("process_cpu_seconds_total", "counter", "CPU time used, user and system.", t.User+t.System)
	}
	if m, err := self.MemoryInfo(); err == nil {
		p.scalar("process_resident_memory_bytes", "gauge", "Memory in use.", float64(m.RSS))
		p.scalar("process_virtual_memory_bytes", "gauge", "Size of the address space.", float64(m.VMS))
	}
	if n, err := self.NumFDs(); err == nil {
		p.scalar("process_open_fds", "gauge", "Open file descriptors.", float64(n))
	}
	limits, _ := self.Rlimit()
	for _, limit := range limits {
		switch limit.Resource {
		case process.RLIMIT_NOFILE:
			p.scalar("process_max_fds", "gauge", "File descriptors that may be open.", float64(limit.Soft))
		case process.RLIMIT_AS:
			p.scalar("process_virtual_memory_max_bytes", "gauge", "Size that the address space may have.", float64(limit.Soft))
		}
	}
	return p, nil
}

// runtimeFamilies are what stock Go dashboards draw, each the sum of some metrics of runtime/metrics, which is read in a
// microsecond; runtime.ReadMemStats would stop the world. A source without a slash in front is a memory class.
var runtimeFamilies = []struct{ name, kind, help, sources string }{
	{"go_goroutines", "gauge", "Goroutines that exist.", "/sched/goroutines:goroutines"},
	{"go_threads", "gauge", "Threads of the runtime.", "/sched/threads/total:threads"},
	{"go_sched_gomaxprocs_threads", "gauge", "Threads that can run Go code at once.", "/sched/gomaxprocs:threads"},
	{"go_gc_gogc_percent", "gauge", "Heap growth that starts a collection, GOGC.", "/gc/gogc:percent"},
	{"go_gc_gomemlimit_bytes", "gauge", "Memory limit of the runtime, GOMEMLIMIT.", "/gc/gomemlimit:bytes"},
	{"go_memstats_alloc_bytes", "gauge", "Heap in use by objects.", "heap/objects"},
	{"go_memstats_alloc_bytes_total", "counter", "Heap allocated since the start.", "/gc/heap/allocs:bytes"},
	{"go_memstats_mallocs_total", "counter", "Objects allocated.", "/gc/heap/allocs:objects /gc/heap/tiny/allocs:objects"},
	{"go_memstats_frees_total", "counter", "Objects freed.", "/gc/heap/frees:objects /gc/heap/tiny/allocs:objects"},
	{"go_memstats_heap_alloc_bytes", "gauge", "Heap in use by objects, under its other name.", "heap/objects"},
	{"go_memstats_heap_sys_bytes", "gauge", "Heap from the system.", "heap/objects heap/unused heap/released heap/free"},
	{"go_memstats_heap_idle_bytes", "gauge", "Heap in unused spans.", "heap/released heap/free"},
	{"go_memstats_heap_inuse_bytes", "gauge", "Heap in used spans.", "heap/objects heap/unused"},
	{"go_memstats_heap_released_bytes", "gauge", "Heap given back to the system.", "heap/released"},
	{"go_memstats_heap_objects", "gauge", "Objects on the heap.", "/gc/heap/objects:objects"},
	{"go_memstats_stack_inuse_bytes", "gauge", "Stacks of goroutines.", "heap/stacks"},
	{"go_memstats_stack_sys_bytes", "gauge", "Stacks of goroutines and threads.", "heap/stacks os-stacks"},
	{"go_memstats_mspan_inuse_bytes", "gauge", "mspan structures in use.", "metadata/mspan/inuse"},
	{"go_memstats_mspan_sys_bytes", "gauge", "mspan structures.", "metadata/mspan/inuse metadata/mspan/free"},
	{"go_memstats_mcache_inuse_bytes", "gauge", "mcache structures in use.", "metadata/mcache/inuse"},
	{"go_memstats_mcache_sys_bytes", "gauge", "mcache structures.", "metadata/mcache/inuse metadata/mcache/free"},
	{"go_memstats_buck_hash_sys_bytes", "gauge", "Hash tables of the profiler.", "profiling/buckets"},
	{"go_memstats_gc_sys_bytes", "gauge", "Metadata of the collector.", "metadata/other"},
	{"go_memstats_other_sys_bytes", "gauge", "Other memory of the runtime.", "other"},
	{"go_memstats_sys_bytes", "gauge", "Memory from the system.", "total"},
	{"go_memstats_next_gc_bytes", "gauge", "Heap size that starts the next collection.", "/gc/heap/goal:bytes"},
}

// writeRuntime adds the go_* families.
func (p *page) writeRuntime() {
	for _, f := range runtimeFamilies {
		sum := uint64(0)
		for source := range strings.FieldsSeq(f.sources) {
			if source[0] != '/' {
				source = "/memory/classes/" + source + ":bytes"
			}
			sample := []runtimemetrics.Sample{{Name: source}}
			runtimemetrics.Read(sample)
			sum += sample[0].Value.Uint64()
		}
		p.scalar(f.name, f.kind, f.help, float64(sum))
	}
	p.family("go_info", "gauge", "Always 1; the label is the version of Go.")
	p.sample(1, "go_info", labels("version", runtime.Version()))

	gc := debug.GCStats{PauseQuantiles: make([]time.Duration, 5)}
	debug.ReadGCStats(&gc)
	p.family("go_gc_duration_seconds", "summary", "Pauses of the garbage collector.")
	for i, quantile := range []string{"0", "0.25", "0.5", "0.75", "1"} {
		p.sample(gc.PauseQuantiles[i].Seconds(), "go_gc_duration_seconds", labels("quantile", quantile))
	}
	p.sample(gc.PauseTotal.Seconds(), "go_gc_duration_seconds_sum")
	p.sample(float64(gc.NumGC), "go_gc_duration_seconds_count")
	if lastGC := float64(gc.LastGC.UnixMilli()) / 1e3; lastGC > 0 {
		p.scalar("go_memstats_last_gc_time_seconds", "gauge", "End of the last collection, as Unix time.", lastGC)
	}
}

// profile: GET /debug/pprof/. The default mux names its own routes in r.Pattern; here all of them are one route, and so
// one series on the page.
func (s *service) profile(w *response, r *http.Request) error {
	defer func(route string) { r.Pattern = route }(r.Pattern)
	// A profile may take longer than a body may: net/http would cancel it when the read deadline passes. (The write
	// deadline is moved by pprof itself.)
	http.NewResponseController(w).SetReadDeadline(time.Time{})
	http.DefaultServeMux.ServeHTTP(w, r)
	return nil
}

// page is Prometheus text in the making. All samples of a family follow its heading at once.
type page []byte

// family begins a family; kind is counter, gauge, histogram or summary.
func (p *page) family(name, kind, help string) {
	*p = append(*p, "# HELP "+name+" "+help+"\n# TYPE "+name+" "+kind+"\n"...)
}

// sample adds one line. Name and labels come in parts: to put them together first would be most of the page's cost.
func (p *page) sample(value float64, series ...string) {
	for _, part := range series {
		*p = append(*p, part...)
	}
	*p = append(strconv.AppendFloat(append(*p, ' '), value, 'f', -1, 64), '\n')
}

// scalar adds a family of one sample without labels.
func (p *page) scalar(name, kind, help string, value float64) {
	p.family(name, kind, help)
	p.sample(value, name)
}

// counters adds a family of counters that differ in one label.
func (p *page) counters(name, help, label string, counts map[string]int) {
	p.family(name, "counter", help)
	for _, value := range slices.Sorted(maps.Keys(counts)) {
		p.sample(float64(counts[value]), name, labels(label, value))
	}
}

var labelEscaper = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// labels returns names and values, given in turn, as the format wants them: with three escapes and no others (%q has
// more), and in valid UTF-8 (one bad byte would fail the whole scrape).
func labels(pairs ...string) string {
	var b strings.Builder
	for pair := range slices.Chunk(pairs, 2) {
		b.WriteString("," + pair[0] + `="` + labelEscaper.Replace(strings.ToValidUTF8(pair[1], "\uFFFD")) + `"`)
	}
	return "{" + b.String()[1:] + "}"
}
