package broker

import (
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/auth"
	"github.com/outrelay/outrelay/internal/clock"
)

// The audit log: who was refused what. It is part of the server's log, as records with the key audit and a stable code, and no client can flood it: what
// goes beyond its rate is counted, and the next record says how many were left out. The metrics count all of them.
const (
	auditBurst  = 100
	auditPerSec = 10

	auditAuthentication = "authentication-failed"
	auditUnknown        = "unauthenticated"
	auditDenied         = "access-denied"
)

// audit writes the audit log. It may be used concurrently.
type audit struct {
	log   *slog.Logger
	clock clock.Clock

	authentications *prometheus.CounterVec
	denials         *prometheus.CounterVec

	mu      sync.Mutex // guards the rest
	tokens  float64
	last    time.Time
	leftOut int
}

func newAudit(log *slog.Logger, c clock.Clock, reg prometheus.Registerer) *audit {
	a := &audit{log: log, clock: c, tokens: auditBurst, last: c.Now()}
	a.authentications = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "outrelay_broker_authentication_failures_total", Help: "Clients that were not who they said, by listener and mechanism.",
	}, []string{"listener", "mechanism"})
	a.denials = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "outrelay_broker_access_denied_total", Help: "Operations that access control refused, by operation and type of resource.",
	}, []string{"operation", "resource"})
	reg.MustRegister(a.authentications)
	reg.MustRegister(a.denials)
	return a
}

func (a *audit) authenticationFailed(c *conn, sasl *auth.Conversation) {
	a.authentications.WithLabelValues(c.l.name, string(sasl.Mechanism())).Inc()
	a.write(auditAuthentication, "client is not who it says",
		"claimed", clipped(sasl.Claimed()), "mechanism", string(sasl.Mechanism()), "client", c.nc.RemoteAddr().String(), "listener", c.l.name)
}

// unauthenticated: a client asked for something without having said who it is.
func (a *audit) unauthenticated(c *conn, key int16) {
	a.authentications.WithLabelValues(c.l.name, "none").Inc()
	a.write(auditUnknown, "client did not authenticate", "api", kmsg.NameForKey(key), "client", c.nc.RemoteAddr().String(), "listener", c.l.name,
		"hint", "set security.protocol, and sasl.mechanism to one of "+strings.Join(c.l.mechanisms(), ", "))
}

func (a *audit) denied(c *conn, s *session, api string, op auth.Operation, t auth.ResourceType, name string) {
	a.denials.WithLabelValues(op.String(), t.String()).Inc()
	a.write(auditDenied, "access denied",
		"principal", string(s.who), "operation", op.String(), "resource", t.String(), "name", clipped(name), "api", api,
		"client", c.nc.RemoteAddr().String(), "listener", c.l.name)
}

// write writes one record, or counts it as left out.
func (a *audit) write(code, text string, args ...any) {
	a.mu.Lock()
	now := a.clock.Now()
	a.tokens = min(auditBurst, a.tokens+now.Sub(a.last).Seconds()*auditPerSec)
	a.last = now
	if a.tokens < 1 {
		a.leftOut++
		a.mu.Unlock()
		return
	}
	a.tokens--
	left := a.leftOut
	a.leftOut = 0
	a.mu.Unlock()
	args = append([]any{"audit", true, "code", code}, args...)
	if left > 0 {
		args = append(args, "left_out", left)
	}
	a.log.Warn(text, args...)
}

// clipped bounds what a client chose.
func clipped(s string) string {
	const bytesMax = 128
	if len(s) > bytesMax {
		return s[:bytesMax] + "…"
	}
	return s
}
