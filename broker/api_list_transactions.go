package broker

import (
	"regexp"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/txn"
)

// ListTransactions, key 66: v0–2
//
//   - v0: KIP-664; v1: those open for longer than a duration (KIP-994); v2: a pattern of transactional ids (KIP-1152)
//
// Filters are and-ed. A duration leaves out what is not open.

// patternBytesMax bounds the pattern, which is compiled for each request.
const patternBytesMax = 1024

func handleListTransactions(s *Server, _ *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.ListTransactionsRequest)
	resp := req.ResponseKind().(*kmsg.ListTransactionsResponse)
	f, unknown, err := listFilter(req)
	resp.UnknownStateFilters = unknown
	if err != nil {
		resp.ErrorCode = err.Code
		return answer(resp)
	}
	for _, sh := range s.shards().txns {
		sh.do(func(now time.Time, tc *txn.Coordinator) {
			for _, d := range tc.List() {
				if !f.takes(now, d) {
					continue
				}
				st := kmsg.NewListTransactionsResponseTransactionState()
				st.TransactionalID, st.ProducerID, st.TransactionState = d.ID, d.ProducerID, d.State.String()
				resp.TransactionStates = append(resp.TransactionStates, st)
			}
		})
	}
	return answer(resp)
}

// txnFilter is what a request wants to see.
type txnFilter struct {
	states    []txn.State
	byState   bool // false: every state
	producers []int64
	longer    time.Duration // -1: however long
	pattern   *regexp.Regexp
}

// listFilter returns the filter, and the names of states that are none.
func listFilter(req *kmsg.ListTransactionsRequest) (f txnFilter, unknown []string, err *kerr.Error) {
	f = txnFilter{byState: len(req.StateFilters) > 0, producers: req.ProducerIDFilters, longer: -1}
	for _, name := range req.StateFilters {
		if st, ok := txn.ParseState(name); ok {
			f.states = append(f.states, st)
		} else {
			unknown = append(unknown, name)
		}
	}
	if req.Version >= 1 && req.DurationFilterMillis >= 0 {
		f.longer = time.Duration(min(req.DurationFilterMillis, int64(1<<53))) * time.Millisecond
	}
	if p := req.TransactionalIDPattern; req.Version >= 2 && p != nil && *p != "" {
		if len(*p) > patternBytesMax {
			return f, unknown, kerr.InvalidRegularExpression
		}
		re, cerr := regexp.Compile(*p)
		if cerr != nil {
			return f, unknown, kerr.InvalidRegularExpression
		}
		re.Longest()
		f.pattern = re
	}
	return f, unknown, nil
}

func (f *txnFilter) takes(now time.Time, d txn.Description) bool {
	switch {
	case f.byState && !slices.Contains(f.states, d.State):
		return false
	case len(f.producers) > 0 && !slices.Contains(f.producers, d.ProducerID):
		return false
	case f.longer >= 0 && (d.StartMs < 0 || now.UnixMilli()-d.StartMs <= f.longer.Milliseconds()):
		return false
	}
	if f.pattern == nil {
		return true
	}
	at := f.pattern.FindStringIndex(d.ID) // leftmost and longest, so the whole id if the pattern can match that
	return at != nil && at[0] == 0 && at[1] == len(d.ID)
}
