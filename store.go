package main

// The store: state has one owner. Values go in, copies come out, and nobody else can see the lock.

import (
	"crypto/rand"
	"sync"
	"time"
)

// storeFull says why a task cannot be added.
const storeFull = "the store is full"

// chunk is how many tasks are allocated together.
const chunk = 256

// store keeps tasks in memory, in order of creation. Its methods may be called concurrently, and none takes longer
// because more tasks are stored.
type store struct {
	capacity int // at least 1; set before the first use

	// mu guards what follows. A plain Mutex: every section is short, and an RWMutex would cost each of them more.
	mu       sync.Mutex
	position map[string]int // in tasks, by id
	// tasks are in chunks, because one slice of them would have to be copied whenever it outgrows its array, and an
	// unlucky request would wait for that.
	tasks []*[chunk]Task
}

// add stores a new task and returns it. ok is false if the store is full; nothing has changed then.
func (s *store) add(name, userID string, now time.Time) (task Task, ok bool) {
	task = Task{
		ID:        "task_" + rand.Text(), // 130 random bits, letters and digits: no guess hits, no two collide
		Name:      name,
		UserID:    userID,
		Status:    "pending",
		CreatedAt: timestamp(now),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.position)
	if n >= s.capacity {
		return Task{}, false
	}
	if n%chunk == 0 {
		s.tasks = append(s.tasks, new([chunk]Task))
	}
	s.tasks[n/chunk][n%chunk] = task
	s.position[task.ID] = n
	return task, true
}

// get returns the task with this id, and whether there is one.
func (s *store) get(id string) (task Task, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i, ok := s.position[id]; ok {
		return s.tasks[i/chunk][i%chunk], true
	}
	return task, false
}

// page returns up to limit tasks, oldest first: those created after the task with the id after, or from the beginning
// if after is empty. next is the id to continue after, empty on the last page. ok is false if after names no task.
func (s *store) page(after string, limit int) (tasks []Task, next string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	begin := 0
	if i, found := s.position[after]; found {
		begin = i + 1
	} else if after != "" {
		return nil, "", false
	}
	end := min(begin+limit, len(s.position))
	tasks = make([]Task, 0, end-begin) // [] in JSON, even if empty
	for i := begin; i < end; i++ {
		tasks = append(tasks, s.tasks[i/chunk][i%chunk])
	}
	if end < len(s.position) {
		next = tasks[len(tasks)-1].ID
	}
	return tasks, next, true
}

// len returns how many tasks are stored.
func (s *store) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.position)
}
