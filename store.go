package main

// The store: state has one owner. Values go in, copies come out, and nobody else can see the lock.

import (
	"crypto/rand"
	"sync"
	"time"
)

// storeFull says why a task cannot be added.
const storeFull = "the store is full"

// store keeps tasks in memory, in order of creation. Its methods may be called concurrently, and none takes longer
// because more tasks are stored.
type store struct {
	capacity int // at least 1; set before the first use

	// mu guards what follows. A plain Mutex: every section is short, and an RWMutex would cost each of them more.
	mu   sync.Mutex
	byID map[string]*entry
	head entry  // comes before the oldest task, and is none
	last *entry // the newest task, or head
}

// entry is a stored task and a link to the one created after it. A slice in order of creation would have to be copied
// whenever it outgrows its array, and one unlucky request would wait for that; a link never moves.
type entry struct {
	task Task
	next *entry
}

func newStore() *store {
	s := &store{byID: map[string]*entry{}}
	s.last = &s.head
	return s
}

// add stores a new task and returns it. ok is false if the store is full; nothing has changed then.
func (s *store) add(name, userID string) (task Task, ok bool) {
	e := &entry{task: Task{
		ID:        "task_" + rand.Text(), // 130 random bits, letters and digits: no guess hits, no two collide
		Name:      name,
		UserID:    userID,
		Status:    "pending",
		CreatedAt: timestamp(time.Now()),
	}}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.byID) >= s.capacity {
		return task, false
	}
	s.byID[e.task.ID] = e
	s.last.next = e
	s.last = e
	return e.task, true
}

// get returns the task with this id, and whether there is one.
func (s *store) get(id string) (task Task, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.byID[id]; e != nil {
		return e.task, true
	}
	return task, false
}

// page returns up to limit tasks, oldest first: those created after the task with the id after, or from the beginning
// if after is empty. next is the id to continue after, empty on the last page. ok is false if after names no task.
func (s *store) page(after string, limit int) (tasks []Task, next string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := &s.head
	if after != "" {
		if e = s.byID[after]; e == nil {
			return nil, "", false
		}
	}
	tasks = []Task{} // JSON says [] for an empty page, not null
	for ; e.next != nil && len(tasks) < limit; e = e.next {
		tasks = append(tasks, e.next.task)
	}
	if e.next != nil {
		next = e.task.ID
	}
	return tasks, next, true
}

// len returns how many tasks are stored.
func (s *store) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.byID)
}
