package offline_test

import (
	"errors"
	"testing"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/broker/offline"
	"github.com/outrelay/outrelay/internal/vfs"
)

func dump(t testing.TB, mem *vfs.Mem, o offline.DumpOptions) (items []offline.Item, err error) {
	t.Helper()
	o.FS, o.Dir = mem, dataDir
	err = offline.Dump(t.Context(), o, func(i offline.Item) error {
		items = append(items, i)
		return nil
	})
	return items, err
}

func TestDump(t *testing.T) {
	t.Parallel()
	n := node(t)
	fill(t, n)
	n.RestartAfter(func(mem *vfs.Mem) {
		all, err := dump(t, mem, offline.DumpOptions{Topic: "plain", Partition: 1, Records: true})
		if err != nil || len(all) != 30 || all[29].Batch.LastOffset != 29 || string(all[0].Batch.Contents[0].Key) != "k1" || len(all[3].Batch.Contents[0].Value) != 1500 {
			t.Fatalf("%d items, %v", len(all), err)
		}
		some, err := dump(t, mem, offline.DumpOptions{Topic: "plain", Partition: 1, From: 12, Limit: 3})
		if err != nil || len(some) != 3 || some[0].Batch.BaseOffset != 12 || some[0].Batch.Contents != nil {
			t.Fatalf("%+v, %v", some, err)
		}
		if _, err := dump(t, mem, offline.DumpOptions{Topic: "plain", Partition: 7}); !errors.Is(err, outrelay.ErrConfig) {
			t.Fatal(err)
		}
		first := file(t, mem, 1, ".log", 0)
		seg, err := dump(t, mem, offline.DumpOptions{File: first})
		if err != nil || len(seg) == 0 || seg[len(seg)-1].Byte+seg[len(seg)-1].Batch.Bytes != size(t, mem, first) {
			t.Fatalf("%d items, %v", len(seg), err)
		}
		kinds := map[string]int{}
		log, err := dump(t, mem, offline.DumpOptions{File: dataDir + "/wal/00000000000000000001.wal", Records: true})
		for _, i := range log {
			kinds[i.Kind]++
		}
		if err != nil || kinds["batch"] != 60 || kinds["metadata"] == 0 || kinds["hard_state"] == 0 || kinds["unreadable"] != 0 {
			t.Fatalf("%v, %v", kinds, err)
		}
		flip(t, mem, first, 5000, 1)
		for _, o := range []offline.DumpOptions{{File: first}, {Topic: "plain", Partition: 1}} {
			part, err := dump(t, mem, o)
			if !errors.Is(err, outrelay.ErrDataHalt) || len(part) == 0 || part[0].Batch.BaseOffset != 0 {
				t.Fatalf("%d items, %v", len(part), err)
			}
		}
		flip(t, mem, first, 5000, 1)
	})
}
