// Command taskapi is the Task Management API. It creates tasks, keeps them in memory or in a
// file, reports its own health and that of its host, exposes Prometheus metrics, and lets an
// operator look inside.
//
// It listens on 127.0.0.1:8000 unless -addr names another address or systemd passes a socket.
// GET / lists the endpoints, GET /openapi.json describes them, and taskapi -h lists the flags.
// Only clients on the same host, without a proxy in between, can use /debug/.
//
// Tasks end with the process unless -data-file names a file to keep them in.
//
// The log has one line for each request, on standard error or in -log-file, which SIGHUP
// reopens. A line that an operator should look at has a category: VALIDATION, AUTHENTICATION,
// SECURITY, ATTACK, TIMEOUT or PERFORMANCE.
//
// SIGTERM and SIGINT stop the service without losing a request: it reports "not ready" for the
// time of -drain, closes its listener, and finishes the requests that it has begun. A second
// signal ends it at once. The exit status is 0 after a clean stop, 1 after a failure, a second
// signal, or when requests were cut off, and 2 after a mistake in the command line.
package main

// This file is the frame of the program. It leads from the command line to a config, from the
// config to a service, and from its first request to its last. Of the handlers, it has those that
// are about no single subject; the others are in task.go, health.go and metrics.go.

import (
	"cmp"
	"context"
	"crypto/subtle"
	"crypto/tls"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"net/url"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "taskapi:", err)
		if errors.Is(err, errUsage) {
			os.Exit(2)
		}
		os.Exit(1)
	}
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
	ctx, stop := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM) // even if a shell made it ignore them
	go func() {
		stop(fmt.Errorf("signal: %v", <-signals))
		<-signals // whoever sends a second one does not want to wait
		os.Exit(1)
	}()

	hangups := make(chan os.Signal, 1)
	if cfg.logFile != "" { // without a log file, SIGHUP keeps its default action
		signal.Notify(hangups, syscall.SIGHUP)
	}

	// The port comes first: if it is taken, another instance may be using the same files.
	ln, err := listen(cfg)
	if err != nil {
		return err
	}
	defer ln.Close()
	s, err := newService(cfg, stderr)
	if err != nil {
		return err
	}
	defer s.logFile.flush()
	go func() {
		for range hangups { // logrotate has moved the file away
			if err := s.logFile.open(cfg.logFile); err != nil {
				s.log.Error("the log file cannot be reopened", "cause", err)
			}
		}
	}()
	return s.serve(ctx, ln)
}

// --- Flags ---

// config is what the command line asks for. The texts of the flags explain the fields.
type config struct {
	addr, dataFile, tokenFile, tlsCert, tlsKey, diskPath string
	logFile, logFormat, logLevel                         string
	origins                                              []string
	maxTasks, rate                                       int
	slow, drain, shutdownTimeout                         time.Duration
	cpuHigh, memoryHigh, diskHigh                        float64

	answer string // what -h or -version prints; empty if the service is to start
}

// errUsage is in every error that is a mistake in the command line.
var errUsage = errors.New("taskapi -h lists the flags")

// parseFlags reads and checks the command line, and does nothing else. Its errors wrap errUsage.
func parseFlags(args []string) (c config, err error) {
	var help strings.Builder
	fs := flag.NewFlagSet("taskapi", flag.ContinueOnError)
	fs.SetOutput(&help) // for -h; after a mistake, main prints one line and not all of this
	fs.StringVar(&c.addr, "addr", "127.0.0.1:8000", "listen on `host:port`; systemd's socket wins")
	fs.IntVar(&c.maxTasks, "max-tasks", 1_000_000, "store at most this `number` of tasks")
	fs.StringVar(&c.dataFile, "data-file", "", "keep the tasks in this `file` (default in memory)")
	fs.IntVar(&c.rate, "rate", 0, "create at most this `number` of tasks a second; 0 for no limit")
	fs.StringVar(&c.tokenFile, "token-file", "", "ask for the bearer token in this `file`")
	fs.Func("cors-origins", "let pages of these `origins` use the API", c.setOrigins)
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
	version := fs.Bool("version", false, "print version, revision and Go version, and exit")

	if err = fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		return config{answer: help.String()}, nil
	}
	if err = cmp.Or(err, c.check(fs.NArg())); err != nil {
		return c, fmt.Errorf("%w (%w)", err, errUsage)
	}
	if *version {
		c.answer = "taskapi " + fmt.Sprintln(buildInfo())
	}
	return c, nil
}

// check returns an error for a rule that the flags break. args is the number of other arguments.
func (c *config) check(args int) error {
	for rule, kept := range map[string]bool{
		"no argument follows the flags":          args == 0,
		"-addr must not be empty":                c.addr != "",
		"-max-tasks must be at least 1":          c.maxTasks >= 1,
		"-rate must not be negative":             c.rate >= 0,
		"-tls-cert and -tls-key need each other": (c.tlsCert == "") == (c.tlsKey == ""),
		"-log-format must be text or json":       c.logFormat == "text" || c.logFormat == "json",
		"-log-level must be one that -h names":   levelStep(c.logLevel) >= 0,
		"durations must not be negative":         min(c.slow, c.drain, c.shutdownTimeout) >= 0,
		"percentages must be from 0 to 100": min(c.cpuHigh, c.memoryHigh, c.diskHigh) >= 0 &&
			max(c.cpuHigh, c.memoryHigh, c.diskHigh) <= 100,
	} {
		if !kept {
			return errors.New(rule)
		}
	}
	return nil
}

// originForm takes apart what browsers send as Origin (RFC 6454 section 6): a scheme, a host in
// ASCII and lower case, and perhaps a port.
var originForm = regexp.MustCompile(`^(https?)://` +
	`((?:[a-z0-9_-]+\.)*[a-z0-9_-]+\.?|\[[0-9a-f:]+\])(?::([1-9][0-9]*))?$`)

// setOrigins takes the value of -cors-origins. An origin that no browser sends could never match:
// it must be a mistake.
func (c *config) setOrigins(list string) error {
	c.origins = strings.Split(list, ",")
	for _, origin := range c.origins {
		part := append(originForm.FindStringSubmatch(origin), "", "", "", "") // empty if it differs
		scheme, host, port := part[1], strings.Trim(part[2], "[]"), part[3]
		isDefault := scheme == "http" && port == "80" || scheme == "https" && port == "443"
		_, portErr := strconv.ParseUint(cmp.Or(port, "1"), 10, 16)

		// The host is an address as browsers write it, or a name. A name does not end in a number:
		// to a browser, 127.1 is the address 127.0.0.1.
		_, numberErr := strconv.ParseUint(host[strings.LastIndex(host, ".")+1:], 0, 64)
		addr, _ := netip.ParseAddr(host)
		hostOK := addr.String() == host || !addr.IsValid() && numberErr != nil
		if scheme == "" || !hostOK || portErr != nil || isDefault {
			return fmt.Errorf("no browser sends %q as its Origin", origin)
		}
	}
	return nil
}

// b64token is a token that an Authorization header can carry (RFC 6750 section 2.1).
var b64token = regexp.MustCompile(`^[A-Za-z0-9._~+/-]+=*$`)

// readToken returns the token in a file. Without a path there is none. The 8 KiB leave room for it
// in a header that net/http accepts: see MaxHeaderBytes.
func readToken(path string) (token string, err error) {
	if path == "" {
		return "", nil
	}
	text, err := os.ReadFile(path)
	token = strings.TrimSpace(string(text))
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
	version, revision, goVersion string
	started                      time.Time
	draining                     atomic.Bool // set once, when the service is asked to stop

	mux         http.ServeMux
	routes      map[string]route // by pattern of the mux
	methods     string           // of the API, for the answer to a preflight
	token       string
	crossOrigin http.CrossOriginProtection // trusts nobody: see guard

	store   *store
	limiter limiter
	host    []*sensor // of its CPU, memory and disk
	process *sensor
	metrics *metrics
	logFile *logFile
	log     *slog.Logger // into logFile
}

// newService returns a service that can handle requests. It opens its files and reads the tasks.
func newService(cfg config, stderr io.Writer) (*service, error) {
	started := time.Now()
	token, tokenErr := readToken(cfg.tokenFile)
	out := &logFile{out: stderr, stderr: stderr}
	if err := cmp.Or(tokenErr, out.open(cfg.logFile)); err != nil {
		return nil, err
	}
	log := slog.New(newLogHandler(out, cfg.logFormat, cfg.logLevel))
	tasks, err := openStore(cfg.dataFile, cfg.maxTasks, log)
	if err != nil {
		out.flush() // the lines that openStore has logged: run flushes only what is started
		return nil, err
	}

	s := &service{config: cfg, started: started, token: token, routes: map[string]route{},
		store: tasks, metrics: newMetrics(), logFile: out, log: log,
		host: newHostSensors(cfg), process: &sensor{name: "process", read: readProcess}}
	s.version, s.revision, s.goVersion = buildInfo()
	s.handleAll(s.api())
	return s, nil
}

// handler answers a request or returns the error to answer with.
type handler func(*response, *http.Request) error

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
	onThisHost               // the same, but only directly from this host
)

// api is the whole API. The mux, the index, the metrics, the answers to preflights and the tests
// all use this table. TestDocumentsAreInStep fails if README.md or openapi.json lacks a row.
func (s *service) api() []route {
	return []route{
		{"GET", "/{$}", "service name, version and this list", anyone, 200, s.index},
		{"GET", "/openapi.json", "this API as an OpenAPI 3.1 document", anyone, 200, s.openAPI},
		{"POST", "/api/tasks", "create a task", withToken, 201, s.createTask},
		{"GET", "/api/tasks", "list tasks (limit, after)", withToken, 200, s.listTasks},
		{"GET", "/api/tasks/{task_id}", "get one task", withToken, 200, s.getTask},
		{"GET", "/health", "short health", anyone, 200, s.summary("healthy")},
		{"GET", "/health/detailed", "health of service and host", anyone, 200, s.detailed},
		{"GET", "/health/liveness", "200 if it answers at all", anyone, 200, s.summary("alive")},
		{"GET", "/health/readiness", "200 if a task can be created", anyone, 200, s.readiness},
		{"GET", "/metrics", "metrics for Prometheus", anyone, 200, s.exposeMetrics},
		{"GET", "/debug/storage", "what the store holds", onThisHost, 200, s.storage},
		{"GET", "/debug/pprof/", "profiles of the Go runtime", onThisHost, 200, s.profile},
	}
}

// handleAll fills the mux with the API, and with handlers for what is not in it: another method of
// a path, or no path at all. So 404 and 405 take the same way as any other answer. Only the API has
// metrics by route.
func (s *service) handleAll(api []route) {
	byPath, all := map[string][]string{}, map[string]bool{} // the methods of each path, and of all
	for _, rt := range api {
		s.handle(rt)
		s.metrics.add(rt.Method, rt.Path, rt.success, internalError.status)
		byPath[rt.Path] = append(byPath[rt.Path], rt.Method)
		all[rt.Method] = true
	}
	s.methods = strings.Join(slices.Sorted(maps.Keys(all)), ", ")

	// A pattern without a method takes what the patterns with this path and a method leave.
	for path, methods := range byPath {
		who := s.routes[methods[0]+" "+path].access
		s.handle(route{Path: path, access: who, handle: wrongMethod(methods)})
	}

	// A pattern that ends in "/" takes every path below it for which there is no other pattern. A
	// client that may not use the API must not learn which of its paths exist.
	for path, who := range map[string]access{
		"/": anyone, "/api": withToken, "/api/": withToken,
		"/debug": onThisHost, "/debug/": onThisHost,
	} {
		s.handle(route{Path: path, access: who, handle: noSuchPath})
	}
}

// handle adds one route to the mux. The function that it gives to the mux is the one place where
// the error of a handler becomes an answer.
func (s *service) handle(rt route) {
	pattern := strings.TrimSpace(rt.Method + " " + rt.Path)
	s.routes[pattern] = rt
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		if err := rt.handle(w.(*response), r); err != nil {
			w.(*response).sendError(err)
		}
	})
}

func noSuchPath(*response, *http.Request) error { return newError(notFound, "no such path") }

// wrongMethod answers requests for a path that has these methods only.
func wrongMethod(methods []string) handler {
	return func(w *response, _ *http.Request) error {
		list := strings.Join(slices.Sorted(slices.Values(methods)), ", ")
		w.Header().Set("Allow", strings.Replace(list, "GET", "GET, HEAD", 1)) // GET takes HEAD, too
		return newError(methodNotAllowed, "this path has other methods: see the header Allow")
	}
}

// index: GET /.
func (s *service) index(w *response, _ *http.Request) error {
	api := s.api()
	for i := range api {
		api[i].Path = strings.TrimSuffix(api[i].Path, "{$}") // means "only /" to the mux
	}
	answer := map[string]any{"service": serviceName, "version": s.version, "endpoints": api}
	return w.sendJSON(http.StatusOK, answer)
}

//go:embed deploy/openapi.json
var openAPIDocument string

// openAPI: GET /openapi.json.
func (s *service) openAPI(w *response, _ *http.Request) error {
	return w.send(http.StatusOK, "application/json", []byte(openAPIDocument))
}

// profile: GET /debug/pprof/. All profiles are one route, and so one series in the metrics.
func (s *service) profile(w *response, r *http.Request) error {
	name := strings.TrimPrefix(r.URL.Path, "/debug/pprof/")
	page := map[string]http.HandlerFunc{"cmdline": pprof.Cmdline, "profile": pprof.Profile,
		"symbol": pprof.Symbol, "trace": pprof.Trace}[name]
	if page == nil {
		page = pprof.Index
	}
	page(w, r)
	return nil
}

// --- What happens to every request ---

// ServeHTTP looks up the route of a request, asks the guard, and lets the mux call the handler. The
// handler answers or returns an error, which handle gives to sendError (task.go). At the end,
// whatever has happened, record counts the request and logs one line (metrics.go).
func (s *service) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w := s.newResponse(rw, r)
	s.metrics.inFlight.Add(1)
	defer s.record(w, r)

	// The mux is asked twice: here for the pattern, because guard and record need it even if no
	// handler is called, and below to call the handler.
	_, w.pattern = s.mux.Handler(r)

	// A preflight: before a browser sends a request of a page from another origin, it asks whether
	// it may (Fetch standard).
	preflight := r.Method == http.MethodOptions && r.Header.Get("Origin") != "" &&
		r.Header.Get("Access-Control-Request-Method") != ""

	if err := s.guard(w, r, preflight); err != nil {
		w.sendError(err)
	} else if preflight {
		w.Header().Set("Access-Control-Allow-Methods", s.methods)
		w.Header().Set("Access-Control-Allow-Headers", "Authorization, Content-Type, X-Request-Id")
		w.Header().Set("Access-Control-Max-Age", "600") // seconds
		w.WriteHeader(http.StatusNoContent)
	} else {
		s.mux.ServeHTTP(w, r)
	}
}

// newResponse returns the response (task.go) of one request, with the headers that all answers
// have, but exposeMetrics removes Cache-Control. The id is the client's, if it is valid.
func (s *service) newResponse(rw http.ResponseWriter, r *http.Request) *response {
	w := &response{ResponseWriter: rw, service: s, start: time.Now()}
	w.requestID = r.Header.Get("X-Request-Id")
	if !validID.MatchString(w.requestID) {
		// No secret, so math/rand will do. The highest bit makes it 16 digits.
		w.requestID = strconv.FormatUint(rand.Uint64()|1<<63, 16)
	}
	w.Header().Set("X-Request-Id", w.requestID)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	return w
}

var validID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// guard decides whether a request may go on to its handler: it applies the access of the route. On
// its way, it sets the headers that let a page of an allowed origin read any answer, even an error.
func (s *service) guard(w *response, r *http.Request, preflight bool) error {
	origin := r.Header.Get("Origin")
	allowed := slices.Contains(s.origins, origin)
	if len(s.origins) > 0 {
		w.Header().Set("Vary", "Origin") // even if this request has none
	}
	if allowed {
		w.Header().Set("Access-Control-Allow-Origin", origin)
		w.Header().Set("Access-Control-Allow-Credentials", "true")
		w.Header().Set("Access-Control-Expose-Headers", "Location, Retry-After, X-Request-Id")
	}

	rt, known := s.routes[w.pattern]
	switch {
	case !known, r.RequestURI == "*": // CONNECT has a host instead of a path; * is no path
		return noSuchPath(w, r)
	case rt.access == nobody, rt.access == onThisHost && !isFromThisHost(r):
		return newError(forbidden, "only for clients on this host, without a proxy in between")
	case !allowed && (preflight || s.crossOrigin.Check(r) != nil): // Check lets reads pass
		return newError(forbidden, "this origin is not allowed")
	case rt.access == anyone, s.tokenFile == "", preflight: // a preflight never has a token
		return nil
	}

	// From here on, the right token is all that helps.
	challenge := `Bearer realm="taskapi"` // RFC 6750 section 3
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if strings.EqualFold(scheme, "Bearer") {
		if subtle.ConstantTimeCompare([]byte(strings.TrimLeft(token, " ")), []byte(s.token)) == 1 {
			return nil
		}
		challenge += `, error="invalid_token"`
	}
	w.Header().Set("WWW-Authenticate", challenge)
	return newError(unauthorized, "a valid bearer token is needed")
}

// isFromThisHost reports whether the client is a program on this host that talks to the service
// directly. A proxy adds one of these headers. A web page whose name was pointed at this host (DNS
// rebinding) asks for that name.
func isFromThisHost(r *http.Request) bool {
	proxied := r.Header["X-Forwarded-For"] != nil || r.Header["Forwarded"] != nil ||
		r.Header["X-Real-Ip"] != nil || r.Header["Via"] != nil
	peer, _ := netip.ParseAddrPort(r.RemoteAddr)
	name := strings.ToLower((&url.URL{Host: r.Host}).Hostname())
	addr, _ := netip.ParseAddr(name)
	return !proxied && peer.Addr().IsLoopback() && (addr.IsLoopback() || name == "localhost")
}

// --- Listening, serving and stopping ---

// listen returns the socket that systemd passed (sd_listen_fds(3)) or else a new one, with TLS if
// that is configured. It offers no HTTP/2, which belongs to a proxy in front.
func listen(cfg config) (ln net.Listener, err error) {
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		ln, err = net.Listen("tcp", cfg.addr)
	} else if n := os.Getenv("LISTEN_FDS"); n != "1" {
		err = fmt.Errorf("systemd passed %s sockets, not 1", n)
	} else {
		file := os.NewFile(3, "socket passed by systemd")
		ln, err = net.FileListener(file) // duplicates the descriptor
		file.Close()
	}
	if err != nil || cfg.tlsCert == "" {
		return ln, err
	}
	certificate, err := tls.LoadX509KeyPair(cfg.tlsCert, cfg.tlsKey)
	chain := []tls.Certificate{certificate}
	return tls.NewListener(ln, &tls.Config{Certificates: chain, MinVersion: tls.VersionTLS12}), err
}

// notify tells systemd about a change of state (sd_notify(3)). Without systemd there is no socket.
func notify(state string) {
	if conn, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET")); err == nil {
		conn.Write([]byte(state))
		conn.Close()
	}
}

// every calls f at once, and again after each interval until ctx ends.
func every(ctx context.Context, interval time.Duration, f func()) {
	for ctx.Err() == nil {
		f()
		select {
		case <-ctx.Done():
		case <-time.After(interval):
		}
	}
}

// serve answers requests from ln until ctx ends, and then stops without losing one.
func (s *service) serve(ctx context.Context, ln net.Listener) error {
	// What runs beside the requests goes on until the last of them is answered.
	background, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	startSensors(background, s.log, append(s.host, s.process))

	var conns sync.Map // of every open connection: net.Conn → http.ConnState
	server := &http.Server{
		Handler: s, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
		// How long a client may take for a header, for header and body, and for the answer. Idle
		// connections are kept longer than by a proxy, which should be the one to hang up.
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 15 * time.Second, IdleTimeout: 75 * time.Second,
		ConnState: func(conn net.Conn, state http.ConnState) {
			if conns.Store(conn, state); state == http.StateClosed {
				conns.Delete(conn)
			}
		},
	}
	defer server.Close() // cuts off what finish no longer waits for

	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	s.log.Info("serving", "address", ln.Addr(), "version", s.version, "revision", s.revision)
	notify("READY=1")

	// The watchdog of systemd hears twice in its interval that the store can be read. If the lock
	// of the store is never released, systemd ends the service, with the stacks of all goroutines
	// in the journal, and starts it again.
	if usec, _ := strconv.Atoi(os.Getenv("WATCHDOG_USEC")); usec > 0 {
		go every(background, time.Duration(usec)*time.Microsecond/2, func() {
			s.store.state()
			notify("WATCHDOG=1")
		})
	}

	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	s.draining.Store(true) // readiness says 503, and every answer "Connection: close"
	notify("STOPPING=1")
	s.log.Info("stopping", "cause", context.Cause(ctx))
	time.Sleep(s.drain)
	ln.Close()
	<-served // now conns has every connection that was accepted
	defer s.log.Info("stopped")
	return finish(&conns, s.shutdownTimeout)
}

// finish waits until all requests are answered. http.Server.Shutdown would lose a request whose
// header is still on its way: it closes an idle connection at once, and drops what it then reads
// from a new one. Here, both have half a second to complete the header, which makes them active.
//
// conns has the http.ConnState of each net.Conn. What is still open at the end, serve closes.
func finish(conns *sync.Map, timeout time.Duration) error {
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		count := map[any]int{}
		for _, state := range conns.Range {
			count[state]++
		}
		active, waited := count[http.StateActive], time.Since(start)
		switch {
		case len(count) == 0, active == 0 && waited >= 500*time.Millisecond:
			return nil
		case active > 0 && waited >= timeout:
			return fmt.Errorf("%d requests took longer than -shutdown-timeout: cut off", active)
		}
	}
}
