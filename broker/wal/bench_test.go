package wal_test

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/outrelay/outrelay/broker/wal"
	"github.com/outrelay/outrelay/internal/vfs"
)

// BenchmarkCommitter is group commit on the machine's disk: so many producers, each waiting for its record of 1 KiB before it submits the next.
func BenchmarkCommitter(b *testing.B) {
	for _, producers := range []int{1, 16, 128, 512} {
		b.Run(fmt.Sprintf("producers=%d", producers), func(b *testing.B) {
			w, err := wal.Open(vfs.OS{}, filepath.Join(b.TempDir(), "wal"), wal.Options{}, nil)
			must(b, err)
			c := wal.NewCommitter(w, wal.CommitterOptions{})
			b.SetBytes(1024)
			b.ReportAllocs()
			b.ResetTimer()
			var wg sync.WaitGroup
			for p := range producers {
				wg.Go(func() {
					batch := wal.Batch{Records: []wal.Record{rec(p, 1024)}}
					done := make(chan error, 1)
					batch.Done = func(_ []wal.Pos, err error) { done <- err }
					for i := p; i < b.N; i += producers {
						c.Submit(batch)
						if err := <-done; err != nil {
							b.Error(err)
							return
						}
						if f := w.Files(); len(f) > 2 && p == 0 {
							must(b, w.Recycle(f[len(f)-2]))
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			c.Close()
			must(b, w.Close())
		})
	}
}

// BenchmarkAppend is what a record costs the processor: one copy and one CRC.
func BenchmarkAppend(b *testing.B) {
	w, err := wal.Open(discard{vfs.NewMem()}, "wal", wal.Options{}, nil)
	must(b, err)
	recs := []wal.Record{rec(1, 1024)}
	var pos []wal.Pos
	b.SetBytes(1024)
	b.ReportAllocs()
	for i := range b.N {
		if pos, err = w.AppendTo(pos[:0], recs...); err != nil {
			b.Fatal(err)
		}
		if i%256 == 255 {
			must(b, w.Sync())
			if f := w.Files(); len(f) > 1 {
				must(b, w.Recycle(f[len(f)-1]))
			}
		}
	}
}

// discard forgets what is written, so that a benchmark measures the log alone.
type discard struct{ vfs.FS }

func (d discard) Create(name string) (vfs.File, error) { return discardFile(d.FS.Create(name)) }
func (d discard) OpenRW(name string) (vfs.File, error) { return discardFile(d.FS.OpenRW(name)) }

type noWrites struct{ vfs.File }

func discardFile(f vfs.File, err error) (vfs.File, error) { return noWrites{f}, err }
func (noWrites) WriteAt(p []byte, _ int64) (int, error)   { return len(p), nil }

func (noWrites) WriteVAt(bufs [][]byte, _ int64) (n int, err error) {
	for _, b := range bufs {
		n += len(b)
	}
	return n, nil
}
