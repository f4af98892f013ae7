// Command taskapi is the Task Management API: it creates tasks, tells how healthy it and its host are, exposes
// Prometheus metrics and lets an operator look inside. Tasks live in memory and end with the process.
//
// It listens on 127.0.0.1:8000 unless -addr says otherwise or systemd passes a socket; GET / lists the endpoints and
// taskapi -h the flags. Tasks are under /api/, health checks under /health, metrics at /metrics. /debug/ answers only
// clients on the same host that come through no proxy.
//
// The log is one line a request on standard error, or in -log-file, which SIGHUP reopens. Lines worth a look carry a
// category: VALIDATION, AUTHENTICATION, SECURITY, ATTACK, TIMEOUT or PERFORMANCE.
//
// SIGTERM and SIGINT stop it without losing a request that it has accepted: it reports not ready for -drain, closes the
// listener, and finishes what it has begun. A second signal ends it at once. The exit status is 0 when it was asked to
// stop, 1 when it failed or had to cut requests off, 2 when it was started wrongly.
package main

// This file is the frame: the program from its flags to its last signal, the table of routes, and what happens to every
// request before and after its handler. The handlers are in task.go, health.go and metrics.go.

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const serviceName = "Task Management API"

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "taskapi:", err)
		if errors.Is(err, errUsage) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

// run is the program. It returns nil when ctx or a signal has ended it and no request was lost.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	s, err := newService(args, stdout, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	defer s.logFile.flush()
	if s.logFile.path != "" {
		hangups := make(chan os.Signal, 1)
		signal.Notify(hangups, syscall.SIGHUP)
		go s.logFile.reopenOn(hangups, s.log)
	}
	s.startSampler() // before signals are caught: they still end a program whose disk hangs
	signaled, uncatch := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer uncatch()
	ctx, stop := context.WithCancelCause(ctx) // ends after uncatch: a second signal ends the program
	context.AfterFunc(signaled, func() { uncatch(); stop(context.Cause(signaled)) })
	ln, err := s.listen()
	if err != nil {
		return err
	}
	go s.watchdog()
	return s.serve(ctx, ln)
}

// service is the whole state of the program.
type service struct {
	addr                         string
	certFile, keyFile            string          // for HTTPS, or empty
	origins                      map[string]bool // whose pages may use the API
	crossOrigin                  http.CrossOriginProtection
	tokenFile                    string
	tokenHash                    [sha256.Size]byte // of what is in tokenFile
	slow, drain, shutdownTimeout time.Duration

	version, revision string // as far as the go command has recorded them
	started           time.Time
	draining          atomic.Bool // set once, when the service is asked to stop
	mux               *http.ServeMux
	store             *store
	limiter           limiter
	metrics           *metrics
	host              []*resource
	diskPath          string       // of the disk in host
	process           *gauge[page] // what this process uses, ready for the metrics page
	logFile           *logFile
	log               *slog.Logger // into logFile
}

// newService returns the service that the command line asks for. It can handle requests, but its sampler does not run
// yet. When it has answered -h or -version on stdout it returns flag.ErrHelp.
func newService(args []string, stdout, stderr io.Writer) (*service, error) {
	s := &service{
		origins:  map[string]bool{},
		revision: "unknown",
		started:  time.Now(),
		mux:      http.NewServeMux(),
		store:    &store{position: map[string]int{}},
		process:  &gauge[page]{name: "process", read: readProcess},
		logFile:  &logFile{out: stderr},
	}
	s.host = []*resource{
		{gauge: gauge[usage]{name: "cpu", read: cpuReader()}},
		{gauge: gauge[usage]{name: "memory", read: readMemory}},
		{gauge: gauge[usage]{name: "disk", read: func() (usage, error) { return readDisk(s.diskPath) }}},
	}
	info, _ := debug.ReadBuildInfo() // go build and go run always record it
	s.version = cmp.Or(info.Main.Version, "(devel)")
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			s.revision = setting.Value
		}
	}
	s.metrics = newMetrics(s.routes())
	for _, route := range s.routes() {
		s.mux.HandleFunc(route.Method+" "+route.Path, func(w http.ResponseWriter, r *http.Request) {
			s.handle(w.(*response), r, route.handle)
		})
	}
	if err := s.parseFlags(args, stdout); err != nil {
		return nil, err
	}
	if s.logFile.path != "" {
		if err := s.logFile.reopen(); err != nil {
			return nil, err
		}
	}
	if s.tokenFile != "" {
		token, err := os.ReadFile(s.tokenFile)
		if err != nil {
			return nil, err
		}
		if token = bytes.TrimSpace(token); len(token) == 0 {
			return nil, fmt.Errorf("%s: no token in it", s.tokenFile)
		}
		s.tokenHash = sha256.Sum256(token)
	}
	return s, nil
}

// errUsage is in every error that is a mistake in the command line.
var errUsage = errors.New("taskapi -h lists the flags")

// parseFlags sets what the command line says. Its errors wrap errUsage, or are flag.ErrHelp as in newService.
func (s *service) parseFlags(args []string, stdout io.Writer) (err error) {
	fs := flag.NewFlagSet("taskapi", flag.ContinueOnError)
	fs.SetOutput(io.Discard) // a mistake gets one line, not a page of help
	fs.StringVar(&s.addr, "addr", "127.0.0.1:8000", "listen on this `host:port`; a socket passed by systemd wins")
	fs.IntVar(&s.store.capacity, "max-tasks", 1_000_000, "store at most this `number` of tasks")
	fs.IntVar(&s.limiter.rate, "rate", 0, "create at most this `number` of tasks a second; 0 for no limit")
	fs.StringVar(&s.tokenFile, "token-file", "", "require the bearer token in this `file` for /api/ and /debug/")
	fs.Func("cors-origins", "let pages of these `origins` (https://a.example,…) use the API", s.addOrigins)
	fs.StringVar(&s.certFile, "tls-cert", "", "serve HTTPS with the certificate chain in this PEM `file`")
	fs.StringVar(&s.keyFile, "tls-key", "", "private key of -tls-cert, a PEM `file`")
	fs.StringVar(&s.logFile.path, "log-file", "", "append the log to this `file`, reopened on SIGHUP (default standard error)")
	logFormat := fs.String("log-format", "text", "`format` of the log: text or json")
	logLevel := fs.String("log-level", "info", "lowest `level` to log: debug, info, warning, error or critical")
	fs.DurationVar(&s.slow, "slow", 100*time.Millisecond, "log a request that takes longer as slow")
	for _, res := range s.host {
		fs.Float64Var(&res.high, res.name+"-high", 80, res.name+" usage above this `percentage` is high")
	}
	fs.StringVar(&s.diskPath, "disk-path", "/", "measure the disk that holds this `path`")
	fs.DurationVar(&s.drain, "drain", 0, "when stopping, report not ready this long before the listener closes")
	fs.DurationVar(&s.shutdownTimeout, "shutdown-timeout", 10*time.Second, "then wait this long for requests in flight")
	version := fs.Bool("version", false, "print version, revision and Go version, and exit")

	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprintln(stdout, "Usage: taskapi [flags]")
		fs.SetOutput(stdout)
		fs.PrintDefaults()
		return err
	case err != nil:
		return fmt.Errorf("%w (%w)", err, errUsage)
	case *version:
		fmt.Fprintln(stdout, "taskapi", s.version, s.revision, runtime.Version())
		return flag.ErrHelp
	}
	require := func(kept bool, rule string) {
		if !kept && err == nil {
			err = fmt.Errorf("%s (%w)", rule, errUsage)
		}
	}
	level := slices.Index(levelNames, strings.ToUpper(*logLevel))
	require(fs.NArg() == 0, "no argument follows the flags")
	require(s.addr != "", "-addr must not be empty")
	require(s.store.capacity >= 1, "-max-tasks must be at least 1")
	require(s.limiter.rate >= 0, "-rate must not be negative")
	require((s.certFile == "") == (s.keyFile == ""), "-tls-cert and -tls-key need each other")
	require(*logFormat == "text" || *logFormat == "json", "-log-format must be text or json")
	require(level >= 0, "-log-level must be debug, info, warning, error or critical")
	require(min(s.slow, s.drain, s.shutdownTimeout) >= 0, "-slow, -drain and -shutdown-timeout must not be negative")
	for _, res := range s.host {
		require(res.high >= 0 && res.high <= 100, "-"+res.name+"-high must be from 0 to 100")
	}
	s.log = slog.New(newLogHandler(s.logFile, *logFormat, slog.LevelDebug+4*slog.Level(level)))
	return err
}

// addOrigins takes the value of -cors-origins. Origins are compared byte for byte with what browsers send: lower case.
func (s *service) addOrigins(list string) error {
	for origin := range strings.SplitSeq(strings.ToLower(list), ",") {
		if err := s.crossOrigin.AddTrustedOrigin(origin); err != nil || strings.ContainsAny(origin, "*@?#") {
			return fmt.Errorf("%q is not a full origin, such as https://app.example", origin)
		}
		s.origins[origin] = true
	}
	return nil
}

// route is one line of the API, and its JSON form in the index.
type route struct {
	Method  string                               `json:"method"`
	Path    string                               `json:"path"` // as http.ServeMux has it
	Summary string                               `json:"summary"`
	handle  func(*response, *http.Request) error // answers, or returns the error to answer with
}

// routes is the whole API.
func (s *service) routes() []route {
	return []route{
		{"GET", "/{$}", "service name, version and this list", s.index},
		{"POST", "/api/tasks", "create a task", s.createTask},
		{"GET", "/api/tasks", "list tasks, oldest first (limit, after)", s.listTasks},
		{"GET", "/api/tasks/{task_id}", "get one task", s.getTask},
		{"GET", "/health", "short health", s.health},
		{"GET", "/health/detailed", "health of application, storage and host, with numbers", s.detailed},
		{"GET", "/health/liveness", "200 as long as the process answers", s.liveness},
		{"GET", "/health/readiness", "200 if a task can be created, else 503", s.readiness},
		{"GET", "/metrics", "metrics for Prometheus", s.metricsPage},
		{"GET", "/debug/storage", "what the store holds (limit, after); from this host only", s.storage},
		{"GET", "/debug/pprof/", "profiles of the Go runtime; from this host only", s.profile},
	}
}

// index: GET /.
func (s *service) index(w *response, r *http.Request) error {
	endpoints := s.routes()
	endpoints[0].Path = "/"
	return w.sendJSON(http.StatusOK, map[string]any{"service": serviceName, "version": s.version, "endpoints": endpoints})
}

// ServeHTTP is what happens to every request: mux → handle → guard → handler, and then finish, whatever became of it.
func (s *service) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w := &response{ResponseWriter: rw, start: time.Now(), requestID: requestID(r), draining: &s.draining}
	s.metrics.inFlight.Add(1)
	defer s.finish(w, r)
	h := rw.Header()
	h["X-Request-Id"] = []string{w.requestID}
	h["X-Content-Type-Options"] = nosniff
	h["Cache-Control"] = noStore
	s.mux.ServeHTTP(w, r)
	if w.held != 0 {
		s.handle(w, r, s.unserved)
	}
}

// Values of headers that are in almost every answer: made once, and never changed.
var nosniff, noStore, jsonType = []string{"nosniff"}, []string{"no-store"}, []string{"application/json"}

// requestID is the client's X-Request-Id if it is 1 to 64 of A-Za-z0-9._-, else a fresh one, which need not be secret.
func requestID(r *http.Request) string {
	const allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
	if id := r.Header.Get("X-Request-Id"); id != "" && len(id) <= 64 && strings.Trim(id, allowed) == "" {
		return id
	}
	return strconv.FormatUint(rand.Uint64(), 36)
}

// handle asks the guard, then the handler, and answers the error of either.
func (s *service) handle(w *response, r *http.Request, h func(*response, *http.Request) error) {
	err := s.guard(w, r)
	if err == nil {
		err = h(w, r)
	}
	if err != nil {
		w.fail(err)
	}
}

// guard decides who may ask. It comes after the mux, so that what it refuses is counted and logged under its route.
func (s *service) guard(w *response, r *http.Request) error {
	origin, isDebug := r.Header.Get("Origin"), strings.HasPrefix(r.URL.Path, "/debug/")
	if len(s.origins) > 0 { // where an answer may depend on it
		w.Header().Set("Vary", "Origin")
	}
	if s.origins[origin] {
		w.Header().Set("Access-Control-Allow-Origin", origin)
		w.Header().Set("Access-Control-Allow-Credentials", "true")
	}
	switch {
	case isDebug && !isDirect(r):
		return refuse("FORBIDDEN", "only for clients on this host that come through no proxy")
	case s.crossOrigin.Check(r) != nil, isPreflight(r) && !s.origins[origin]:
		return refuse("FORBIDDEN", "this origin is not allowed")
	case isPreflight(r): // browsers send no token with it
		return nil
	case s.tokenFile != "" && (isDebug || strings.HasPrefix(r.URL.Path, "/api/")):
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		hash := sha256.Sum256([]byte(token)) // all hashes are of one length: the comparison does not tell the token's
		if !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare(hash[:], s.tokenHash[:]) == 0 {
			w.Header().Set("WWW-Authenticate", "Bearer")
			return refuse("UNAUTHORIZED", "a valid bearer token is needed")
		}
	}
	return nil
}

// isDirect reports whether the client is on this host, and not a proxy on this host: their headers give them away.
func isDirect(r *http.Request) bool {
	proxied := r.Header["X-Forwarded-For"] != nil || r.Header["Forwarded"] != nil || r.Header["X-Real-Ip"] != nil
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	return !proxied && err == nil && peer.Addr().Unmap().IsLoopback()
}

// isPreflight reports whether a browser asks if it may send another request (Fetch standard, CORS protocol).
func isPreflight(r *http.Request) bool {
	return r.Method == "OPTIONS" && r.Header.Get("Origin") != "" && r.Header.Get("Access-Control-Request-Method") != ""
}

// unserved answers what was held back: what the mux says to a request without a route, or an error page of pprof.
func (s *service) unserved(w *response, r *http.Request) error {
	w.Header().Del("Content-Type") // of the page that was held back
	if isPreflight(r) && r.RequestURI != "*" {
		w.Header().Set("Access-Control-Allow-Methods", "GET, POST")
		w.Header().Set("Access-Control-Allow-Headers", "Content-Type, Authorization")
		w.held = http.StatusNoContent
	}
	switch {
	case w.held < 400: // or the mux knows a better path
		w.begin(w.held)
		return nil
	case w.held == http.StatusNotFound, r.RequestURI == "*":
		return refuse("NOT_FOUND", "there is nothing at this path")
	case w.held == http.StatusMethodNotAllowed:
		return refuse("METHOD_NOT_ALLOWED", "this path does not have this method; see Allow")
	case w.held == http.StatusBadRequest:
		return refuse("VALIDATION_ERROR", "a parameter is wrong")
	}
	return fmt.Errorf("an error page with status %d", w.held)
}

// response is the ResponseWriter of every handler, and what is known of the answer when it is counted and logged. It has
// two doors. Our handlers use send. Other people's code, the mux and pprof, uses WriteHeader and Write; a redirect or an
// error page that comes through there is held back, and unserved answers in its place.
type response struct {
	http.ResponseWriter
	start     time.Time
	requestID string
	draining  *atomic.Bool

	status int         // of the answer, 0 until it has begun
	bytes  int         // of the answer's body
	held   int         // status of a page that was held back, or 0
	code   string      // error_code that the answer carries, or empty
	attack bool        // the request tries to smuggle something in
	notes  []slog.Attr // more for the log line
}

// send answers with the whole body. It sets no Content-Length: with one, a long body would be complete before finish.
func (w *response) send(status int, contentType []string, body []byte) {
	w.Header()["Content-Type"] = contentType
	w.begin(status)
	w.bytes, _ = w.ResponseWriter.Write(body) // a client that is gone needs no error
}

// begin sends the header of the answer.
func (w *response) begin(status int) {
	if w.draining.Load() { // as late as can be: a request taken before the drain must not keep its connection, either
		w.Header().Set("Connection", "close")
	}
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// WriteHeader implements http.ResponseWriter for other people's code.
func (w *response) WriteHeader(status int) {
	switch {
	case w.status != 0 || w.held != 0: // only the first one counts
	case status >= 300:
		w.held = status
	default:
		w.begin(status)
	}
}

// Write implements http.ResponseWriter for other people's code.
func (w *response) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if w.held != 0 {
		return len(p), nil
	}
	w.bytes += len(p)
	return w.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController find the connection.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// classify says what kind of thing happened: the level of the request's log line, and its category, which may be none.
func (s *service) classify(w *response, d time.Duration) (slog.Level, string) {
	category := kinds[w.code].category
	switch {
	case w.status == http.StatusServiceUnavailable: // a health check has found something
		return slog.LevelWarn, ""
	case w.status >= 500:
		return slog.LevelError, ""
	case w.attack:
		return slog.LevelWarn, "ATTACK"
	case category != "":
		return slog.LevelWarn, category
	case d > s.slow:
		return slog.LevelWarn, "PERFORMANCE"
	}
	return slog.LevelInfo, ""
}

// finish answers for a handler that panicked, counts the request, and logs it: all before net/http sends the end of the
// answer, so that a client who has it can rely on the counters.
func (s *service) finish(w *response, r *http.Request) {
	panicked, begun := recover(), w.status != 0
	if panicked != nil && !begun {
		w.fail(errors.New("a handler panicked"))
	}
	d := time.Since(w.start)
	level, category := s.classify(w, d)
	_, route, _ := strings.Cut(r.Pattern, " ")
	route = cmp.Or(route, unmatched)
	msg := "request"
	if d > s.slow {
		msg = "SLOW request"
	}
	if r.Method == http.MethodHead {
		w.bytes = 0 // net/http leaves the body out
	}
	if category != "" {
		w.notes = append(w.notes, slog.String("category", category))
	}
	if panicked != nil {
		level = levelCritical
		w.notes = append(w.notes, slog.Any("panic", panicked), slog.String("stack", string(debug.Stack())))
	}
	s.metrics.inFlight.Add(-1)
	s.metrics.observe(r.Method, route, w.status, d, category, w.code)
	if s.log.Enabled(r.Context(), level) { // not s.log.LogAttrs, which looks up who has called it
		line := slog.NewRecord(w.start.Add(d), level, msg, 0)
		line.AddAttrs(
			slog.String("method", r.Method),
			slog.String("route", route),
			slog.String("path", strings.ReplaceAll(r.URL.EscapedPath(), "=", "%3D")), // so that it looks like no other field
			slog.Int("status", w.status),
			slog.Duration("duration", d),
			slog.Int("bytes", w.bytes),
			slog.String("remote", r.RemoteAddr),
			slog.String("request_id", w.requestID))
		line.AddAttrs(w.notes...)
		s.log.Handler().Handle(r.Context(), line)
	}
	if panicked != nil && begun {
		panic(http.ErrAbortHandler) // nobody may take half an answer for a whole one
	}
}

const levelCritical = slog.LevelError + 4 // for what must not happen

// levelNames are what the operations guide greps for. slog's levels are 4 apart.
var levelNames = []string{"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}

// newLogHandler returns slog's own handler, but with levelNames and in UTC.
func newLogHandler(out io.Writer, format string, lowest slog.Level) slog.Handler {
	options := &slog.HandlerOptions{Level: lowest, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		switch a.Key {
		case slog.LevelKey:
			a.Value = slog.StringValue(levelNames[(a.Value.Any().(slog.Level)-slog.LevelDebug)/4])
		case slog.TimeKey:
			a.Value = slog.TimeValue(a.Value.Time().UTC())
		}
		return a
	}}
	if format == "json" {
		return slog.NewJSONHandler(out, options)
	}
	return slog.NewTextHandler(out, options)
}

// logFile is where the log goes: a file that can be reopened, or standard error. A line after a quiet millisecond is
// written at once; those that come within the next one are written at its end, together, because a system call for each
// would cost more than everything else that is done for a request.
type logFile struct {
	path    string       // empty for standard error
	written atomic.Int64 // bytes

	mu    sync.Mutex // guards what follows
	out   io.Writer
	lines []byte      // not yet written; whole lines, so that none is torn
	next  *time.Timer // flushes at the end of the millisecond; nil in quiet times
}

// Write implements io.Writer. It waits while out does: a log that is slow must not fill the memory.
func (l *logFile) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line...)
	if l.next == nil {
		l.writeLines()
		l.next = time.AfterFunc(time.Millisecond, l.flush)
	}
	return len(line), nil
}

// flush writes the lines that wait, and looks again in a millisecond.
func (l *logFile) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lines) == 0 {
		l.next = nil
		return
	}
	l.writeLines()
	l.next.Reset(time.Millisecond)
}

// writeLines needs the lock.
func (l *logFile) writeLines() {
	n, _ := l.out.Write(l.lines) // where could the error be told?
	l.written.Add(int64(n))
	l.lines = l.lines[:0]
}

// reopen opens path and writes there from now on. If it fails, the log goes on where it was.
func (l *logFile) reopen() error {
	file, err := os.OpenFile(l.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.writeLines()
	if old, ok := l.out.(*os.File); ok && old != os.Stderr {
		old.Close()
	}
	l.out = file
	return nil
}

// reopenOn reopens the file at each signal, for as long as the process lives: logrotate has moved it.
func (l *logFile) reopenOn(signals <-chan os.Signal, log *slog.Logger) {
	for range signals {
		if err := l.reopen(); err != nil {
			log.Error("the log file could not be reopened", "cause", err)
		}
	}
}

// listen returns the socket that systemd passed (sd_listen_fds(3)) or else a new one, with TLS if that is configured. It
// offers no HTTP/2: that is the business of a proxy in front.
func (s *service) listen() (ln net.Listener, err error) {
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		ln, err = net.Listen("tcp", s.addr)
	} else if n := os.Getenv("LISTEN_FDS"); n != "1" {
		err = fmt.Errorf("systemd passed %s sockets, not 1", n)
	} else {
		file := os.NewFile(3, "socket passed by systemd")
		ln, err = net.FileListener(file) // has a copy of it
		file.Close()
	}
	if err != nil || s.certFile == "" {
		return ln, err
	}
	certificate, err := tls.LoadX509KeyPair(s.certFile, s.keyFile)
	return tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}), err
}

// notify tells systemd about a change of state (sd_notify(3)). Where nobody has asked for it, it cannot be sent.
func notify(state string) {
	if conn, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET")); err == nil {
		conn.Write([]byte(state))
		conn.Close()
	}
}

// watchdog assures systemd, twice in the time that it allows, that the store can still be read. If its lock is never let
// go, systemd ends the service, with the stacks of all goroutines in the journal, and starts it again.
func (s *service) watchdog() {
	microseconds, _ := strconv.Atoi(os.Getenv("WATCHDOG_USEC"))
	if pid := os.Getenv("WATCHDOG_PID"); microseconds <= 0 || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return
	}
	for range time.Tick(time.Duration(microseconds) * time.Microsecond / 2) {
		s.store.len()
		notify("WATCHDOG=1")
	}
}

// serve answers requests from ln until ctx ends, and then stops without losing one.
func (s *service) serve(ctx context.Context, ln net.Listener) error {
	var mu sync.Mutex
	connections := map[net.Conn]http.ConnState{} // guarded by mu
	server := &http.Server{
		Handler:                      s,
		DisableGeneralOptionsHandler: true,             // OPTIONS * is answered as everything else
		ReadHeaderTimeout:            5 * time.Second,  // so long may a client take to send a header,
		ReadTimeout:                  10 * time.Second, // header and body,
		WriteTimeout:                 15 * time.Second, // and to take the answer
		IdleTimeout:                  75 * time.Second, // longer than a proxy's: let it be the one that hangs up
		MaxHeaderBytes:               16 << 10,
		ConnState: func(conn net.Conn, state http.ConnState) {
			mu.Lock()
			defer mu.Unlock()
			if connections[conn] = state; state == http.StateClosed {
				delete(connections, conn)
			}
		},
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
	defer server.Close()
	context.AfterFunc(ctx, func() {
		s.draining.Store(true)
		notify("STOPPING=1")
		s.log.Info("stopping", "cause", context.Cause(ctx))
		time.Sleep(s.drain)
		ln.Close() // makes Serve return
	})
	s.log.Info("serving", "address", ln.Addr().String(), "version", s.version, "revision", s.revision)
	notify("READY=1")
	if err := server.Serve(ln); ctx.Err() == nil {
		return err
	}
	// Not Server.Shutdown: it drops requests that are just being read, and hangs up on clients that are just sending.
	// Every connection gets the chance to end by "Connection: close"; one without a request gets half a second for it.
	for closed := time.Now(); ; time.Sleep(time.Millisecond) {
		active := 0
		mu.Lock()
		for _, state := range connections {
			if state == http.StateActive {
				active++
			}
		}
		open, waited := len(connections), time.Since(closed)
		mu.Unlock()
		switch {
		case open == 0, active == 0 && waited >= 500*time.Millisecond:
			s.log.Info("stopped")
			return nil
		case active > 0 && waited >= s.shutdownTimeout:
			return fmt.Errorf("cut off requests that were not answered within %v", s.shutdownTimeout)
		}
	}
}
