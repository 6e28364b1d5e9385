package segment_test

import (
	"testing"

	"github.com/outrelay/outrelay/broker/record"
	"github.com/outrelay/outrelay/broker/segment"
)

// FuzzOpenSegment: any bytes in the files, and any state that passes, give an error or a log whose readers do not panic, do not
// ask for memory without end, and never see a batch that is not whole.
func FuzzOpenSegment(f *testing.F) {
	b, st, _ := damaged(f)
	read := func(name string) []byte {
		file, err := b.fs.Open(dir + "/" + name)
		b.must(err)
		size, err := file.Size()
		b.must(err)
		p := make([]byte, size)
		_, err = file.ReadAt(p, 0)
		b.must(err)
		return p
	}
	for _, s := range []string{seg0, seg1, seg2} {
		f.Add(read(s+".log"), read(s+".idx"), read(s+".txn"), st.Marshal(), s == seg2)
	}
	f.Add([]byte{}, []byte{}, []byte{}, segment.State{}.Marshal(), true)
	f.Fuzz(func(t *testing.T, log, idx, txn, state []byte, active bool) {
		b, st, _ := damaged(t)
		var fuzzed segment.State
		if err := fuzzed.Unmarshal(state); err == nil {
			st = fuzzed
		}
		base := seg0
		if active {
			base = seg2
		}
		for ext, p := range map[string][]byte{".log": log, ".idx": idx, ".txn": txn} {
			file, err := b.fs.Create(dir + "/" + base + ext)
			b.must(err)
			_, err = file.WriteAt(p, 0)
			b.must(err)
		}
		l, err := segment.Open(b.fs, dir, st, b.o)
		if err != nil {
			return
		}
		defer l.Close()
		verified := l.Verify() == nil
		for from, n := l.LogStartOffset(), 0; from < l.NextOffset() && n < 1000; n++ {
			c, err := l.Read(from, l.NextOffset(), 300, true)
			if err != nil {
				if verified {
					t.Fatalf("verified, but not readable: %v", err)
				}
				break
			}
			for x, err := range record.Split(c.Bytes) {
				if err != nil || x.LastOffset() < from {
					t.Fatalf("batch [%d, %d] at %d: %v", x.BaseOffset(), x.LastOffset(), from, err)
				}
			}
			if c.Next <= from {
				t.Fatalf("no progress at %d", from)
			}
			from = c.Next
		}
		_, _ = l.Aborted(l.LogStartOffset(), l.NextOffset())
		_, _, _, _ = l.OffsetForTime(650, 0)
		_, _, _, _ = l.MaxTimestamp()
		_, _ = l.Compact(t.Context(), segment.CompactOptions{Below: st.ActiveBase, Now: b.clk.Now()})
	})
}

// FuzzState: what Unmarshal accepts, Marshal writes again.
func FuzzState(f *testing.F) {
	f.Add(segment.State{}.Marshal())
	f.Add(segment.NewState(1 << 40).Marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		var s, again segment.State
		if s.Unmarshal(b) != nil {
			return
		}
		if err := again.Unmarshal(s.Marshal()); err != nil {
			t.Fatal(err)
		}
	})
}
