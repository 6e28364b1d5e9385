package broker

import (
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/replica"
	"github.com/outrelay/outrelay/internal/clock"
	"github.com/outrelay/outrelay/internal/vfs"
)

// For tests of the package from outside.
var (
	CheckSchema  = checkSchema
	ErrMalformed = errFrame
)

// MemPipe is memPipe.
func MemPipe() (net.Conn, net.Conn) { return memPipe("a", "b") }

// ServedAPI is a row of the table.
type ServedAPI struct{ Key, Min, Max int16 }

// ServedAPIs returns the API table.
func ServedAPIs() (rows []ServedAPI) {
	s := New(Options{DataDir: "x"})
	s.opts, _ = s.opts.withDefaults()
	for _, a := range sortedAPIs(s.apiTable()) {
		rows = append(rows, ServedAPI{a.key, a.min, a.max})
	}
	return rows
}

// DecodeRequest decodes a request as a connection does: header, shape, body.
func DecodeRequest(key, version int16, frame []byte) (kmsg.Request, error) {
	s := New(Options{DataDir: "x"})
	a := s.apiTable()[key]
	if a == nil || version < a.min || version > a.max {
		return nil, errFrame
	}
	h := header{key: key, version: version}
	body, err := parseHeader(&h, frame, requestFlexible(key, version))
	if err != nil {
		return nil, err
	}
	return decodeRequest(a, version, body)
}

// FrameBytesMax returns the largest frame accepted for a key.
func FrameBytesMax(key int16) int {
	s := New(Options{DataDir: "x"})
	s.opts, _ = s.opts.withDefaults()
	return s.frameBytesMax(key)
}

// FetchHeld returns the bytes of records in answers that are being sent.
func (s *Server) FetchHeld() int64 { return s.fetchHeld.Load() }

// FetchedFromFiles returns how many bytes were sent from files.
func (s *Server) FetchedFromFiles() int {
	var m dto.Metric
	if err := s.metrics.fetchedFileBytes.Write(&m); err != nil {
		panic(err)
	}
	return int(m.GetCounter().GetValue())
}

// Connections returns the number of open connections.
func (s *Server) Connections() int { return s.conns.count() }

// DataDirWarnings returns what is said of a data directory, and how to mend it.
func DataDirWarnings(info vfs.Info, euid int) (ws []string) {
	for _, w := range dataDirWarnings(info, euid) {
		ws = append(ws, w.cause+"; "+w.fix)
	}
	return ws
}

// WrapListeners puts fn's listeners in the place of the TCP ones. It is called between Open and Run.
func (s *Server) WrapListeners(fn func(net.Listener) net.Listener) {
	for _, l := range s.listeners[1:] {
		l.tcp = fn(l.tcp)
	}
}

// For tests of limits.
var (
	ConnectionsAllowed = connectionsAllowed
	ArrivingBytes      = arrivingBytes
)

// PipelinedBytesMax is pipelinedBytesMax; FetchShortBytesMin is fetchShortBytesMin.
const (
	PipelinedBytesMax  = pipelinedBytesMax
	FetchShortBytesMin = fetchShortBytesMin
)

// AcceptErrors returns how many connections the system did not hand over.
func (s *Server) AcceptErrors() float64 {
	var m dto.Metric
	_ = s.metrics.acceptErrors.Write(&m)
	return m.GetCounter().GetValue()
}

// Refused returns how many connections were closed for a reason.
func (s *Server) Refused(reason string) float64 {
	var m dto.Metric
	_ = s.metrics.refused.WithLabelValues(reason).Write(&m)
	return m.GetCounter().GetValue()
}

// BudgetFree reports whether no Produce body is held.
func (s *Server) BudgetFree() bool {
	if !s.budget.TryAcquire(s.opts.MemoryBytes) {
		return false
	}
	s.budget.Release(s.opts.MemoryBytes)
	return true
}

// DecodeProduce decodes a Produce request and forgets it.
func DecodeProduce(version int16, frame []byte) error {
	h := header{version: version}
	body, err := parseHeader(&h, frame, version >= produceFlexible)
	if err != nil {
		return err
	}
	return (&produceRequest{version: version}).ReadFrom(body)
}

// Append writes a batch to a partition past everything that checks clients: what a broken broker may have left behind.
func (s *Server) Append(topic string, partition int32, batch []byte) error {
	p, err := s.partition(topic, partition)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	p.Produce(batch, replica.ProduceOptions{}, func(r replica.ProduceResult) { done <- r.Err })
	return <-done
}

// Panics returns how many handlers have failed by a bug.
func (s *Server) Panics() float64 {
	var m dto.Metric
	_ = s.metrics.panics.Write(&m)
	return m.GetCounter().GetValue()
}

// PreAuth returns the bytes of connections whose client is not known.
func (s *Server) PreAuth() int64 { return s.preAuth.Load() }

// Addresses is the limits of one address.
type Addresses struct{ a addresses }

// NewAddresses returns limits of one address.
func NewAddresses(connsMax int, perSecond float64) *Addresses {
	return &Addresses{addresses{connsMax: connsMax, perSecond: perSecond}}
}

// Take counts a new connection, or says why there may be none.
func (a *Addresses) Take(ip netip.Addr, now time.Time) string { return a.a.take(ip, now) }

// Give counts one off.
func (a *Addresses) Give(ip netip.Addr) { a.a.give(ip) }

// Known returns how many addresses are remembered.
func (a *Addresses) Known() int { return len(a.a.byIP) }

// Flood writes n denials into an audit log of its own, and returns how to write more.
func Flood(log *slog.Logger, c clock.Clock, n int) (write func(int)) {
	a := newAudit(log, c, prometheus.NewRegistry())
	write = func(n int) {
		for range n {
			a.write(auditDenied, "access denied")
		}
	}
	write(n)
	return write
}
