// Command taskapi is the Task Management API: it creates tasks, tells how healthy it and its host are, exposes
// Prometheus metrics and lets an operator look inside. Tasks live in memory and end with the process.
//
// It listens on 127.0.0.1:8000 unless -addr says otherwise or systemd passes a socket; GET / lists the endpoints and
// taskapi -h the flags. Tasks are under /api/, health checks under /health, metrics at /metrics. What is under /debug/
// answers only who connects from the same host and not through a proxy.
//
// The log is one line a request on standard error, or in -log-file, which SIGHUP reopens. Lines worth a look carry a
// category: VALIDATION, AUTHENTICATION, SECURITY, ATTACK, TIMEOUT or PERFORMANCE.
//
// SIGTERM and SIGINT stop it without losing a request: it reports not ready for -drain, closes the listener, and
// finishes what it has begun. A second signal ends it at once. The exit status is 0 when it was asked to stop, 1 when
// it failed or had to cut requests off, 2 when it was started wrongly.
package main

// This file is the frame: the program from its flags to its last signal, the table of routes, and what happens to every
// request before and after its handler. The handlers are in task.go, health.go and metrics.go.

import (
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
	"net/http/pprof"
	"net/netip"
	"net/url"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode"
)

const serviceName = "Task Management API"

func main() {
	err := run(context.Background(), os.Args[1:], os.Stdout, os.Stderr)
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "taskapi:", err)
	if _, usage := errors.AsType[usageError](err); usage {
		os.Exit(2)
	}
	os.Exit(1)
}

// run is the program. It returns when ctx ends or a signal asks for it, and then nil if no request was lost; or at once
// with an error if it cannot start.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	started := time.Now()
	cfg, err := parseFlags(args, stdout)
	if err != nil || cfg.exit {
		return err
	}
	ctx, restoreSignals := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer restoreSignals()
	context.AfterFunc(ctx, restoreSignals) // so that the second signal is not caught

	logged := &logFile{path: cfg.logFile, out: stderr}
	if cfg.logFile != "" {
		if err := logged.reopen(); err != nil {
			return err
		}
	}
	s, err := newService(cfg, logged, started)
	if err != nil {
		return err
	}
	ln, err := listen(cfg.addr)
	if err != nil {
		return err
	}
	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx)) // goes on while draining
	defer stopBackground()
	if cfg.logFile != "" {
		go s.reopenOnHangup(background)
	}
	s.sampler.start(background, s.log)
	go s.watchdog(background)
	return s.serve(ctx, ln)
}

// usageError is a mistake in the command line.
type usageError struct{ error }

// config is what the flags say.
type config struct {
	addr                          string
	maxTasks                      int
	rate                          int // creations a second; 0 for no limit
	tokenFile                     string
	origins                       map[string]bool // that may use the API from a browser
	tlsCert, tlsKey               string
	logFile, logFormat            string
	logLevel                      slog.Level
	slow                          time.Duration
	cpuHigh, memoryHigh, diskHigh float64 // percent
	diskPath                      string
	drain, shutdownTimeout        time.Duration
	exit                          bool // -h or -version has been answered on stdout
}

// parseFlags turns the command line into a config. All its errors are usageErrors of one line.
func parseFlags(args []string, stdout io.Writer) (config, error) {
	cfg := config{origins: map[string]bool{}}
	fs := flag.NewFlagSet("taskapi", flag.ContinueOnError)
	fs.SetOutput(io.Discard) // a mistake is told in one line, not with a page of help
	fs.StringVar(&cfg.addr, "addr", "127.0.0.1:8000", "listen on this `host:port`; a socket passed by systemd wins")
	fs.IntVar(&cfg.maxTasks, "max-tasks", 1_000_000, "store at most this `number` of tasks")
	fs.IntVar(&cfg.rate, "rate", 0, "create at most this `number` of tasks a second; 0 for no limit")
	fs.StringVar(&cfg.tokenFile, "token-file", "", "require the bearer token in `file` for /api/ and /debug/")
	fs.Func("cors-origins", "let pages of these `origins` (https://a.example,…) use the API", cfg.addOrigins)
	fs.StringVar(&cfg.tlsCert, "tls-cert", "", "serve HTTPS with the certificate chain in this PEM `file`")
	fs.StringVar(&cfg.tlsKey, "tls-key", "", "private key of -tls-cert, a PEM `file`")
	fs.StringVar(&cfg.logFile, "log-file", "", "append the log to `file`, reopened on SIGHUP (default standard error)")
	fs.StringVar(&cfg.logFormat, "log-format", "text", "`format` of the log: text or json")
	fs.Func("log-level", "lowest `level` to log: debug, info, warning, error or critical (default info)", cfg.setLevel)
	fs.DurationVar(&cfg.slow, "slow", 100*time.Millisecond, "log a request that takes longer as slow")
	fs.Float64Var(&cfg.cpuHigh, "cpu-high", 80, "CPU usage above this `percentage` is high")
	fs.Float64Var(&cfg.memoryHigh, "memory-high", 80, "memory usage above this `percentage` is high")
	fs.Float64Var(&cfg.diskHigh, "disk-high", 80, "disk usage above this `percentage` is high")
	fs.StringVar(&cfg.diskPath, "disk-path", "/", "measure the disk that holds this `path`")
	fs.DurationVar(&cfg.drain, "drain", 0, "when stopping, report not ready this long before the listener closes")
	fs.DurationVar(&cfg.shutdownTimeout, "shutdown-timeout", 10*time.Second, "then wait this long for requests in flight")
	version := fs.Bool("version", false, "print version, revision and Go version, and exit")

	err := fs.Parse(args)
	percentage := func(p float64) bool { return p >= 0 && p <= 100 }
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprintln(stdout, "Usage: taskapi [flags]")
		fs.SetOutput(stdout)
		fs.PrintDefaults()
		cfg.exit = true
		return cfg, nil
	case err != nil:
	case *version:
		b := readBuild()
		fmt.Fprintln(stdout, "taskapi", b.version, b.revision, b.goVersion)
		cfg.exit = true
	case fs.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", fs.Arg(0))
	case cfg.maxTasks < 1:
		err = errors.New("-max-tasks must be at least 1")
	case cfg.rate < 0:
		err = errors.New("-rate must not be negative")
	case (cfg.tlsCert == "") != (cfg.tlsKey == ""):
		err = errors.New("-tls-cert and -tls-key need each other")
	case cfg.logFormat != "text" && cfg.logFormat != "json":
		err = errors.New("-log-format must be text or json")
	case !percentage(cfg.cpuHigh) || !percentage(cfg.memoryHigh) || !percentage(cfg.diskHigh):
		err = errors.New("-cpu-high, -memory-high and -disk-high must be from 0 to 100")
	case cfg.slow < 0 || cfg.drain < 0 || cfg.shutdownTimeout < 0:
		err = errors.New("-slow, -drain and -shutdown-timeout must not be negative")
	}
	if err != nil {
		err = usageError{fmt.Errorf("%w (taskapi -h lists the flags)", err)}
	}
	return cfg, err
}

// addOrigins takes the value of -cors-origins. An origin is compared with what browsers send, byte for byte, so that
// one which is not spelled as browsers do would silently never match.
func (c *config) addOrigins(list string) error {
	for origin := range strings.SplitSeq(list, ",") {
		u, err := url.Parse(origin)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" ||
			origin != u.Scheme+"://"+strings.ToLower(u.Host) {
			return fmt.Errorf("%q is not a full origin such as https://app.example", origin)
		}
		c.origins[origin] = true
	}
	return nil
}

// levelCritical is for what must not happen: a panic.
const levelCritical = slog.LevelError + 4

// levelNames are the names that the operations guide greps for.
var levelNames = map[slog.Level]string{
	slog.LevelDebug: "DEBUG",
	slog.LevelInfo:  "INFO",
	slog.LevelWarn:  "WARNING",
	slog.LevelError: "ERROR",
	levelCritical:   "CRITICAL",
}

// setLevel takes the value of -log-level.
func (c *config) setLevel(name string) error {
	for level, known := range levelNames {
		if strings.EqualFold(name, known) {
			c.logLevel = level
			return nil
		}
	}
	return errors.New("not a level")
}

// build says what is running, as far as the go command has recorded it.
type build struct{ version, revision, goVersion string }

func readBuild() build {
	b := build{version: "(devel)", revision: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	b.goVersion = info.GoVersion
	if info.Main.Version != "" {
		b.version = info.Main.Version
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			b.revision = setting.Value
		}
	}
	return b
}

// service is the whole state of the program.
type service struct {
	config
	build       build
	started     time.Time
	log         *slog.Logger
	logged      *logFile
	store       *store
	limiter     limiter
	sampler     *sampler
	metrics     *metrics
	mux         *http.ServeMux
	crossOrigin http.CrossOriginProtection
	tokenHash   *[sha256.Size]byte // nil if no token is needed
	certificate *tls.Certificate   // nil for plain HTTP
	draining    atomic.Bool        // set once, when the service is asked to stop
}

// newService returns a service that is ready to handle requests; its sampler does not run yet.
func newService(cfg config, logged *logFile, started time.Time) (*service, error) {
	s := &service{
		config:  cfg,
		build:   readBuild(),
		started: started,
		log:     slog.New(newLogHandler(logged, cfg.logFormat, cfg.logLevel)),
		logged:  logged,
		store:   newStore(cfg.maxTasks),
		limiter: limiter{rate: float64(cfg.rate)},
		sampler: newSampler(cfg.diskPath),
		mux:     http.NewServeMux(),
	}
	s.metrics = newMetrics(s.routes())
	for _, route := range s.routes() {
		s.mux.HandleFunc(route.pattern, func(w http.ResponseWriter, r *http.Request) {
			s.handle(w.(*response), r, route.handle)
		})
	}
	for origin := range cfg.origins {
		if err := s.crossOrigin.AddTrustedOrigin(origin); err != nil {
			return nil, err
		}
	}
	if cfg.tokenFile != "" {
		text, err := os.ReadFile(cfg.tokenFile)
		if err != nil {
			return nil, err
		}
		token := strings.TrimSpace(string(text))
		if token == "" {
			return nil, fmt.Errorf("%s has no token in it", cfg.tokenFile)
		}
		hash := sha256.Sum256([]byte(token))
		s.tokenHash = &hash
	}
	if cfg.tlsCert != "" {
		certificate, err := tls.LoadX509KeyPair(cfg.tlsCert, cfg.tlsKey)
		if err != nil {
			return nil, err
		}
		s.certificate = &certificate
	}
	return s, nil
}

// handler answers a request, or returns an error that becomes the answer.
type handler func(w *response, r *http.Request) error

type route struct {
	pattern string // method and path, as http.ServeMux has them
	handle  handler
	summary string
}

// routes is the whole API.
func (s *service) routes() []route {
	return []route{
		{"GET /{$}", s.index, "service name, version and this list"},
		{"POST /api/tasks", s.createTask, "create a task"},
		{"GET /api/tasks", s.listTasks, "list tasks, oldest first (limit, after)"},
		{"GET /api/tasks/{task_id}", s.getTask, "get one task"},
		{"GET /health", s.health, "short health"},
		{"GET /health/detailed", s.detailed, "health of application, storage and host, with numbers"},
		{"GET /health/liveness", s.liveness, "200 as long as the process answers"},
		{"GET /health/readiness", s.readiness, "200 if a task can be created, else 503"},
		{"GET /metrics", s.metricsPage, "metrics for Prometheus"},
		{"GET /debug/storage", s.storage, "what the store holds (limit, after); from this host only"},
		{"GET /debug/pprof/", s.profile, "profiles of the Go runtime; from this host only"},
	}
}

// index: GET /.
func (s *service) index(w *response, r *http.Request) error {
	type endpoint struct {
		Method  string `json:"method"`
		Path    string `json:"path"`
		Summary string `json:"summary"`
	}
	answer := struct {
		Service   string     `json:"service"`
		Version   string     `json:"version"`
		Endpoints []endpoint `json:"endpoints"`
	}{Service: serviceName, Version: s.build.version}
	for _, route := range s.routes() {
		method, path, _ := strings.Cut(route.pattern, " ")
		answer.Endpoints = append(answer.Endpoints, endpoint{method, strings.TrimSuffix(path, "{$}"), route.summary})
	}
	return w.sendJSON(http.StatusOK, answer)
}

// storage: GET /debug/storage.
func (s *service) storage(w *response, r *http.Request) error {
	page, err := s.page(r)
	if err != nil {
		return err
	}
	type stats struct {
		Total    int    `json:"total_tasks"`
		Capacity int    `json:"capacity"`
		Type     string `json:"storage_type"`
	}
	return w.sendJSON(http.StatusOK, struct {
		Stats stats `json:"storage_stats"`
		taskPage
	}{stats{s.store.len(), s.store.capacity, "in_memory"}, page})
}

// profile: GET /debug/pprof/. All profiles are one route, so that they are one series in the metrics.
func (s *service) profile(w *response, r *http.Request) error {
	// A profile may take longer than a body may: when the read deadline passes, net/http cancels the request. pprof
	// itself moves the write deadline.
	if err := http.NewResponseController(w).SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	switch strings.TrimPrefix(r.URL.Path, "/debug/pprof/") {
	case "cmdline":
		pprof.Cmdline(w, r)
	case "profile":
		pprof.Profile(w, r)
	case "symbol":
		pprof.Symbol(w, r)
	case "trace":
		pprof.Trace(w, r)
	default:
		pprof.Index(w, r)
	}
	return nil
}

// ServeHTTP is what happens to every request: response → mux → guard → handler, and finish whatever became of it.
func (s *service) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w := &response{ResponseWriter: rw, start: time.Now(), requestID: requestID(r), draining: &s.draining}
	s.metrics.inFlight.Add(1)
	defer s.finish(w, r)
	h := rw.Header()
	h["X-Request-Id"] = []string{w.requestID}
	h["X-Content-Type-Options"] = noSniff
	h["Cache-Control"] = noStore
	s.mux.ServeHTTP(w, r)
	if w.held != 0 {
		s.handle(w, r, s.unserved)
	}
}

// Header values that never change.
var (
	noSniff        = []string{"nosniff"}
	noStore        = []string{"no-store"}
	closing        = []string{"close"}
	contentJSON    = []string{"application/json"}
	contentMetrics = []string{"text/plain; version=0.0.4; charset=utf-8"}
)

// requestID is the client's X-Request-Id if it is 1 to 64 of A-Za-z0-9._-, else a fresh one, which need not be secret.
func requestID(r *http.Request) string {
	id := r.Header.Get("X-Request-Id")
	foreign := func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-')
	}
	if id == "" || len(id) > 64 || strings.ContainsFunc(id, foreign) {
		return strconv.FormatUint(rand.Uint64(), 36)
	}
	return id
}

// handle asks the guard, then the handler, and answers the error of either.
func (s *service) handle(w *response, r *http.Request, h handler) {
	err := s.guard(w, r)
	if err == nil {
		err = h(w, r)
	}
	if err != nil {
		w.fail(err)
	}
}

// guard decides who may ask. It comes after the mux, so that a refused request is counted and logged under its route.
func (s *service) guard(w *response, r *http.Request) error {
	origin := r.Header.Get("Origin")
	if len(s.origins) > 0 {
		w.Header().Set("Vary", "Origin")
		if s.origins[origin] {
			w.Header().Set("Access-Control-Allow-Origin", origin)
			w.Header().Set("Access-Control-Allow-Credentials", "true")
		}
	}
	isDebug := strings.HasPrefix(r.URL.Path, "/debug/")
	switch {
	case isDebug && !isDirect(r):
		return &problem{Code: "FORBIDDEN", Message: "only for clients on this host that come through no proxy"}
	case s.crossOrigin.Check(r) != nil, isPreflight(r) && !s.origins[origin]:
		return &problem{Code: "FORBIDDEN", Message: "this origin is not allowed"}
	case isPreflight(r): // a browser sends no token with it
		return nil
	case s.tokenHash != nil && (isDebug || strings.HasPrefix(r.URL.Path, "/api/")):
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		hash := sha256.Sum256([]byte(token)) // hashes are of one length, so that the comparison does not tell the token's
		if !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare(hash[:], s.tokenHash[:]) == 0 {
			w.Header().Set("WWW-Authenticate", "Bearer")
			return &problem{Code: "UNAUTHORIZED", Message: "a valid bearer token is needed"}
		}
	}
	return nil
}

// isDirect reports whether the client is on this host. A proxy on this host connects from here, too, on behalf of
// anybody; its headers give it away.
func isDirect(r *http.Request) bool {
	for _, header := range []string{"X-Forwarded-For", "Forwarded", "X-Real-Ip"} {
		if _, present := r.Header[header]; present {
			return false
		}
	}
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && peer.Addr().Unmap().IsLoopback()
}

// isPreflight reports whether a browser asks by this request if it may send another one (Fetch standard, 4.8).
func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Origin") != "" &&
		r.Header.Get("Access-Control-Request-Method") != ""
}

// unserved answers what has been held back: a request without a route, or an error page of pprof.
func (s *service) unserved(w *response, r *http.Request) error {
	switch {
	case isPreflight(r):
		w.Header().Del("Allow")
		w.Header().Set("Access-Control-Allow-Methods", "GET, POST")
		w.Header().Set("Access-Control-Allow-Headers", "Content-Type, Authorization")
		w.send(http.StatusNoContent, nil, nil)
		return nil
	case w.held == http.StatusNotFound, r.RequestURI == "*":
		return &problem{Code: "NOT_FOUND", Message: "there is nothing at this path"}
	case w.held == http.StatusMethodNotAllowed:
		return &problem{Code: "METHOD_NOT_ALLOWED", Message: "this path does not have this method; see Allow"}
	case w.held == http.StatusBadRequest:
		return &problem{Code: "VALIDATION_ERROR", Message: "a parameter is wrong"}
	}
	return fmt.Errorf("an error page with status %d", w.held)
}

// response is the ResponseWriter of every handler, and what is known of the answer when it is logged and counted. It
// has two doors. Our handlers use send. Other people's code, the mux and pprof, uses WriteHeader and Write: an error
// page that comes through there is held back, so that the envelope can be sent in its place.
type response struct {
	http.ResponseWriter
	start     time.Time
	requestID string
	draining  *atomic.Bool

	status  int      // of the answer; 0 until it has begun
	bytes   int      // of the answer's body
	held    int      // status of a page that was held back, or 0
	problem *problem // that the answer carries, or nil
	cause   error    // of an INTERNAL_ERROR, for the log alone
	created Task     // by this request, if it has an id
}

// send answers with the whole body.
func (w *response) send(status int, contentType []string, body []byte) {
	h := w.Header()
	if contentType != nil {
		h["Content-Type"] = contentType
		h["Content-Length"] = []string{strconv.Itoa(len(body))}
	}
	w.begin(status)
	w.bytes, _ = w.ResponseWriter.Write(body)
}

// begin sends the header of the answer.
func (w *response) begin(status int) {
	if w.draining.Load() { // asked here, as late as can be, so that no connection is kept by mistake
		w.Header()["Connection"] = closing
	}
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// WriteHeader implements http.ResponseWriter.
func (w *response) WriteHeader(status int) {
	if w.status != 0 || w.held != 0 {
		return
	}
	if status >= 400 {
		w.held = status
		return
	}
	w.begin(status)
}

// Write implements http.ResponseWriter.
func (w *response) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if w.held != 0 {
		return len(p), nil
	}
	n, err := w.ResponseWriter.Write(p)
	w.bytes += n
	return n, err
}

// Unwrap lets http.ResponseController find the connection.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// categoryOf is the category of log lines by status, where nothing else decides.
var categoryOf = map[int]string{
	http.StatusBadRequest:            "VALIDATION",
	http.StatusUnauthorized:          "AUTHENTICATION",
	http.StatusForbidden:             "SECURITY",
	http.StatusRequestEntityTooLarge: "SECURITY",
	http.StatusTooManyRequests:       "SECURITY",
	http.StatusRequestTimeout:        "TIMEOUT",
}

var categories = []string{"VALIDATION", "AUTHENTICATION", "SECURITY", "ATTACK", "TIMEOUT", "PERFORMANCE"}

// classify says what kind of thing happened: the level of the request's log line and its category, which may be none.
func (s *service) classify(w *response, d time.Duration, panicked bool) (slog.Level, string) {
	category := categoryOf[w.status]
	switch {
	case panicked:
		return levelCritical, ""
	case w.status == http.StatusServiceUnavailable: // a health check has found something
		return slog.LevelWarn, ""
	case w.status >= 500:
		return slog.LevelError, ""
	case w.problem != nil && w.problem.attack:
		return slog.LevelWarn, "ATTACK"
	case category != "":
		return slog.LevelWarn, category
	case d > s.slow:
		return slog.LevelWarn, "PERFORMANCE"
	}
	return slog.LevelInfo, ""
}

// finish counts and logs a request, before its client has all of the answer: who has it can rely on the counters. A
// handler that panicked is answered for.
func (s *service) finish(w *response, r *http.Request) {
	panicked := recover()
	begun := w.status != 0
	if panicked != nil && !begun {
		w.fail(errors.New("panic"))
	}
	d := time.Since(w.start)
	level, category := s.classify(w, d, panicked != nil)
	_, route, matched := strings.Cut(r.Pattern, " ")
	if !matched {
		route = unmatched
	}
	code := ""
	if w.problem != nil {
		code = w.problem.Code
	}
	s.metrics.inFlight.Add(-1)
	s.metrics.observe(r.Method, route, w.status, d, category, code)

	msg := "request"
	if d > s.slow {
		msg = "SLOW request"
	}
	attrs := make([]slog.Attr, 0, 16)
	if category != "" {
		attrs = append(attrs, slog.String("category", category))
	}
	attrs = append(attrs,
		slog.String("method", r.Method),
		slog.String("route", route),
		slog.String("path", printable(r.URL.Path)),
		slog.Int("status", w.status),
		slog.Duration("duration", d),
		slog.Int("bytes", w.bytes),
		slog.String("remote", r.RemoteAddr),
		slog.String("request_id", w.requestID))
	if w.created.ID != "" {
		attrs = append(attrs, slog.String("task_id", w.created.ID), slog.String("user_id", printable(w.created.UserID)))
	}
	if panicked != nil {
		attrs = append(attrs, slog.Any("panic", panicked), slog.String("stack", string(debug.Stack())))
	} else if w.cause != nil {
		attrs = append(attrs, slog.Any("cause", w.cause))
	}
	s.log.LogAttrs(context.Background(), level, msg, attrs...)
	if panicked != nil && begun {
		panic(http.ErrAbortHandler) // nobody may take half an answer for a whole one
	}
}

// printable makes text that a client chose safe for a line of log: it escapes, as a form would, all that is not
// printable, and whatever could look like the end of a value or the beginning of another field.
func printable(text string) string {
	special := func(c rune) bool {
		return !unicode.IsPrint(c) || c == unicode.ReplacementChar || strings.ContainsRune(` "%+=\`, c)
	}
	if !strings.ContainsFunc(text, special) {
		return text
	}
	var b strings.Builder
	for _, c := range text {
		if special(c) {
			b.WriteString(url.QueryEscape(string(c)))
		} else {
			b.WriteRune(c)
		}
	}
	return b.String()
}

// newLogHandler returns a handler that names the levels as the operations guide does, and tells the time in UTC.
func newLogHandler(out io.Writer, format string, level slog.Level) slog.Handler {
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		switch a.Key {
		case slog.LevelKey:
			a.Value = slog.StringValue(levelNames[a.Value.Any().(slog.Level)])
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

// logFile is where the log goes: a file that can be reopened, or standard error.
type logFile struct {
	path    string // empty for standard error
	written atomic.Int64

	mu   sync.Mutex // guards what follows
	out  io.Writer
	file io.Closer // out, if it has to be closed
}

// Write implements io.Writer. A line is one call and the file is in append mode, so that no line is torn.
func (l *logFile) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := l.out.Write(line)
	l.written.Add(int64(n))
	return n, err
}

// reopen opens path and writes there from now on. If it fails, the log goes on where it was.
func (l *logFile) reopen() error {
	file, err := os.OpenFile(l.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		l.file.Close()
	}
	l.out, l.file = file, file
	return nil
}

// reopenOnHangup reopens the log file on SIGHUP, which is how logrotate says that it has moved the file away.
func (s *service) reopenOnHangup(ctx context.Context) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
		}
		if err := s.logged.reopen(); err != nil {
			s.log.Error("the log file could not be reopened", "cause", err)
		} else {
			s.log.Info("log file reopened")
		}
	}
}

// listen returns the socket that systemd passed (sd_listen_fds(3)), or else a new one.
func listen(addr string) (net.Listener, error) {
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return net.Listen("tcp", addr)
	}
	if n := os.Getenv("LISTEN_FDS"); n != "1" {
		return nil, fmt.Errorf("systemd passed %s sockets, not 1", n)
	}
	const firstPassed = 3
	file := os.NewFile(firstPassed, "socket passed by systemd")
	defer file.Close() // the listener has a copy
	return net.FileListener(file)
}

// notify tells systemd about a change of state (sd_notify(3)), if systemd has asked for it.
func (s *service) notify(state string) {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return
	}
	conn, err := net.Dial("unixgram", socket)
	if err == nil {
		_, err = conn.Write([]byte(state))
		conn.Close()
	}
	if err != nil {
		s.log.Warn("systemd could not be notified", "state", state, "cause", err)
	}
}

// watchdog assures systemd, twice in the time that it allows, that the store can still be read: whoever never lets go
// of its lock makes systemd restart the service, with a stack of every goroutine in the journal.
func (s *service) watchdog(ctx context.Context) {
	microseconds, _ := strconv.Atoi(os.Getenv("WATCHDOG_USEC"))
	pid := os.Getenv("WATCHDOG_PID")
	if microseconds <= 0 || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return
	}
	tick := time.NewTicker(time.Duration(microseconds) * time.Microsecond / 2)
	defer tick.Stop()
	for {
		s.store.len()
		s.notify("WATCHDOG=1")
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// lastWord is how long, once the listener is closed, a connection without a request may still send one.
const lastWord = 500 * time.Millisecond

// serve answers requests from ln until ctx ends, and stops without losing one.
func (s *service) serve(ctx context.Context, ln net.Listener) error {
	connections := tracker{state: map[net.Conn]http.ConnState{}}
	server := &http.Server{
		Handler:                      s,
		DisableGeneralOptionsHandler: true,             // OPTIONS * gets our 404
		ReadHeaderTimeout:            5 * time.Second,  // who sends slowly holds one goroutine no longer than this
		ReadTimeout:                  10 * time.Second, // the body included
		WriteTimeout:                 15 * time.Second,
		IdleTimeout:                  75 * time.Second, // longer than a proxy's: it must be the proxy who hangs up
		MaxHeaderBytes:               16 << 10,
		ConnState:                    connections.track,
		ErrorLog:                     slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
		Protocols:                    new(http.Protocols),
	}
	server.Protocols.SetHTTP1(true) // HTTP/2 is the proxy's business
	served := make(chan error, 1)
	go func() {
		if s.certificate != nil {
			server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{*s.certificate}, MinVersion: tls.VersionTLS12}
			served <- server.ServeTLS(ln, "", "")
		} else {
			served <- server.Serve(ln)
		}
	}()
	s.log.Info("serving", "address", ln.Addr().String(), "version", s.build.version, "revision", s.build.revision)
	s.notify("READY=1")
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}

	s.draining.Store(true)
	s.notify("STOPPING=1")
	s.log.Info("stopping", "cause", context.Cause(ctx))
	time.Sleep(s.drain)
	// Server.Shutdown alone loses requests: it drops those that it is just reading, and hangs up on connections whose
	// clients are just sending. So it comes last, when every connection has had its chance to end by "Connection: close".
	ln.Close()
	<-served
	end := time.Now().Add(s.shutdownTimeout)
	patience := time.Now().Add(min(lastWord, s.shutdownTimeout))
	for connections.count(http.StateActive) > 0 && time.Now().Before(end) ||
		connections.count(http.StateNew, http.StateIdle) > 0 && time.Now().Before(patience) {
		time.Sleep(time.Millisecond)
	}
	connections.close(http.StateNew) // Shutdown would wait for them
	deadline, cancel := context.WithDeadline(context.Background(), end)
	defer cancel()
	if err := server.Shutdown(deadline); err != nil {
		server.Close()
		return fmt.Errorf("requests cut off: still not answered after %v", s.shutdownTimeout)
	}
	s.log.Info("stopped")
	return nil
}

// tracker knows the state of every open connection.
type tracker struct {
	mu    sync.Mutex // guards state
	state map[net.Conn]http.ConnState
}

// track is an http.Server's ConnState hook.
func (t *tracker) track(conn net.Conn, state http.ConnState) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if state == http.StateClosed || state == http.StateHijacked {
		delete(t.state, conn)
	} else {
		t.state[conn] = state
	}
}

// count returns how many connections are in one of the states.
func (t *tracker) count(states ...http.ConnState) (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, state := range t.state {
		if slices.Contains(states, state) {
			n++
		}
	}
	return n
}

// close closes the connections in a state.
func (t *tracker) close(state http.ConnState) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for conn, now := range t.state {
		if now == state {
			conn.Close()
		}
	}
}
