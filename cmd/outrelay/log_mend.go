package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/broker/offline"
	"github.com/outrelay/outrelay/internal/vfs"
)

func logDump(a *app) *cobra.Command {
	var data, at string
	o := offline.DumpOptions{Options: offline.Options{FS: vfs.OS{}}}
	c := &cobra.Command{
		Use: "dump [FILE]", Short: "Show the batches of a partition, a segment or a write-ahead log file", Args: cobra.MaximumNArgs(1),
		Long: `Shows what stands in a segment (.log) or a file of the write-ahead log (.wal), or in a partition of a data directory that no process has open. With --json
each batch is one line of JSON, keys and values in base64. Exit code 4: damage, after what stands before it.`,
		Example: `  outrelay log dump --data /var/lib/outrelay --partition orders/3 --from 51900 --limit 20
  outrelay log dump --records outrelay-data/partitions/7d3f…-3-1012/00000000000000051213.log
  outrelay log dump --json outrelay-data/wal/00000000000000000007.wal`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 1) == (at != "") {
				return usageError{fmt.Errorf("name a FILE, or --partition TOPIC/NUMBER")}
			}
			if len(args) == 1 {
				o.File = args[0]
				return offline.Dump(cmd.Context(), o, a.printItem)
			}
			topic, number, ok := strings.Cut(at, "/")
			n, err := strconv.ParseInt(number, 10, 32)
			if !ok || err != nil {
				return usageError{fmt.Errorf("--partition %q: write it as TOPIC/NUMBER", at)}
			}
			if o.Dir, err = a.dataDir(data); err != nil {
				return err
			}
			o.Topic, o.Partition = topic, int32(n)
			return offline.Dump(cmd.Context(), o, a.printItem)
		},
	}
	f := c.Flags()
	f.StringVar(&data, "data", "", "data directory (default: data of the file)")
	f.StringVar(&at, "partition", "", "TOPIC/NUMBER of the data directory")
	f.Int64Var(&o.From, "from", 0, "first offset")
	f.Int64Var(&o.Limit, "limit", 0, "stop after so many (0: no limit)")
	f.BoolVar(&o.Records, "records", false, "the records of each batch too")
	return c
}

func (a *app) printItem(i offline.Item) error {
	if a.json {
		return json.NewEncoder(a.out).Encode(i)
	}
	fmt.Fprintf(a.out, "%-10d %s", i.Byte, i.Kind)
	if i.Term > 0 {
		fmt.Fprintf(a.out, " group %d index %d term %d", i.Group, i.Index, i.Term)
	}
	if i.LogStart != nil {
		fmt.Fprintf(a.out, " log start %d", *i.LogStart)
	}
	if b := i.Batch; b != nil {
		if b.BaseOffset >= 0 {
			fmt.Fprintf(a.out, " offsets %d-%d epoch %d", b.BaseOffset, b.LastOffset, b.LeaderEpoch)
		}
		fmt.Fprintf(a.out, " %d records %d bytes %s %s", b.Records, b.Bytes, b.Codec, time.UnixMilli(b.MaxTimestamp).UTC().Format(time.RFC3339Nano))
		if b.ProducerID >= 0 {
			fmt.Fprintf(a.out, " producer %d/%d sequence %d", b.ProducerID, b.ProducerEpoch, b.Sequence)
		}
		if b.Transactional {
			fmt.Fprint(a.out, " transactional")
		}
		for _, r := range b.Contents {
			fmt.Fprintf(a.out, "\n           %d %s key %s value %s", r.Offset, time.UnixMilli(r.Timestamp).UTC().Format(time.RFC3339Nano), quoted(r.Key), quoted(r.Value))
			for _, h := range r.Headers {
				fmt.Fprintf(a.out, " %s=%s", h.Key, quoted(h.Value))
			}
		}
	}
	_, err := fmt.Fprintln(a.out)
	return err
}

// quoted shows bytes as a Go string, or null.
func quoted(b []byte) string {
	if b == nil {
		return "null"
	}
	return strconv.Quote(string(b))
}

func logRepair(a *app) *cobra.Command {
	var data string
	var apply bool
	c := &cobra.Command{
		Use: "repair", Short: "Make partitions with damaged segments open again; says first what it would do", Args: cobra.NoArgs,
		Long: `Writes damaged segments anew with the batches that are whole; what is not leaves a gap between offsets, which readers step over as after a compaction, and no offset
is given out twice. Originals are kept under DATA/damaged. Without --apply it changes nothing and says what would be done and which offsets are lost. A backup that holds them is
better: docs/operations/log-tools.md. Damage of identity, checkpoint or write-ahead log is not repaired. Exit code 4: something is left that only a backup mends, or, without --apply,
something is to be done.`,
		Example: "  outrelay log repair --data /var/lib/outrelay\n  outrelay log repair --data /var/lib/outrelay --apply",
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := a.dataDir(data)
			if err != nil {
				return err
			}
			r, err := offline.Repair(cmd.Context(), offline.RepairOptions{Options: offline.Options{FS: vfs.OS{}, Dir: dir}, Apply: apply, Now: time.Now()})
			if err != nil {
				return err
			}
			if a.json {
				err = a.printJSON(r)
			} else {
				err = a.printRepaired(r)
			}
			if err == nil && (len(r.Unrepairable) > 0 || !apply && len(r.Steps) > 0) {
				return silentError{fmt.Errorf("damage is left: %w", outrelay.ErrDataHalt)}
			}
			return err
		},
	}
	c.Flags().StringVar(&data, "data", "", "data directory (default: data of the file)")
	c.Flags().BoolVar(&apply, "apply", false, "do it")
	return c
}

func (a *app) printRepaired(r *offline.RepairReport) error {
	did := "would write"
	if r.Applied {
		did = "wrote"
	}
	for _, s := range r.Steps {
		fmt.Fprintf(a.out, "%s/%d: %s %s anew with %d batches (%s)\n", s.Topic, s.Partition, did, s.File, s.Batches, s.Cause)
		for _, g := range s.Lost {
			fmt.Fprintf(a.out, "  lost: offsets %d to %d\n", g.From, g.To-1)
		}
	}
	for _, d := range r.Unrepairable {
		fmt.Fprintf(a.out, "not repairable, restore a backup: %s\n", d.Text)
	}
	switch {
	case len(r.Steps) == 0 && len(r.Unrepairable) == 0:
		fmt.Fprintln(a.out, "nothing to repair")
	case len(r.Steps) > 0 && !r.Applied:
		fmt.Fprintln(a.out, "nothing was changed; --apply does it, and keeps the originals")
	case len(r.Steps) > 0:
		fmt.Fprintf(a.out, "originals and report.json are in %s\n", r.Originals)
	}
	return nil
}
