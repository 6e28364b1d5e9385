package relay

import (
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay"
)

// gather is a run of routed source transactions that become one Kafka transaction, or a run of parts of a large one. Its memory is
// used again: one goroutine fills it, hands it over, and gets it back once its records are acknowledged.
type gather struct {
	recs  []kgo.Record
	hdrs  []kgo.RecordHeader
	arena arena
	bytes int

	pos      outrelay.Position // of the last transaction or part
	place    string
	at       time.Time // its commit time
	oldest   time.Time // commit time of the first transaction that is not in the log
	hasPos   bool
	large    bool // parts of a source transaction that did not come whole
	last     bool // the Kafka transaction ends with this gather
	dead     int  // rows that go to the dead letter topic
	events   int  // rows, dead letters included
	overhead int  // records that are not events
}

type mark struct{ recs, hdrs, bytes, dead, events int }

func (g *gather) mark() mark {
	return mark{len(g.recs), len(g.hdrs), g.bytes, g.dead, g.events}
}

// rollback forgets what was added since m.
func (g *gather) rollback(m mark) {
	clear(g.recs[m.recs:])
	clear(g.hdrs[m.hdrs:])
	g.recs, g.hdrs = g.recs[:m.recs], g.hdrs[:m.hdrs]
	g.bytes, g.dead, g.events = m.bytes, m.dead, m.events
}

func (g *gather) reset() {
	clear(g.recs) // drops what the records point to
	clear(g.hdrs)
	g.arena.reset()
	*g = gather{recs: g.recs[:0], hdrs: g.hdrs[:0], arena: g.arena}
}

// empty reports whether nothing would be lost by dropping g: it holds a position alone, or nothing.
func (g *gather) empty() bool { return len(g.recs) == 0 && !g.large }

// arena hands out bytes that live as long as the gather.
type arena struct {
	chunk []byte
}

const arenaChunkBytes = 64 << 10

// reserve returns an empty slice with room for n bytes; take keeps what was written to it.
func (a *arena) reserve(n int) []byte {
	if a.chunk == nil || cap(a.chunk)-len(a.chunk) < n { // never nil: an empty value is no NULL
		a.chunk = make([]byte, 0, max(n, arenaChunkBytes))
	}
	return a.chunk[len(a.chunk):len(a.chunk):cap(a.chunk)]
}

// take keeps b, which must be what reserve returned, appended to within its capacity.
func (a *arena) take(b []byte) []byte {
	a.chunk = a.chunk[:len(a.chunk)+len(b)]
	return b[:len(b):len(b)]
}

// reset makes the last chunk's bytes available again. Earlier chunks are the collector's.
func (a *arena) reset() { a.chunk = a.chunk[:0] }
