// Command taskapi is the Task Management API. It creates tasks, keeps them in memory or in a
// file, reports its own health and that of its host, exposes Prometheus metrics, and lets an
// operator look inside.
//
// It listens on 127.0.0.1:8000 unless -addr names another address or systemd passes a socket.
// GET / lists the endpoints, GET /docs is a page to try them, GET /openapi.json describes them,
// and taskapi -h lists the flags. Only clients on the same host, without a proxy in between, can
// use /debug/.
//
// Tasks end with the process unless -data-file names a file to keep them in. One process at a
// time can use such a file.
//
// The log has one line for each request, on standard error or in -log-file, which SIGHUP
// reopens. A WARNING about a request can have a category: VALIDATION, AUTHENTICATION, SECURITY,
// ATTACK, TIMEOUT or PERFORMANCE.
//
// SIGTERM and SIGINT, and SIGHUP without -log-file, stop the service without losing a request: it
// reports "not ready" for the time of -drain, closes its listener, and finishes the requests that
// it has begun. A second signal ends it at once. The exit status is 0 after a clean stop, 1 after
// a failure or when requests were cut off, and 2 after a mistake in the command line.
package main

// This file is the frame of the program. It leads from the command line to a config, from the
// config to a service, and from its first request to its last. Of the handlers, it has those that
// are about no single subject; the others are in task.go, health.go and metrics.go.

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	_ "embed"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	_ "net/http/pprof"
	"net/netip"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	err := run(context.Background(), os.Args[1:], os.Stdout, os.Stderr)
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "taskapi:", err)
	if errors.Is(err, errUsage) {
		os.Exit(2)
	}
	os.Exit(1)
}

// run is the whole program. It returns nil after ctx or a signal has ended it and every request
// has been answered. An error that wraps errUsage is a mistake in args.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	cfg, err := parseFlags(args)
	if err != nil || cfg.answer != "" {
		io.WriteString(stdout, cfg.answer)
		return err
	}

	// By default, a write to a broken standard error would end the process, and its tasks.
	signal.Ignore(syscall.SIGPIPE)

	// SIGHUP reopens the log file. Without one it stops the service, unless somebody wants that to
	// outlive its terminal (nohup).
	stops := []os.Signal{os.Interrupt, syscall.SIGTERM}
	hangups := make(chan os.Signal, 1)
	if cfg.logFile != "" {
		signal.Notify(hangups, syscall.SIGHUP)
	} else if !signal.Ignored(syscall.SIGHUP) {
		stops = append(stops, syscall.SIGHUP)
	}
	signalled, stop := signal.NotifyContext(ctx, stops...)
	defer stop()

	// Whoever sends a second signal does not want to wait: before the service hears of the first,
	// the next has its default action again.
	ctx, end := context.WithCancelCause(ctx)
	context.AfterFunc(signalled, func() {
		stop()
		end(context.Cause(signalled))
	})

	// The port comes first: if it is taken, another instance may be using the same files.
	ln, err := listen(cfg.addr)
	if err != nil {
		return err
	}
	defer ln.Close()
	s, err := newService(ctx, cfg, stderr)
	if errors.Is(err, context.Canceled) {
		return nil // asked to stop while the data file was being read
	}
	if err != nil {
		return err
	}
	defer s.store.close()
	return s.serve(ctx, ln, hangups)
}

// --- Flags ---

const defaultAddr = "127.0.0.1:8000"

// config is what the command line asks for. The texts of the flags explain the fields.
type config struct {
	addr, dataFile, tokenFile, origins, tlsCert, tlsKey string
	logFile, logFormat, logLevel, diskPath              string
	maxTasks, rate                                      int
	slow, drain, shutdownTimeout                        time.Duration
	cpuHigh, memoryHigh, diskHigh                       float64

	answer string // what -h or -version prints; empty if the service is to start
}

// errUsage is in every error that is a mistake in the command line.
var errUsage = errors.New("taskapi -h lists the flags")

// parseFlags reads and checks the command line. It looks at files, and changes nothing. Its errors
// wrap errUsage.
func parseFlags(args []string) (config, error) {
	var c config
	var help strings.Builder
	fs := flag.NewFlagSet("taskapi", flag.ContinueOnError)
	fs.SetOutput(&help) // for -h; after a mistake, main prints one line and not all of this
	c.define(fs)
	version := fs.Bool("version", false, "print version, revision and Go version, and exit")

	err := fs.Parse(args)
	if err == nil {
		err = c.fault(fs)
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		c.answer = help.String()
	case err != nil:
		return c, fmt.Errorf("%w (%w)", err, errUsage)
	case *version:
		b := readBuild()
		c.answer = fmt.Sprintln("taskapi", b.version, b.revision, b.goVersion)
	}
	return c, nil
}

// define declares the flags that fill the config.
func (c *config) define(fs *flag.FlagSet) {
	fs.StringVar(&c.addr, "addr", defaultAddr, "listen on `host:port`; systemd's socket wins")
	fs.IntVar(&c.maxTasks, "max-tasks", 1_000_000, "store at most this `number` of tasks")
	fs.StringVar(&c.dataFile, "data-file", "", "keep the tasks in this `file` (default in memory)")
	fs.IntVar(&c.rate, "rate", 0,
		"take this `number` of valid creations a second, and as many in a burst; 0 for no limit")
	fs.StringVar(&c.tokenFile, "token-file", "", "ask for the bearer token in this `file`")
	fs.StringVar(&c.origins, "cors-origins", "", "let pages of these `origins` use the API")
	fs.StringVar(&c.tlsCert, "tls-cert", "", "serve HTTPS with the certificates in this PEM `file`")
	fs.StringVar(&c.tlsKey, "tls-key", "", "private key of -tls-cert, a PEM `file`")
	fs.StringVar(&c.logFile, "log-file", "", "append the log to `file` (default standard error)")
	fs.StringVar(&c.logFormat, "log-format", "text", "`format` of the log: text or json")
	fs.StringVar(&c.logLevel, "log-level", "info", "`level`: debug, info, warning, error, critical")
	fs.DurationVar(&c.slow, "slow", 100*time.Millisecond, "a request that takes longer is slow")
	fs.Float64Var(&c.cpuHigh, "cpu-high", 80, "CPU usage above this `percentage` is high")
	fs.Float64Var(&c.memoryHigh, "memory-high", 80, "memory usage above this `percentage` is high")
	fs.Float64Var(&c.diskHigh, "disk-high", 80, "disk usage above this `percentage` is high")
	fs.StringVar(&c.diskPath, "disk-path", "/", "measure the disk that holds this `path`")
	fs.DurationVar(&c.drain, "drain", 0, "report not ready this long before the listener closes")
	fs.DurationVar(&c.shutdownTimeout, "shutdown-timeout", 10*time.Second, "time to end requests")
}

// fault returns the first of the rules that the flags break, or nil.
func (c *config) fault(fs *flag.FlagSet) error {
	// An empty text is an unset variable of a script: without what the operator meant to give, the
	// service must not start.
	var empty string // the name of such a flag
	fs.Visit(func(f *flag.Flag) {
		if f.Value.String() == "" {
			empty = f.Name
		}
	})
	// If a percentage is NaN, so are these two, and no rule is true of them.
	lowest := min(c.cpuHigh, c.memoryHigh, c.diskHigh)
	highest := max(c.cpuHigh, c.memoryHigh, c.diskHigh)
	for _, rule := range []struct {
		isKept bool
		text   string
	}{
		{empty == "", "-" + empty + " must not be empty"},
		{fs.NArg() == 0, "no argument follows the flags"},
		{c.maxTasks >= 1, "-max-tasks must be at least 1"},
		{c.rate >= 0, "-rate must not be negative"},
		{(c.tlsCert == "") == (c.tlsKey == ""), "-tls-cert and -tls-key need each other"},
		{c.logFormat == "text" || c.logFormat == "json", "-log-format must be text or json"},
		{levelStep(c.logLevel) >= 0, "-log-level must be one that -h names"},
		{min(c.slow, c.drain, c.shutdownTimeout) >= 0, "a duration must not be negative"},
		{lowest >= 0 && highest <= 100, "-cpu-high, -memory-high and -disk-high are percentages"},
		{!isSameFile(c.dataFile, c.tokenFile), "-data-file and -token-file must be two files"},
		{!isSameFile(c.logFile, c.tokenFile), "-log-file and -token-file must be two files"},
	} {
		if !rule.isKept {
			return errors.New(rule.text)
		}
	}
	for origin := range strings.SplitSeq(c.origins, ",") {
		if c.origins != "" && !isOrigin(origin) {
			return fmt.Errorf("-cors-origins: no browser sends %q as the origin of a page "+
				"(null stands for pages without one, such as files)", origin)
		}
	}
	return nil
}

// isSameFile reports whether two paths lead to one file, however they are written. One that is not
// there yet is no file.
func isSameFile(a, b string) bool {
	infoA, _ := os.Stat(a)
	infoB, _ := os.Stat(b)
	return os.SameFile(infoA, infoB) // no, if one of them is nil
}

// originForm takes apart what browsers send as Origin (RFC 6454 section 6): a scheme, a host in
// ASCII and lower case, and perhaps a port.
var originForm = regexp.MustCompile(`^(https?)://` +
	`((?:[a-z0-9_-]+\.)*[a-z0-9_-]+\.?|\[[0-9a-f:]+\])(?::([1-9][0-9]*))?$`)

// isOrigin reports whether a browser can send this text as the Origin of a page. Any other could
// never match, so it must be a mistake.
func isOrigin(text string) bool {
	parts := originForm.FindStringSubmatch(text)
	if parts == nil {
		return false
	}
	scheme, host, port := parts[1], strings.Trim(parts[2], "[]"), parts[3]
	isDefault := scheme == "http" && port == "80" || scheme == "https" && port == "443"
	_, portErr := strconv.ParseUint(port, 10, 16)
	if isDefault || port != "" && portErr != nil {
		return false
	}

	// An address has to be as browsers write it. A name does not end in a number: to a browser,
	// 127.1 is the address 127.0.0.1.
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.String() == host
	}
	last := host[strings.LastIndex(host, ".")+1:]
	_, numberErr := strconv.ParseUint(last, 0, 64)
	return numberErr != nil
}

// b64token is a token that an Authorization header can carry (RFC 6750 section 2.1).
var b64token = regexp.MustCompile(`^[A-Za-z0-9._~+/-]+=*$`)

// readToken returns the token in a file. Without a path there is none. The 8 KiB leave room for it
// in a header that net/http accepts: see MaxHeaderBytes.
func readToken(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, 16<<10))
	token := strings.TrimSpace(string(text))
	if err == nil && (len(token) > 8<<10 || !b64token.MatchString(token)) {
		err = fmt.Errorf("%s: must hold one token of A-Z a-z 0-9 - . _ ~ + /, up to 8 KiB", path)
	}
	return token, err
}

// --- The service and its routes ---

const serviceName = "Task Management API"

// service is the state of the program.
type service struct {
	config
	build
	token       string          // empty if none is asked for
	certificate tls.Certificate // empty without HTTPS
	started     time.Time
	draining    atomic.Bool  // set once, when the service is asked to stop
	busy        atomic.Int64 // requests whose answer has not been sent: finish waits for them
	mux         http.ServeMux
	crossOrigin http.CrossOriginProtection

	store             *store
	limiter           limiter
	cpu, memory, disk *sensor                // of the host
	process           atomic.Pointer[[]byte] // metrics of the process and of the Go runtime
	metrics           *metrics
	logOutput         *logOutput
	log               *slog.Logger // into logOutput
}

// newService returns a service that can handle requests. It reads the token and the certificate,
// opens the log file, and then reads the data file, until ctx ends. If it fails, it leaves no new
// file behind.
func newService(ctx context.Context, cfg config, stderr io.Writer) (*service, error) {
	s := &service{
		config:    cfg,
		build:     readBuild(),
		started:   time.Now(),
		metrics:   newMetrics(),
		logOutput: &logOutput{out: stderr, stderr: stderr},
		cpu:       newSensor("cpu", cfg.cpuHigh, new(cpuTimes).read),
		memory:    newSensor("memory", cfg.memoryHigh, readMemory),
		disk:      newSensor("disk", cfg.diskHigh, cfg.readDisk),
	}
	s.process.Store(&[]byte{})
	for _, rt := range s.api() {
		s.register(rt)
	}

	var err error
	s.token, err = readToken(cfg.tokenFile)
	if err != nil {
		return nil, err
	}
	if cfg.tlsCert != "" {
		s.certificate, err = tls.LoadX509KeyPair(cfg.tlsCert, cfg.tlsKey)
		if err != nil {
			return nil, err
		}
	}
	isNewLog := cfg.logFile != "" && !exists(cfg.logFile)
	err = s.logOutput.open(cfg.logFile)
	if err != nil {
		return nil, err
	}
	s.log = slog.New(newLogHandler(s.logOutput, cfg.logFormat, cfg.logLevel))
	if isSameFile(cfg.dataFile, cfg.logFile) { // asked now, because the log is there now
		err = fmt.Errorf("-data-file and -log-file must be two files (%w)", errUsage)
	} else {
		s.store, err = openStore(ctx, cfg.dataFile, cfg.maxTasks, s.log)
	}
	if err != nil && isNewLog {
		target, _ := filepath.EvalSymlinks(cfg.logFile) // a link stays
		os.Remove(target)
	}
	return s, err
}

// exists says yes if that cannot be known.
func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, os.ErrNotExist)
}

// handler fills the reply to a request, or returns the error to answer with.
type handler func(*reply, *http.Request) error

// route is one row of the API.
type route struct {
	Method  string `json:"method"`
	Path    string `json:"path"` // as http.ServeMux has it
	Summary string `json:"summary"`
	access  access
	success int // the status of a success: the metrics have its series from the start
	handle  handler
}

// access says who may use a route.
type access int

const (
	nobody     access = iota // the zero value: a route without access is closed to everybody
	anyone                   // without a token, from anywhere
	withToken                // with the bearer token, if there is a -token-file
	onThisHost               // with the token, and only directly from this host
)

// corsMethods are those of the API, for pages of other origins.
const corsMethods = "GET, POST"

// api is the whole API. The mux, the index, the metrics and the tests all use this table.
// TestDocumentsAreInStep fails if README.md or openapi.json lacks a row.
func (s *service) api() []route {
	return []route{
		{"GET", "/{$}", "service name, version and this list", anyone, 200, s.index},
		{"GET", "/docs", "a page to look at and try this API", anyone, 200, s.docs},
		{"GET", "/openapi.json", "this API as an OpenAPI 3.1 document", anyone, 200, s.openAPI},
		{"POST", "/api/tasks", "create a task", withToken, 201, s.createTask},
		{"GET", "/api/tasks", "list tasks (limit, after)", withToken, 200, s.listTasks},
		{"GET", "/api/tasks/{task_id}", "get one task", withToken, 200, s.getTask},
		{"GET", "/health", "short health", anyone, 200, s.health},
		{"GET", "/health/detailed", "health of service and host", anyone, 200, s.detailed},
		{"GET", "/health/liveness", "200 if it answers at all", anyone, 200, s.liveness},
		{"GET", "/health/readiness", "200 if a task can be created", anyone, 200, s.readiness},
		{"GET", "/metrics", "metrics for Prometheus", anyone, 200, s.exposeMetrics},
		{"GET", "/debug/storage", "what the store holds", onThisHost, 200, s.storage},
		{"GET", "/debug/pprof/", "profiles of the Go runtime", onThisHost, 200, s.profile},
	}
}

// register adds one route, with counters of its own, behind the guard: the one place where a row
// meets a request, and where the error of a handler becomes an answer. Its success and 500 are in
// the metrics before the first request.
func (s *service) register(rt route) {
	t := s.metrics.newTraffic(rt, strconv.Itoa(rt.success), "500")
	s.mux.HandleFunc(rt.Method+" "+rt.Path, func(w http.ResponseWriter, r *http.Request) {
		answer := w.(*reply)
		answer.traffic = t
		err := s.guard(rt, r)
		if err == nil {
			err = rt.handle(answer, r)
		}
		answer.fail(err)
	})
}

// index: GET /.
func (s *service) index(w *reply, _ *http.Request) error {
	api := s.api()
	for i := range api {
		api[i].Path = strings.TrimSuffix(api[i].Path, "{$}") // means "only /" to the mux
	}
	index := map[string]any{"service": serviceName, "version": s.version, "endpoints": api}
	return w.json(http.StatusOK, index)
}

//go:embed deploy/openapi.json
var openAPIDocument []byte

// openAPI: GET /openapi.json.
func (s *service) openAPI(w *reply, _ *http.Request) error {
	w.fill(http.StatusOK, "application/json", openAPIDocument)
	return nil
}

//go:embed deploy/docs.html
var docsPage []byte

// docs: GET /docs. The policy lets the page load nothing from elsewhere, and run nothing but its
// own script, even if a task had a script in its name.
func (s *service) docs(w *reply, _ *http.Request) error {
	w.Header().Set("Content-Security-Policy", docsPolicy)
	w.fill(http.StatusOK, "text/html; charset=utf-8", docsPage)
	return nil
}

// docsPolicy is the Content-Security-Policy of a page that has one script and one style (Content
// Security Policy Level 3). What it does not name is forbidden. The icon is a data: address.
var docsPolicy = "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; " +
	"form-action 'none'; frame-ancestors 'none'; script-src " + sourceHash(docsPage, "script") +
	"; style-src " + sourceHash(docsPage, "style")

// sourceHash returns the hash of the text inside the one element of that name, as a source of a
// policy.
func sourceHash(page []byte, name string) string {
	_, rest, _ := bytes.Cut(page, []byte("<"+name+">"))
	text, _, _ := bytes.Cut(rest, []byte("</"+name+">"))
	sum := sha256.Sum256(text)
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// profile: GET /debug/pprof/. All profiles are one route, and so one series in the metrics. The
// import of net/http/pprof has put them into http.DefaultServeMux. Their errors are their own: a
// conflict of two people who profile is no fault of the service.
func (s *service) profile(w *reply, r *http.Request) error {
	http.DefaultServeMux.ServeHTTP(w, r)
	if w.status >= http.StatusInternalServerError {
		w.code.level = slog.LevelWarn
	}
	return nil
}

// --- What happens to every request ---

// validID is the form in which a client may give the id of its request.
var validID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// ServeHTTP answers a request in three steps: the reply is decided, then recorded, then sent. So
// nothing reaches the client before it has been counted and logged, and no half of an answer ever
// does.
func (s *service) ServeHTTP(conn http.ResponseWriter, r *http.Request) {
	w := &reply{
		conn:      conn,
		start:     time.Now(),
		requestID: r.Header.Get("X-Request-Id"),
		traffic:   s.metrics.unmatched,
	}
	if !validID.MatchString(w.requestID) {
		// No secret, so math/rand will do. The highest bit makes it 16 digits.
		w.requestID = strconv.FormatUint(rand.Uint64()|1<<63, 16)
	}
	s.busy.Add(1)
	defer s.busy.Add(-1)
	s.metrics.inFlight.Add(1) // until it is recorded: whoever has an answer is not counted
	s.decide(w, r)
	s.record(w, r)
	s.send(w, r)
}

// decide fills the reply. The mux calls what register has given it. What the mux answers by itself,
// because there is no such route, becomes an answer of this service. A panic becomes a 500.
func (s *service) decide(w *reply, r *http.Request) {
	defer func() {
		if cause := recover(); cause != nil {
			w.note(slog.Any("panic", cause), slog.String("stack", string(debug.Stack())))
			w.fail(newError(panicked, "internal error"))
		}
	}()
	s.mux.ServeHTTP(w, r)
	if w.traffic == s.metrics.unmatched {
		w.fail(s.noRoute(w, r))
	}
	w.WriteHeader(http.StatusOK) // as net/http does if a handler sends nothing
}

// guard says why this request may not use a route, or returns nil.
func (s *service) guard(rt route, r *http.Request) error {
	switch {
	case rt.access == nobody, rt.access == onThisHost && !isFromThisHost(r):
		return newError(forbidden, "only for clients on this host, without a proxy in between")
	case s.crossOrigin.Check(r) != nil && !s.isAllowed(r): // Check lets reads pass
		return newError(forbidden, "this origin is not allowed")
	case rt.access == anyone, s.token == "":
		return nil
	}

	// From here on, the right token is all that helps.
	challenge := `Bearer realm="taskapi"` // RFC 6750 section 3
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimLeft(token, " ")
	if strings.EqualFold(scheme, "Bearer") && token != "" {
		if subtle.ConstantTimeCompare([]byte(token), []byte(s.token)) == 1 {
			return nil
		}
		challenge += `, error="invalid_token"`
	}
	err := newError(unauthorized, "a valid bearer token is needed")
	return err.with("WWW-Authenticate", challenge)
}

// isFromThisHost reports whether the client is a program on this host that talks to the service
// directly. A proxy adds one of these headers. A web page whose name was pointed at this host (DNS
// rebinding) asks for that name.
func isFromThisHost(r *http.Request) bool {
	h := r.Header
	isProxied := h["X-Forwarded-For"] != nil || h["Forwarded"] != nil || h["X-Real-Ip"] != nil ||
		h["Via"] != nil
	peer, _ := netip.ParseAddrPort(r.RemoteAddr)
	host := (&url.URL{Host: r.Host}).Hostname()
	addr, _ := netip.ParseAddr(host)
	isLocalName := addr.IsLoopback() || strings.EqualFold(host, "localhost")
	return !isProxied && peer.Addr().IsLoopback() && isLocalName
}

// isAllowed reports whether a request comes from a page of an allowed origin.
func (s *service) isAllowed(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	return origin != "" && slices.Contains(strings.Split(s.origins, ","), origin)
}

// noRoute turns what the mux has answered by itself into an answer of this service, and returns
// the error to answer with: no such path, or a path that has other methods. Its redirects to a
// clean path stay as they are. 404 and 405 are the same for everybody, since the API is public.
//
// OPTIONS is answered with the methods of the path (RFC 9110 section 9.3.7). It may be a preflight:
// before a browser sends a request of a page from another origin, it asks whether it may (Fetch
// standard, CORS protocol).
func (s *service) noRoute(w *reply, r *http.Request) error {
	isPreflight := r.Header.Get("Origin") != "" &&
		r.Header.Get("Access-Control-Request-Method") != ""
	allow := w.Header().Get("Allow") // of the mux
	switch {
	case w.status < http.StatusBadRequest:
		return nil
	case w.status != http.StatusMethodNotAllowed:
		return newError(notFound, "no such path")
	case r.Method != http.MethodOptions:
		err := newError(methodNotAllowed, "this path has other methods: see the header Allow")
		return err.with("Allow", allow)
	case isPreflight && !s.isAllowed(r):
		return newError(forbidden, "this origin is not allowed")
	}
	w.reset()
	w.Header().Set("Allow", allow)
	if isPreflight {
		w.Header().Set("Access-Control-Allow-Methods", corsMethods)
		w.Header().Set("Access-Control-Allow-Headers", "Authorization, Content-Type, X-Request-Id")
		w.Header().Set("Access-Control-Max-Age", "600") // seconds
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// send gives the reply to the connection, with the headers that all answers have. If that fails,
// because the client is gone or WriteTimeout is over, the log says so: the line of the request has
// said what was decided, and a client that has no answer does not know it.
func (s *service) send(w *reply, r *http.Request) {
	h := w.Header()
	h["X-Request-Id"] = []string{w.requestID} // as Set does, but it need not look at the name
	h["X-Content-Type-Options"] = []string{"nosniff"}
	h["Cache-Control"] = []string{"no-store"}
	if s.origins != "" {
		h.Set("Vary", "Origin") // even if this request has none
	}
	if s.isAllowed(r) { // such a page may read any answer, even an error
		h.Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
		h.Set("Access-Control-Allow-Credentials", "true")
		h.Set("Access-Control-Expose-Headers", "Location, Retry-After, X-Request-Id")
	}
	if w.status != http.StatusNoContent { // RFC 9110 section 8.6
		h["Content-Length"] = []string{strconv.Itoa(len(w.body))}
	}

	// A service that stops wants no next request; this is asked late, because the drain may have
	// begun during this one. And before net/http answers on a connection that it means to keep, it
	// reads up to 256 KiB of what is left of the body: too much for one that is too large.
	if s.draining.Load() || w.status == bodyTooLarge.status {
		h.Set("Connection", "close")
	}
	w.conn.WriteHeader(w.status)
	w.conn.Write(w.body)
	err := http.NewResponseController(w.conn).Flush()
	if err != nil {
		s.log.Warn("an answer was not delivered",
			"request_id", w.requestID, "status", w.status, "cause", err)
	}
}

// --- Listening, serving and stopping ---

// listen returns the socket that systemd passed (sd_listen_fds(3)), or else a new one.
func listen(addr string) (net.Listener, error) {
	if socketIsPassed() {
		if n := os.Getenv("LISTEN_FDS"); n != "1" {
			return nil, fmt.Errorf("systemd passed %s sockets, not 1", n)
		}
		file := os.NewFile(3, "socket passed by systemd")
		defer file.Close()
		return net.FileListener(file) // duplicates the descriptor
	}
	ln, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EAFNOSUPPORT) { // the sandbox of deploy/taskapi.service
		err = fmt.Errorf("%w: systemctl restart taskapi.socket, which passes the socket", err)
	}
	return ln, err
}

func socketIsPassed() bool { return os.Getenv("LISTEN_PID") == strconv.Itoa(os.Getpid()) }

// notify tells systemd about a change of state (sd_notify(3)). Without systemd there is no socket.
func notify(state string) {
	conn, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		return
	}
	defer conn.Close()
	conn.Write([]byte(state))
}

// every calls f after each interval until ctx ends.
func every(ctx context.Context, interval time.Duration, f func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(interval):
			f()
		}
	}
}

// serve answers requests from ln until ctx ends, and then stops without losing one. At each hangup
// until then, it reopens the log file: logrotate has moved the old one away.
func (s *service) serve(ctx context.Context, ln net.Listener, hangups <-chan os.Signal) error {
	// What runs beside the requests goes on until the last of them is answered.
	background, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	s.startSensors(background)
	go every(background, sampleInterval, s.store.verify)
	if s.tlsCert != "" {
		ln = tls.NewListener(ln, &tls.Config{
			Certificates: []tls.Certificate{s.certificate},
			MinVersion:   tls.VersionTLS12,
		})
	}
	server := s.newServer()
	if ctx.Err() != nil {
		return nil // asked to stop before it was ready
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	s.logStart(ln.Addr().String())
	notify("READY=1")
	go s.feedWatchdog(background)

	for ctx.Err() == nil {
		select {
		case err := <-served:
			return err
		case <-hangups:
			if err := s.logOutput.open(s.logFile); err != nil {
				s.log.Error("the log file cannot be reopened", "cause", err)
			}
		case <-ctx.Done():
		}
	}
	s.draining.Store(true) // readiness says 503, and every answer "Connection: close"
	notify("STOPPING=1")
	s.log.Info("stopping", "cause", context.Cause(ctx))
	time.Sleep(s.drain)
	ln.Close()
	err := s.finish()
	server.Close() // cuts off what finish no longer waits for
	s.log.Info("stopped")
	return err
}

// feedWatchdog tells systemd twice in the time of its watchdog that the store can be read
// (sd_watchdog_enabled(3)). If the lock of the store is never released, systemd does not hear it
// any more: it ends the service, with the stacks of all goroutines in the journal, and starts it
// again.
func (s *service) feedWatchdog(ctx context.Context) {
	usec, _ := strconv.Atoi(os.Getenv("WATCHDOG_USEC"))
	pid := os.Getenv("WATCHDOG_PID")
	if usec <= 0 || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return // there is none, or it is meant for another process
	}
	every(ctx, time.Duration(usec)*time.Microsecond/2, func() {
		s.store.state(time.Now())
		notify("WATCHDOG=1")
	})
}

// logStart says what this service is, and what an operator may have meant otherwise.
func (s *service) logStart(address string) {
	s.log.Info("serving", "address", address, "docs", "/docs", "token", s.token != "",
		"tls", s.tlsCert != "", "data_file", s.dataFile != "",
		"version", s.version, "revision", s.revision)
	if socketIsPassed() && s.addr != defaultAddr {
		s.log.Warn("-addr is not used: systemd has passed a socket", "addr", s.addr)
	}
	if s.tlsCert != "" && time.Now().After(s.certificate.Leaf.NotAfter) {
		s.log.Warn("the certificate has expired")
	}
}

// newServer returns a server for this service. A slow client costs one goroutine for a bounded
// time. Idle connections are kept longer than by a proxy, which should be the one to hang up. There
// is no HTTP/2, which belongs to the proxy.
func (s *service) newServer() *http.Server {
	return &http.Server{
		Handler:           s,
		MaxHeaderBytes:    16 << 10,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second, // for header and body
		WriteTimeout:      15 * time.Second, // for handler and answer
		IdleTimeout:       75 * time.Second,
		ErrorLog:          log.New(serverLog{s.log}, "", 0),
	}
}

// serverLog is where net/http writes what it has to say of connections.
type serverLog struct{ log *slog.Logger }

// Write implements io.Writer. A connection that ends without a word is a check of the port.
func (l serverLog) Write(line []byte) (int, error) {
	text := strings.TrimSuffix(string(line), "\n")
	if strings.HasSuffix(text, ": EOF") || strings.HasSuffix(text, ": connection reset by peer") {
		l.log.Info(text)
	} else {
		l.log.Warn(text)
	}
	return len(line), nil
}

// finish waits until no request has been in flight for half a second, or says how many are after
// -shutdown-timeout. http.Server.Shutdown would lose a request whose header is still on its way: it
// closes an idle connection at once, and drops what it then reads from a new one. Here, both have
// that half second to send it.
func (s *service) finish() error {
	start := time.Now()
	quiet := start
	for time.Since(quiet) < 500*time.Millisecond {
		active := s.busy.Load()
		if active > 0 && time.Since(start) >= s.shutdownTimeout {
			return fmt.Errorf("%d requests took longer than -shutdown-timeout: cut off", active)
		}
		if active > 0 {
			quiet = time.Now()
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}
