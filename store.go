package main

// State has one owner, and an answer is a promise. Only the methods of the store touch its lock. A
// task never changes once it is stored, so get and page hand out the tasks themselves, not copies.
// With a data file, a task that add has accepted is on the disk. The ids of tasks come first. The
// rate limiter is the last part, because it is state behind a lock, too.

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
)

// newID returns an id that nobody can guess: 128 random bits. It is hexadecimal, so that no word
// for which operators search the log, such as ERROR, can be in it by chance.
func newID() string {
	id := make([]byte, 16)
	rand.Read(id) // never fails
	return fmt.Sprintf("task_%x", id)
}

// store holds tasks in order of creation. Its methods may be called concurrently.
type store struct {
	capacity int
	log      *slog.Logger
	restored int          // tasks that the file had at the start
	file     io.Writer    // nil if the tasks end with the process
	sync     func() error // syncs the file

	// mu guards what follows. Nobody holds it while the disk is busy, so readers never wait for the
	// disk. (A plain Mutex: every section is short, and an RWMutex would make each of them slower.)
	mu      sync.Mutex
	tasks   []*Task        // all, in order
	shown   int            // how many of them readers see: with a file, those on the disk
	index   map[string]int // numbers of the tasks by id; the oldest is number 1
	writing bool           // somebody is writing to the file
	written *sync.Cond     // signalled when writing ends
	fileErr error          // if the file has failed; no task is taken any more
}

// openStore returns a store of the tasks in the file at path, which is created if there is none.
// Without a path, the tasks are in memory only. A file may hold more tasks than the capacity.
func openStore(path string, capacity int, log *slog.Logger) (*store, error) {
	s := &store{capacity: capacity, log: log, index: map[string]int{}}
	s.written = sync.NewCond(&s.mu)
	if path == "" {
		return s, nil
	}

	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	s.file, s.sync = file, file.Sync
	return s, s.restore(file)
}

// restore reads the tasks of a file. It changes the file only if all its lines are valid: then it
// cuts off what follows the last newline, which is what a crash has left of a line. It needs no
// lock, because nobody else knows the store yet.
func (s *store) restore(file *os.File) (err error) {
	start := time.Now()
	reader := bufio.NewReaderSize(file, 64<<10)
	whole, torn := 0, 0 // bytes in lines with a newline, and without
	for {
		line, readErr := reader.ReadString('\n')
		if readErr == io.EOF {
			torn = len(line)
			break
		}
		task, taskErr := parseStoredTask(strings.TrimSuffix(line, "\n"))
		if taskErr == nil && s.index[task.ID] > 0 {
			taskErr = errors.New("its task_id is there twice")
		}
		if err := cmp.Or(readErr, taskErr); err != nil {
			return fmt.Errorf("%s: line %d: %w", file.Name(), len(s.tasks)+1, err)
		}
		s.put(&task)
		whole += len(line)
	}

	s.restored, s.shown = len(s.tasks), len(s.tasks)
	s.log.Info("tasks read from the data file", "tasks", s.restored, "duration", time.Since(start))
	if torn > 0 {
		s.log.Warn("cutting off a torn last line", "file", file.Name(), "bytes", torn)
		err = file.Truncate(int64(whole))
	}

	// The last process may have been killed before it could sync the file. And if the file is new,
	// its name survives a power cut only in a folder that is synced, which Windows cannot do.
	folder, folderErr := os.Open(filepath.Dir(file.Name()))
	if folderErr == nil && runtime.GOOS != "windows" {
		folderErr = folder.Sync()
	}
	folder.Close() // does nothing if it could not be opened
	return cmp.Or(err, file.Sync(), folderErr)
}

// put gives a task the next number. It needs the lock. Tasks are never removed, so numbers stay.
func (s *store) put(task *Task) {
	s.tasks = append(s.tasks, task)
	s.index[task.ID] = len(s.tasks)
}

// add stores a task, which must not change any more. With a file, it returns nil only after the
// task has been written and synced.
//
// This is a group commit: one sync takes as long for many tasks as for one. While one caller is
// writing, the tasks of others wait. When it is done, it wakes all callers. Those whose tasks were
// written return, and the first of the others writes for the rest.
func (s *store) add(task *Task) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.refusal(); err != nil {
		return err
	}
	s.put(task)
	for mine := len(s.tasks); s.shown < mine; {
		switch {
		case s.file == nil:
			s.shown = mine // there is no disk to wait for
		case s.fileErr != nil:
			return s.fileErr
		case s.writing:
			s.written.Wait()
		default:
			s.write()
		}
	}
	return nil
}

// write writes all tasks that wait, syncs them, and shows them to readers. It needs the lock, and
// releases it while the disk is busy.
//
// The first error is final. After a failed sync, the kernel may drop what it could not write, and
// report the next sync as a success.
func (s *store) write() {
	s.writing = true
	s.mu.Unlock()
	runtime.Gosched() // lets requests that are ready to run add their tasks to this batch
	s.mu.Lock()
	batch := s.tasks[s.shown:]
	s.mu.Unlock()

	var lines strings.Builder
	for _, task := range batch {
		json.NewEncoder(&lines).Encode(task.toJSON("")) // cannot fail: it has texts only
	}
	_, err := io.WriteString(s.file, lines.String())
	if err == nil {
		err = s.sync()
	}

	s.mu.Lock()
	s.writing = false
	s.written.Broadcast()
	if err == nil {
		s.shown += len(batch)
		return
	}
	// Health checks show this error to anybody, so it leaves out the path. The log has it.
	s.fileErr = fmt.Errorf("the data file has failed: %w", cmp.Or(errors.Unwrap(err), err))
	s.log.Log(context.Background(), levelCritical, "the data file has failed", "cause", err)
}

// refusal says why no task can be added, or returns nil. It needs the lock.
func (s *store) refusal() error {
	if s.fileErr == nil && len(s.tasks) >= s.capacity {
		return newError(storeFull, "the store is full")
	}
	return s.fileErr
}

// state returns how many tasks are stored, and why no task can be added, if so.
func (s *store) state() (total int, refusal error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown, s.refusal()
}

// get returns the task with this id, or nil.
func (s *store) get(id string) *Task {
	s.mu.Lock()
	defer s.mu.Unlock()
	if number := s.index[id]; 0 < number && number <= s.shown {
		return s.tasks[number-1]
	}
	return nil
}

// page returns up to limit tasks, oldest first: those that follow the task whose id is after, or
// the first ones if after is empty. The caller has checked that there is such a task. tasks is a
// part of the list itself, not a copy: stored tasks never change, and new ones go to its end. next
// is the after of the next page, and empty on the last one.
func (s *store) page(after string, limit int) (tasks []*Task, next string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	start := s.index[after] // so many tasks come before the page
	end := min(start+limit, s.shown)
	if end < s.shown {
		next = s.tasks[end-1].ID
	}
	return s.tasks[start:end:end], next
}

// limiter is a token bucket. Instead of a count of tokens, it keeps the time at which the bucket is
// full again: each token that is taken puts that off by an interval. If it is a second away, the
// bucket is empty. The zero value is a full bucket.
type limiter struct {
	mu   sync.Mutex // guards full
	full time.Time
}

// take takes a token if there is one. It lets rate creations a second through, and at most rate at
// once. Whoever is refused can come back after a second: no token takes longer.
func (l *limiter) take(rate int, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	delay := max(0, l.full.Sub(now)) + time.Second/time.Duration(rate)
	if delay > time.Second {
		return false
	}
	l.full = now.Add(delay)
	return true
}
