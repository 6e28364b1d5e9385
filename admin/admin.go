// Package admin is the HTTP side of a process: liveness, readiness, metrics and status. It changes nothing: every
// route is a GET without side effects.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sort"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Options says what is served. Ready, Status and Gatherer are needed.
type Options struct {
	// Ready returns, by role, nil or why it does not work. It must answer at once.
	Ready func() map[string]error
	// Status returns what /status shows, as a value that marshals to JSON.
	Status   func(ctx context.Context) any
	Gatherer prometheus.Gatherer
	Logger   *slog.Logger
}

// Server serves the routes on one listener.
type Server struct {
	o    Options
	http *http.Server
}

// New returns a server that does not listen yet.
func New(o Options) *Server {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{o: o}
	s.http = &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
	}
	return s
}

// Run serves on l until ctx ends. It closes l.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-ctx.Done()
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		_ = s.http.Shutdown(stop)
	}()
	err := s.http.Serve(l)
	if errors.Is(err, http.ErrServerClosed) {
		<-done
		return nil
	}
	return err
}

// Handler returns the routes, for tests and for embedding.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.HandleFunc("GET /status", s.status)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.o.Gatherer, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second}))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		text(w, http.StatusOK, "outrelay\n\n/livez    the process runs\n/readyz   every configured role works\n/status   sources, groups, positions, lag (JSON)\n/metrics  Prometheus\n")
	})
	return guardHost(mux)
}

// guardHost refuses requests whose Host is a name that somebody else's DNS could point here: a page in a browser
// must not read a listener on the loopback (DNS rebinding). Addresses and localhost cannot be rebound.
func guardHost(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		if host != "localhost" && net.ParseIP(strings.Trim(host, "[]")) == nil && loopback(local) {
			text(w, http.StatusMisdirectedRequest, "this listener answers to localhost and addresses only\n")
			return
		}
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

func loopback(a net.Addr) bool {
	if a == nil {
		return false
	}
	t, ok := a.(*net.TCPAddr)
	return ok && t.IP.IsLoopback()
}

func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	states := s.o.Ready()
	roles := make([]string, 0, len(states))
	code := http.StatusOK
	for r, err := range states {
		roles = append(roles, r)
		if err != nil {
			code = http.StatusServiceUnavailable
		}
	}
	sort.Strings(roles)
	var b strings.Builder
	for _, r := range roles {
		b.WriteString(r + ": ")
		if err := states[r]; err != nil {
			b.WriteString(err.Error())
		} else {
			b.WriteString("ok")
		}
		b.WriteString("\n")
	}
	text(w, code, b.String())
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	b, err := json.MarshalIndent(s.o.Status(r.Context()), "", "  ")
	if err != nil {
		s.o.Logger.Error("status does not marshal", "error", err)
		text(w, http.StatusInternalServerError, "status does not marshal; see the log\n")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(b, '\n')) // the client has gone: nothing to do
}

func text(w http.ResponseWriter, code int, body string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(body)) // the client has gone: nothing to do
}
