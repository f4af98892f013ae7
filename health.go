package main

// Health: four routes for four askers, and the sensors that let them answer from memory. A hung
// file system blocks whoever asks how full it is, so nothing that handles a request may ask.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/shirou/gopsutil/v3/cpu"
	"github.com/shirou/gopsutil/v3/disk"
	"github.com/shirou/gopsutil/v3/mem"
	"github.com/shirou/gopsutil/v3/process"
)

// --- The four routes ---

// summary answers GET /health, for a person or a load balancer, and GET /health/liveness, for
// whoever restarts the process. It looks at nothing, because a restart would not help against a
// full disk or a busy host.
func (s *service) summary(status string) handler {
	return func(w *response, _ *http.Request) error { return s.sendSummary(w, status, nil) }
}

// readiness: GET /health/readiness, for whoever sends requests here. A busy host is ready, because
// there is no second host that could take the requests.
func (s *service) readiness(w *response, _ *http.Request) error {
	checks := s.checks(w.start)
	status, reason := "ready", cmp.Or(checks["application"]["reason"], checks["storage"]["reason"])
	if reason != nil {
		status, w.failure = "not_ready", unhealthy
	}
	return s.sendSummary(w, status, reason)
}

func (s *service) sendSummary(w *response, status string, reason any) error {
	return w.sendJSON(cmp.Or(w.failure.status, http.StatusOK), struct {
		Status    string `json:"status"`
		Reason    any    `json:"reason,omitempty"`
		Timestamp string `json:"timestamp"`
		Service   string `json:"service"`
		Version   string `json:"version"`
		Uptime    int    `json:"uptime_seconds"`
	}{status, reason, timestamp(w.start), serviceName, s.version, s.uptime(w.start)})
}

func (s *service) uptime(now time.Time) int { return int(now.Sub(s.started).Seconds()) }

// detailed: GET /health/detailed, for a person or a script that wants numbers.
func (s *service) detailed(w *response, _ *http.Request) error {
	checks := s.checks(w.start)
	status := "healthy"
	for _, c := range checks {
		if c["reason"] != nil {
			status, w.failure = "unhealthy", unhealthy
		}
	}
	return w.sendJSON(cmp.Or(w.failure.status, http.StatusOK), struct {
		Status    string           `json:"status"`
		Timestamp string           `json:"timestamp"`
		Checks    map[string]check `json:"checks"`
	}{status, timestamp(w.start), checks})
}

// --- The checks ---

// check is one part of the service's health, as JSON.
type check map[string]any

// newCheck returns a check that is healthy if there is no reason why not.
func newCheck(reason error, facts check) check {
	facts["status"] = "healthy"
	if reason != nil {
		facts["status"] = "unhealthy"
		facts["reason"] = strings.ReplaceAll(reason.Error(), "\n", "; ") // of errors.Join
	}
	return facts
}

// checks judges the service by what is in memory.
func (s *service) checks(now time.Time) map[string]check {
	var draining, unknown error
	if s.draining.Load() {
		draining = errors.New("the service is about to stop")
	}
	total, refusal := s.store.state()

	resources := check{}
	for _, sensor := range s.host {
		numbers, err := sensor.fresh(now)
		if err != nil {
			unknown = errors.Join(unknown, fmt.Errorf("%s: %w", sensor.name, err))
			continue
		}
		resource := check{"status": "normal"}
		if numbers["usage_percent"] > sensor.high {
			resource["status"] = "high" // which is information and no fault
		}
		for name, value := range numbers {
			resource[name] = value
		}
		resources[sensor.name] = resource
	}

	return map[string]check{
		"application": newCheck(draining, check{
			"uptime_seconds": s.uptime(now), "version": s.version,
		}),
		"storage":          newCheck(refusal, check{"total_tasks": total, "capacity": s.maxTasks}),
		"system_resources": newCheck(unknown, resources),
	}
}

// --- The sensors ---

const (
	sampleInterval = 5 * time.Second    // between two readings
	maxAge         = 3 * sampleInterval // an older reading says nothing any more
	patience       = time.Second        // at the start, with a sensor that is slow
)

// sensor reads one thing again and again, and keeps the last reading.
type sensor struct {
	name  string
	ratio string  // the metric of a resource of the host
	high  float64 // percent above which a resource of the host is high
	read  func() (values, error)
	last  atomic.Pointer[reading] // nil if there is none yet
}

// values are numbers by name. What is not known is not there.
type values map[string]float64

// reading is what a sensor has read, when, and with what error.
type reading struct {
	at     time.Time
	values values
	err    error
}

func newHostSensors(c config) []*sensor {
	readDisk := func() (values, error) { return readDisk(c.diskPath) }
	return []*sensor{
		{name: "cpu", high: c.cpuHigh, ratio: "system_cpu_usage_ratio", read: cpuReader()},
		{name: "memory", high: c.memoryHigh, ratio: "system_memory_usage_ratio", read: readMemory},
		{name: "disk", high: c.diskHigh, ratio: "system_disk_usage_ratio", read: readDisk},
	}
}

// startSensors lets sensors read until ctx ends, each in a goroutine of its own: one that hangs
// makes its own reading old, and no other. It waits for the first readings, so that the first
// answer has numbers, but not for long: a disk that hangs must not hinder the start.
func startSensors(ctx context.Context, log *slog.Logger, sensors []*sensor) {
	for _, sensor := range sensors {
		go every(ctx, sampleInterval, func() { sensor.sample(log) })
	}
	isNew := func(s *sensor) bool { return s.last.Load() == nil }
	for start := time.Now(); slices.ContainsFunc(sensors, isNew) && time.Since(start) < patience; {
		time.Sleep(time.Millisecond)
	}
}

// sample reads the sensor once. The cause of a failure goes to the log and nowhere else.
func (s *sensor) sample(log *slog.Logger) {
	values, err := s.read()
	if err != nil {
		log.Warn("a reading failed", "reading", s.name, "cause", err)
	}
	s.last.Store(&reading{time.Now(), values, err})
}

// fresh returns the values of the last reading, or why it is of no use.
func (s *sensor) fresh(now time.Time) (values, error) {
	last := s.last.Load()
	switch {
	case last == nil:
		return nil, errors.New("not read yet")
	case last.err != nil:
		return nil, errors.New("the reading failed")
	case now.Sub(last.at) > maxAge:
		return nil, errors.New("the last reading is too old")
	}
	return last.values, nil
}

// errImpossible is for numbers that cannot be true. gopsutil v3, which is frozen, returns such
// numbers without an error, for example where it cannot read /proc.
var errImpossible = errors.New("the reading is empty or impossible")

// usagePercent returns how much of used and unused is used, with at most one fraction digit.
func usagePercent(used, unused float64) (float64, error) {
	ratio := used / (used + unused)
	if used >= 0 && unused >= 0 && ratio >= 0 { // not so if one of them is not a number
		return math.Round(ratio*1000) / 10, nil
	}
	return 0, errImpossible
}

// cpuReader returns a function that reads how busy the CPUs have been since its last call, and at
// first since boot. cpu.Percent would not do: all its callers share one baseline.
func cpuReader() func() (values, error) {
	var busy, idle, iowait, percent float64 // of the last call
	return func() (values, error) {
		times, err := cpu.Times(false)
		if err != nil || len(times) == 0 {
			return nil, errors.Join(errImpossible, err)
		}
		t := times[0]
		nowBusy := t.User + t.System + t.Nice + t.Irq + t.Softirq + t.Steal // User includes guests
		nowIdle := t.Idle + t.Iowait
		if _, err := usagePercent(nowBusy, nowIdle); err != nil {
			return nil, err
		}

		// If no time has passed, or a counter has gone back, the last value still stands. Iowait
		// is known to go back.
		p, err := usagePercent(nowBusy-busy, nowIdle-idle)
		if err == nil && t.Iowait >= iowait {
			percent = p
		}
		busy, idle, iowait = nowBusy, nowIdle, t.Iowait
		return values{"usage_percent": percent}, nil
	}
}

// readMemory reads how much memory is in use: all that is not available to programs. (The
// UsedPercent of gopsutil v3 counts a full tmpfs as free.)
func readMemory() (values, error) {
	m, err := mem.VirtualMemory()
	if err != nil || m.Available == 0 { // a host that runs has some left: nothing was read
		return nil, errors.Join(errImpossible, err)
	}
	available := float64(m.Available)
	percent, err := usagePercent(float64(m.Total)-available, available)
	return values{"usage_percent": percent, "available_bytes": available}, err
}

// readDisk reads how full a file system is, as df prints it: of what programs without privileges
// can use.
func readDisk(path string) (values, error) {
	d, err := disk.Usage(path)
	if err != nil || d.Free > d.Total { // FreeBSD may have less than nothing left, wrapped around
		return nil, errors.Join(errImpossible, err)
	}
	percent, err := usagePercent(float64(d.Used), float64(d.Free))
	return values{"usage_percent": percent, "free_bytes": float64(d.Free)}, err
}

// readProcess reads what this process uses, by the names of the metrics. What the system does not
// tell is left out.
func readProcess() (values, error) {
	v := values{}
	self := &process.Process{Pid: int32(os.Getpid())}
	if t, err := self.Times(); err == nil {
		v["process_cpu_seconds_total"] = t.User + t.System
	}
	if m, err := self.MemoryInfo(); err == nil {
		v["process_resident_memory_bytes"] = float64(m.RSS)
		v["process_virtual_memory_bytes"] = float64(m.VMS)
	}
	limits, _ := self.RlimitUsage(true) // true: and how much of each is in use
	for _, limit := range limits {
		switch limit.Resource {
		case process.RLIMIT_NOFILE:
			v["process_open_fds"], v["process_max_fds"] = float64(limit.Used), float64(limit.Soft)
		case process.RLIMIT_AS:
			v["process_virtual_memory_max_bytes"] = float64(limit.Soft)
		}
	}
	return v, nil
}
