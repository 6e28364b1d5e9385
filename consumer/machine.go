package consumer

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/backoff"
	"github.com/outrelay/outrelay/internal/invariant"
	"github.com/outrelay/outrelay/sinks"
)

// machine is the state of one assigned partition: what is owned, what waits, what to do next. It does no I/O, reads no clock and starts
// no goroutine: step takes what happened and says what to do. Exactly one operation is under way at a time, so nothing in
// here is concurrent.
//
//	          ┌──────────────────────────── fenced, commit unknown, lost our place ──────────────────────────┐
//	          ▼                                                                                              │
//	check member ─▶ claim ─▶ check member ─▶ look at the log's bounds ─▶ (first batch: start policy) ─▶ seek ─▶ running
//	                  │                              │                                                  apply ⇄ idle
//	                  └─ another log, another topic ─┴─ outside of the log ─▶ halted (looked at again now and then)
//
// The member check before the claim keeps a zombie from fencing the rightful owner; the one after it keeps a member that lost
// the partition meanwhile from starting to fetch. Neither is needed for correctness: the claim is (S2, S3).
type machine struct {
	conf machineConf
	rnd  *rand.Rand // jitter

	phase phase
	state State
	err   error // the last error, for status

	claim   sinks.Claim
	owned   bool  // claim.Next is what the sink holds, as far as we know
	next    int64 // first offset that the sink has not applied
	seeked  bool  // the fetch position is ours: pending and fetched mean something
	pending []sinks.Record
	bytes   int   // of pending
	fetched int64 // everything below is applied, pending, or no record (a marker, an aborted one, a compacted one)

	inflight sinks.Batch // being applied

	sizeMax   int   // most records in a batch below restoreAt, after a failure
	restoreAt int64 // from this next offset on, batches are of full size again
	suspect   int64 // offset of a record that was blamed and is tried alone; -1 for none
	exclusive bool  // below restoreAt the group's partitions take turns
	conflicts int   // in a row
	attempts  int   // failures in a row
	outside   int   // how often in a row the offset was outside of the log

	blockedAt int64 // -1 when not blocked
	fenced    int   // how often, for metrics
}

type machineConf struct {
	group        string
	tp           outrelay.TopicPartition
	batchRecords int
	batchBytes   int
	backoff      backoff.Policy // of transient errors
	blocked      backoff.Policy // between attempts of a blocked record
	decide       func(Failure) Decision
}

type phase int

const (
	phaseCheckBefore phase = iota
	phaseClaim
	phaseCheckAfter
	phaseBounds
	phaseFirst // applying the empty batch that makes the start policy's offset the row's
	phaseSeek
	phaseRunning
	phaseApply
	phaseWait // then phaseAfterWait
)

// actionKind is what the shell is to do next; each but actIdle ends in exactly one event.
type actionKind int

const (
	actCheck  actionKind = iota // ask the coordinator whether we are a member → evChecked
	actClaim                    // → evClaimed
	actBounds                   // ask for the log's bounds and, when the claim says -1, the start policy's offset → evBounds
	actSeek                     // fetch from action.offset on, dropping what was fetched → evSeeked
	actApply                    // apply action.batch → evApplied
	actWait                     // wait action.wait → evWaited
	actIdle                     // wait for evFetched or evLost
)

func (k actionKind) String() string {
	return [...]string{"check", "claim", "bounds", "seek", "apply", "wait", "idle"}[k]
}

type action struct {
	kind      actionKind
	batch     sinks.Batch
	bytes     int  // of batch
	apart     bool // apply in a transaction of its own: something has failed here, and is found out without harm to others
	exclusive bool // and while no other partition of the group applies
	offset    int64
	wait      time.Duration
}

// event is what happened. Only the fields of its kind are set.
type event struct {
	kind    eventKind
	err     error
	claim   sinks.Claim
	bounds  bounds
	records []sinks.Record
	fetched int64 // evFetched: the fetch position after records
}

type eventKind int

const (
	evStart eventKind = iota
	evChecked
	evClaimed
	evBounds
	evSeeked
	evApplied
	evWaited
	evFetched
	evLost // the log no longer has our place, or is another one: err says how it was noticed
)

// bounds are the ends of a partition's log, and where the start policy begins in it.
type bounds struct{ start, end, startAt int64 }

const (
	outsideTriesMax = 3 // a new leader may not know its high watermark yet
	haltRecheck     = 10 * time.Second
	conflictPause   = 10 * time.Millisecond
	// attemptsReachable bounds the backoff while log and sink answer, as a claim shows that they do.
	attemptsReachable = 4
)

func newMachine(conf machineConf, rnd *rand.Rand) *machine {
	return &machine{conf: conf, rnd: rnd, state: StateClaiming, next: -1, suspect: -1, blockedAt: -1}
}

// step takes one event and returns the next action.
func (m *machine) step(ev event) action {
	switch ev.kind {
	case evStart:
		return m.recheck()
	case evFetched:
		return m.onFetched(ev)
	case evLost:
		m.seeked = false
		m.note(ev.err)
		return m.recheck()
	case evChecked:
		return m.onChecked(ev)
	case evClaimed:
		return m.onClaimed(ev)
	case evBounds:
		return m.onBounds(ev)
	case evSeeked:
		if ev.err != nil {
			return m.retry(StatePaused, ev.err)
		}
		m.seeked, m.fetched, m.pending, m.bytes = true, m.next, nil, 0
		return m.run()
	case evApplied:
		return m.onApplied(ev)
	case evWaited:
		return m.onWaited()
	}
	panic(fmt.Sprintf("BUG: event %d", ev.kind))
}

// recheck begins anew, keeping what was fetched in case the claim confirms our place.
func (m *machine) recheck() action {
	m.owned, m.phase = false, phaseCheckBefore
	return action{kind: actCheck}
}

func (m *machine) note(err error) {
	if err != nil {
		m.err = err
	}
}

// retry waits and then begins anew.
func (m *machine) retry(s State, err error) action {
	m.note(err)
	if m.state != StateBlocked || s == StateHalted {
		m.state = s
	}
	a := action{kind: actWait, wait: m.conf.backoff.Delay(m.attempts, m.rnd)}
	m.attempts++
	m.owned, m.phase = false, phaseWait
	return a
}

// halt waits for a person, looking again now and then: `groups reset` mends it without a restart.
func (m *machine) halt(err error) action {
	m.note(err)
	m.state = StateHalted
	m.owned, m.seeked, m.phase = false, false, phaseWait
	return action{kind: actWait, wait: haltRecheck}
}

func (m *machine) onWaited() action {
	if m.owned {
		return m.run() // the same claim goes on: a transient error or a blocked record
	}
	return m.recheck()
}

func (m *machine) onChecked(ev event) action {
	if ev.err != nil {
		return m.retry(StateClaiming, ev.err) // not a member: we are told to drop the partition soon, or become one again
	}
	if m.phase == phaseCheckAfter {
		m.phase = phaseBounds
		return action{kind: actBounds}
	}
	m.phase = phaseClaim
	return action{kind: actClaim}
}

func (m *machine) onClaimed(ev event) action {
	switch {
	case errors.Is(ev.err, outrelay.ErrDataHalt):
		return m.halt(ev.err)
	case ev.err != nil:
		return m.retry(StatePaused, ev.err)
	}
	m.claim = ev.claim
	m.phase = phaseCheckAfter
	return action{kind: actCheck}
}

func (m *machine) onBounds(ev event) action {
	if ev.err != nil {
		return m.retry(StatePaused, ev.err)
	}
	b := ev.bounds
	m.owned = true
	switch next := m.claim.Next; {
	case next < 0:
		m.phase = phaseFirst
		m.seeked = false
		m.inflight = sinks.Batch{Claim: m.claim, From: next, Next: b.startAt}
		return action{kind: actApply, batch: m.inflight, apart: m.inTrouble()}
	case next > b.end, next < b.start:
		if m.outside++; m.outside < outsideTriesMax {
			return m.retry(StateClaiming, nil)
		}
		m.outside = 0
		return m.halt(outsideError(m.conf, next, b))
	default:
		m.outside = 0
		return m.resume(next)
	}
}

func outsideError(c machineConf, next int64, b bounds) error {
	e := &outrelay.Error{Class: outrelay.ErrDataHalt, Place: fmt.Sprintf("group %s, %s", c.group, c.tp)}
	if next > b.end {
		e.Code = "offset-beyond-log"
		e.Cause = fmt.Sprintf("the sink has processed up to offset %d, but the log ends at %d: records that took effect are gone from the log, and new ones would get their offsets", next, b.end)
		e.Fix = fmt.Sprintf("bring the log back; or go on with what it holds from its end on: `outrelay groups reset %s --topic %s --to latest`, or from its start: `--to earliest`", c.group, c.tp.Topic)
		return e
	}
	e.Code = "offset-below-log"
	e.Cause = fmt.Sprintf("the next offset to process is %d, but the log starts at %d: offsets [%d, %d) are lost to this group. Was the sink restored from a backup older than the retention, or the group down for longer?", next, b.start, next, b.start)
	e.Fix = fmt.Sprintf("bring a newer state of the sink back; or accept the gap: `outrelay groups reset %s --topic %s --to earliest`", c.group, c.tp.Topic)
	return e
}

// resume goes on at next, without fetching again what is still pending.
func (m *machine) resume(next int64) action {
	keep := m.seeked && next >= m.next && next <= m.fetched
	if next > m.next {
		m.attempts = 0 // somebody gets on: us, in a commit that we had doubts about, or another owner
	}
	m.attempts = min(m.attempts, attemptsReachable)
	m.next = next
	if !keep {
		m.seeked, m.pending, m.bytes, m.phase = false, nil, 0, phaseSeek
		m.state = StateClaiming
		return action{kind: actSeek, offset: next}
	}
	m.trim()
	return m.run()
}

// trim drops pending records below next.
func (m *machine) trim() {
	i := 0
	for i < len(m.pending) && m.pending[i].Offset < m.next {
		m.bytes -= size(&m.pending[i])
		i++
	}
	clear(m.pending[:i]) // the records' memory goes, the slice's head stays
	m.pending = m.pending[i:]
	if len(m.pending) == 0 {
		m.pending = nil
	}
}

func size(r *sinks.Record) int {
	n := 64 + len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		n += 32 + len(h.Key) + len(h.Value)
	}
	return n
}

func (m *machine) onFetched(ev event) action {
	invariant.Check(m.seeked && m.phase == phaseRunning, "consumer: records fetched in phase %d", m.phase)
	for i := range ev.records {
		if r := ev.records[i]; r.Offset >= m.fetched {
			m.fetched = r.Offset + 1
			m.bytes += size(&r)
			m.pending = append(m.pending, r)
		}
	}
	m.fetched = max(m.fetched, ev.fetched)
	return m.run()
}

// run applies what is there, or idles.
func (m *machine) run() action {
	invariant.Check(m.owned, "consumer: %s runs without a claim", m.conf.tp)
	if !m.seeked {
		m.phase = phaseSeek
		return action{kind: actSeek, offset: m.next}
	}
	if m.next == m.fetched {
		m.phase = phaseRunning
		m.state, m.err = StateRunning, nil // a halt that was mended is no longer to be read in status
		return action{kind: actIdle}
	}
	var bytes int
	m.inflight, bytes = m.batch()
	m.phase = phaseApply
	return action{kind: actApply, batch: m.inflight, bytes: bytes, apart: m.inTrouble(), exclusive: m.exclusive}
}

// inTrouble reports whether something has failed and what comes of it is not yet behind us.
func (m *machine) inTrouble() bool { return m.attempts > 0 || m.suspect >= 0 || m.next < m.restoreAt }

// batch is the longest run of pending records that the limits allow. It ends before a suspect, or is the suspect alone.
func (m *machine) batch() (b sinks.Batch, bytes int) {
	limit, n := m.conf.batchRecords, 0
	if m.sizeMax > 0 {
		limit = min(limit, m.sizeMax)
	}
	for n < len(m.pending) && n < limit {
		r := &m.pending[n]
		if r.Offset == m.suspect && n > 0 {
			break
		}
		if n > 0 && bytes+size(r) > m.conf.batchBytes {
			break
		}
		bytes += size(r)
		n++
		if r.Offset == m.suspect {
			break
		}
	}
	b = sinks.Batch{Claim: m.claim, From: m.next, Next: m.fetched, Records: m.pending[:n:n]}
	if n < len(m.pending) {
		b.Next = m.pending[n-1].Offset + 1
	}
	return b, bytes
}

func (m *machine) onApplied(ev event) action {
	if m.phase == phaseFirst {
		return m.onFirst(ev)
	}
	b := m.inflight
	m.inflight = sinks.Batch{}
	switch err := ev.err; {
	case err == nil:
		m.applied(b.Next)
		return m.run()
	case errors.Is(err, sinks.ErrAmbiguous):
		m.note(err)
		if m.attempts++; m.attempts > 1 {
			m.attempts--
			return m.retry(StatePaused, err)
		}
		return m.recheck() // S4: the new claim says which
	case errors.Is(err, outrelay.ErrFenced):
		m.fenced++
		return m.retry(StateClaiming, err) // what is pending stays good if the next claim is within it
	case errors.Is(err, sinks.ErrConflict):
		return m.onConflict(b, err)
	case errors.Is(err, outrelay.ErrRecord):
		return m.onRecordError(b, err)
	case errors.Is(err, outrelay.ErrDataHalt):
		return m.halt(err)
	default:
		// The batch is kept and tried again under the same claim, which it proves anew.
		m.note(err)
		m.state = StatePaused
		a := action{kind: actWait, wait: m.conf.backoff.Delay(m.attempts, m.rnd)}
		m.attempts++
		m.phase = phaseWait
		return a
	}
}

// onFirst takes the outcome of making the row's first offset.
func (m *machine) onFirst(ev event) action {
	b := m.inflight
	m.inflight = sinks.Batch{}
	switch {
	case ev.err == nil:
		m.claim.Next = b.Next
		m.attempts = 0
		return m.resume(b.Next)
	case errors.Is(ev.err, outrelay.ErrDataHalt):
		return m.halt(ev.err)
	}
	return m.retry(StatePaused, ev.err)
}

func (m *machine) applied(next int64) {
	m.next = next
	m.trim()
	m.attempts, m.conflicts, m.err, m.blockedAt = 0, 0, nil, -1
	if m.next > m.suspect {
		m.suspect = -1
	}
	if m.next >= m.restoreAt {
		m.sizeMax, m.exclusive = 0, false
	}
}

// onConflict replays the batch, then halves it, then lets the group's partitions take turns.
func (m *machine) onConflict(b sinks.Batch, err error) action {
	m.note(err)
	m.conflicts++
	m.attempts++
	switch n := len(b.Records); {
	case m.conflicts == 1:
	case n > 1:
		m.sizeMax, m.restoreAt = n/2, max(m.restoreAt, b.Next)
	default:
		m.exclusive, m.restoreAt = true, max(m.restoreAt, b.Next)
	}
	m.phase = phaseWait
	p := backoff.Policy{Initial: conflictPause, Max: m.conf.backoff.Max, Jitter: conflictPause}
	return action{kind: actWait, wait: p.Delay(m.conflicts-1, m.rnd)}
}

// onRecordError finds the failing record: what is before it is applied, then it is tried alone. An error that names no record (a deferred
// constraint) halves the batch until one is left.
func (m *machine) onRecordError(b sinks.Batch, err error) action {
	m.note(err)
	n := len(b.Records)
	if n <= 1 {
		return m.poison(b, err)
	}
	m.restoreAt = max(m.restoreAt, b.Next)
	var re *sinks.RecordError
	if errors.As(err, &re) && re.Record.Offset >= b.Records[0].Offset && re.Record.Offset < b.Next {
		m.suspect = re.Record.Offset // the next batch ends before it, or is it alone: shorter than this one in any case
		return m.run()
	}
	m.sizeMax = max(1, n/2)
	return m.run()
}

// poison is a record that fails alone.
func (m *machine) poison(b sinks.Batch, err error) action {
	f := Failure{Group: m.conf.group, Err: err, Attempts: m.attempts + 1}
	m.blockedAt = b.From
	if len(b.Records) == 1 {
		f.Record = b.Records[0]
		m.blockedAt = f.Record.Offset
		m.suspect = m.blockedAt
	}
	if d := m.conf.decide(f); d != Block {
		panic(fmt.Sprintf("BUG: decision %d is not known", d))
	}
	m.state = StateBlocked
	a := action{kind: actWait, wait: m.conf.blocked.Delay(m.attempts, m.rnd)}
	m.attempts++
	m.phase = phaseWait
	return a
}
