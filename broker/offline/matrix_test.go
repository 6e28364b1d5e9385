package offline_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker/cluster"
	"github.com/outrelay/outrelay/broker/offline"
	"github.com/outrelay/outrelay/broker/record"
	"github.com/outrelay/outrelay/broker/replica"
	"github.com/outrelay/outrelay/broker/segment"
	"github.com/outrelay/outrelay/broker/wal"
	"github.com/outrelay/outrelay/internal/clock"
	"github.com/outrelay/outrelay/internal/vfs"
)

// flipsWanted is how many bits TestDamage_matrix flips, files it cuts and sectors it clears, at seeded places; files that are gone, swapped or older it takes one by one.
const flipsWanted = 160

var matrixEpoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// world is a node with its partitions, without a broker around it.
type world struct {
	node  *replica.Node
	state *cluster.State
	parts map[string]*replica.Partition // by topic/number; those that opened
	errs  map[string]error              // of those that did not
}

func matrixOptions(mem *vfs.Mem, clk clock.Clock) replica.Options {
	return replica.Options{
		FS: mem, Dir: dataDir, NodeID: 1, Manual: true, Shards: 1, Clock: clk, CheckpointEvery: time.Hour, MaintainEvery: time.Hour, ScrubBytes: -1,
		WAL: wal.Options{FileBytes: 24 << 10, ZeroStepBytes: 4 << 10, SpareFiles: 1},
	}
}

func matrixConfig(topic string) replica.TopicConfig {
	return replica.TopicConfig{
		Delete: topic != "keyed", Compact: topic == "keyed", RetentionMs: -1, RetentionBytes: -1, SegmentBytes: 6 << 10, DeleteRetentionMs: 3_600_000,
	}
}

// openWorld opens what a broker would: the metadata, then every partition that it names; damage of one partition alone is kept beside.
func openWorld(o replica.Options) (*world, error) {
	n, err := replica.Open(o)
	if err != nil {
		return nil, err
	}
	w := &world{node: n, parts: map[string]*replica.Partition{}, errs: map[string]error{}}
	m := cluster.New()
	if err := n.AddGroup(replica.MetadataGroup, m, replica.GroupConf{ReplicaID: 1, Voters: []uint64{1}}); err != nil {
		return w, err
	}
	w.state = m.State()
	for _, name := range w.state.TopicNames() {
		t := w.state.Topics[name]
		for i, cp := range t.Partitions {
			p, err := w.add(o, t, int32(i), cp)
			at := fmt.Sprintf("%s/%d", name, i)
			switch {
			case err == nil:
				w.parts[at] = p
			case replica.Confined(err) && n.Err() == nil:
				w.errs[at] = err
			default:
				return w, err
			}
		}
	}
	return w, nil
}

func (w *world) add(o replica.Options, t *cluster.Topic, i int32, cp cluster.Partition) (*replica.Partition, error) {
	r, _ := cp.On(1)
	p := replica.NewPartition(replica.PartitionOptions{
		FS: o.FS, Dir: replica.PartitionDir(path.Join(dataDir, "partitions"), t.ID, i, r.ReplicaID), TopicID: t.ID, Topic: t.Name, Index: i, Clock: o.Clock,
		Config: func() replica.TopicConfig { return matrixConfig(t.Name) },
	})
	return p, w.node.AddGroup(cp.Group, p, replica.GroupConf{ReplicaID: r.ReplicaID, Voters: []uint64{r.ReplicaID}})
}

// contentsOf reads a partition to its end: every batch as it is served, with the aborted transactions at the end.
func contentsOf(p *replica.Partition) (bs map[int64]string, end string, err error) {
	bs = map[int64]string{}
	var aborted []segment.AbortedTxn
	for next := p.LogStart(); next < p.HighWatermark(); {
		r, err := p.Read(next, 4000, false, true)
		if err != nil {
			return bs, "", err
		}
		for b, err := range record.Split(r.Bytes) {
			if err != nil {
				return bs, "", fmt.Errorf("served: %w", err)
			}
			bs[b.BaseOffset()] = string(b)
		}
		if r.Next <= next && len(r.Bytes) == 0 {
			break // compaction left nothing up to the end
		}
		next = r.Next
	}
	for next := p.LogStart(); next < p.LastStable(); {
		r, err := p.Read(next, 4000, true, true)
		if err != nil {
			return bs, "", err
		}
		for _, a := range r.Aborted {
			if a.LSO = 0; !slices.Contains(aborted, a) { // a rebuilt one may be rounder
				aborted = append(aborted, a)
			}
		}
		if r.Next <= next {
			break
		}
		next = r.Next
	}
	return bs, fmt.Sprint(p.LogStart(), p.HighWatermark(), p.LastStable(), aborted, p.Producers()), nil
}

// matrix is an undamaged log in two states, an older one, and what they hold.
type matrix struct {
	stopped, crashed, stale *vfs.Mem
	want                    map[*vfs.Mem]map[string]held
}

type held struct {
	batches map[int64]string
	end     string
}

func cloneMem(t testing.TB, from *vfs.Mem) *vfs.Mem {
	t.Helper()
	to := vfs.NewMem()
	copyDir(t, from, to, dataDir)
	return to
}

func copyDir(t testing.TB, from, to *vfs.Mem, dir string) {
	t.Helper()
	infos, err := from.List(dir)
	must(t, err)
	must(t, to.MkdirAll(dir))
	for _, i := range infos {
		name := path.Join(dir, i.Name)
		if i.Dir {
			copyDir(t, from, to, name)
			continue
		}
		put(t, to, name, content(t, from, name))
	}
}

// put makes a file with these bytes, in the place of any other.
func put(t testing.TB, mem *vfs.Mem, name string, b []byte) {
	t.Helper()
	f, err := mem.Create(name)
	must(t, err)
	if len(b) > 0 {
		_, err = f.WriteAt(b, 0)
		must(t, err)
	}
	must(t, f.Sync())
	must(t, mem.SyncDir(path.Dir(name)))
}

// newMatrix writes for a while: plain batches, transactions that commit and abort, a compacted topic; with checkpoints, compactions, files of
// the write-ahead log that are used again, and records that no checkpoint knows yet.
func newMatrix(t *testing.T) *matrix {
	t.Helper()
	rnd := rand.New(rand.NewPCG(3, 4))
	mem, clk := vfs.NewMem(), clock.NewFake(matrixEpoch)
	n, err := replica.Open(matrixOptions(mem, clk))
	must(t, err)
	m := cluster.New()
	must(t, n.AddGroup(replica.MetadataGroup, m, replica.GroupConf{ReplicaID: 1, Voters: []uint64{1}}))
	commands := []string{`{"v":1,"op":"bootstrap","cluster_id":"matrix"}`}
	for i, name := range []string{"keyed", "plain", "txn"} { // ids of our own, so that a seed repeats a run
		commands = append(commands, fmt.Sprintf(`{"v":1,"op":"create_topic","name":%q,"id":[%d,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16],"partitions":2,"nodes":[1]}`, name, i+1))
	}
	for _, c := range commands {
		n.Propose(replica.MetadataGroup, []byte(c), func(_ any, err error) { must(t, err) })
		n.Pump()
	}
	must(t, n.Close())
	w, err := openWorld(matrixOptions(mem, clk))
	must(t, err)
	x := &matrix{want: map[*vfs.Mem]map[string]held{}}
	seq := map[string]int32{}
	for i := range 150 {
		for _, at := range slices.Sorted(maps.Keys(w.parts)) {
			write(t, rnd, w, at, i, seq)
		}
		if i == 60 {
			x.stale = cloneMem(t, mem)
		}
		if i%20 == 10 {
			must(t, w.node.Checkpoint(t.Context()))
			for _, at := range slices.Sorted(maps.Keys(w.parts)) {
				must(t, w.parts[at].Maintain(clk.Now()))
				w.node.Pump()
			}
			clk.Advance(time.Minute)
		}
	}
	x.crashed = cloneMem(t, mem) // as kill -9 leaves it
	must(t, w.node.Close())
	x.stopped = cloneMem(t, mem)
	for _, base := range []*vfs.Mem{x.stopped, x.crashed} {
		clean := cloneMem(t, base)
		if r := verify(t, clean); !r.Clean {
			t.Fatalf("before any damage: %+v", r.Damages)
		}
		w, err := openManual(clean)
		must(t, err)
		x.want[base] = map[string]held{}
		for at, p := range w.parts {
			bs, end, err := contentsOf(p)
			must(t, err)
			x.want[base][at] = held{bs, end}
		}
		if len(x.want[base]) != 6 {
			t.Fatalf("%d partitions", len(x.want[base]))
		}
	}
	return x
}

func openManual(mem *vfs.Mem) (*world, error) {
	return openWorld(matrixOptions(mem, clock.NewFake(matrixEpoch.Add(time.Hour))))
}

func write(t testing.TB, rnd *rand.Rand, w *world, at string, i int, seq map[string]int32) {
	t.Helper()
	o := record.NoProducer(record.CodecNone)
	txn := strings.HasPrefix(at, "txn")
	if txn || i%3 == 0 {
		o = record.BuilderOptions{ProducerID: 5, Sequence: seq[at], Transactional: txn}
		seq[at]++
	}
	b := record.NewBuilder(o)
	b.Add(matrixEpoch.UnixMilli()+int64(i), fmt.Appendf(nil, "k%d", rnd.IntN(15)), seeded(rnd, 100+rnd.IntN(500)), nil)
	w.parts[at].Produce(b.Build(), replica.ProduceOptions{}, func(r replica.ProduceResult) { must(t, r.Err) })
	if txn && i%4 == 3 {
		w.parts[at].WriteMarker(5, 0, i%8 == 3, 1, func(r replica.ProduceResult) { must(t, r.Err) })
	}
	w.node.Pump()
}

// files lists what a data directory holds, by kind.
func filesOf(t testing.TB, mem *vfs.Mem, dir string) (names []string) {
	t.Helper()
	infos, err := mem.List(dir)
	must(t, err)
	for _, i := range infos {
		name := path.Join(dir, i.Name)
		switch {
		case i.Dir:
			names = append(names, filesOf(t, mem, name)...)
		case i.Name != "lock" && !strings.HasPrefix(i.Name, "spare"):
			names = append(names, name)
		}
	}
	return names
}

// hurt is one damage. unseen: nothing on disk can tell it from a power cut.
type hurt struct {
	base       *vfs.Mem
	name, what string
	unseen     bool
	do         func(mem *vfs.Mem)
}

// hurts lists all damages: each file of a log that was stopped, and of the node's own of one that was killed, gone, emptied, as it was earlier, and swapped with the
// next of its kind; then seeded ones.
func (x *matrix) hurts(t testing.TB) (hs []hurt) {
	t.Helper()
	for _, base := range []*vfs.Mem{x.stopped, x.crashed} {
		kinds := map[string][]string{}
		for _, f := range filesOf(t, base, dataDir) {
			kinds[path.Ext(f)] = append(kinds[path.Ext(f)], f)
		}
		lastWAL := kinds[".wal"][len(kinds[".wal"])-1]
		for _, ext := range slices.Sorted(maps.Keys(kinds)) { // "" is the checkpoint, which holds the cluster's snapshot
			for i, name := range kinds[ext] {
				index := ext == ".idx" || ext == ".txn"
				if base == x.crashed && ext != ".wal" && ext != "" || index && i%5 != 0 {
					continue // the same again and again
				}
				add := func(what string, do func(mem *vfs.Mem)) {
					hs = append(hs, hurt{base, name, what, base == x.crashed && name == lastWAL, do})
				}
				add("gone", func(mem *vfs.Mem) {
					must(t, mem.Remove(name))
					must(t, mem.SyncDir(path.Dir(name)))
				})
				add("emptied", func(mem *vfs.Mem) { put(t, mem, name, nil) })
				if old, err := x.stale.Stat(name); err == nil && !old.Dir {
					add("an older copy", func(mem *vfs.Mem) { put(t, mem, name, content(t, x.stale, name)) })
				}
				if next := kinds[ext][(i+1)%len(kinds[ext])]; next != name {
					add("swapped with "+next, func(mem *vfs.Mem) {
						a, b := content(t, mem, name), content(t, mem, next)
						put(t, mem, name, b)
						put(t, mem, next, a)
					})
				}
			}
		}
	}
	for seed := range uint64(flipsWanted) {
		hs = append(hs, x.seeded(t, seed))
	}
	return append(hs, append(x.wholeWAL(t), x.prefixes(t)...)...)
}

// wholeWAL loses the write-ahead log, or puts an older one in its place: the checkpoint knows better.
func (x *matrix) wholeWAL(t testing.TB) (hs []hurt) {
	t.Helper()
	dir := path.Join(dataDir, "wal")
	for _, base := range []*vfs.Mem{x.stopped, x.crashed} {
		gone := func(mem *vfs.Mem) { must(t, mem.RemoveAll(dir)) }
		older := func(mem *vfs.Mem) {
			gone(mem)
			copyDir(t, x.stale, mem, dir)
		}
		hs = append(hs, hurt{base, dir + "/all.wal", "all gone", false, gone}, hurt{base, dir + "/all.wal", "an older copy of all", false, older})
	}
	return hs
}

// prefixes flips bits in the bytes that the broker stamps, base offset, length and leader epoch, which a batch's CRC leaves out: of a batch in the middle of a
// segment, and of the first and the last one.
func (x *matrix) prefixes(t testing.TB) (hs []hurt) {
	t.Helper()
	name := file(t, x.stopped, 0, ".log", 0)
	for _, f := range filesOf(t, x.stopped, dataDir) { // the second segment of plain/0: topic id 2
		if strings.Contains(f, "/02020304") && strings.Contains(f, "-0-") && strings.HasSuffix(f, ".log") {
			name = f
			break
		}
	}
	b := content(t, x.stopped, name)
	var starts []int
	for at := 0; at < len(b); at += int(record.Batch(b[at:]).Size()) {
		starts = append(starts, at)
	}
	for _, start := range []int{starts[0], starts[len(starts)/2], starts[len(starts)-1]} {
		for i := range record.PrefixBytes + 7 {
			at, bit := start+i, byte(1)<<(i%8)
			if i >= record.PrefixBytes { // the lowest byte of the base offset, bit by bit
				at, bit = start+7, byte(1)<<(i-record.PrefixBytes)
			}
			hs = append(hs, hurt{x.stopped, name, fmt.Sprintf("stamped byte %d of the batch at %d flipped by %#x", at-start, start, bit), false,
				func(mem *vfs.Mem) { flip(t, mem, name, int64(at), bit) }})
		}
	}
	return hs
}

// seeded is a bit flipped, a file cut, or a sector cleared.
func (x *matrix) seeded(t testing.TB, seed uint64) hurt {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 99))
	h := hurt{base: x.stopped}
	if seed%3 == 0 {
		h.base = x.crashed
	}
	files := filesOf(t, h.base, dataDir)
	exts := []string{".log", ".log", ".log", ".wal", ".wal", ".idx", ".txn", "", ".json"}
	ext := exts[rnd.IntN(len(exts))]
	files = slices.DeleteFunc(files, func(f string) bool { return path.Ext(f) != ext || size(t, h.base, f) == 0 })
	h.name = files[rnd.IntN(len(files))]
	h.unseen = h.base == x.crashed && ext == ".wal" && h.name == files[len(files)-1]
	b := slices.Clone(content(t, h.base, h.name))
	at := rnd.IntN(len(b))
	switch rnd.IntN(4) {
	case 0:
		b, h.what = b[:at], fmt.Sprintf("cut to %d bytes of %d", at, len(b))
	case 1:
		clear(b[at:min(len(b), at+512)])
		h.what = fmt.Sprintf("zeros from byte %d of %d", at, len(b))
	default:
		b[at] ^= 1 << rnd.IntN(8)
		h.what = fmt.Sprintf("bit flipped at byte %d of %d (seed %d)", at, len(b), seed)
	}
	h.do = func(mem *vfs.Mem) { put(t, mem, h.name, b) }
	return h
}

// TestDamage_matrix damages every kind of file, of a log that was stopped and of one that was killed. Each damage is detected, with its file, or
// harmless; none is served silently; nothing is deleted because of it; and verify sees whatever a start or a read refuses.
func TestDamage_matrix(t *testing.T) {
	t.Parallel()
	x := newMatrix(t)
	hs := x.hurts(t)
	if len(hs) < 300 {
		t.Fatalf("%d damages", len(hs))
	}
	counts := map[string]int{}
	for i, h := range hs {
		mem := cloneMem(t, h.base)
		h.do(mem)
		outcome, err := x.judge(t, mem, h.base, h.unseen)
		if err != nil {
			t.Errorf("damage %d: %s: %s (killed: %v): %v", i, h.name, h.what, h.base == x.crashed, err)
		}
		counts[strings.TrimPrefix(path.Ext(h.name), ".")+" "+outcome]++
	}
	t.Logf("%d damages: %v", len(hs), counts)
}

// judge opens what a damage has left, and reads all of it.
func (x *matrix) judge(t testing.TB, mem, base *vfs.Mem, unseen bool) (outcome string, err error) {
	t.Helper()
	before := snapshot(t, mem, dataDir)
	report := verify(t, mem)
	if snapshot(t, mem, dataDir) != before {
		return "", errors.New("verify has changed something")
	}
	w, err := openManual(mem)
	if err != nil {
		if report.Clean {
			return "", fmt.Errorf("the start refuses, verify does not: %w", err)
		}
		if !strings.Contains(err.Error(), dataDir+"/") {
			return "", fmt.Errorf("the start names no file: %w", err)
		}
		return "stops the start", nil
	}
	outcome = "harmless"
	for at, want := range x.want[base] {
		p := w.parts[at]
		if p == nil {
			if w.errs[at] == nil && !unseen {
				return "", fmt.Errorf("%s is not there", at)
			}
			outcome = "found at the start"
			continue
		}
		got, end, rerr := contentsOf(p)
		for o, b := range got {
			if want.batches[o] != b {
				return "", fmt.Errorf("%s: the batch served at offset %d is not the one that was written", at, o)
			}
		}
		if rerr == nil && !unseen && (len(got) != len(want.batches) || end != want.end) {
			return "", fmt.Errorf("%s: %d batches of %d, without an error; %s, want %s", at, len(got), len(want.batches), end, want.end)
		}
		if rerr != nil {
			outcome = "found by a read"
		} else if serr := p.Scrub(func(int64) error { return nil }); serr != nil {
			outcome, rerr = "found by the scrub", serr
		}
		if rerr != nil && p.Damage() == nil {
			return "", fmt.Errorf("%s is not marked: %w", at, rerr)
		}
	}
	if outcome != "harmless" && report.Clean {
		return "", fmt.Errorf("%s, and verify says clean: %v", outcome, w.errs)
	}
	if outcome == "harmless" && slices.ContainsFunc(report.Damages, func(d offline.Damage) bool { return d.Kind == "segment" }) {
		return "", fmt.Errorf("verify says %s, the log does not", report.Damages[0].Text)
	}
	// Nothing was deleted: what was damaged is still there, byte for byte.
	for at := range w.errs {
		for _, d := range report.Damages {
			if d.Kind == "segment" && fmt.Sprintf("%s/%d", d.Topic, *d.Partition) == at && !strings.Contains(before, "\n"+snapshotOf(t, mem, path.Dir(d.File))) && !strings.HasPrefix(before, snapshotOf(t, mem, path.Dir(d.File))) {
				return "", fmt.Errorf("the files of %s have changed", at)
			}
		}
	}
	return outcome, w.node.Close()
}

func snapshotOf(t testing.TB, mem *vfs.Mem, dir string) string {
	if _, err := mem.Stat(dir); err != nil {
		return ""
	}
	return snapshot(t, mem, dir)
}
