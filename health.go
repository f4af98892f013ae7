package main

// Health: four routes, each for somebody else, and the sensors that let them answer from memory. A
// hung file system blocks whoever asks how full it is, so only the sensors ask, and no handler. (A
// -log-file that hangs still holds up every answer: its line comes first. See logOutput.Write.)

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shirou/gopsutil/v3/common"
	"github.com/shirou/gopsutil/v3/cpu"
	"github.com/shirou/gopsutil/v3/disk"
	"github.com/shirou/gopsutil/v3/mem"
	"github.com/shirou/gopsutil/v3/process"
)

// --- The four routes ---

// summary is the answer of the three short routes.
type summary struct {
	Status    string `json:"status"`
	Reason    string `json:"reason,omitempty"`
	Timestamp string `json:"timestamp"`
	Service   string `json:"service"`
	Version   string `json:"version"`
	Uptime    int    `json:"uptime_seconds"`
}

func (s *service) newSummary(status string, now time.Time) summary {
	return summary{
		Status:    status,
		Timestamp: timestamp(now),
		Service:   serviceName,
		Version:   s.version,
		Uptime:    s.uptime(now),
	}
}

func (s *service) uptime(now time.Time) int { return int(now.Sub(s.started).Seconds()) }

// health: GET /health, for a person or a load balancer. That there is an answer is the answer.
func (s *service) health(w *reply, _ *http.Request) error {
	return w.json(http.StatusOK, s.newSummary(healthy, w.start))
}

// liveness: GET /health/liveness, for a supervisor that restarts the process if there is no answer.
// It looks at nothing, because a restart would not help against a full disk or a busy host.
func (s *service) liveness(w *reply, _ *http.Request) error {
	return w.json(http.StatusOK, s.newSummary("alive", w.start))
}

// readiness: GET /health/readiness, for a proxy that sends requests here. A busy host is ready,
// because there is no second host that could take the requests.
func (s *service) readiness(w *reply, _ *http.Request) error {
	checks := s.check(w.start).Checks
	answer := s.newSummary("ready", w.start)
	answer.Reason = cmp.Or(checks.Application.Reason, checks.Storage.Reason)
	if answer.Reason != "" {
		answer.Status = "not_ready"
	}
	return w.health(answer.Reason == "", answer)
}

// detailed: GET /health/detailed, for a person or a script that wants numbers.
func (s *service) detailed(w *reply, _ *http.Request) error {
	answer := s.check(w.start)
	return w.health(answer.Status == healthy, answer)
}

// health sets a whole answer that says yes or no. A no is no failure of an answer, since whoever
// asks is told: it has no envelope, and is less than an ERROR in the log.
func (w *reply) health(isHealthy bool, answer any) error {
	if isHealthy {
		return w.json(http.StatusOK, answer)
	}
	err := w.json(http.StatusServiceUnavailable, answer)
	w.code.level = slog.LevelWarn
	return err
}

// --- The checks ---

const healthy, unhealthy = "healthy", "unhealthy"

// detailedHealth is what the service knows of its health, as JSON.
type detailedHealth struct {
	Status    string `json:"status"` // healthy if all checks are
	Timestamp string `json:"timestamp"`
	Checks    struct {
		Application struct {
			verdict
			Uptime  int    `json:"uptime_seconds"`
			Version string `json:"version"`
		} `json:"application"`
		Storage struct {
			verdict
			Total    int `json:"total_tasks"`
			Capacity int `json:"capacity"`
		} `json:"storage"`
		Resources struct {
			verdict
			CPU    *usage `json:"cpu,omitempty"` // left out if it is not known
			Memory *usage `json:"memory,omitempty"`
			Disk   *usage `json:"disk,omitempty"`
		} `json:"system_resources"`
	} `json:"checks"`
}

// verdict is what all checks have.
type verdict struct {
	Status string `json:"status"`
	Reason string `json:"reason,omitempty"` // why it is unhealthy
}

// usage is how much of a resource of the host is in use.
type usage struct {
	Percent   float64 `json:"usage_percent"`             // with at most one fraction digit
	Available *uint64 `json:"available_bytes,omitempty"` // of the memory
	Free      *uint64 `json:"free_bytes,omitempty"`      // of the disk, where it is known
	Status    string  `json:"status"`                    // normal or high
}

// fail makes a check unhealthy, for this reason and those before.
func (v *verdict) fail(reason string) {
	v.Status = unhealthy
	if v.Reason != "" {
		reason = v.Reason + "; " + reason
	}
	v.Reason = reason
}

// check judges the service by what is in memory.
func (s *service) check(now time.Time) *detailedHealth {
	h := &detailedHealth{Status: healthy, Timestamp: timestamp(now)}
	app, storage, resources := &h.Checks.Application, &h.Checks.Storage, &h.Checks.Resources

	app.Status = healthy
	app.Uptime = s.uptime(now)
	app.Version = s.version
	if s.draining.Load() {
		app.fail("the service is about to stop")
	}

	total, refusal := s.store.state(now)
	storage.Status = healthy
	storage.Total = total
	storage.Capacity = s.maxTasks
	if refusal != nil {
		storage.fail(refusal.Error())
	}

	resources.Status = healthy
	resources.CPU = s.cpu.report(&resources.verdict, now)
	resources.Memory = s.memory.report(&resources.verdict, now)
	resources.Disk = s.disk.report(&resources.verdict, now)

	if app.Reason != "" || storage.Reason != "" || resources.Reason != "" {
		h.Status = unhealthy
	}
	return h
}

// number returns 1 for healthy, else 0.
func (v *verdict) number() float64 {
	if v.Status == healthy {
		return 1
	}
	return 0
}

// --- The sensors ---

// sampleInterval is the time between two readings.
const sampleInterval = 5 * time.Second

// sensor reads one resource of the host again and again, and keeps the last reading.
type sensor struct {
	name  string
	high  float64 // a usage above this percentage is high, which is information and no fault
	read  func() (usage, error)
	began atomic.Pointer[time.Time] // when the reader that is at work began; nil if none is
	last  atomic.Pointer[reading]   // nil if there is none yet
}

// newSensor returns a sensor that has not read anything yet.
func newSensor(name string, high float64, read func() (usage, error)) *sensor {
	return &sensor{
		name: name,
		high: high,
		read: read,
	}
}

// reading is what a sensor has read, and when. It never changes.
type reading struct {
	usage
	at  time.Time
	err error // of the reader: only the log has the cause
}

// startSensors lets all sensors read until ctx ends, each in a goroutine of its own: one that hangs
// makes its own reading old, and no other. It waits for their first readings, so that the first
// answer has numbers, but for a second at most: a disk that hangs must not hinder the start.
func (s *service) startSensors(ctx context.Context) {
	samplers := []func(){s.sampleProcess}
	for _, sensor := range []*sensor{s.cpu, s.memory, s.disk} {
		samplers = append(samplers, func() { sensor.sample(s.log) })
	}

	waiting, stopWaiting := context.WithTimeout(ctx, time.Second)
	var first sync.WaitGroup
	for _, sample := range samplers {
		first.Go(func() {
			sample()
			go every(ctx, sampleInterval, sample)
		})
	}
	go func() {
		first.Wait()
		stopWaiting()
	}()
	<-waiting.Done()
}

// sample reads the sensor once. The cause of a failure goes to the log and nowhere else.
func (s *sensor) sample(log *slog.Logger) {
	began := time.Now()
	s.began.Store(&began)
	u, err := s.read()
	if err != nil {
		log.Warn("a reading failed", "reading", s.name, "cause", err)
	}
	u.Status = "normal"
	if u.Percent > s.high {
		u.Status = "high"
	}
	s.last.Store(&reading{
		usage: u,
		at:    time.Now(),
		err:   err,
	})
	s.began.Store(nil)
}

// report returns what the sensor has read. If that is of no use, because the reading has failed or
// its reader has hung for three intervals, it returns nil, and the check fails. If no reader hangs,
// an old reading stands: then the whole process was paused.
func (s *sensor) report(v *verdict, now time.Time) *usage {
	last := s.last.Load()
	began := s.began.Load()
	switch {
	case began != nil && now.Sub(*began) > 3*sampleInterval:
		v.fail(s.name + ": the reading does not end")
	case last == nil:
		v.fail(s.name + ": not read yet")
	case last.err != nil:
		v.fail(s.name + ": the reading failed") // the log has the cause
	default:
		return &last.usage
	}
	return nil
}

// --- The readers ---

// errImpossible is for numbers that cannot be true. gopsutil v3, which is frozen, returns such
// numbers without an error, for example where it cannot read /proc.
var errImpossible = errors.New("the reading is empty or impossible")

// percentUsed returns how much of a total is used, with at most one fraction digit.
func percentUsed(unused, total float64) float64 { return math.Round(1000*(1-unused/total)) / 10 }

// cpuTimes is what the last call of read has found. (cpu.Percent would not do: all its callers
// share one baseline.)
type cpuTimes struct{ busy, idle, iowait, percent float64 }

// read reads how busy the CPUs have been since the last call, and at first since boot.
func (last *cpuTimes) read() (usage, error) {
	times, err := cpu.Times(false)
	if err != nil || len(times) == 0 {
		return usage{}, errors.Join(errImpossible, err)
	}
	t := times[0]
	busy := t.User + t.System + t.Nice + t.Irq + t.Softirq + t.Steal // User includes guests
	idle := t.Idle + t.Iowait
	lowest := min(t.User, t.System, t.Nice, t.Irq, t.Softirq, t.Steal, t.Idle, t.Iowait)
	if !(lowest >= 0 && busy+idle > 0) || math.IsInf(busy+idle, 0) { // nothing is true of NaN
		return usage{}, errImpossible
	}

	// If no time has passed, or a counter has gone back, the last percentage still stands. Iowait
	// is known to go back.
	total := (busy - last.busy) + (idle - last.idle)
	if total > 0 && busy >= last.busy && idle >= last.idle && t.Iowait >= last.iowait {
		last.percent = percentUsed(idle-last.idle, total)
	}
	last.busy = busy
	last.idle = idle
	last.iowait = t.Iowait
	return usage{Percent: last.percent}, nil
}

// readMemory reads how much memory is in use: all that is not available to programs. (The
// UsedPercent of gopsutil v3 counts a full tmpfs as free.) Where the kernel says that nothing is
// available, or more than there is, free memory is what is available, as for free(1): kernels at
// their reserve, gVisor and LXC say so.
func readMemory() (usage, error) {
	m, err := mem.VirtualMemory()
	if err != nil || m.Total == 0 || m.Free > m.Total {
		return usage{}, errors.Join(errImpossible, err)
	}
	available := m.Available
	if available == 0 || available > m.Total {
		available = m.Free
	}
	percent := percentUsed(float64(available), float64(m.Total))
	return usage{Percent: percent, Available: &available}, nil
}

// readDisk reads how full the file system of -disk-path is, as df prints it: of what programs
// without privileges can use. Under FUSE and virtiofs, gopsutil counts blocks in another unit than
// df, so the bytes are not known there; the percentage is right.
func (c config) readDisk() (usage, error) {
	d, err := disk.Usage(c.diskPath)
	// What is less than nothing wraps around, as free space can on FreeBSD.
	if err != nil || max(d.Free, d.Used) > d.Total || d.Used+d.Free == 0 {
		return usage{}, errors.Join(errImpossible, err)
	}
	u := usage{Percent: percentUsed(float64(d.Free), float64(d.Used+d.Free))}
	if d.Fstype != "fuseblk" { // what gopsutil calls all of FUSE
		u.Free = &d.Free
	}
	return u, nil
}

// readProcess returns what this process uses, by the names of the metrics. What the system does not
// tell is left out. The process is looked for in /proc, even if HOST_PROC says that the host is
// elsewhere: there, its number can be another's.
func readProcess() map[string]float64 {
	own := common.EnvMap{common.HostProcEnvKey: "/proc"}
	ctx := context.WithValue(context.Background(), common.EnvKey, own)
	self := &process.Process{Pid: int32(os.Getpid())}
	numbers := map[string]float64{}

	times, err := self.TimesWithContext(ctx)
	if err == nil {
		numbers["process_cpu_seconds_total"] = times.User + times.System
	}
	memory, err := self.MemoryInfoWithContext(ctx)
	if err == nil {
		numbers["process_resident_memory_bytes"] = float64(memory.RSS)
		numbers["process_virtual_memory_bytes"] = float64(memory.VMS)
	}
	limits, _ := self.RlimitUsageWithContext(ctx, true) // true: and how much of each is in use
	for _, limit := range limits {
		switch limit.Resource {
		case process.RLIMIT_NOFILE:
			numbers["process_open_fds"] = float64(limit.Used)
			numbers["process_max_fds"] = float64(limit.Soft)
		case process.RLIMIT_AS:
			numbers["process_virtual_memory_max_bytes"] = float64(limit.Soft)
		}
	}
	return numbers
}
