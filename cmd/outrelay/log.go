package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/broker/offline"
	"github.com/outrelay/outrelay/internal/vfs"
)

func newLog(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "log", Short: "Examine, mend, back up, restore and migrate the log",
		Long: `All but migrate work on the files of a data directory. verify changes nothing, and nothing here ever deletes a record: docs/operations/log-tools.md says what each failure looks
like and what to type. migrate moves everything to another log: docs/operations/migrate.md.`,
		Example: "  outrelay log verify --data /var/lib/outrelay\n  outrelay log backup /backup/2026-11-25\n  outrelay log migrate --to outrelay-kafka.yaml",
	}
	cmd.AddCommand(logVerify(a), logDump(a), logRepair(a), logBackup(a), logRestore(a), logMigrate(a))
	return cmd
}

// dataDir returns --data, or what the file says.
func (a *app) dataDir(flag string) (string, error) {
	if flag != "" {
		return flag, nil
	}
	c, err := a.loadIfAny()
	if err != nil {
		return "", err
	}
	return c.Data, nil
}

func logVerify(a *app) *cobra.Command {
	var data string
	c := &cobra.Command{
		Use: "verify", Short: "Check every byte of a data directory that no process has open", Args: cobra.NoArgs,
		Long: `Reads identity, checkpoint, write-ahead log, metadata, and all segments with their indexes, and names what is not as it was written: file, byte, topic,
partition, offset. It changes nothing and deletes nothing. Exit code 0: clean; 4: damage.`,
		Example: "  outrelay log verify --data /var/lib/outrelay\n  outrelay log verify --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := a.dataDir(data)
			if err != nil {
				return err
			}
			bar := newBar("verifying")
			r, err := offline.Verify(cmd.Context(), offline.Options{FS: vfs.OS{}, Dir: dir, Progress: bar.show})
			bar.clear()
			if err != nil {
				return err
			}
			if a.json {
				err = a.printJSON(r)
			} else {
				err = a.printVerified(r)
			}
			if err == nil && !r.Clean {
				return silentError{fmt.Errorf("%d damaged places: %w", len(r.Damages), outrelay.ErrDataHalt)}
			}
			return err
		},
	}
	c.Flags().StringVar(&data, "data", "", "data directory (default: data of the file)")
	return c
}

func (a *app) printVerified(r *offline.Report) error {
	for _, n := range r.Notices {
		fmt.Fprintf(a.out, "notice: %s: %s\n", n.File, n.Text)
	}
	for _, d := range r.Damages {
		fmt.Fprintf(a.out, "damage: %s\n", d.Text)
		if d.Kind != "segment" {
			fmt.Fprintf(a.out, "        in %s at byte %d\n", d.File, d.Byte)
		}
	}
	fmt.Fprintf(a.out, "%s: %d topics, %d partitions, %d batches with %d records in %s of segments, %d records in the write-ahead log\n",
		r.Dir, r.Topics, r.Partitions, r.Batches, r.Records, bytesOf(r.Bytes), r.WALRecords)
	if r.Clean {
		_, err := fmt.Fprintln(a.out, "clean")
		return err
	}
	_, err := fmt.Fprintf(a.out, "%d damaged places; nothing was changed. docs/operations/log-tools.md says what to do\n", len(r.Damages))
	return err
}

// bar is a progress line on a terminal; elsewhere nothing is shown.
type bar struct {
	what    string
	unit    func(n int64) string
	on      bool
	started time.Time
	shown   time.Time
}

func newBar(what string) *bar {
	return &bar{what: what, unit: bytesOf, on: isTerminal(os.Stderr), started: time.Now()}
}

// barAfter is how long work may take before it says how far it is.
const barAfter = 500 * time.Millisecond

func (b *bar) show(done, total int64) {
	now := time.Now()
	if !b.on || now.Sub(b.started) < barAfter || now.Sub(b.shown) < 100*time.Millisecond {
		return
	}
	b.shown = now
	share := 1.0
	if total > 0 {
		share = min(1, float64(done)/float64(total))
	}
	const width = 40
	full := int(share * width)
	line := make([]byte, width)
	for i := range line {
		line[i] = '.'
		if i < full {
			line[i] = '#'
		}
	}
	fmt.Fprintf(os.Stderr, "\r%s [%s] %3.0f %% of %s ", b.what, line, share*100, b.unit(total))
}

func (b *bar) clear() {
	if !b.shown.IsZero() {
		fmt.Fprint(os.Stderr, "\r\x1b[K")
	}
}
