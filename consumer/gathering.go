package consumer

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/invariant"
	"github.com/outrelay/outrelay/sinks"
)

// gathering decides which of a group's batches share a transaction of the sink, and when it begins. It does no I/O, reads no clock and
// starts no goroutine.
//
// There is no linger: a batch that comes alone goes at once. While transactionsMax transactions are under way, or a worker is about to say
// whether it has a batch, what is submitted gathers for the next one. What is gathered goes without waiting when it is full: it has
// batch.records or batch.bytes, or it is expected to take span. So full batches of a backlog, and those of slow handlers, run beside each
// other, as far as the sink has connections.
type gathering struct {
	conf     gatheringConf
	waiting  []*job
	running  int           // transactions under way
	expected int           // workers that are about to submit a batch, or to say that they have none
	cost     time.Duration // of a record in a transaction, sync included: a moving average
}

type gatheringConf struct {
	transactions   int // under way before batches gather
	records, bytes int // of one transaction, a batch alone excepted
	span           time.Duration
}

// job is one batch on its way through the gathering.
type job struct {
	batch sinks.Batch
	bytes int
	ctx   context.Context // of its worker, which may be cut; the shell's
	done  chan error      // the outcome, once; the shell's
}

// weight is how many records j counts for. One that only moves its offset costs about as much as a record.
func (j *job) weight() int { return max(1, len(j.batch.Records)) }

// submit adds a batch, behind those that wait.
func (g *gathering) submit(j *job) { g.waiting = append(g.waiting, j) }

// waits reports whether j is in no transaction yet.
func (g *gathering) waits(j *job) bool { return slices.Contains(g.waiting, j) }

// withdraw takes a batch back, unless it has begun.
func (g *gathering) withdraw(j *job) bool {
	i := slices.Index(g.waiting, j)
	if i < 0 {
		return false
	}
	g.waiting = slices.Delete(g.waiting, i, i+1)
	return true
}

// expect says that n more workers are about to submit or to say that they do not.
func (g *gathering) expect(n int) {
	g.expected += n
	invariant.Check(g.expected >= 0, "consumer: %d workers are expected", g.expected)
}

// next returns the batches of a transaction that is to begin now, nil when there is none. insist: those that wait have waited too long for
// the transactions under way; they go beside them.
func (g *gathering) next(insist bool) []*job {
	n, full := g.fit()
	if n == 0 || !full && !insist && (g.expected > 0 || g.running >= g.conf.transactions) {
		return nil
	}
	set := slices.Clone(g.waiting[:n])
	g.waiting = slices.Delete(g.waiting, 0, n)
	g.running++
	return set
}

// fit returns how many of the waiting batches go into one transaction, and whether no more would.
func (g *gathering) fit() (n int, full bool) {
	records, bytes := 0, 0
	for _, j := range g.waiting {
		records += j.weight()
		bytes += j.bytes
		if n > 0 && (records > g.conf.records || bytes > g.conf.bytes) {
			return n, true
		}
		n++
		if records >= g.conf.records || bytes >= g.conf.bytes || time.Duration(records)*g.cost >= g.conf.span {
			return n, true
		}
	}
	return n, false
}

// ended says that a transaction is over.
func (g *gathering) ended() {
	g.running--
	invariant.Check(g.running >= 0, "consumer: %d transactions are under way", g.running)
}

// learn says how long it took to apply set. What failed teaches nothing: it may have waited for a server that was away.
func (g *gathering) learn(set []*job, took time.Duration) {
	records := 0
	for _, j := range set {
		records += j.weight()
	}
	g.cost += (took/time.Duration(records) - g.cost) / costOver
}

// costOver is over how many transactions, about, the cost of a record is averaged.
const costOver = 8

// errApart tells a worker that the transaction which its batch shared has failed, which says nothing about the batch: it is to be applied alone.
var errApart = errors.New("to be applied alone")

// outcomes is what the error of a transaction means for each of its n batches. A doubt is a doubt about all of them, and each is claimed again
// (S4). A fenced batch is the only one that is. Everything else, a failing record among it, may be of the batches' being together, so each
// goes alone, and what fails then is its own.
func outcomes(err error, n int) []error {
	out := make([]error, n)
	if err == nil {
		return out
	}
	each := errApart
	if n == 1 || errors.Is(err, sinks.ErrAmbiguous) {
		each = err
	}
	for i := range out {
		out[i] = each
	}
	var of *sinks.BatchError
	if errors.Is(err, outrelay.ErrFenced) && errors.As(err, &of) {
		out[of.Index] = of.Err
	}
	return out
}
