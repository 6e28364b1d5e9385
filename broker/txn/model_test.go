package txn_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/outrelay/outrelay/broker/txn"
)

// TestModel_atomic runs producers, old and new, against the coordinator while writes and markers are delayed, fail and are lost in crashes.
// Partitions are modelled as package replica has them, and the node's log as one order of all that was proposed, of which a crash keeps a
// beginning. Whatever happens, all data of a transaction has one end, and the one that was answered; nothing stays open for ever;
// and no partition takes data that the log does not name.
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

	added, proposed, applied bool // of the data that goes with "add"

	gen int // requests of an older one are not its own
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
	writes  []write
	markers []marker
	datas   []data
	asks    []uint64
	ps      []*producer
	works   []*work

	placed  int // how many of the writes have their place in the log
	log     int // how much was proposed
	durable int // how much of that no crash takes any more
}

// write is a record of the coordinator, at its place in the log once it is among the placed.
type write struct {
	txn.Write
	at int
}

type marker struct {
	txn.Marker
	at int
}

// data is a batch that was proposed and not applied yet. Its producer is answered when it and the record that names its partition are applied.
type data struct {
	p     *producer
	gen   int
	pid   int64
	epoch int16
	tp    txn.TopicPartition
	w     *work
	at    int
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
	case r < 55:
		m.place()
	case r < 65:
		m.write(m.rnd.IntN(12) == 0)
	case r < 80:
		m.marker(m.rnd.IntN(8) == 0)
	case r < 85:
		m.data()
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
		m.lose()
		m.epoch++
		m.c.Load(m.now, m.epoch)
	}
	m.drain()
}

func (m *model) drain() {
	e := m.c.Take()
	m.asks = append(m.asks, e.NewIDs...)
	for _, w := range e.Writes {
		m.writes = append(m.writes, write{Write: w})
	}
	for _, k := range e.Markers {
		m.log++
		m.markers = append(m.markers, marker{Marker: k, at: m.log})
	}
	for _, to := range e.Ahead {
		m.ahead(to.(call))
	}
	for _, r := range e.Replies {
		m.answer(r.To.(call), r.Result)
	}
}

// place proposes the oldest write that was not yet, and tells the coordinator.
func (m *model) place() {
	if m.placed == len(m.writes) {
		return
	}
	w := &m.writes[m.placed]
	m.placed++
	m.log++
	w.at = m.log
	m.c.Placed(m.now, w.ID)
}

// write lets the oldest write happen: they are applied in order. One that fails was never proposed, and of one that has other voters the
// coordinator hears only now.
func (m *model) write(fail bool) {
	if len(m.writes) == 0 {
		return
	}
	w := m.writes[0]
	m.writes = m.writes[1:]
	if m.placed > 0 {
		m.placed--
	} else {
		if fail {
			m.c.Written(m.now, w.ID, kerr.RequestTimedOut)
			return
		}
		m.log++
		w.at = m.log
	}
	m.durable = max(m.durable, w.at)
	m.applyWrite(w)
	m.c.Written(m.now, w.ID, nil)
}

func (m *model) applyWrite(w write) {
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
		m.dataBefore(k.at)
		m.durable = max(m.durable, k.at)
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
func (m *model) applyMarker(k marker) *kerr.Error {
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

// lose ends what is under way: of what was proposed and not applied the log keeps a beginning, and that happened all the same.
func (m *model) lose() {
	kept := m.durable + m.rnd.IntN(m.log-m.durable+1)
	for _, w := range m.writes[:m.placed] {
		if w.at <= kept {
			m.applyWrite(w)
		}
	}
	// A partition's own order is that of the log.
	for at := range kept + 1 {
		for _, d := range m.datas {
			if d.at == at {
				m.applyData(d)
			}
		}
		for _, k := range m.markers {
			if k.at == at {
				m.applyMarker(k)
			}
		}
	}
	for _, d := range m.datas {
		if d.gen == d.p.gen {
			m.lost(d.p)
		}
	}
	m.writes, m.markers, m.datas, m.asks, m.placed, m.log, m.durable = nil, nil, nil, nil, 0, 0, 0
}

// crash ends the process: answers under way are lost, the clients ask again.
func (m *model) crash() {
	m.drain()
	m.lose()
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
	p.forget()
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
	if asked == "add" && r.Err == nil {
		m.added(p)
		return
	}
	if asked == "add" {
		p.forget()
	}
	switch {
	case r.Err == kerr.NotCoordinator || r.Err == kerr.CoordinatorNotAvailable || r.Err == kerr.ConcurrentTransactions:
		if asked == "commit" || asked == "abort" {
			p.pending = asked
		}
	case r.Err != nil: // fatal: the transaction is not this producer's any more
		p.pid, p.epoch, p.w, p.pending = -1, -1, nil, ""
	case asked == "init":
		p.pid, p.epoch, p.w = r.ProducerID, r.ProducerEpoch, nil
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

// ahead proposes the data of p, which asked for a partition: the record that names it has its place in the log.
func (m *model) ahead(to call) {
	if to.gen == to.p.gen {
		m.propose(to.p)
	}
}

// added is the good answer to a request for a partition. The data goes now, if it did not go ahead.
func (m *model) added(p *producer) {
	p.added, p.waits = true, "add"
	if !p.proposed {
		m.propose(p)
	} else if p.applied {
		p.forget()
		p.waits = ""
	}
}

func (m *model) propose(p *producer) {
	p.proposed = true
	m.log++
	m.datas = append(m.datas, data{p: p, gen: p.gen, pid: p.pid, epoch: p.epoch, tp: p.adds, w: p.w, at: m.log})
}

// forget: what p had under way is over, or no longer its own.
func (p *producer) forget() {
	p.gen++
	p.added, p.proposed, p.applied = false, false, false
}

// data lets the oldest batch that was proposed happen.
func (m *model) data() {
	if len(m.datas) == 0 {
		return
	}
	d := m.datas[0]
	m.datas = m.datas[1:]
	m.durable = max(m.durable, d.at)
	m.applyData(d)
	if p := d.p; d.gen == p.gen {
		if p.applied = true; p.added {
			p.forget()
			p.waits = ""
		}
	}
}

// dataBefore lets happen what was proposed to a partition before a place in the log: a partition applies in order.
func (m *model) dataBefore(at int) {
	for len(m.datas) > 0 && m.datas[0].at < at {
		m.data()
	}
}

// applyData takes a batch as package replica does.
func (m *model) applyData(d data) {
	pt := m.parts[d.tp]
	if known, ok := pt.epoch[d.pid]; ok && d.epoch < known {
		return // refused; the client will find out
	}
	pt.epoch[d.pid] = d.epoch
	b := &datum{w: d.w}
	d.w.data = append(d.w.data, b)
	pt.open[d.pid] = append(pt.open[d.pid], b)
}

// finish lets everything happen, waits for every timeout, and checks.
func (m *model) finish() {
	for range 200 {
		for range 20 {
			m.place()
			m.write(false)
			m.data()
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
