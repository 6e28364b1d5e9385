package broker_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/brokertest"
	"github.com/outrelay/outrelay/internal/testenv"
)

// The same random requests go to our broker and to an oracle, one after the other, and every answer is compared in the form that clients act
// on: error codes, offsets, records, states. What may differ is listed, with the reason, in differential_explained_test.go. Error texts, ids, epochs of
// leaders, clocks and sizes are not compared.

// oracle is who a trace is compared with.
type oracle string

const (
	oracleFake  oracle = "kfake"
	oracleKafka oracle = "Apache Kafka " + testenv.KafkaVersion
)

// TestDifferential_kfake is the quick form. The seed of a failure repeats it: OUTRELAY_DIFF_SEED.
func TestDifferential_kfake(t *testing.T) {
	t.Parallel()
	traces, seed := 100, uint64(1) // always the same: what is rare is for the long form
	if os.Getenv("OUTRELAY_SOAK") != "" {
		traces, seed = 3000, rand.Uint64()
	}
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.DefaultNumPartitions(16))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	runTraces(t, oracleFake, cluster.ListenAddrs()[0], seed, traces)
}

// TestDifferential_kafka is the real thing: with OUTRELAY_SOAK, and where Apache Kafka's jars are.
func TestDifferential_kafka(t *testing.T) {
	if os.Getenv("OUTRELAY_SOAK") == "" {
		t.Skip("long; set OUTRELAY_SOAK=1")
	}
	if _, err := testenv.KafkaLibs(); err != nil {
		t.Skip(err)
	}
	k := testenv.StartKafka(t, testenv.KafkaOptions{Config: map[string]string{"num.partitions": "16"}})
	runTraces(t, oracleKafka, k.Addr(), rand.Uint64(), 300)
}

func runTraces(t *testing.T, who oracle, addr string, seed uint64, traces int) {
	t.Helper()
	if s := os.Getenv("OUTRELAY_DIFF_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
		traces = 1
	}
	n := brokertest.New(t)
	for i := range traces {
		s := seed + uint64(i)
		if !runTrace(t, who, n.TCPAddr(), addr, s) {
			t.Fatalf("repeat with OUTRELAY_DIFF_SEED=%d go test ./broker -run %s", s, t.Name())
		}
	}
}

// diffStart is what a trace begins with, so that most ops meet something.
var diffStart = []func(rnd *rand.Rand) diffOp{
	func(*rand.Rand) diffOp { return opCreateTopicNamed("a", 3, "", 4) },
	opInitProducer, opInitProducer, opInitProducer,
}

// runTrace sends one trace to both, with names that no other trace uses.
func runTrace(t *testing.T, who oracle, ours, theirs string, seed uint64) bool {
	prefix := fmt.Sprintf("%x.", seed)
	a, b := newPeer(t, ours, prefix), newPeer(t, theirs, prefix)
	defer a.close()
	defer b.close()
	rnd := rand.New(rand.NewPCG(seed, 1))
	var done []string
	bare := map[string]bool{} // partitions that were added to the open transaction of version 1: whether they have no data of it
	for i := range 60 {
		op := nextOp(rnd)
		if i < len(diffStart) {
			op = diffStart[i](rnd)
		}
		x, y := a.do(op), b.do(op)
		done = append(done, fmt.Sprintf("%s -> %s", op.name, x))
		if x == y {
			if who == oracleFake && op.joins && refused(x) {
				return true // it adds the partition to the transaction all the same, and ends it with a marker
			}
			if op.follow(bare, refused(x)) && who == oracleKafka {
				return true // it writes a marker also where there is nothing to end; here a marker that would say nothing is left out
			}
			continue
		}
		if why := explained(who, op.name, x, y); why == "" {
			t.Errorf("%s\n  ours:   %s\n  theirs: %s\nafter:\n  %s", op.name, x, y, strings.Join(done[max(0, len(done)-25):], "\n  "))
			return false
		}
		if op.writes && (refused(x) != refused(y) || !refused(x)) || op.joins {
			return true // from here on the two are in different states
		}
	}
	return true
}

// follow notes in bare what an op did to the transaction of version 1, and reports whether it ended with a partition that has no data of it.
func (op *diffOp) follow(bare map[string]bool, refused bool) (marksNothing bool) {
	switch {
	case refused:
	case op.adds != "":
		if _, known := bare[op.adds]; !known {
			bare[op.adds] = true
		}
	case op.data != "":
		bare[op.data] = false
	case op.ends || op.anew:
		for _, b := range bare {
			marksNothing = marksNothing || b && op.ends
		}
		clear(bare)
	}
	return marksNothing
}

// refused reports whether an answer says that nothing was changed.
func refused(answer string) bool {
	at := strings.LastIndex(answer, "error ")
	return at >= 0 && !strings.HasPrefix(answer[at:], "error 0")
}

// diffOp is a request as both get it. run sends it and returns the answer in comparable form, and whether to ask again: the peer is not ready yet.
type diffOp struct {
	name   string
	writes bool // an answer that differs means that the states differ
	joins  bool // data of a transaction
	// Of the transaction of version 1: the partition that is added, the one that gets data, whether it ends or begins anew.
	adds, data string
	ends, anew bool
	run        func(p *peer) (answer string, again bool)
}

// peer is one of the two brokers. What it gave out is known by slot, so that the same op can name it on both.
type peer struct {
	t         *testing.T
	c         *rawConn
	prefix    string
	producers [diffProducers]diffProducer
}

type diffProducer struct {
	id    int64
	epoch int16
}

func newPeer(t *testing.T, addr, prefix string) *peer {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{t: t, c: &rawConn{Conn: c, t: t}, prefix: prefix}
	for i := range p.producers {
		p.producers[i] = diffProducer{-1, -1}
	}
	for kind := range int8(2) { // makes the coordinators' topics
		p.do(diffOp{run: func(p *peer) (string, bool) {
			req := kmsg.NewPtrFindCoordinatorRequest()
			req.CoordinatorType, req.CoordinatorKey = kind, prefix
			code := ask[*kmsg.FindCoordinatorResponse](p, req, 3).ErrorCode
			return "", notReady(code)
		}})
	}
	return p
}

func (p *peer) close() { _ = p.c.Close() }

// do runs an op until the peer is ready for it.
func (p *peer) do(op diffOp) string {
	p.t.Helper()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	deadline := time.Now().Add(15 * time.Second)
	for {
		answer, again := op.run(p)
		if !again || time.Now().After(deadline) {
			return answer
		}
		<-look.C
	}
}

// slot returns which slot a producer id belongs to, so that ids compare.
func (p *peer) slot(id int64) string {
	for i, pr := range p.producers {
		if pr.id == id && id >= 0 {
			return fmt.Sprint("producer", i)
		}
	}
	if id < 0 {
		return "none"
	}
	return "another"
}

// ask sends a request to a peer and decodes its answer.
func ask[R kmsg.Response](p *peer, req kmsg.Request, version int16) R {
	p.t.Helper()
	return request[R](p.c, req, version)
}

// notReady are codes that say: a moment later.
func notReady(codes ...int16) bool {
	for _, c := range codes {
		switch c {
		case 5, 6, 7, 14, 15, 16, 51: // LEADER_NOT_AVAILABLE … NOT_COORDINATOR, CONCURRENT_TRANSACTIONS
			return true
		}
	}
	return false
}
