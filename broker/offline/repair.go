package offline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/outrelay/outrelay/broker/replica"
	"github.com/outrelay/outrelay/broker/segment"
	"github.com/outrelay/outrelay/internal/vfs"
)

// RepairOptions configures Repair.
type RepairOptions struct {
	Options
	Apply bool // false: say what would be done, and change nothing
	// Now names the directory that originals are kept in.
	Now time.Time
}

// RepairStep is a segment that was, or would be, written anew.
type RepairStep struct {
	Topic     string        `json:"topic"`
	Partition int32         `json:"partition"`
	File      string        `json:"file"`
	Cause     string        `json:"cause"`
	Batches   int64         `json:"batches_kept"`
	Lost      []segment.Gap `json:"offsets_lost"`
	Original  string        `json:"original,omitempty"` // where it is kept; empty: the file was missing
}

// RepairReport is what Repair did or would do.
type RepairReport struct {
	Dir          string       `json:"dir"`
	Applied      bool         `json:"applied"`
	Steps        []RepairStep `json:"steps"`
	Unrepairable []Damage     `json:"unrepairable"` // what only a backup mends
	Originals    string       `json:"originals,omitempty"`
}

// Repair makes partitions with damaged segments open again: what of a segment is whole stays, what is not leaves a gap between offsets. It never deletes: originals of
// all that is replaced, the checkpoint among them, are kept under damaged/, with report.json. Damage of identity, checkpoint or write-ahead log it leaves alone.
// Putting the originals back undoes it, as long as the log was not started in between. It can be called again after a crash in it.
func Repair(ctx context.Context, o RepairOptions) (*RepairReport, error) {
	d, err := open(o.FS, o.Dir)
	if err != nil {
		return nil, err
	}
	defer d.close()
	r := &repairer{directory: d, o: o, r: &RepairReport{Dir: o.Dir, Applied: o.Apply, Steps: []RepairStep{}, Unrepairable: []Damage{}}}
	r.aside = path.Join(o.Dir, dirDamaged, o.Now.UTC().Format("20060102T150405.000Z"))
	v := &verifier{directory: d, ctx: ctx, o: o.Options, r: &Report{}}
	c := d.read(nil)
	for _, err := range c.errs {
		v.unreadable(err)
	}
	r.r.Unrepairable = append(r.r.Unrepairable, v.r.Damages...)
	states := map[replica.GroupID]segment.State{}
	for _, p := range d.partitions(c) {
		if err := ctx.Err(); err != nil {
			return r.r, err
		}
		if err := r.partition(p, c.image.Groups[p.group], states); err != nil {
			return r.r, err
		}
	}
	if !o.Apply || len(r.r.Steps) == 0 {
		return r.r, nil
	}
	r.r.Originals = r.aside
	if err := r.keep(path.Join(o.Dir, fileCheckpoint)); err != nil {
		return r.r, err
	}
	if len(states) > 0 {
		if err := replica.RewriteSegments(o.FS, o.Dir, states); err != nil {
			return r.r, err
		}
	}
	return r.r, r.report()
}

type repairer struct {
	*directory
	o     RepairOptions
	r     *RepairReport
	aside string
}

func (r *repairer) partition(p placed, g *replica.GroupImage, states map[replica.GroupID]segment.State) error {
	st, _, err := g.Segments()
	if err == nil && g != nil {
		err = g.Err
	}
	var ms []segment.Mended
	next := st
	if err == nil {
		ms, next, err = segment.Mend(r.fs, p.dir, st, segment.Mending{Apply: r.o.Apply, Aside: r.keep})
	}
	for _, m := range ms {
		s := RepairStep{Topic: p.topic.Name, Partition: p.index, File: m.File, Cause: m.Cause, Batches: m.Batches, Lost: m.Lost}
		if !m.Missing && r.o.Apply {
			s.Original = r.kept(m.File)
		}
		r.r.Steps = append(r.r.Steps, s)
	}
	if next.ActiveBase != st.ActiveBase || next.ActiveSize != st.ActiveSize {
		states[p.group] = next
	}
	if errors.Is(err, segment.ErrCorrupt) || errors.Is(err, replica.ErrCorrupt) {
		r.r.Unrepairable = append(r.r.Unrepairable, Damage{Kind: "partition", File: p.dir, Topic: p.topic.Name, Partition: new(p.index), Text: fmt.Sprintf("%s: %v", p, err)})
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	return nil
}

// kept is where the original of a file is kept.
func (r *repairer) kept(name string) string {
	return path.Join(r.aside, strings.TrimPrefix(strings.TrimPrefix(name, r.dir), "/"))
}

// keep copies a file to where originals are kept, durably.
func (r *repairer) keep(name string) error {
	to := r.kept(name)
	if err := r.fs.MkdirAll(path.Dir(to)); err != nil {
		return err
	}
	_, err := copyFile(r.fs, name, r.fs, to)
	return err
}

func (r *repairer) report() error {
	b, err := json.MarshalIndent(r.r, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(r.fs, path.Join(r.aside, "report.json"), append(b, '\n'))
}

const copyStepBytes = 1 << 20

// copyFile copies a file, and makes the copy and its name durable. It returns the bytes.
func copyFile(from vfs.FS, name string, to vfs.FS, dest string) (n int64, err error) {
	in, err := from.Open(name)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	out, err := to.Create(dest)
	if err != nil {
		return 0, err
	}
	buf := make([]byte, copyStepBytes)
	for err == nil {
		var got int
		got, err = in.ReadAt(buf, n)
		if got > 0 {
			if _, werr := out.WriteAt(buf[:got], n); werr != nil {
				err = werr
			}
			n += int64(got)
		}
	}
	if err == io.EOF {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return n, err
	}
	return n, to.SyncDir(path.Dir(dest))
}

// writeFile writes a small file durably.
func writeFile(fsys vfs.FS, name string, b []byte) error {
	f, err := fsys.Create(name)
	if err != nil {
		return err
	}
	if _, err = f.WriteAt(b, 0); err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close(), fsys.SyncDir(path.Dir(name)))
}

// readFile reads a small file; nil when there is none.
func readFile(fsys vfs.FS, name string) ([]byte, error) {
	f, err := fsys.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	b := make([]byte, size)
	n, err := f.ReadAt(b, 0)
	if int64(n) < size {
		return nil, err
	}
	return b, nil
}
