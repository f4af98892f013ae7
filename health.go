package main

// Health: four routes for four askers, and the sampler that lets them answer without ever waiting for the host. A hung
// file system blocks whoever asks for its free space, so that nobody who handles a request may ask.

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shirou/gopsutil/v3/cpu"
	"github.com/shirou/gopsutil/v3/disk"
	"github.com/shirou/gopsutil/v3/mem"
	"github.com/shirou/gopsutil/v3/process"
)

const (
	sampleInterval = 5 * time.Second
	maxSampleAge   = 3 * sampleInterval // an older reading is not known any more
	firstSample    = time.Second        // how long the start waits for the first readings
)

// health: GET /health, for a person or a load balancer who wants one short answer.
func (s *service) health(w *response, r *http.Request) error {
	now := time.Now()
	return w.sendJSON(http.StatusOK, struct {
		Status    string    `json:"status"`
		Timestamp time.Time `json:"timestamp"`
		Service   string    `json:"service"`
		Version   string    `json:"version"`
		Uptime    int64     `json:"uptime_seconds"`
	}{"healthy", wholeSeconds(now), serviceName, s.build.version, s.uptime(now)})
}

// probe is the answer to a supervisor or proxy, which looks at the status code alone.
type probe struct {
	Status    string    `json:"status"`
	Reason    string    `json:"reason,omitempty"`
	Timestamp time.Time `json:"timestamp"`
}

// liveness: GET /health/liveness, for who restarts the process. It looks at nothing: a restart cures no full disk.
func (s *service) liveness(w *response, r *http.Request) error {
	return w.sendJSON(http.StatusOK, probe{Status: "alive", Timestamp: wholeSeconds(time.Now())})
}

// readiness: GET /health/readiness, for who sends traffic here. Busy is ready; draining or full is not.
func (s *service) readiness(w *response, r *http.Request) error {
	p := probe{Status: "ready", Timestamp: wholeSeconds(time.Now())}
	status := http.StatusOK
	if s.draining.Load() {
		p.Reason = "draining"
	} else if s.store.full() {
		p.Reason = errFull.Error()
	}
	if p.Reason != "" {
		p.Status, status = "not_ready", http.StatusServiceUnavailable
	}
	return w.sendJSON(status, p)
}

// detailed: GET /health/detailed, for a person or a script that wants numbers.
func (s *service) detailed(w *response, r *http.Request) error {
	report := s.report(time.Now())
	status := http.StatusOK
	if report.Status != "healthy" {
		status = http.StatusServiceUnavailable
	}
	return w.sendJSON(status, report)
}

// report is the detailed health, as JSON and as what the health metrics are made of.
type report struct {
	Status    string    `json:"status"`
	Timestamp time.Time `json:"timestamp"`
	Checks    struct {
		Application struct {
			verdict
			Uptime  int64  `json:"uptime_seconds"`
			Version string `json:"version"`
		} `json:"application"`
		Storage struct {
			verdict
			Total    int `json:"total_tasks"`
			Capacity int `json:"capacity"`
		} `json:"storage"`
		System struct {
			verdict
			CPU    *resource `json:"cpu,omitempty"`
			Memory *resource `json:"memory,omitempty"`
			Disk   *resource `json:"disk,omitempty"`
		} `json:"system_resources"`
	} `json:"checks"`
}

// verdict is the part that all checks have: the reason is empty if and only if the check is healthy.
type verdict struct {
	Status string `json:"status"`
	Reason string `json:"reason,omitempty"`
}

func judge(reason string) verdict {
	if reason != "" {
		return verdict{"unhealthy", reason}
	}
	return verdict{Status: "healthy"}
}

// resource is a reading as the detailed health shows it. High is information, for a person and for alerts: taking the
// only instance out of service because the host is busy would make the outage.
type resource struct {
	Usage     percent `json:"usage_percent"`
	Available *uint64 `json:"available_bytes,omitempty"`
	Free      *uint64 `json:"free_bytes,omitempty"`
	Status    string  `json:"status"` // "normal" or "high"
}

// percent has one fraction digit in JSON, always: shell scripts feed it to bc.
type percent float64

func (p percent) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, float64(p), 'f', 1, 64), nil
}

// report judges the service as of now, from memory alone.
func (s *service) report(now time.Time) *report {
	rep := &report{Timestamp: wholeSeconds(now)}
	app, storage, system := &rep.Checks.Application, &rep.Checks.Storage, &rep.Checks.System

	app.Uptime, app.Version = s.uptime(now), s.build.version
	if s.draining.Load() {
		app.Reason = "draining"
	}
	storage.Total, storage.Capacity = s.store.len(), s.store.capacity
	if storage.Total >= storage.Capacity {
		storage.Reason = errFull.Error()
	}
	var unknown []string
	show := func(g *gauge[usage], high float64) *resource {
		u, err := g.fresh(now)
		if err != nil {
			unknown = append(unknown, g.name+": "+err.Error())
			return nil
		}
		res := &resource{Usage: percent(math.Round(u.ratio*1000) / 10), Status: "normal"}
		if float64(res.Usage) > high { // judged as it is shown
			res.Status = "high"
		}
		switch g {
		case s.sampler.memory:
			res.Available = &u.left
		case s.sampler.disk:
			res.Free = &u.left
		}
		return res
	}
	system.CPU = show(s.sampler.cpu, s.cpuHigh)
	system.Memory = show(s.sampler.memory, s.memoryHigh)
	system.Disk = show(s.sampler.disk, s.diskHigh)
	system.Reason = strings.Join(unknown, "; ")

	app.verdict, storage.verdict, system.verdict = judge(app.Reason), judge(storage.Reason), judge(system.Reason)
	rep.Status = judge(app.Reason + storage.Reason + system.Reason).Status
	return rep
}

// uptime is in whole seconds.
func (s *service) uptime(now time.Time) int64 { return int64(now.Sub(s.started).Seconds()) }

// sampler measures the host and this process in the background, once every sampleInterval.
type sampler struct {
	cpu, memory, disk *gauge[usage]
	process           *gauge[map[string]float64] // by metric name; what is not known is absent
}

// usage is how much of a resource is in use.
type usage struct {
	ratio float64 // from 0 to 1
	left  uint64  // bytes; 0 for the CPU
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

func newSampler(diskPath string) *sampler {
	return &sampler{
		cpu:     &gauge[usage]{name: "cpu", read: cpuReader()},
		memory:  &gauge[usage]{name: "memory", read: readMemory},
		disk:    &gauge[usage]{name: "disk", read: func() (usage, error) { return readDisk(diskPath) }},
		process: &gauge[map[string]float64]{name: "process", read: readProcess},
	}
}

// start measures until ctx ends. It returns when everything has been read once, or after firstSample. Each gauge has
// a goroutine of its own: a disk that hangs makes the disk's reading old, and no other.
func (s *sampler) start(ctx context.Context, log *slog.Logger) {
	var first sync.WaitGroup
	first.Add(4)
	go s.cpu.run(ctx, log, first.Done)
	go s.memory.run(ctx, log, first.Done)
	go s.disk.run(ctx, log, first.Done)
	go s.process.run(ctx, log, first.Done)
	done := make(chan struct{})
	go func() { first.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(firstSample):
	}
}

// run reads the gauge again and again until ctx ends, and calls first after the first time.
func (g *gauge[T]) run(ctx context.Context, log *slog.Logger, first func()) {
	tick := time.NewTicker(sampleInterval)
	defer tick.Stop()
	for failing := false; ; {
		value, err := g.read()
		g.last.Store(&reading[T]{time.Now(), value, err})
		if failing != (err != nil) {
			failing = err != nil
			log.Warn("a reading began or ceased to fail", "reading", g.name, "cause", err)
		}
		if first != nil {
			first()
			first = nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// fresh returns the last value, or an error that may be shown to anybody: it does not repeat what gopsutil said.
func (g *gauge[T]) fresh(now time.Time) (value T, err error) {
	switch last := g.last.Load(); {
	case last == nil:
		return value, errors.New("not read yet")
	case last.err != nil:
		return value, errors.New("the reading failed")
	case now.Sub(last.at) > maxSampleAge:
		return value, errors.New("the last reading is too old")
	default:
		return last.value, nil
	}
}

var errImpossible = errors.New("the reading is empty or impossible")

// share is used/total as a ratio; numbers that cannot be true (and NaN) are an error. gopsutil v3, which is frozen,
// returns such numbers without an error of its own, for example when /proc/stat or /proc/meminfo cannot be read.
func share(used, total float64) (float64, error) {
	if ratio := used / total; total > 0 && ratio >= 0 && ratio <= 1 {
		return ratio, nil
	}
	return 0, errImpossible
}

// cpuReader returns a function that reads the share of time in which the CPUs were busy since its last call, and since
// boot at first. cpu.Percent would not do: all its callers share one baseline, and move it for each other.
func cpuReader() func() (usage, error) {
	var last usage
	var lastBusy, lastTotal float64
	return func() (usage, error) {
		times, err := cpu.Times(false)
		if err != nil || len(times) == 0 {
			return usage{}, errors.Join(errImpossible, err)
		}
		t := times[0] // guest time is part of user time already
		busy := t.User + t.System + t.Nice + t.Irq + t.Softirq + t.Steal
		total := busy + t.Idle + t.Iowait
		if _, err := share(busy, total); err != nil {
			return usage{}, err
		}
		// No time has passed, or a counter went back, as the kernel's iowait does: the last value still stands.
		if ratio, err := share(busy-lastBusy, total-lastTotal); err == nil {
			last.ratio = ratio
		}
		lastBusy, lastTotal = busy, total
		return last, nil
	}
}

// readMemory reads how much memory new programs cannot have. (gopsutil's UsedPercent counts a full tmpfs as free.)
func readMemory() (usage, error) {
	m, err := mem.VirtualMemory()
	if err != nil {
		return usage{}, err
	}
	if m.Available == 0 || m.Available > m.Total {
		return usage{}, errImpossible
	}
	ratio, err := share(float64(m.Total-m.Available), float64(m.Total))
	return usage{ratio, m.Available}, err
}

// readDisk reads how full a file system is, as df does: of what an unprivileged user can have.
func readDisk(path string) (usage, error) {
	d, err := disk.Usage(path)
	if err != nil {
		return usage{}, err
	}
	ratio, err := share(float64(d.Used), float64(d.Used+d.Free))
	return usage{ratio, d.Free}, err
}

// readProcess reads what this process uses. It never fails: what cannot be read here or on this system is left out.
func readProcess() (map[string]float64, error) {
	p := &process.Process{Pid: int32(os.Getpid())}
	values := map[string]float64{}
	if t, err := p.Times(); err == nil {
		values["process_cpu_seconds_total"] = t.User + t.System
	}
	if m, err := p.MemoryInfo(); err == nil {
		values["process_resident_memory_bytes"] = float64(m.RSS)
		values["process_virtual_memory_bytes"] = float64(m.VMS)
	}
	if n, err := p.NumFDs(); err == nil {
		values["process_open_fds"] = float64(n)
	}
	limits, _ := p.Rlimit()
	for _, limit := range limits {
		switch limit.Resource {
		case process.RLIMIT_NOFILE:
			values["process_max_fds"] = float64(limit.Soft)
		case process.RLIMIT_AS:
			values["process_virtual_memory_max_bytes"] = float64(limit.Soft)
		}
	}
	return values, nil
}
