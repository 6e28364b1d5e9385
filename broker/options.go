package broker

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/broker/auth"
	"github.com/outrelay/outrelay/internal/clock"
	"github.com/outrelay/outrelay/internal/vfs"
)

// Listener is an address on which Kafka clients connect over TCP.
type Listener struct {
	Name string // for logs and metrics; "client" when empty
	Addr string // host:port to listen on; port 0 chooses one
	// Advertised is the host:port that answers on this listener carry. Empty means the address listened on; for a wildcard
	// address the machine's host name.
	Advertised string
	// TLS makes it a TLS listener. Where its ClientAuth asks for certificates, they say who the client is, unless there is SASL: see
	// auth.OfCertificate. It may be replaced for each handshake by GetConfigForClient.
	TLS *tls.Config
	// SASL is the mechanisms that are offered; then every client must authenticate by one. PLAIN needs TLS.
	SASL []auth.Mechanism
}

// authenticates reports whether the listener finds out who its clients are.
func (l Listener) authenticates() bool {
	return len(l.SASL) > 0 || l.TLS != nil && l.TLS.ClientAuth >= tls.VerifyClientCertIfGiven
}

// protocol returns what clients set as security.protocol.
func (l Listener) protocol() string {
	switch {
	case l.TLS != nil && len(l.SASL) > 0:
		return "SASL_SSL"
	case l.TLS != nil:
		return "SSL"
	case len(l.SASL) > 0:
		return "SASL_PLAINTEXT"
	}
	return "PLAINTEXT"
}

// check refuses a listener that contradicts itself.
func (l Listener) check() error {
	for _, m := range l.SASL {
		switch {
		case !m.Known():
			return fmt.Errorf("broker: listener %s: SASL mechanism %q is not served: %w", l.Name, m, outrelay.ErrConfig)
		case m == auth.Plain && l.TLS == nil:
			return fmt.Errorf("broker: listener %s: PLAIN sends passwords as they are, and needs TLS: %w", l.Name, outrelay.ErrConfig)
		}
	}
	if l.TLS != nil && (l.TLS.ClientAuth == tls.RequestClientCert || l.TLS.ClientAuth == tls.RequireAnyClientCert) {
		return fmt.Errorf("broker: listener %s: client certificates would not be verified: %w", l.Name, outrelay.ErrConfig)
	}
	return nil
}

// Options say how a Server works. The zero value works in a test once DataDir is set (or FS and DataDir, for memory).
type Options struct {
	DataDir string // the directory that holds everything; locked while open
	FS      vfs.FS // nil means the real file system
	NodeID  int32  // 0 means 1

	Listeners []Listener // none: only the in-memory listener is served
	// InternalAddr is the host:port that answers on the in-memory listener carry, and that Dialer accepts. Empty means
	// outrelay.internal:9092. It is never resolved.
	InternalAddr string

	// Access says who the users are and what they may do. It is enforced on all listeners as soon as one of them authenticates; the in-memory one is
	// outrelay's own and may do everything.
	Access Access
	// AuthTimeout is how long a client may take to say who it is, TLS handshake included; 0 means 10 s. PreAuthBytes bounds the memory of all clients that
	// have not yet; 0 means 64 MiB.
	AuthTimeout  time.Duration
	PreAuthBytes int64
	// MaxConnectionsPerIP and ConnectionsPerIPPerSecond limit one address, the loopback apart; 0 means no limit.
	MaxConnectionsPerIP       int
	ConnectionsPerIPPerSecond float64

	DefaultPartitions int32 // partitions of a topic whose creator names no number; 0 means 16
	// AutoCreateTopics says whether Metadata creates topics that clients ask for; nil means true.
	AutoCreateTopics *bool
	// GroupInitialRebalanceDelay is how long an empty group waits for more members before its first rebalance.
	GroupInitialRebalanceDelay time.Duration
	// ConsumerGroupSession is how long a member of a consumer group (KIP-848) may be silent; 0 means 45 s. ConsumerGroupHeartbeat is
	// how often members are asked to be heard of; 0 means 5 s.
	ConsumerGroupSession, ConsumerGroupHeartbeat time.Duration

	// MemoryBytes bounds the bytes of Produce bodies being handled, over all connections; 0 means 128 MiB.
	MemoryBytes int64
	// MaxConnections bounds TCP connections over all listeners; 0 means 10,000. The in-memory listener is not counted. The bound is at most three
	// quarters of the files that the process may open: see descriptors.go.
	MaxConnections int
	// FilesMax is how many files the process may have open; 0 asks the system.
	FilesMax uint64
	// MaxPipelined bounds the requests of one connection that were read and not yet answered; 0 means 128. Together they have pipelinedBytesMax bytes
	// at most, or there is only one; bodies of Produce are counted by MemoryBytes instead.
	MaxPipelined int
	// IdleTimeout closes a connection on which nothing was asked for so long; 0 means 10 minutes. A frame that was begun must
	// arrive within FrameTimeout; 0 means 60 s.
	IdleTimeout, FrameTimeout time.Duration
	// FetchMaxBytes caps what one Fetch answers, whatever the client asks; 0 means 55 MiB.
	FetchMaxBytes int
	// FrameBytesMax caps a Produce request; 0 means 100 MiB (socket.request.max.bytes).
	FrameBytesMax int

	CheckpointEvery time.Duration // how often applied state is made durable apart from the write-ahead log; 0 means the default
	SegmentBytes    int64         // default segment.bytes of new topics; 0 means the default
	// ScrubBytes is how many bytes of segments are read and checked a second, in the background; 0 means 8 MiB, negative switches it off. ScrubAfter is how
	// long after the start it begins, and how often it looks for new partitions; 0 means 10 s.
	ScrubBytes int64
	ScrubAfter time.Duration
	// ReserveBytes is what is kept of the disk for when it is full; 0 means 256 MiB, or an eighth of a small disk, negative switches it off. See space.go.
	ReserveBytes int64

	Clock      clock.Clock           // nil means the machine's
	Logger     *slog.Logger          // nil discards
	Registerer prometheus.Registerer // nil keeps metrics to itself
}

// withDefaults returns o with every zero field replaced, or an error wrapping outrelay.ErrConfig when two of them contradict.
func (o Options) withDefaults() (Options, error) {
	if o.DataDir == "" {
		return o, fmt.Errorf("broker: Options.DataDir is empty: %w", outrelay.ErrConfig)
	}
	def(&o.NodeID, 1)
	def(&o.InternalAddr, "outrelay.internal:9092")
	def(&o.DefaultPartitions, 16)
	def(&o.MemoryBytes, 128<<20)
	def(&o.MaxConnections, 10_000)
	def(&o.MaxPipelined, 128)
	def(&o.IdleTimeout, 10*time.Minute)
	def(&o.AuthTimeout, 10*time.Second)
	def(&o.PreAuthBytes, 64<<20)
	def(&o.FrameTimeout, time.Minute)
	def(&o.FetchMaxBytes, 55<<20)
	def(&o.ConsumerGroupSession, 45*time.Second)
	def(&o.ConsumerGroupHeartbeat, 5*time.Second)
	def(&o.FrameBytesMax, 100<<20)
	if o.ConsumerGroupHeartbeat < 0 || o.ConsumerGroupHeartbeat >= o.ConsumerGroupSession {
		return o, fmt.Errorf("broker: Options.ConsumerGroupHeartbeat %v is not below ConsumerGroupSession %v: %w",
			o.ConsumerGroupHeartbeat, o.ConsumerGroupSession, outrelay.ErrConfig)
	}
	if o.AutoCreateTopics == nil {
		o.AutoCreateTopics = new(true)
	}
	if o.FS == nil {
		o.FS = vfs.OS{}
	}
	if o.Clock == nil {
		o.Clock = clock.Real{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Registerer == nil {
		o.Registerer = prometheus.NewRegistry()
	}
	if _, _, err := splitAddr(o.InternalAddr); err != nil {
		return o, fmt.Errorf("broker: Options.InternalAddr: %w: %w", outrelay.ErrConfig, err)
	}
	ls := make([]Listener, len(o.Listeners))
	for i, l := range o.Listeners {
		def(&l.Name, "client")
		if _, _, err := splitAddr(l.Addr); err != nil {
			return o, fmt.Errorf("broker: listener %s: address %q: %w: %w", l.Name, l.Addr, outrelay.ErrConfig, err)
		}
		if l.Advertised != "" {
			if _, _, err := splitAddr(l.Advertised); err != nil {
				return o, fmt.Errorf("broker: listener %s: advertised address %q: %w: %w", l.Name, l.Advertised, outrelay.ErrConfig, err)
			}
		}
		if err := l.check(); err != nil {
			return o, err
		}
		ls[i] = l
	}
	o.Listeners = ls
	return o, o.checkAccess()
}

func def[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

func splitAddr(addr string) (host string, port int32, err error) {
	h, p, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("port %q is not a number from 0 to 65535", p)
	}
	return h, int32(n), nil
}
