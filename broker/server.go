package broker

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/broker/cluster"
	"github.com/outrelay/outrelay/broker/record"
	"github.com/outrelay/outrelay/broker/replica"
	"github.com/outrelay/outrelay/broker/segment"
	"github.com/outrelay/outrelay/broker/wal"
	"github.com/outrelay/outrelay/internal/bytepool"
	"github.com/outrelay/outrelay/internal/clock"
	"github.com/outrelay/outrelay/internal/vfs"
)

// ErrClosed: the server is closed, or was never opened.
var ErrClosed = errors.New("broker closed")

// Server is one node of the log.
//
// Open, Run and Close are called once each, in this order; Close may be called at any time after Open and more than once. Everything
// else may be called concurrently between Open and Close.
type Server struct {
	opts    Options
	log     *slog.Logger
	clock   clock.Clock
	metrics *metrics
	apis    map[int16]*api

	greetings map[int16]*api // what a client may ask before it is known who it is
	access    access
	audit     *audit
	addresses addresses
	quotas    quotas
	preAuth   atomic.Int64 // bytes of connections whose client is not known

	node     *replica.Node
	machine  *cluster.Machine
	space    *space
	cluster  *cluster.Client
	topics   topics
	sessions *fetchSessions
	budget   *semaphore.Weighted // bytes of Produce bodies in flight; capacity opts.MemoryBytes
	arriving *semaphore.Weighted // bytes of other large frames that arrive or are decoded; capacity arrivingBytes

	fetchHeld atomic.Int64  // bytes of records in answers that are being sent
	codecs    record.Codecs // decompression for checks; bounded output
	bodies    bytepool.Pool // buffers of Produce bodies

	listeners      []*listener // [0] is the in-memory one
	conns          connSet
	connectionsMax int // TCP connections that may be open

	ctx    context.Context // ends at Close, or when the node cannot go on
	cancel context.CancelCauseFunc
	work   sync.WaitGroup // goroutines of this server that Close waits for

	ready     atomic.Bool
	closeOnce sync.Once
	closeErr  error

	coordinators // owned by coord_*.go
}

// New returns a server that was not opened yet. Contradictory options are refused by Open.
func New(o Options) *Server { return &Server{opts: o, space: &space{}} }

// Open locks the data directory, brings the state back as of the last acknowledged write, and binds the listeners. When it
// returns the server is ready, but answers only once Run is called. An error leaves nothing open.
func (s *Server) Open(ctx context.Context) (err error) {
	if s.opts, err = s.opts.withDefaults(); err != nil {
		return err
	}
	s.log, s.clock = s.opts.Logger, s.opts.Clock
	s.metrics = newMetrics(s)
	s.audit = newAudit(s.log, s.clock, s.metrics.reg)
	s.access.begin(s.opts)
	s.addresses = addresses{connsMax: s.opts.MaxConnectionsPerIP, perSecond: s.opts.ConnectionsPerIPPerSecond}
	s.ctx, s.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	s.budget = semaphore.NewWeighted(s.opts.MemoryBytes)
	s.arriving = semaphore.NewWeighted(arrivingBytes(s.opts))
	s.sessions = newFetchSessions(fetchSessionSlots)
	defer func() {
		if err != nil {
			_ = s.Close()
		}
	}()
	s.limitConnections()
	if err := s.bindListeners(); err != nil { // first: a port in use is the commonest mistake, and the quickest to find
		return err
	}
	if err := s.openStorage(ctx); err != nil {
		return err
	}
	if err := s.openAccess(ctx); err != nil {
		return err
	}
	s.apis = s.apiTable()
	s.greetings = map[int16]*api{17: s.apis[17], 18: s.apis[18], 36: s.apis[36]}
	s.metrics.serve(s.apis)
	if err := s.openCoordinators(ctx); err != nil {
		return err
	}
	s.ready.Store(true)
	return nil
}

// inFlightSpareBytes is what may be proposed beside client's batches: markers, group offsets, metadata. With it the budget for Produce
// bodies is met first, which waits, and never the node's own limit, which refuses.
const inFlightSpareBytes = 32 << 20

// openStorage opens the node, group 0 and every partition of this node.
func (s *Server) openStorage(ctx context.Context) error {
	if err := s.opts.FS.MkdirAll(s.opts.DataDir); err != nil {
		return err
	}
	if err := s.warnOfDataDir(); err != nil {
		return err
	}
	if err := s.space.open(s.opts.FS, s.opts.DataDir, s.opts.ReserveBytes); err != nil {
		return err
	}
	node, err := replica.Open(replica.Options{
		FS: s.opts.FS, Dir: s.opts.DataDir, NodeID: s.opts.NodeID, Clock: s.clock,
		Logger: s.log, Registerer: s.metrics.reg, CheckpointEvery: s.opts.CheckpointEvery,
		InFlightBytes: s.opts.MemoryBytes + inFlightSpareBytes, ScrubBytes: s.opts.ScrubBytes, ScrubAfter: s.opts.ScrubAfter,
	})
	if err != nil {
		return s.storageError(err)
	}
	s.node = node
	s.space.inFlight = node.InFlight
	s.space.onFull = func(text string) { s.log.Error("disk full: producers are refused", "cause", text) }
	s.space.onRoom = func() { s.log.Info("disk: producers are accepted again") }
	node.OnFatal(func(err error) { s.cancel(fmt.Errorf("broker: storage cannot go on: %w", err)) })
	s.machine = cluster.New()
	self := uint64(s.opts.NodeID)
	if err := node.Start(); err != nil {
		return err
	}
	if err := node.AddGroup(replica.MetadataGroup, s.machine, replica.GroupConf{ReplicaID: self, Voters: []uint64{self}}); err != nil {
		return fmt.Errorf("cluster metadata: %w", err)
	}
	s.cluster = cluster.NewClient(node, s.machine).WithClock(s.clock)
	if err := s.cluster.Bootstrap(ctx, newClusterID()); err != nil {
		return fmt.Errorf("cluster metadata: %w", err)
	}
	if err := s.registerNode(ctx); err != nil {
		return fmt.Errorf("cluster metadata: register node: %w", err)
	}
	s.machine.OnChange(func(state *cluster.State) {
		s.access.follow(state)
		s.topics.changed()
	})
	if err := s.syncTopics(); err != nil {
		return s.storageError(err)
	}
	s.goRun(s.followTopics)
	s.goRun(s.watchSpace)
	s.goRun(s.watchBackups)
	return nil
}

// storageError says what to do about a data directory that does not open.
func (s *Server) storageError(err error) error {
	e := &outrelay.Error{Place: "data directory " + s.opts.DataDir, Err: err}
	switch {
	case errors.Is(err, vfs.ErrLocked):
		e.Class, e.Code, e.Fix = outrelay.ErrEnvironment, "data-locked", "stop the other process, or give this one a directory of its own (--data)"
	case errors.Is(err, replica.ErrIdentity):
		e.Class, e.Code, e.Fix = outrelay.ErrConfig, "data-identity", "start it with the node id it was made with, or choose another directory (--data)"
	case errors.Is(err, replica.ErrVersion):
		e.Class, e.Code, e.Fix = outrelay.ErrEnvironment, "data-version", "run the version that wrote it, or a newer one"
	case errors.Is(err, replica.ErrCorrupt), errors.Is(err, wal.ErrCorrupt), errors.Is(err, segment.ErrCorrupt):
		e.Class, e.Code, e.Fix = outrelay.ErrDataHalt, "data-corrupt", "nothing was deleted; `outrelay log verify` names every place; restore the directory with `outrelay log restore`, or move it away to start empty"
	default:
		return err
	}
	return e
}

// registerNode says in group 0 where this node is reached, when that is not what stands there.
func (s *Server) registerNode(ctx context.Context) error {
	n := cluster.Node{ID: s.opts.NodeID, Incarnation: s.node.Incarnation(), Endpoints: map[string]string{}}
	for _, l := range s.listeners[1:] {
		n.Endpoints[l.name] = l.advertised()
	}
	if o := s.machine.State().Nodes[n.ID]; o != nil && o.Incarnation == n.Incarnation && maps.Equal(o.Endpoints, n.Endpoints) {
		return nil
	}
	return s.cluster.RegisterNode(ctx, n)
}

// Run serves until ctx ends (then returns nil), Close is called, or the storage can no longer be trusted (then returns why, and the
// process must exit). It closes nothing.
func (s *Server) Run(ctx context.Context) error {
	if !s.ready.Load() {
		return ErrClosed
	}
	for _, l := range s.listeners {
		s.goRun(func() { s.accept(l) })
	}
	select {
	case <-ctx.Done():
		return nil
	case <-s.ctx.Done():
		if err := context.Cause(s.ctx); !errors.Is(err, ErrClosed) {
			return err
		}
		return nil
	}
}

// Close stops listening, drops the connections, waits for what was in hand, makes the applied state durable and unlocks the data
// directory. A second call returns what the first did.
func (s *Server) Close() error {
	if s.cancel == nil {
		return nil
	}
	s.closeOnce.Do(func() {
		s.cancel(ErrClosed)
		s.Abort()
		s.closeCoordinators()
		s.work.Wait()
		if s.node != nil {
			s.closeErr = s.node.Close()
		}
		if s.metrics != nil {
			s.metrics.reg.close()
		}
	})
	return s.closeErr
}

// Abort stops accepting and drops the connections: nothing is acknowledged to anyone once it has returned. Close follows. It is what
// a second signal does, and how tests cut the power.
func (s *Server) Abort() {
	s.ready.Store(false)
	for _, l := range s.listeners {
		l.close()
	}
	s.conns.closeAll()
}

// goRun runs fn in a goroutine that Close waits for.
func (s *Server) goRun(fn func()) {
	s.work.Add(1)
	go func() {
		defer s.work.Done()
		fn()
	}()
}

// Ready returns nil when clients are served, and why not otherwise.
func (s *Server) Ready() error {
	if !s.ready.Load() {
		return ErrClosed
	}
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	return nil
}

// ClusterID returns the id that the log was given when it was made: the log id of design D5. It never changes.
func (s *Server) ClusterID() string { return s.machine.State().ClusterID }

// InternalAddr returns the host:port that Dialer accepts: the seed for clients in this process.
func (s *Server) InternalAddr() string { return s.opts.InternalAddr }

// Addr returns the address that the named TCP listener is bound to, or "" when there is none.
func (s *Server) Addr(name string) string {
	for _, l := range s.listeners {
		if l.tcp != nil && l.name == name {
			return l.tcp.Addr().String()
		}
	}
	return ""
}

// Dialer returns a dial function for clients in this process: the internal address is served in memory, every other one over TCP.
// Connections made by it end at Close.
func (s *Server) Dialer() func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr != s.opts.InternalAddr {
			var d net.Dialer
			return d.DialContext(ctx, network, addr)
		}
		return s.listeners[0].dial(ctx)
	}
}

// newClusterID returns a random id in the form Kafka gives them: 16 bytes, base64 without padding, not starting with a dash.
func newClusterID() string {
	for {
		var b [16]byte
		_, _ = rand.Read(b[:]) // never fails, by contract
		if id := base64.RawURLEncoding.EncodeToString(b[:]); id[0] != '-' {
			return id
		}
	}
}
