package main

// Health: four routes, each for somebody else, and the sensors that let them answer from memory. A
// hung file system blocks whoever asks how full it is, so only the sensors ask, and no handler. (A
// -log-file that hangs still holds up every answer: its line comes first. See logFile.Write.)

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/shirou/gopsutil/v3/cpu"
	"github.com/shirou/gopsutil/v3/disk"
	"github.com/shirou/gopsutil/v3/mem"
	"github.com/shirou/gopsutil/v3/process"
)

// --- The four routes ---

// summary answers GET /health, for a person or a load balancer, and GET /health/liveness, for
// whoever restarts the process. The status never varies: that there is an answer is the answer. It
// looks at nothing, because a restart would not help against a full disk or a busy host.
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

// fail makes a check unhealthy, for this reason and those before.
func (c check) fail(reason string) {
	if before, ok := c["reason"].(string); ok {
		reason = before + "; " + reason
	}
	c["status"], c["reason"] = "unhealthy", reason
}

// checks judges the service by what is in memory.
func (s *service) checks(now time.Time) map[string]check {
	app := check{"status": "healthy", "uptime_seconds": s.uptime(now), "version": s.version}
	if s.draining.Load() {
		app.fail("the service is about to stop")
	}

	total, refusal := s.store.state()
	storage := check{"status": "healthy", "total_tasks": total, "capacity": s.maxTasks}
	if refusal != nil {
		storage.fail(refusal.Error())
	}

	resources := check{"status": "healthy"}
	for _, sensor := range s.host {
		last, err := sensor.fresh(now)
		if err != nil {
			resources.fail(sensor.name + ": " + err.Error())
			continue
		}
		resources[sensor.name] = last
	}

	return map[string]check{"application": app, "storage": storage, "system_resources": resources}
}

// --- The sensors ---

const sampleInterval = 5 * time.Second // between two readings

// sensor reads one thing again and again, and keeps the last reading.
type sensor struct {
	name  string
	ratio string  // the metric of a resource of the host
	high  float64 // percent above which a resource of the host is high
	read  func() (reading, error)
	last  atomic.Pointer[reading] // nil if there is none yet
}

// reading is what a sensor has read, when, and with what error.
type reading struct {
	at     time.Time
	err    error  // which anybody may see: sample sets it, and logs the cause
	values values // of the process, by the names of the metrics

	// A resource of the host, as JSON. The numbers of bytes have the type any: of a number,
	// omitempty would leave out a 0, too, and not only what is not there.
	Usage     float64 `json:"usage_percent"`
	Available any     `json:"available_bytes,omitempty"` // of the memory
	Free      any     `json:"free_bytes,omitempty"`      // of the disk
	Status    string  `json:"status"`                    // normal or high
}

// values are numbers by name. What is not known is not there.
type values map[string]float64

// notYet is the reading of a sensor that has none.
var notYet = &reading{err: errors.New("not read yet")}

func newHostSensors(c config) []*sensor {
	return []*sensor{
		{name: "cpu", high: c.cpuHigh, ratio: "system_cpu_usage_ratio", read: new(cpuTimes).read},
		{name: "memory", high: c.memoryHigh, ratio: "system_memory_usage_ratio", read: readMemory},
		{name: "disk", high: c.diskHigh, ratio: "system_disk_usage_ratio", read: c.readDisk},
	}
}

// startSensors lets sensors read until ctx ends, each in a goroutine of its own: one that hangs
// makes its own reading old, and no other. It waits for each first reading, so that the first
// answer has numbers, but for a second at most: a disk that hangs must not hinder the start.
func startSensors(ctx context.Context, log *slog.Logger, sensors []*sensor) {
	for _, sensor := range sensors {
		go every(ctx, sampleInterval, func() { sensor.sample(log) })
		for start := time.Now(); sensor.last.Load() == nil && time.Since(start) < time.Second; {
			time.Sleep(time.Millisecond)
		}
	}
}

// sample reads the sensor once. The cause of a failure goes to the log and nowhere else.
func (s *sensor) sample(log *slog.Logger) {
	r, err := s.read()
	if err != nil {
		log.Warn("a reading failed", "reading", s.name, "cause", err)
		r.err = errors.New("the reading failed")
	}
	r.at, r.Status = time.Now(), "normal"
	if r.Usage > s.high {
		r.Status = "high" // which is information and no fault
	}
	s.last.Store(&r)
}

// fresh returns the last reading, or why it is of no use. The reading is never nil.
func (s *sensor) fresh(now time.Time) (*reading, error) {
	last := cmp.Or(s.last.Load(), notYet)
	if last.err == nil && now.Sub(last.at) > 3*sampleInterval {
		return notYet, errors.New("the last reading is too old")
	}
	return last, last.err
}

// errImpossible is for numbers that cannot be true. gopsutil v3, which is frozen, returns such
// numbers without an error, for example where it cannot read /proc.
var errImpossible = errors.New("the reading is empty or impossible")

// used returns how much of a total is used, in percent with at most one fraction digit.
func used(unused, total float64) float64 { return math.Round(1000*(1-unused/total)) / 10 }

// cpuTimes is what the last call of read has found. (cpu.Percent would not do: all its callers
// share one baseline.)
type cpuTimes struct{ busy, idle, iowait, percent float64 }

// read reads how busy the CPUs have been since the last call, and at first since boot.
func (last *cpuTimes) read() (reading, error) {
	times, err := cpu.Times(false)
	t := append(times, cpu.TimesStat{})[0]                           // without times, all is 0
	busy := t.User + t.System + t.Nice + t.Irq + t.Softirq + t.Steal // User includes guests
	idle := t.Idle + t.Iowait
	lowest := min(t.User, t.System, t.Nice, t.Irq, t.Softirq, t.Steal, t.Idle, t.Iowait)
	// NaN is impossible, too: no comparison with it is true.
	if err != nil || !(lowest >= 0 && busy+idle > 0) || math.IsInf(busy+idle, 0) {
		return reading{}, errors.Join(errImpossible, err)
	}

	// If no time has passed, or a counter has gone back, the last percentage still stands. Iowait
	// is known to go back.
	total := (busy - last.busy) + (idle - last.idle)
	if total > 0 && busy >= last.busy && idle >= last.idle && t.Iowait >= last.iowait {
		last.percent = used(idle-last.idle, total)
	}
	last.busy, last.idle, last.iowait = busy, idle, t.Iowait
	return reading{Usage: last.percent}, nil
}

// readMemory reads how much memory is in use: all that is not available to programs. (The
// UsedPercent of gopsutil v3 counts a full tmpfs as free.)
func readMemory() (reading, error) {
	m, err := mem.VirtualMemory()
	// A host that runs has some memory left: otherwise, nothing was read.
	if err != nil || m.Available == 0 || m.Available > m.Total {
		return reading{}, errors.Join(errImpossible, err)
	}
	return reading{Usage: used(float64(m.Available), float64(m.Total)), Available: m.Available}, nil
}

// readDisk reads how full the file system of -disk-path is, as df prints it: of what programs
// without privileges can use.
func (c config) readDisk() (reading, error) {
	d, err := disk.Usage(c.diskPath)
	// FreeBSD may have less than nothing left, which wraps around.
	if err != nil || d.Free > d.Total || d.Used+d.Free == 0 {
		return reading{}, errors.Join(errImpossible, err)
	}
	return reading{Usage: used(float64(d.Free), float64(d.Used+d.Free)), Free: d.Free}, nil
}

// readProcess reads what this process uses, by the names of the metrics. What the system does not
// tell is left out.
func readProcess() (reading, error) {
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
	return reading{values: v}, nil
}
