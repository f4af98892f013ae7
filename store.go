package main

// State has one owner, and an answer is a promise. Only the methods of the store touch its lock. A
// task never changes once it is stored, so get and page hand out the tasks themselves, not copies.
// With a data file, a task that add has accepted is on the disk, and the path leads to it. The ids
// of tasks come first, then the store, then its file. The rate limiter is the last part, because it
// is state behind a lock, too.

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// newID returns an id that nobody can guess: 26 letters and digits with 130 random bits. In lower
// case, no ERROR for which operators search the log can be in it by chance.
func newID() string { return "task_" + strings.ToLower(rand.Text()) }

// --- The store ---

// store holds tasks in order of creation. Its methods may be called concurrently.
type store struct {
	capacity int
	log      *slog.Logger
	restored int       // tasks that the file had at the start
	file     *dataFile // nil if the tasks end with the process

	// turn is a lock for the file: it holds a value while a batch is being written. (A channel and
	// not a Mutex, because tests with a clock of their own see who waits at it.)
	turn chan bool

	// mu guards what follows. Nobody holds it while the disk or the log is busy, so readers wait
	// for neither. (A plain Mutex: every section is short, and an RWMutex would make each slower.)
	mu        sync.Mutex
	tasks     []*Task        // all that readers see, in order; with a file, all are on the disk
	index     map[string]int // numbers of the tasks by id; the oldest is number 1
	waiting   int            // tasks that have a place, and are not on the disk yet
	next      *batch         // takes the tasks that come; nil if there is none yet
	busySince time.Time      // when the file was asked to write; zero while it is not
	failure   error          // of the file: no task is taken any more
}

// batch is what is written and synced at once.
type batch struct {
	tasks []*Task
	err   error         // valid when done is closed
	done  chan struct{} // closed when the tasks are on the disk, or will never be
}

// openStore returns a store of the tasks in the file at path, which is created if there is none.
// Without a path, the tasks are in memory only. A file may hold more tasks than the capacity. An
// error, also of a ctx that ends, leaves no new file behind.
func openStore(ctx context.Context, path string, capacity int, log *slog.Logger) (*store, error) {
	s := &store{
		capacity: capacity,
		log:      log,
		turn:     make(chan bool, 1),
		tasks:    []*Task{}, // in JSON, no tasks are an empty list
		index:    map[string]int{},
	}
	if path == "" {
		return s, nil
	}
	isNew := !exists(path)
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	target, _ := filepath.EvalSymlinks(path) // empty if the system does not tell
	s.file = &dataFile{
		path:       path,
		realPath:   cmp.Or(target, path),
		file:       file,
		syncFolder: syncFolder,
	}
	err = s.restore(ctx)
	if err != nil {
		if isNew && !errors.Is(err, errTaken) {
			os.Remove(s.file.realPath)
		}
		s.close() // last: until then, nobody else begins with the file
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// close lets another process have the data file. The file itself stays open: a disk that hangs
// would hold the end of the process up.
func (s *store) close() {
	if s.file != nil && s.file.lock != nil {
		s.file.lock.Close()
	}
}

// add stores a task, which must not change any more. With a file, it returns nil only after the
// task has been written and synced.
//
// This is a group commit: one sync takes as long for many tasks as for one. The first task of a
// batch waits for its turn at the file, and the others join it until then.
func (s *store) add(task *Task) error {
	s.mu.Lock()
	if err := s.refusal(); err != nil {
		s.mu.Unlock()
		return err
	}
	if s.file == nil {
		s.put(task)
		s.mu.Unlock()
		return nil
	}
	isFirst := s.next == nil
	if isFirst {
		s.next = &batch{done: make(chan struct{})}
	}
	mine := s.next
	mine.tasks = append(mine.tasks, task)
	s.waiting++
	s.mu.Unlock()

	if isFirst {
		s.commit(mine)
	}
	<-mine.done
	return mine.err
}

// commit waits for its turn at the file, writes a batch, and shows its tasks to readers. The first
// error is final: after a failed sync, the kernel may drop what it could not write, and report the
// next sync as a success.
func (s *store) commit(b *batch) {
	s.turn <- true
	runtime.Gosched() // lets requests that are ready to run join this batch
	s.mu.Lock()
	if s.next == b { // it is not if verify has made the batch
		s.next = nil // whoever comes from now on begins the next one
	}
	s.busySince = time.Now()
	b.err = s.failure
	s.mu.Unlock()

	isFirstFailure := false
	if b.err == nil {
		b.err = s.file.append(b.tasks)
		isFirstFailure = b.err != nil
	}

	s.mu.Lock()
	s.busySince = time.Time{}
	s.failure = b.err
	s.waiting -= len(b.tasks)
	if b.err == nil {
		for _, task := range b.tasks {
			s.put(task)
		}
	}
	s.mu.Unlock()
	<-s.turn
	close(b.done)

	if isFirstFailure { // told last: the log may hang, too
		text := b.err.Error() + ": no task is taken any more"
		s.log.Log(context.Background(), levelCritical, text, "file", s.file.path)
	}
}

// verify looks whether the data file is still as it was left. If not, that is final, too: an
// operator hears it before the next creation does.
func (s *store) verify() {
	if s.file != nil {
		s.commit(&batch{done: make(chan struct{})})
	}
}

// put gives a task the next number. It needs mu. Tasks are never removed, so numbers stay. Of many
// tasks, user and second are those of the task before: such texts are in memory once.
func (s *store) put(task *Task) {
	if len(s.tasks) > 0 {
		last := s.tasks[len(s.tasks)-1]
		task.UserID = shared(task.UserID, last.UserID)
		task.CreatedAt = shared(task.CreatedAt, last.CreatedAt)
	}
	s.tasks = append(s.tasks, task)
	s.index[task.ID] = len(s.tasks)
}

// shared returns a text in the memory of another, if that is the same text.
func shared(text, known string) string {
	if text == known {
		return known
	}
	return text
}

// refusal says why no task can be added, or returns nil. It needs mu.
func (s *store) refusal() error {
	if s.failure == nil && len(s.tasks)+s.waiting >= s.capacity {
		return newError(storeFull, "the store is full")
	}
	return s.failure
}

// patience is how long the file may take for a batch.
const patience = 10 * time.Second

// state returns how many tasks are stored, and why no task can be added, if so.
func (s *store) state(now time.Time) (total int, refusal error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	refusal = s.refusal()
	if refusal == nil && !s.busySince.IsZero() && now.Sub(s.busySince) >= patience {
		refusal = fmt.Errorf("the data file has not answered for %v", patience)
	}
	return len(s.tasks), refusal
}

// get returns the task with this id, or nil.
func (s *store) get(id string) *Task {
	s.mu.Lock()
	defer s.mu.Unlock()
	if number := s.index[id]; number > 0 {
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
	end := min(start+limit, len(s.tasks))
	if end < len(s.tasks) {
		next = s.tasks[end-1].ID
	}
	return s.tasks[start:end:end], next
}

// --- The data file ---

// dataFile is the file that keeps the tasks, one JSON object a line. One goroutine at a time uses
// it.
type dataFile struct {
	path       string // as it was given
	realPath   string // behind symbolic links, when it was opened
	file       openFile
	syncFolder func(path string) error
	lock       net.Listener // nil if there can be none
	size       int64        // up to the end of the last line that is synced
	again      bytes.Buffer // a task that was read, as the service writes it
}

// openFile is what the service asks of an *os.File.
type openFile interface {
	io.ReadWriter
	Stat() (fs.FileInfo, error)
	Sync() error
	Truncate(size int64) error
}

// errTaken is returned for a file that must be left alone, even if it has just been created: the
// process that has it may have done that.
var errTaken = errors.New("another process has it")

// takeLock keeps other processes from the file, or returns an error if one of them has it. The lock
// is a Unix socket on which the process listens as long as it lives. The system takes the listener
// away with the process, however that ends, and leaves a socket behind that nobody can reach. Where
// there can be no socket, append alone sees what another process does.
func (f *dataFile) takeLock(log *slog.Logger) error {
	path := f.realPath + ".lock"
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
		return errTaken
	}
	info, err := os.Lstat(path)
	if err == nil && info.Mode().Type() == fs.ModeSocket {
		os.Remove(path)
	}
	lock, err := net.Listen("unix", path)
	if err != nil { // such as a file system without sockets, or a path over 100 bytes
		log.Warn("the data file has no lock against a second process", "cause", err)
		return nil
	}
	f.lock = lock
	go http.Serve(lock, http.NotFoundHandler()) // so that the queue of who dials is never full
	return nil
}

// syncFolder makes the names in a folder durable.
func syncFolder(path string) error {
	if runtime.GOOS == "windows" { // which does that by itself
		return nil
	}
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	defer folder.Close()
	return folder.Sync()
}

// append writes tasks to the end of the file and syncs it. It returns nil only if the path still
// leads to the file, and nobody else has changed it: what no restart would find is not stored. Its
// errors may be shown to anybody: they leave out the path.
func (f *dataFile) append(tasks []*Task) error {
	var lines bytes.Buffer
	for _, task := range tasks {
		json.NewEncoder(&lines).Encode(task) // cannot fail: it has texts only
	}
	err := f.fault(f.size) // a line must not follow what is left of another
	if err == nil && len(tasks) > 0 {
		err = f.write(lines.Bytes())
	}
	if err == nil {
		err = f.fault(f.size)
	}
	if err != nil {
		err = fmt.Errorf("the data file has failed: %w", cmp.Or(errors.Unwrap(err), err))
	}
	return err
}

// write writes lines and syncs them. If it fails, it takes them back, as well as that can be done.
// Otherwise, a restart would read them from the memory of the kernel as if they were on the disk.
// But if anybody else has changed the file, nothing of it is touched.
func (f *dataFile) write(lines []byte) error {
	written, err := f.file.Write(lines)
	if err == nil {
		err = f.file.Sync()
	}
	end := f.size + int64(written)
	if err == nil {
		f.size = end
	} else if f.fault(end) == nil {
		f.file.Truncate(f.size)
		f.file.Sync()
	}
	return err
}

// fault returns nil if the path leads to the open file, and that has this size.
func (f *dataFile) fault(size int64) error {
	there, err := os.Stat(f.path)
	if err != nil {
		return err
	}
	opened, err := f.file.Stat()
	if err == nil && (!os.SameFile(there, opened) || there.Size() != size) {
		err = errors.New("another program has replaced or changed it")
	}
	return err
}

// --- Reading the data file ---

// The limits of a data file, in bytes. No line of the service is longer than 4 KiB.
const (
	maxLine = 4 << 10
	maxTorn = 1 << 20 // of the zeros that a crash may leave
)

// restore takes the file for this process, reads its tasks, mends its end, and syncs what the last
// process may have been killed before it could sync. It changes the file only if all lines are
// valid. It needs no mu, because nobody else knows the store yet.
func (s *store) restore(ctx context.Context) error {
	start := time.Now()
	f := s.file
	info, err := f.file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("is no regular file")
	}
	if err == nil {
		err = f.takeLock(s.log)
	}
	if err == nil {
		err = s.readLines(ctx, info.Size())
	}
	if err == nil {
		err = f.file.Sync()
	}
	if err != nil {
		return err
	}
	// If the file is new, its name survives a power cut only in a folder that is synced.
	if err := f.syncFolder(filepath.Dir(f.realPath)); err != nil {
		s.log.Warn("the folder of the data file cannot be synced", "cause", err)
	}
	s.restored = len(s.tasks)
	s.log.Info("tasks read from the data file", "tasks", s.restored, "duration", time.Since(start))
	return nil
}

// readLines reads the tasks of a file of this size, line by line, to its end, and mends that.
func (s *store) readLines(ctx context.Context, size int64) error {
	reader := bufio.NewReaderSize(s.file.file, maxTorn)
	for number := 1; ctx.Err() == nil; number++ {
		line, err := reader.ReadSlice('\n') // valid until the next call
		isEnd := err == io.EOF
		if isEnd {
			err = s.mendEnd(line)
		} else if err == nil || err == bufio.ErrBufferFull {
			err = s.readLine(line)
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
		if isEnd {
			return nil
		}
		if number == 1 {
			// It is a data file. Room for about all its tasks: growing takes a fifth of the time.
			room := make(map[string]int, min(int(size/160), s.capacity))
			maps.Copy(room, s.index)
			s.index = room
		}
	}
	return ctx.Err()
}

// readLine takes the task in a line.
func (s *store) readLine(line []byte) error {
	task, err := s.file.parse(line)
	if err != nil {
		return err
	}
	s.put(task)
	if len(s.index) < len(s.tasks) { // which takes less time than to look for the id before
		return errors.New("its task_id is there twice")
	}
	s.file.size += int64(len(line))
	return nil
}

// mendEnd deals with what follows the last newline. A task that is whole gets its newline. What a
// crash can leave of a line, its beginning or zeros, is cut off. Anything else is an error: it may
// be another file, given by mistake.
func (s *store) mendEnd(end []byte) error {
	if len(end) == 0 {
		return nil
	}
	f := s.file
	whole := f.size + int64(len(end))
	if err := f.fault(whole); err != nil {
		return err
	}
	text := bytes.TrimRight(end, "\x00")
	isBeginning := bytes.HasPrefix(text, []byte(lineBeginning)) ||
		strings.HasPrefix(lineBeginning, string(text))
	isTorn := isBeginning && len(text) <= maxLine && !json.Valid(text)
	keep := f.size // up to where the file is kept
	if !isTorn {
		keep += int64(len(text))
		if err := s.readLine(append(text, '\n')); err != nil {
			return err
		}
	}
	if keep < whole {
		s.log.Warn("cutting off a torn last line", "file", f.path, "bytes", whole-keep)
	}
	err := f.file.Truncate(keep)
	if err == nil && !isTorn {
		_, err = f.file.Write([]byte{'\n'})
	}
	return err
}

// lineBeginning is how each line of the service begins.
const lineBeginning = `{"task_id":"`

// parse returns the task in a line, which ends in a newline. It has to be a JSON object with the
// five members as strings, and no other. The rules for new texts do not apply: an older release
// reads what a newer one has stored.
//
// Nearly all lines are just as the service writes them. Cutting such a line takes a quarter of the
// time of parsing JSON. Whether the cuts were right is seen when the task is written again.
func (f *dataFile) parse(line []byte) (*Task, error) {
	if len(line) > maxLine {
		return nil, fmt.Errorf("is longer than %d bytes", maxLine)
	}
	task := cut(line)
	f.again.Reset()
	json.NewEncoder(&f.again).Encode(task) // cannot fail: it has texts only
	if !bytes.Equal(f.again.Bytes(), line) {
		var err error
		task, err = parseJSON(line)
		if err != nil {
			return nil, err
		}
	}
	at, err := time.Parse(time.RFC3339, task.CreatedAt)
	switch {
	case strings.Trim(task.ID, ".") == "", url.QueryEscape(task.ID) != task.ID:
		return nil, errors.New("task_id is not safe in a URL")
	case task.Status != pending:
		return nil, errors.New("status is not " + pending)
	case err != nil:
		return nil, errors.New("created_at is not a time")
	}
	isUTC := strings.HasSuffix(task.CreatedAt, "Z")
	if !isUTC || len(task.CreatedAt) != len("2006-01-02T15:04:05Z") {
		task.CreatedAt = timestamp(at)
	}
	return task, nil
}

// cut cuts a line between the words that the service writes.
func cut(line []byte) *Task {
	rest := bytes.TrimPrefix(line, []byte(lineBeginning))
	id, rest, _ := bytes.Cut(rest, []byte(`","task_name":"`))
	name, rest, _ := bytes.Cut(rest, []byte(`","user_id":"`))
	userID, rest, _ := bytes.Cut(rest, []byte(`","status":"pending","created_at":"`))
	created, _, _ := bytes.Cut(rest, []byte(`"`))
	return &Task{
		ID:        string(id),
		Name:      string(name),
		UserID:    string(userID),
		Status:    pending,
		CreatedAt: string(created),
	}
}

// parseJSON returns the task in a line that is not just as the service writes it.
func parseJSON(line []byte) (*Task, error) {
	if !utf8.Valid(line) {
		return nil, errors.New("is not valid UTF-8")
	}
	var members map[string]any // a struct would hide null, unknown members, and other cases
	if err := json.Unmarshal(line, &members); err != nil {
		return nil, fmt.Errorf("is no JSON object: %w", err)
	}
	texts := make([]string, 5)
	for i, name := range []string{"task_id", "task_name", "user_id", "status", "created_at"} {
		text, isText := members[name].(string)
		if !isText {
			return nil, errors.New(name + " is missing, or no string")
		}
		texts[i] = text
	}
	if len(members) > len(texts) {
		return nil, errors.New("has a member that is not known")
	}
	return &Task{
		ID:        texts[0],
		Name:      texts[1],
		UserID:    texts[2],
		Status:    texts[3],
		CreatedAt: texts[4],
	}, nil
}

// --- The rate limiter ---

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
