package main

// The store: state has one owner. Values go in, copies come out, and nobody else can see the lock.

import (
	"crypto/rand"
	"errors"
	"sync"
	"time"
)

// errFull says that the store holds as many tasks as it may.
var errFull = errors.New("the store is full")

// store keeps tasks in memory, in order of creation. Its methods may be called concurrently, and none takes longer
// because more tasks are stored.
type store struct {
	capacity int // at least 1; never changes

	// mu guards what follows. A plain Mutex: every section is short, and an RWMutex would cost each of them more.
	mu          sync.Mutex
	byID        map[string]*entry
	first, last *entry
}

// entry is a stored task and a link to the one created after it. A slice in order of creation would have to be copied
// whenever it outgrows its array, and one unlucky request would wait for all those before it; a link never moves.
type entry struct {
	task Task
	next *entry
}

func newStore(capacity int) *store {
	return &store{capacity: capacity, byID: make(map[string]*entry)}
}

// add stores a new task and returns it. When the store is full it returns errFull and has changed nothing.
func (s *store) add(name, userID string) (Task, error) {
	e := &entry{task: Task{
		ID:        "task_" + rand.Text(), // 130 random bits, letters and digits: no guess hits, no two collide
		Name:      name,
		UserID:    userID,
		Status:    "pending",
		CreatedAt: wholeSeconds(time.Now()),
	}}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.byID) >= s.capacity {
		return Task{}, errFull
	}
	if s.last == nil {
		s.first = e
	} else {
		s.last.next = e
	}
	s.last = e
	s.byID[e.task.ID] = e
	return e.task, nil
}

// get returns the task with this id, and whether there is one.
func (s *store) get(id string) (Task, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.byID[id]
	if !ok {
		return Task{}, false
	}
	return e.task, true
}

// page returns up to limit tasks, oldest first: those created after the task with the id after, or from the beginning
// if after is empty. next is the id to continue after, empty on the last page. ok is false if after names no task.
func (s *store) page(after string, limit int) (tasks []Task, next string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.first
	if after != "" {
		previous, ok := s.byID[after]
		if !ok {
			return nil, "", false
		}
		e = previous.next
	}
	tasks = []Task{} // JSON says [] for an empty page, not null
	for ; e != nil && len(tasks) < limit; e = e.next {
		tasks = append(tasks, e.task)
	}
	if e != nil {
		next = tasks[len(tasks)-1].ID
	}
	return tasks, next, true
}

// len returns how many tasks are stored.
func (s *store) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.byID)
}

// full reports whether the next add would fail.
func (s *store) full() bool { return s.len() >= s.capacity }
