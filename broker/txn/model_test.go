package txn_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/outrelay/outrelay/broker/txn"
)

// TestModel_atomic runs producers, old and new, against the coordinator while writes and markers are delayed, fail and are lost in crashes.
// Partitions are modelled as package replica has them. Whatever happens, all data of a transaction has one end, and the one that was
// answered; nothing stays open for ever; and no partition takes data that the log does not name.
func TestModel_atomic(t *testing.T) {
	t.Parallel()
	seeds := 400
	if testing.Short() {
		seeds = 50
	}
	for i := range seeds {
		seed := uint64(i)
		m := newModel(t, seed)
		for range 400 {
			m.step()
			if t.Failed() {
				t.Fatalf("repeat with seed %d", seed)
			}
		}
		m.finish()
		if t.Failed() {
			t.Fatalf("repeat with seed %d", seed)
		}
	}
}

// work is one transaction as its producer sees it.
type work struct {
	answered string // "commit", "abort", or "" while unknown
	data     []*datum
}

// datum is a batch in a partition.
type datum struct {
	w   *work
	end string
}

// part is a partition: what it knows of each producer id.
type part struct {
	epoch map[int64]int16
	open  map[int64][]*datum
}

// producer is a client, with one request outstanding at most.
type producer struct {
	id      string
	v2      bool
	pid     int64
	epoch   int16
	w       *work
	in      map[txn.TopicPartition]bool // partitions that were added, as it knows
	waits   string                      // "init", "add", "commit", "abort"
	adds    txn.TopicPartition
	pending string // the end it asked for, if the answer was lost
	gen     int    // requests of an older one are not its own
}

type call struct {
	p   *producer
	gen int
}

type model struct {
	t       *testing.T
	rnd     *rand.Rand
	c       *txn.Coordinator
	now     time.Time
	epoch   int32
	lastPID int64
	parts   map[txn.TopicPartition]*part
	writes  []txn.Write
	markers []txn.Marker
	asks    []uint64
	ps      []*producer
	works   []*work
}

func newModel(t *testing.T, seed uint64) *model {
	m := &model{t: t, rnd: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(1_700_000_000, 0), epoch: 1, parts: map[txn.TopicPartition]*part{}}
	for i := range int32(3) {
		m.parts[txn.TopicPartition{Topic: "t", Partition: i}] = &part{epoch: map[int64]int16{}, open: map[int64][]*datum{}}
	}
	m.c = txn.New(txn.Options{})
	m.c.Load(m.now, m.epoch)
	for i, id := range []string{"x", "x", "y", "z"} { // two rivals for x
		m.ps = append(m.ps, &producer{id: id, v2: i != 2, pid: -1, epoch: -1})
	}
	return m
}

// step does one random thing.
func (m *model) step() {
	switch r := m.rnd.IntN(100); {
	case r < 45:
		m.request(m.ps[m.rnd.IntN(len(m.ps))])
	case r < 65:
		m.write(m.rnd.IntN(12) == 0)
	case r < 85:
		m.marker(m.rnd.IntN(8) == 0)
	case r < 90:
		m.allocate(m.rnd.IntN(8) == 0)
	case r < 97:
		m.now = m.now.Add(time.Duration(m.rnd.IntN(3000)) * time.Millisecond)
		m.c.Tick(m.now)
	case r < 99:
		m.crash()
	default:
		m.c.Unload(m.now)
		m.drain()
		m.lose(m.rnd.IntN(len(m.writes) + 1))
		m.epoch++
		m.c.Load(m.now, m.epoch)
	}
	m.drain()
}

func (m *model) drain() {
	e := m.c.Take()
	m.writes, m.markers, m.asks = append(m.writes, e.Writes...), append(m.markers, e.Markers...), append(m.asks, e.NewIDs...)
	for _, r := range e.Replies {
		m.answer(r.To.(call), r.Result)
	}
}

// write lets the oldest write happen: they are applied in order. One that fails was never proposed.
func (m *model) write(fail bool) {
	if len(m.writes) == 0 {
		return
	}
	w := m.writes[0]
	m.writes = m.writes[1:]
	if fail {
		m.c.Written(m.now, w.ID, kerr.RequestTimedOut)
		return
	}
	m.applyWrite(w)
	m.c.Written(m.now, w.ID, nil)
}

func (m *model) applyWrite(w txn.Write) {
	if err := m.c.ApplyRecord(w.Key, w.Value); err != nil {
		m.t.Error(err)
	}
}

// marker lets any of the outstanding markers happen. Of one that fails nobody knows whether it happened.
func (m *model) marker(fail bool) {
	if len(m.markers) == 0 {
		return
	}
	i := m.rnd.IntN(len(m.markers))
	k := m.markers[i]
	m.markers = append(m.markers[:i], m.markers[i+1:]...)
	if !fail || m.rnd.IntN(2) == 0 {
		if err := m.applyMarker(k); err != nil {
			m.c.MarkerWritten(m.now, k.ID, err)
			return
		}
	}
	if fail {
		m.c.MarkerWritten(m.now, k.ID, kerr.RequestTimedOut)
		return
	}
	m.c.MarkerWritten(m.now, k.ID, nil)
}

// applyMarker is package replica's: checkMarker and marked.
func (m *model) applyMarker(k txn.Marker) *kerr.Error {
	p := m.parts[k.Partition]
	known, ok := p.epoch[k.ProducerID]
	open := p.open[k.ProducerID]
	switch {
	case ok && k.ProducerEpoch < known:
		return kerr.InvalidProducerEpoch
	case ok && k.ProducerEpoch == known && len(open) == 0:
		return nil
	case ok && k.ProducerEpoch == known && k.Bumped:
		return kerr.InvalidProducerEpoch
	}
	p.epoch[k.ProducerID] = k.ProducerEpoch
	end := "abort"
	if k.Commit {
		end = "commit"
	}
	for _, d := range open {
		d.end = end
	}
	delete(p.open, k.ProducerID)
	return nil
}

func (m *model) allocate(fail bool) {
	if len(m.asks) == 0 {
		return
	}
	a := m.asks[0]
	m.asks = m.asks[1:]
	if fail {
		m.c.ProducerID(m.now, a, -1, kerr.RequestTimedOut)
		return
	}
	m.lastPID++
	m.c.ProducerID(m.now, a, m.lastPID, nil)
}

// lose ends what is under way: the first n writes and some markers happened all the same.
func (m *model) lose(n int) {
	for _, w := range m.writes[:n] {
		m.applyWrite(w)
	}
	for _, k := range m.markers {
		if m.rnd.IntN(2) == 0 {
			m.applyMarker(k)
		}
	}
	m.writes, m.markers, m.asks = nil, nil, nil
}

// crash ends the process: answers under way are lost, the clients ask again.
func (m *model) crash() {
	m.drain()
	m.lose(m.rnd.IntN(len(m.writes) + 1))
	blob := m.c.Snapshot()
	m.c = txn.New(txn.Options{})
	if err := m.c.Restore(blob); err != nil {
		m.t.Error(err)
	}
	m.epoch++
	m.c.Load(m.now, m.epoch)
	for _, p := range m.ps {
		m.lost(p)
	}
}

// lost: the answer that p waits for will not come.
func (m *model) lost(p *producer) {
	p.gen++
	if p.waits == "commit" || p.waits == "abort" {
		p.pending = p.waits // it asks for the same end again
	}
	p.waits = ""
}

func (m *model) request(p *producer) {
	if p.waits != "" {
		return
	}
	to := call{p, p.gen}
	switch r := m.rnd.IntN(10); {
	case p.pending != "":
		m.end(p, p.pending, to)
	case p.pid < 0 || r == 0:
		p.waits = "init"
		in := txn.Init{ID: p.id, Timeout: 10 * time.Second, ExpectedProducerID: -1, ExpectedProducerEpoch: -1}
		if p.pid >= 0 && m.rnd.IntN(2) == 0 {
			in.ExpectedProducerID, in.ExpectedProducerEpoch = p.pid, p.epoch
		}
		m.c.InitProducerID(m.now, in, to)
	case p.w == nil || r < 7:
		m.add(p, to)
	case r < 9:
		m.end(p, "commit", to)
	default:
		m.end(p, "abort", to)
	}
}

func (m *model) add(p *producer, to call) {
	if p.w == nil {
		p.w, p.in = &work{}, map[txn.TopicPartition]bool{}
		m.works = append(m.works, p.w)
	}
	p.adds = txn.TopicPartition{Topic: "t", Partition: m.rnd.Int32N(3)}
	p.waits = "add"
	version := int16(1)
	if p.v2 {
		version = 2
	}
	m.c.AddPartitions(m.now, p.id, p.pid, p.epoch, version, []txn.TopicPartition{p.adds}, to)
}

func (m *model) end(p *producer, how string, to call) {
	p.waits = how
	m.c.EndTxn(m.now, txn.End{ID: p.id, ProducerID: p.pid, ProducerEpoch: p.epoch, Commit: how == "commit", Bump: p.v2}, to)
}

// answer takes an answer as a client does.
func (m *model) answer(to call, r txn.Result) {
	p := to.p
	if to.gen != p.gen {
		return
	}
	asked := p.waits
	p.waits = ""
	switch {
	case r.Err == kerr.NotCoordinator || r.Err == kerr.CoordinatorNotAvailable || r.Err == kerr.ConcurrentTransactions:
		if asked == "commit" || asked == "abort" {
			p.pending = asked
		}
	case r.Err != nil: // fatal: the transaction is not this producer's any more
		p.pid, p.epoch, p.w, p.pending = -1, -1, nil, ""
	case asked == "init":
		p.pid, p.epoch, p.w = r.ProducerID, r.ProducerEpoch, nil
	case asked == "add":
		m.produce(p)
	default:
		if p.w != nil {
			p.w.answered = asked
		}
		p.w, p.pending = nil, ""
		if p.v2 {
			p.pid, p.epoch = r.ProducerID, r.ProducerEpoch
		}
	}
}

// produce writes to the partition that was added, as package replica takes it.
func (m *model) produce(p *producer) {
	pt := m.parts[p.adds]
	if known, ok := pt.epoch[p.pid]; ok && p.epoch < known {
		return // refused; the client will find out
	}
	pt.epoch[p.pid] = p.epoch
	d := &datum{w: p.w}
	p.w.data = append(p.w.data, d)
	pt.open[p.pid] = append(pt.open[p.pid], d)
}

// finish lets everything happen, waits for every timeout, and checks.
func (m *model) finish() {
	for range 200 {
		for range 20 {
			m.write(false)
			m.marker(false)
			m.allocate(false)
			m.drain()
		}
		m.now = m.now.Add(time.Second)
		m.c.Tick(m.now)
		m.drain()
	}
	for i, w := range m.works {
		ends := map[string]int{}
		for _, d := range w.data {
			ends[d.end]++
		}
		switch {
		case len(ends) > 1:
			m.t.Errorf("transaction %d ended in parts: %v", i, ends)
		case ends[""] > 0:
			m.t.Errorf("transaction %d is open for ever", i)
		case w.answered != "" && len(w.data) > 0 && ends[w.answered] == 0:
			m.t.Errorf("transaction %d: answered %s, is %v", i, w.answered, ends)
		}
	}
	for _, p := range m.ps {
		if p.waits != "" {
			m.t.Errorf("%s waits for %s for ever", p.id, p.waits)
		}
	}
	a := m.c.Snapshot()
	c := txn.New(txn.Options{})
	if err := c.Restore(a); err != nil || string(c.Snapshot()) != string(a) {
		m.t.Errorf("snapshot changes when it is restored (%v)", err)
	}
}

func TestRestore_refusesDamage(t *testing.T) {
	t.Parallel()
	m := newModel(t, 7)
	for range 300 {
		m.step()
	}
	blob := m.c.Snapshot()
	for i := range blob {
		if err := txn.New(txn.Options{}).Restore(blob[:i]); err == nil && i > 0 {
			t.Fatalf("a snapshot cut to %d of %d bytes was taken", i, len(blob))
		}
	}
	if err := txn.New(txn.Options{}).Restore(append(blob, 0)); err == nil {
		t.Fatal("a snapshot with a byte too many was taken")
	}
}
