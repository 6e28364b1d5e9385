package wal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/outrelay/outrelay/internal/vfs"
)

// Open reads the log in dir, making it where there is none, and calls replay (nil for none) for each durable record, in the order written. A record's payload is valid
// until replay returns; an error of replay ends Open and is returned, with the record's place.
//
// It blocks on the disk. When it returns, all that was replayed is durable, also what a killed process left in the page cache. A batch that a power cut tore is
// dropped whole: nobody was told that it is durable. A bad record that was durable once is never dropped: the error wraps [ErrCorrupt] and names file and
// byte, and nothing is changed on disk. Other errors: ErrVersion, ErrForeign, ErrInvalid, or the disk's. The caller holds the lock of the data directory.
func Open(fs vfs.FS, dir string, o Options, replay func(Record, Pos) error) (*WAL, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if replay == nil {
		replay = func(Record, Pos) error { return nil }
	}
	w := &WAL{fs: fs, dir: dir, o: o, zeros: make([]byte, max(o.ZeroStepBytes, fileHeader))}
	w.files.Store(new([]*file))
	if err := w.open(replay); err != nil {
		return nil, errors.Join(err, w.closeFiles())
	}
	return w, nil
}

// Scan reads the log in dir as Open does, without changing anything: a torn tail stays where it is. It returns the first file and the place where the
// next record would go; both are zero where there is no log. Errors are those of Open.
func Scan(fs vfs.FS, dir string, o Options, replay func(Record, Pos) error) (first uint64, tail Pos, err error) {
	if o, err = o.withDefaults(); err != nil {
		return 0, Pos{}, err
	}
	w := &WAL{fs: fs, dir: dir, o: o}
	w.files.Store(new([]*file))
	defer func() { err = errors.Join(err, w.closeFiles()) }()
	seqs, err := w.list()
	if err != nil {
		return 0, Pos{}, err
	}
	if err := w.expected(seqs); err != nil || len(seqs) == 0 {
		return 0, Pos{}, err
	}
	if err := w.load(seqs, fs.Open, replay); err != nil {
		return seqs[0], Pos{}, err
	}
	return seqs[0], Pos{File: w.active.seq, Offset: w.active.durable.Load()}, nil
}

// ScanFile is Scan of one file alone.
func ScanFile(fs vfs.FS, name string, replay func(Record, Pos) error) (err error) {
	seq, ok := parseName(path.Base(name), "", nameSuffix)
	if !ok {
		return &CorruptError{File: name, Cause: "not named as a file of the write-ahead log is"}
	}
	o, err := Options{}.withDefaults()
	if err != nil {
		return err
	}
	w := &WAL{fs: fs, dir: path.Dir(name), o: o}
	w.files.Store(new([]*file))
	defer func() { err = errors.Join(err, w.closeFiles()) }()
	return w.load([]uint64{seq}, fs.Open, replay)
}

func (w *WAL) open(replay func(Record, Pos) error) error {
	if err := w.fs.MkdirAll(w.dir); err != nil {
		return err
	}
	seqs, err := w.list()
	if err != nil {
		return err
	}
	if err := w.expected(seqs); err != nil {
		return err
	}
	if err := w.limitSpares(len(seqs) == 0); err != nil {
		return err
	}
	if len(seqs) == 0 {
		return w.first()
	}
	if err := w.load(seqs, w.fs.OpenRW, replay); err != nil {
		return err
	}
	w.setTail()
	return w.settle()
}

// expected compares the files with what Options.Expect says of them.
func (w *WAL) expected(seqs []uint64) error {
	e := w.o.Expect
	missing := func(seq uint64) error {
		return &CorruptError{File: path.Join(w.dir, fileName(seq)), Cause: "the file is missing, the checkpoint needs it"}
	}
	switch {
	case e.Tail.File > 0 && len(seqs) == 0:
		return missing(max(e.First, 1))
	case len(seqs) > 0 && e.First > 0 && seqs[0] > e.First:
		return missing(e.First)
	case len(seqs) > 0 && seqs[len(seqs)-1] < e.Tail.File:
		return missing(seqs[len(seqs)-1] + 1)
	}
	return nil
}

// load opens the files and replays them. It writes nothing.
func (w *WAL) load(seqs []uint64, open func(string) (vfs.File, error), replay func(Record, Pos) error) error {
	if err := w.openFiles(seqs, open); err != nil {
		return err
	}
	files := *w.files.Load()
	for i, f := range files {
		var next *file
		if i+1 < len(files) {
			next = files[i+1]
		}
		if err := w.recover(f, next, replay); err != nil {
			return err
		}
	}
	w.active = files[len(files)-1]
	if e := w.o.Expect.Tail; w.active.seq == e.File && w.active.durable.Load() < e.Offset {
		return &CorruptError{File: w.active.name, Offset: w.active.durable.Load(), Cause: fmt.Sprintf("readable up to there, the checkpoint says that all up to byte %d was durable", e.Offset)}
	}
	return nil
}

// list finds the files and spares. Names that are not ours are left alone.
func (w *WAL) list() ([]uint64, error) {
	infos, err := w.fs.List(w.dir)
	if err != nil {
		return nil, err
	}
	var seqs []uint64
	for _, info := range infos {
		if seq, ok := parseName(info.Name, "", nameSuffix); ok && !info.Dir {
			seqs = append(seqs, seq)
		} else if n, ok := parseName(info.Name, sparePrefix, spareSuffix); ok && !info.Dir {
			w.spareNo = max(w.spareNo, n+1)
			w.spares = append(w.spares, path.Join(w.dir, info.Name))
		}
	}
	slices.Sort(seqs)
	for i, seq := range seqs {
		if want := seqs[0] + uint64(i); seq != want {
			return nil, &CorruptError{File: path.Join(w.dir, fileName(want)), Cause: "the file is missing, later ones are there"}
		}
	}
	return seqs, nil
}

// limitSpares removes spares that are too many or of no use: in a new log all of them, since its LSNs begin again and theirs must not fit.
func (w *WAL) limitSpares(all bool) error {
	keep := max(0, w.o.SpareFiles)
	if all {
		keep = 0
	}
	if len(w.spares) <= keep {
		return nil
	}
	for _, name := range w.spares[keep:] {
		if err := w.fs.Remove(name); err != nil {
			return err
		}
	}
	w.spares = w.spares[:keep]
	return w.fs.SyncDir(w.dir)
}

// first begins a new log.
func (w *WAL) first() error {
	f, err := w.activate(header{seq: 1, capacity: w.o.FileBytes, identity: w.identity()})
	if err != nil {
		return err
	}
	w.active, w.attested = f, true
	w.setTail()
	return nil
}

func (w *WAL) setTail() {
	f := w.active
	w.tail = tail{header: f.header, seed: f.seed, at: f.durable.Load()}
}

// openFiles opens all files and reads their headers.
func (w *WAL) openFiles(seqs []uint64, open func(string) (vfs.File, error)) error {
	var files []*file
	for _, seq := range seqs {
		f := &file{name: path.Join(w.dir, fileName(seq))}
		f.refs.Store(1)
		var err error
		if f.f, err = open(f.name); err != nil {
			return err
		}
		files = append(files, f)
		w.files.Store(&files) // closeFiles closes them after an error
		b := make([]byte, fileHeader)
		n, err := f.f.ReadAt(b, 0)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if f.header, err = decodeHeader(b[:n]); errors.Is(err, ErrCorrupt) {
			return &CorruptError{File: f.name, Cause: strings.TrimSuffix(err.Error(), ": "+ErrCorrupt.Error())}
		} else if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		if f.seq != seq {
			return &CorruptError{File: f.name, Cause: fmt.Sprintf("its header says it is file %d", f.seq)}
		}
		if err := w.own(f); err != nil {
			return err
		}
		w.adopt(f.identity)
		f.seed = f.identity.seed()
		if f.written, err = f.f.Size(); err != nil {
			return err
		}
	}
	return nil
}

// own refuses a file of another node, incarnation or log.
func (w *WAL) own(f *file) error {
	mine := w.identity()
	if mine.node != 0 && f.node != 0 && mine.node != f.node {
		return fmt.Errorf("%s is of node %d, this is node %d: %w", f.name, f.node, mine.node, ErrForeign)
	}
	for _, id := range []struct {
		what         string
		theirs, ours [16]byte
	}{{"incarnation", f.incarnation, mine.incarnation}, {"log id", f.logID, mine.logID}} {
		var none [16]byte
		if id.theirs != none && id.ours != none && !bytes.Equal(id.theirs[:], id.ours[:]) {
			return fmt.Errorf("%s is of %s %x, this is %x: %w", f.name, id.what, id.theirs, id.ours, ErrForeign)
		}
	}
	return nil
}

// adopt takes over what an older file knows of us and Options do not, so that newer files say it too.
func (w *WAL) adopt(id identity) {
	var none [16]byte
	if w.o.NodeID == 0 {
		w.o.NodeID = id.node
	}
	if w.o.Incarnation == none {
		w.o.Incarnation = id.incarnation
	}
	if w.o.LogID == none {
		w.o.LogID = id.logID
	}
}

// recover replays a file. next is the file after it, nil for the last.
func (w *WAL) recover(f, next *file, replay func(Record, Pos) error) error {
	s := &scanner{file: f, win: window{f: f.f, size: f.written, at: fileHeader}}
	if next != nil {
		s.limit = next.base
	}
	end, err := s.run(func(places []int64) error {
		for _, at := range places {
			if err := s.replay(at, replay); err != nil {
				return fmt.Errorf("%s at byte %d: %w", f.name, at, err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	f.durable.Store(end.tail)
	if next != nil {
		if lsn := f.base + uint64(end.tail); lsn != next.base {
			return &CorruptError{File: f.name, Offset: end.bad, Cause: fmt.Sprintf("%s; the next file says that all up to LSN %d was durable, readable up to %d", end.cause, next.base, lsn)}
		}
		return nil
	}
	trailer, err := s.proof(end.bad)
	if err != nil {
		return err
	}
	if trailer != 0 {
		return &CorruptError{File: f.name, Offset: end.bad, Cause: fmt.Sprintf("%s; the sync trailer at byte %d says that it was durable", end.cause, trailer)}
	}
	if end.bad != end.tail {
		w.o.Logger.Info("write-ahead log: dropped a batch that was never synced", "file", f.name, "from", end.tail, "bad", end.bad, "cause", end.cause)
	}
	return nil
}

func (s *scanner) replay(at int64, replay func(Record, Pos) error) error {
	head, err := s.win.bytes(at, recordHeader)
	if err != nil {
		return err
	}
	n := payloadLen(head)
	whole, err := s.win.bytes(at, recordHeader+n)
	if err != nil {
		return err
	}
	end := recordHeader + n
	return replay(parseRecord(whole, whole[recordHeader:end:end]), Pos{File: s.file.seq, Offset: at})
}

// settle makes durable what was read, and only then writes a trailer that says so. In between a crash must not leave the trailer without
// what it attests: that would look like corruption.
func (w *WAL) settle() error {
	if err := w.active.f.Sync(); err != nil {
		return err
	}
	if err := w.fs.SyncDir(w.dir); err != nil {
		return err
	}
	return w.attest()
}
