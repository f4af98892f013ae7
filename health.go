package main

// Health: four routes for four askers, and the sampler that lets them answer without ever waiting for the host. A hung
// file system blocks whoever asks how full it is, so nobody who handles a request may ask.

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/shirou/gopsutil/v3/cpu"
	"github.com/shirou/gopsutil/v3/disk"
	"github.com/shirou/gopsutil/v3/mem"
)

// sampleInterval is the time between two readings. A reading three times as old is not known any more.
const sampleInterval = 5 * time.Second

// sendSummary answers whoever looks at little more than the status code.
func (s *service) sendSummary(w *response, code int, status, reason string) error {
	return w.sendJSON(code, struct {
		Status    string `json:"status"`
		Reason    string `json:"reason,omitempty"`
		Timestamp string `json:"timestamp"`
		Service   string `json:"service"`
		Version   string `json:"version"`
		Uptime    int64  `json:"uptime_seconds"`
	}{status, reason, timestamp(w.start), serviceName, s.version, s.uptime(w.start)})
}

func (s *service) uptime(now time.Time) int64 { return int64(now.Sub(s.started).Seconds()) }

// health: GET /health, for a person or a load balancer.
func (s *service) health(w *response, r *http.Request) error {
	return s.sendSummary(w, http.StatusOK, "healthy", "")
}

// liveness: GET /health/liveness, for whoever restarts the process. It looks at nothing: a restart cures no full disk.
func (s *service) liveness(w *response, r *http.Request) error {
	return s.sendSummary(w, http.StatusOK, "alive", "")
}

// readiness: GET /health/readiness, for whoever sends traffic here. A busy host is ready: it is the only one there is.
func (s *service) readiness(w *response, r *http.Request) error {
	for _, c := range s.checks(w.start) {
		if c.reason != "" && c.name != "system_resources" {
			return s.sendSummary(w, http.StatusServiceUnavailable, "not_ready", c.reason)
		}
	}
	return s.sendSummary(w, http.StatusOK, "ready", "")
}

// detailed: GET /health/detailed, for a person or a script that wants numbers. Its JSON is written by hand, like the
// percentages in it, which have one fraction digit, always: shell scripts feed them to bc. (%q is JSON for plain ASCII.)
func (s *service) detailed(w *response, r *http.Request) error {
	code, overall, checks := http.StatusOK, "healthy", ""
	for _, c := range s.checks(w.start) {
		status := `"healthy"`
		if c.reason != "" {
			status = fmt.Sprintf(`"unhealthy","reason":%q`, c.reason)
			code, overall = http.StatusServiceUnavailable, "unhealthy"
		}
		checks += fmt.Sprintf(`,%q:{"status":%s%s}`, c.name, status, c.facts)
	}
	const report = `{"status":%q,"timestamp":%q,"checks":{%s}}` + "\n"
	w.send(code, jsonType, fmt.Appendf(nil, report, overall, timestamp(w.start), checks[1:]))
	return nil
}

// check is one part of the detailed health.
type check struct {
	name   string
	reason string // why it is unhealthy; empty if it is healthy
	facts  string // what else its JSON object has: members, each after a comma
}

// checks judges the service from memory alone.
func (s *service) checks(now time.Time) [3]check {
	app := check{name: "application", facts: fmt.Sprintf(`,"uptime_seconds":%d,"version":%q`, s.uptime(now), s.version)}
	if s.draining.Load() {
		app.reason = "draining"
	}
	total := s.store.len()
	storage := check{name: "storage", facts: fmt.Sprintf(`,"total_tasks":%d,"capacity":%d`, total, s.store.capacity)}
	if total >= s.store.capacity {
		storage.reason = storeFull
	}
	system := check{name: "system_resources"}
	for _, res := range s.host {
		u, reason := res.fresh(now)
		if reason != "" {
			system.reason = strings.TrimPrefix(system.reason+"; "+res.name+": "+reason, "; ")
			continue
		}
		percent, status := math.Round(u.ratio*1000)/10, "normal"
		if percent > res.high {
			status = "high"
		}
		system.facts += fmt.Sprintf(`,%q:{"usage_percent":%.1f,%s"status":%q}`, res.name, percent, u.left, status)
	}
	return [3]check{app, storage, system}
}

// resource is something of the host that can run short.
type resource struct {
	gauge[usage]
	high float64 // percent above which it is told as high, which is information and no fault
}

// usage is how much of a resource is in use.
type usage struct {
	ratio float64 // from 0 to 1
	left  string  // bytes, as a member for JSON with a comma; nothing for the CPU
}

// startSampler returns when everything has been read once, and goes on for as long as the process lives.
func (s *service) startSampler() {
	s.process.start(s.log)
	for _, res := range s.host {
		res.start(s.log)
	}
}

// gauge holds the last reading of one thing.
type gauge[T any] struct {
	name string
	read func() (T, error) // never called concurrently
	last atomic.Pointer[reading[T]]
}

type reading[T any] struct {
	at    time.Time
	value T
	err   error
}

// start reads the gauge now and again at each sampleInterval, after the first time in a goroutine of its own: a disk that
// hangs makes its own reading old, and no other.
func (g *gauge[T]) start(log *slog.Logger) {
	g.sample(log)
	time.AfterFunc(sampleInterval, func() { g.start(log) })
}

// sample reads the gauge. Why a reading failed is only for the log.
func (g *gauge[T]) sample(log *slog.Logger) {
	value, err := g.read()
	g.last.Store(&reading[T]{time.Now(), value, err})
	if err != nil {
		log.Warn("a reading failed", "reading", g.name, "cause", err)
	}
}

// fresh returns the last value, or the reason why it is not known.
func (g *gauge[T]) fresh(now time.Time) (value T, reason string) {
	last := g.last.Load()
	if last == nil || last.err != nil {
		return value, "the reading failed"
	} else if now.Sub(last.at) > 3*sampleInterval {
		return value, "the last reading is too old"
	}
	return last.value, ""
}

var errImpossible = errors.New("the reading is empty or impossible")

// newUsage is the usage where used is in use, and unused, in parts, is not. What cannot be true, NaN included, is an
// error: gopsutil v3, which is frozen, returns such numbers without one, for example where /proc cannot be read.
func newUsage(left string, used float64, unused ...float64) (usage, error) {
	total := used
	for _, part := range unused {
		total += part
	}
	if ratio := used / total; ratio >= 0 && min(used, slices.Min(unused)) >= 0 {
		return usage{ratio, left}, nil
	}
	return usage{}, errImpossible
}

// cpuReader returns a function that reads how busy the CPUs were since its last call, and at first since boot.
// cpu.Percent would not do: all its callers share one baseline, and move it for each other.
func cpuReader() func() (usage, error) {
	var last usage
	var lastBusy, lastIdle, lastIowait float64
	return func() (usage, error) {
		times, err := cpu.Times(false)
		if err != nil || len(times) == 0 {
			return usage{}, errors.Join(errImpossible, err)
		}
		t := times[0]
		busy := t.User + t.System + t.Nice + t.Irq + t.Softirq + t.Steal // guest time is part of user time
		if _, err := newUsage("", busy, t.Idle, t.Iowait); err != nil {  // the counters themselves are impossible
			return usage{}, err
		}
		// No time has passed, or a counter went back, as the kernel's iowait may: the last value still stands.
		if u, err := newUsage("", busy-lastBusy, t.Idle-lastIdle, t.Iowait-lastIowait); err == nil {
			last = u
		}
		lastBusy, lastIdle, lastIowait = busy, t.Idle, t.Iowait
		return last, nil
	}
}

// readMemory reads how much memory programs can no longer have. (gopsutil's UsedPercent counts a full tmpfs as free.)
func readMemory() (usage, error) {
	m, err := mem.VirtualMemory()
	if err != nil || m.Available == 0 { // no running host has none at all: nothing was read
		return usage{}, errors.Join(errImpossible, err)
	}
	left := fmt.Sprintf(`"available_bytes":%d,`, m.Available)
	return newUsage(left, float64(m.Total)-float64(m.Available), float64(m.Available))
}

// readDisk reads how full a file system is, as df does: of what an unprivileged user can have.
func readDisk(path string) (usage, error) {
	d, err := disk.Usage(path)
	if err != nil || d.Free > d.Total { // on FreeBSD there can be less than nothing left, which wraps around
		return usage{}, errors.Join(errImpossible, err)
	}
	return newUsage(fmt.Sprintf(`"free_bytes":%d,`, d.Free), float64(d.Used), float64(d.Free))
}
