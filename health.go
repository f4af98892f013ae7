package main

// Health: four routes, each for somebody else, and the sensors that let them answer from memory. A
// hung file system blocks whoever asks how full it is, so only the sensors ask, and no handler. (A
// -log-file that hangs still holds up every answer: its line comes first. See logFile.Write.)

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"os"
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
		Version:   s.build.version,
		Uptime:    s.uptime(now),
	}
}

func (s *service) uptime(now time.Time) int { return int(now.Sub(s.started).Seconds()) }

// health: GET /health, for a person or a load balancer. That there is an answer is the answer.
func (s *service) health(w *reply, _ *http.Request) error {
	return w.json(http.StatusOK, s.newSummary("healthy", w.start))
}

// liveness: GET /health/liveness, for whoever restarts the process. It looks at nothing, because a
// restart would not help against a full disk or a busy host.
func (s *service) liveness(w *reply, _ *http.Request) error {
	return w.json(http.StatusOK, s.newSummary("alive", w.start))
}

// readiness: GET /health/readiness, for whoever sends requests here. A busy host is ready, because
// there is no second host that could take the requests.
func (s *service) readiness(w *reply, _ *http.Request) error {
	answer := s.newSummary("ready", w.start)
	checks := s.check(w.start)
	answer.Reason = checks.Application.Reason
	if answer.Reason == "" {
		answer.Reason = checks.Storage.Reason
	}
	if answer.Reason == "" {
		return w.json(http.StatusOK, answer)
	}
	answer.Status = "not_ready"
	return w.unhealthy(answer)
}

// detailed: GET /health/detailed, for a person or a script that wants numbers.
func (s *service) detailed(w *reply, _ *http.Request) error {
	answer := struct {
		Status    string `json:"status"`
		Timestamp string `json:"timestamp"`
		Checks    checks `json:"checks"`
	}{
		Status:    healthy,
		Timestamp: timestamp(w.start),
		Checks:    s.check(w.start),
	}
	if answer.Checks.areHealthy() {
		return w.json(http.StatusOK, answer)
	}
	answer.Status = unhealthy
	return w.unhealthy(answer)
}

// unhealthy sets a whole answer that says no. Whoever asks is told, so it is no failure of an
// answer: it has no envelope, and is less than an ERROR in the log.
func (w *reply) unhealthy(answer any) error {
	err := w.json(http.StatusServiceUnavailable, answer)
	w.level = slog.LevelWarn
	return err
}

// --- The checks ---

const (
	healthy   = "healthy"
	unhealthy = "unhealthy"
)

// checks are all parts of the service's health, as JSON.
type checks struct {
	Application applicationCheck `json:"application"`
	Storage     storageCheck     `json:"storage"`
	Resources   resourcesCheck   `json:"system_resources"`
}

// verdict is what all checks have.
type verdict struct {
	Status string `json:"status"`           // healthy or unhealthy
	Reason string `json:"reason,omitempty"` // why it is unhealthy
}

type applicationCheck struct {
	verdict
	Uptime  int    `json:"uptime_seconds"`
	Version string `json:"version"`
}

type storageCheck struct {
	verdict
	Total    int `json:"total_tasks"`
	Capacity int `json:"capacity"`
}

// resourcesCheck leaves out what is not known.
type resourcesCheck struct {
	verdict
	CPU    *usage `json:"cpu,omitempty"`
	Memory *usage `json:"memory,omitempty"`
	Disk   *usage `json:"disk,omitempty"`
}

// usage is how much of a resource of the host is in use.
type usage struct {
	Percent   float64 `json:"usage_percent"`             // with at most one fraction digit
	Available *uint64 `json:"available_bytes,omitempty"` // of the memory
	Free      *uint64 `json:"free_bytes,omitempty"`      // of the disk, where it is known
	Status    string  `json:"status"`                    // normal or high: see sensors.judge
}

// fail makes a check unhealthy, for this reason and those before.
func (v *verdict) fail(reason string) {
	v.Status = unhealthy
	if v.Reason != "" {
		reason = v.Reason + "; " + reason
	}
	v.Reason = reason
}

func (c *checks) areHealthy() bool {
	return c.Application.Status == healthy && c.Storage.Status == healthy &&
		c.Resources.Status == healthy
}

// check judges the service by what is in memory.
func (s *service) check(now time.Time) checks {
	total, refusal := s.store.state(now)
	c := checks{
		Application: applicationCheck{
			verdict: verdict{Status: healthy},
			Uptime:  s.uptime(now),
			Version: s.build.version,
		},
		Storage: storageCheck{
			verdict:  verdict{Status: healthy},
			Total:    total,
			Capacity: s.maxTasks,
		},
		Resources: resourcesCheck{
			verdict: verdict{Status: healthy},
		},
	}
	if s.draining.Load() {
		c.Application.fail("the service is about to stop")
	}
	if refusal != nil {
		c.Storage.fail(refusal.Error())
	}
	c.Resources.CPU = c.Resources.look(s.sensors.cpu, now)
	c.Resources.Memory = c.Resources.look(s.sensors.memory, now)
	c.Resources.Disk = c.Resources.look(s.sensors.disk, now)
	return c
}

// look returns what a sensor has read, or nil, and then the check has failed.
func (c *resourcesCheck) look(s *sensor[usage], now time.Time) *usage {
	value, err := s.latest(now)
	if err != nil {
		c.fail(s.name + ": " + err.Error())
	}
	return value
}

// --- The sensors ---

// sampleInterval is the time between two readings.
const sampleInterval = 5 * time.Second

// sensors are all that the service reads of its host and of its own process.
type sensors struct {
	cpu     *sensor[usage]
	memory  *sensor[usage]
	disk    *sensor[usage]
	process *sensor[processUsage]
}

// sensor reads one thing again and again, and keeps the last reading.
type sensor[T any] struct {
	name  string
	read  func() (T, error)
	began atomic.Pointer[time.Time]  // when the reader that is at work began; nil if none is
	last  atomic.Pointer[reading[T]] // nil if there is none yet
}

// reading is what a sensor has read, and when. It never changes.
type reading[T any] struct {
	value T
	at    time.Time
	err   error // which anybody may see: sample logs the cause
}

func newSensors(c config) sensors {
	return sensors{
		cpu:     newSensor("cpu", c.cpuHigh, new(cpuTimes).read),
		memory:  newSensor("memory", c.memoryHigh, readMemory),
		disk:    newSensor("disk", c.diskHigh, func() (usage, error) { return readDisk(c.diskPath) }),
		process: &sensor[processUsage]{name: "process", read: readProcess},
	}
}

// newSensor returns a sensor of a resource of the host. Above the threshold, in percent, a usage is
// high. That is information for a person, and no fault.
func newSensor(name string, threshold float64, read func() (usage, error)) *sensor[usage] {
	return &sensor[usage]{
		name: name,
		read: func() (usage, error) {
			u, err := read()
			u.Status = "normal"
			if u.Percent > threshold {
				u.Status = "high"
			}
			return u, err
		},
	}
}

// startSensors lets all sensors read until ctx ends, each in a goroutine of its own: one that hangs
// makes its own reading old, and no other. It waits for their first readings, so that the first
// answer has numbers, but for a second at most: a disk that hangs must not hinder the start.
func (s *service) startSensors(ctx context.Context) {
	const count = 4
	first := make(chan struct{}, count)
	go s.sensors.cpu.run(ctx, s.log, first)
	go s.sensors.memory.run(ctx, s.log, first)
	go s.sensors.disk.run(ctx, s.log, first)
	go s.sensors.process.run(ctx, s.log, first)

	enough := time.After(time.Second)
	for range count {
		select {
		case <-first:
		case <-enough:
			return
		}
	}
}

// run samples until ctx ends. It tells first when there is a reading.
func (s *sensor[T]) run(ctx context.Context, log *slog.Logger, first chan<- struct{}) {
	s.sample(log)
	first <- struct{}{}
	every(ctx, sampleInterval, func() { s.sample(log) })
}

// sample reads the sensor once. The cause of a failure goes to the log and nowhere else.
func (s *sensor[T]) sample(log *slog.Logger) {
	began := time.Now()
	s.began.Store(&began)
	value, err := s.read()
	if err != nil {
		log.Warn("a reading failed", "reading", s.name, "cause", err)
		err = errors.New("the reading failed")
	}
	s.last.Store(&reading[T]{value: value, at: time.Now(), err: err})
	s.began.Store(nil)
}

// latest returns the last reading, or why it is of no use: it failed, there is none yet, or the
// reader has hung for three intervals. An old reading stands as long as no reader hangs: then the
// whole process was paused.
func (s *sensor[T]) latest(now time.Time) (*T, error) {
	began := s.began.Load()
	last := s.last.Load()
	switch {
	case began != nil && now.Sub(*began) > 3*sampleInterval:
		return nil, errors.New("the reading does not end")
	case last == nil:
		return nil, errors.New("not read yet")
	case last.err != nil:
		return nil, last.err
	}
	return &last.value, nil
}

// age returns how old the last reading is, if it succeeded.
func (s *sensor[T]) age(now time.Time) (seconds float64, ok bool) {
	last := s.last.Load()
	if last == nil || last.err != nil {
		return 0, false
	}
	return max(0, now.Sub(last.at).Seconds()), true
}

// --- The readers ---

// errImpossible is for numbers that cannot be true. gopsutil v3, which is frozen, returns such
// numbers without an error, for example where it cannot read /proc.
var errImpossible = errors.New("the reading is empty or impossible")

// percentUsed returns how much of a total is used, with at most one fraction digit.
func percentUsed(unused, total float64) float64 { return math.Round(1000*(1-unused/total)) / 10 }

// cpuTimes is what the last call of read has found. (cpu.Percent would not do: all its callers
// share one baseline.)
type cpuTimes struct {
	busy    float64 // seconds
	idle    float64 // seconds, with iowait
	iowait  float64 // seconds
	percent float64
}

// read reads how busy the CPUs have been since the last call, and at first since boot.
func (last *cpuTimes) read() (usage, error) {
	times, err := cpu.Times(false)
	if err != nil {
		return usage{}, err
	}
	if len(times) == 0 {
		return usage{}, errImpossible
	}
	t := times[0]
	busy := t.User + t.System + t.Nice + t.Irq + t.Softirq + t.Steal // User includes guests
	idle := t.Idle + t.Iowait
	lowest := min(t.User, t.System, t.Nice, t.Irq, t.Softirq, t.Steal, t.Idle, t.Iowait)
	isPossible := lowest >= 0 && busy+idle > 0 && !math.IsInf(busy+idle, 0) // false for NaN, too
	if !isPossible {
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
	if err != nil {
		return usage{}, err
	}
	if m.Total == 0 || m.Free > m.Total {
		return usage{}, errImpossible
	}
	available := m.Available
	if available == 0 || available > m.Total {
		available = m.Free
	}
	return usage{
		Percent:   percentUsed(float64(available), float64(m.Total)),
		Available: &available,
	}, nil
}

// readDisk reads how full the file system of a path is, as df prints it: of what programs without
// privileges can use. Under FUSE and virtiofs, gopsutil counts blocks in another unit than df, so
// the bytes are not known there; the percentage is right.
func readDisk(path string) (usage, error) {
	d, err := disk.Usage(path)
	if err != nil {
		return usage{}, err
	}
	if d.Free > d.Total || d.Used+d.Free == 0 { // FreeBSD may have less than nothing left
		return usage{}, errImpossible
	}
	u := usage{Percent: percentUsed(float64(d.Free), float64(d.Used+d.Free))}
	if d.Fstype != "fuseblk" { // what gopsutil calls all of FUSE
		u.Free = &d.Free
	}
	return u, nil
}

// processUsage is what this process uses, by the names of the metrics. What the system does not
// tell is not there.
type processUsage map[string]float64

// readProcess reads what this process uses. It is looked for in /proc, even if HOST_PROC says that
// the host is elsewhere: there, the number of this process can be another's.
func readProcess() (processUsage, error) {
	own := common.EnvMap{common.HostProcEnvKey: "/proc"}
	ctx := context.WithValue(context.Background(), common.EnvKey, own)
	self := &process.Process{Pid: int32(os.Getpid())}
	usage := processUsage{}

	times, err := self.TimesWithContext(ctx)
	if err == nil {
		usage["process_cpu_seconds_total"] = times.User + times.System
	}
	memory, err := self.MemoryInfoWithContext(ctx)
	if err == nil {
		usage["process_resident_memory_bytes"] = float64(memory.RSS)
		usage["process_virtual_memory_bytes"] = float64(memory.VMS)
	}
	limits, _ := self.RlimitUsageWithContext(ctx, true) // true: and how much of each is in use
	for _, limit := range limits {
		switch limit.Resource {
		case process.RLIMIT_NOFILE:
			usage["process_open_fds"] = float64(limit.Used)
			usage["process_max_fds"] = float64(limit.Soft)
		case process.RLIMIT_AS:
			usage["process_virtual_memory_max_bytes"] = float64(limit.Soft)
		}
	}
	return usage, nil
}
