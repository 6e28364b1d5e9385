package segment

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"

	"github.com/outrelay/outrelay/broker/record"
	"github.com/outrelay/outrelay/internal/vfs"
)

// Finding is something that Inspect met and that is not as it was written.
type Finding struct {
	CorruptError
	Index bool // an index file: a cache, made again from the log when it is needed; nothing is lost
}

// Inspection configures Inspect.
type Inspection struct {
	// Progress is called with the bytes read since the last call; its error ends the inspection. It may be nil.
	Progress func(bytes int64) error
	// Batch is called for every whole batch, in order, with its file and byte; b is valid until it returns. It may be nil.
	Batch func(file string, pos int64, b record.Batch) error
}

// Inspect reads the log in dir as [Open] would take it at state, all of it, and returns what is not right: frames, CRCs, offsets that ascend
// without leaving their segments, leader epochs, missing and superfluous files, and that the indexes agree with the log. Of each file it reports the first damage.
// It changes nothing, and nobody may have the log open. The error is the disk's, or Progress's, or Batch's.
func Inspect(fsys vfs.FS, dir string, state State, o Inspection) ([]Finding, error) {
	in := &inspector{d: files{fsys, dir}, st: state, o: o, open: map[int64]int64{}}
	if err := state.check(); err != nil {
		in.found(placeOf(err, dir))
		return in.findings, nil
	}
	inv, err := in.d.inventory()
	if errors.Is(err, fs.ErrNotExist) {
		if state.NextOffset > state.LogStartOffset || state.ActiveSize > 0 {
			in.found(&CorruptError{File: dir, Offset: state.LogStartOffset, Cause: "the directory is missing"})
		}
		return in.findings, nil
	}
	if err != nil {
		return nil, err
	}
	for _, p := range in.plan(inv) {
		if err := in.segment(p); err != nil {
			return in.findings, err
		}
	}
	return in.findings, nil
}

type inspector struct {
	d        files
	st       State
	o        Inspection
	open     map[int64]int64 // producer → first offset of its open transaction
	findings []Finding
}

func (in *inspector) found(e *CorruptError) {
	in.findings = append(in.findings, Finding{CorruptError: *e})
}

func (in *inspector) foundIndex(name, format string, args ...any) {
	in.findings = append(in.findings, Finding{CorruptError: CorruptError{File: name, Offset: -1, Cause: fmt.Sprintf(format, args...)}, Index: true})
}

// piece is one segment of the log as a start would see it.
type piece struct {
	name        string
	base, limit int64
	size        int64
	active      bool
	seal        *seal // what its index was sealed with
}

// plan lists the segments, and reports those that are missing.
func (in *inspector) plan(inv inventory) (ps []piece) {
	active := in.st.ActiveBase
	for i, base := range inv.bases {
		if base < active && !covered(inv.swaps, base) {
			ps = append(ps, piece{name: in.d.name(base, extLog), base: base, size: inv.logs[i].Size})
		}
	}
	for _, r := range inv.swaps {
		if r[1] > active {
			in.found(&CorruptError{File: in.d.rangeName(r[0], r[1], extSwap), Offset: r[0], Cause: fmt.Sprintf("compacted segment above the active one at %d", active)})
			continue
		}
		p := piece{name: in.d.rangeName(r[0], r[1], extSwap), base: r[0], limit: r[1]}
		if info, err := in.d.fs.Stat(p.name); err == nil {
			p.size = info.Size
		}
		ps = insertPiece(ps, p)
	}
	first := active
	if len(ps) > 0 {
		first = ps[0].base
	}
	if first > in.st.LogStartOffset {
		var ce *CorruptError
		if errors.As(missingFront(in.d, in.st.LogStartOffset, first), &ce) {
			in.found(ce)
		}
	}
	for i := range ps {
		limit := active
		if i+1 < len(ps) {
			limit = ps[i+1].base
		}
		in.sealed(&ps[i], limit)
	}
	return in.planActive(inv, ps)
}

// sealed gives a segment its limit, and compares it with its seal.
func (in *inspector) sealed(p *piece, limit int64) {
	swap := p.limit > 0
	if swap && p.limit != limit {
		in.found(&CorruptError{File: p.name, Offset: min(p.limit, limit), Cause: fmt.Sprintf("the next segment begins at %d: offsets are missing", limit)})
	}
	p.limit = limit
	if swap {
		return // its indexes have not been written yet
	}
	s, ok := offsetKind().readSeal(in.d, p.base)
	if !ok {
		return
	}
	p.seal = &s
	var ce *CorruptError
	if errors.As(checkSeal(s, p.name, p.size, limit), &ce) {
		in.found(ce)
	}
}

func (in *inspector) planActive(inv inventory, ps []piece) []piece {
	st := in.st
	if st.ActiveSize == 0 {
		return ps
	}
	p := piece{name: in.d.name(st.ActiveBase, extLog), base: st.ActiveBase, limit: st.NextOffset, size: st.ActiveSize, active: true}
	for i, base := range inv.bases {
		if base != st.ActiveBase {
			continue
		}
		if inv.logs[i].Size < st.ActiveSize {
			in.found(&CorruptError{File: p.name, Byte: inv.logs[i].Size, Offset: -1,
				Cause: fmt.Sprintf("active segment of %d bytes, the checkpoint says %d: offsets up to %d are incomplete", inv.logs[i].Size, st.ActiveSize, st.NextOffset)})
			p.size = inv.logs[i].Size
		}
		return append(ps, p)
	}
	in.found(&CorruptError{File: p.name, Offset: st.ActiveBase, Cause: "the active segment is missing"})
	return ps
}

func covered(swaps [][2]int64, base int64) bool {
	for _, r := range swaps {
		if r[0] <= base && base < r[1] {
			return true
		}
	}
	return false
}

func insertPiece(ps []piece, p piece) []piece {
	i := 0
	for i < len(ps) && ps[i].base < p.base {
		i++
	}
	return append(ps[:i:i], append([]piece{p}, ps[i:]...)...)
}

// segment checks one file, and the indexes beside it.
func (in *inspector) segment(p piece) error {
	f, err := in.d.fs.Open(p.name)
	if err != nil {
		return err
	}
	defer f.Close()
	sc := newScanner(f, 0, p.size, p.base, p.limit)
	x := indexer{base: p.base, maxTS: noTimestamp}
	at := map[uint32]uint32{} // byte → relative offset
	aborts := map[AbortedTxn]bool{}
	for {
		b, pos, ok, err := in.next(sc)
		var ce *CorruptError
		if errors.As(err, &ce) {
			in.found(ce)
			return nil // what the file holds behind is not known, so its indexes cannot be judged
		}
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		x.mix(b)
		at[uint32(pos)] = uint32(b.BaseOffset() - p.base)
		if ce := in.marker(sc, pos, b, aborts); ce != nil {
			in.found(ce)
			return nil
		}
		if in.o.Batch != nil {
			if err := in.o.Batch(p.name, pos, b); err != nil {
				return err
			}
		}
	}
	if ce := in.ends(p, sc, x.sum); ce != nil {
		in.found(ce)
		return nil
	}
	return in.indexes(p, at, aborts)
}

// next returns the next whole batch, with everything checked that its own bytes and the checkpoint tell.
func (in *inspector) next(sc *scanner) (record.Batch, int64, bool, error) {
	h, pos, ok, err := sc.header()
	if err != nil || !ok {
		return nil, pos, false, err
	}
	if in.o.Progress != nil {
		if err := in.o.Progress(h.Size()); err != nil {
			return nil, pos, false, err
		}
	}
	b, err := sc.body(pos, h.Size())
	if err != nil {
		return nil, pos, false, err
	}
	if epoch, known := epochAt(in.st.Epochs, b.BaseOffset()); known && epoch != b.LeaderEpoch() {
		return nil, pos, false, sc.corrupt(pos, "leader epoch %d, the checkpoint says %d", b.LeaderEpoch(), epoch)
	}
	return b, pos, true, nil
}

// marker follows transactions, and notes those that were aborted.
func (in *inspector) marker(sc *scanner, pos int64, b record.Batch, aborts map[AbortedTxn]bool) *CorruptError {
	if !b.Transactional() || b.Count() == 0 {
		return nil
	}
	pid := b.ProducerID()
	first, began := in.open[pid]
	if !b.Control() {
		if !began {
			in.open[pid] = b.BaseOffset()
		}
		return nil
	}
	commit, _, err := record.ParseEndTxnMarker(b)
	if err != nil {
		return placeOf(sc.corrupt(pos, "%v", err), sc.name)
	}
	delete(in.open, pid)
	if !commit && began {
		aborts[AbortedTxn{ProducerID: pid, First: first, Last: b.BaseOffset()}] = true
	}
	return nil
}

// ends checks what the file as a whole has to add up to.
func (in *inspector) ends(p piece, sc *scanner, sum uint32) *CorruptError {
	want, who := uint32(0), ""
	switch {
	case p.active && sc.next != in.st.NextOffset:
		return &CorruptError{File: p.name, Byte: sc.pos, Offset: sc.next, Cause: fmt.Sprintf("the active segment ends there, the checkpoint says at offset %d", in.st.NextOffset)}
	case p.active:
		want, who = uint32(in.st.ActiveSum), "the checkpoint"
	case p.seal != nil:
		want, who = p.seal.sum, "its index"
	default:
		return nil
	}
	if sum != want {
		return &CorruptError{File: p.name, Offset: p.base, sum: true, Cause: fmt.Sprintf("offsets or leader epochs have changed: their sum is %08x, %s says %08x", sum, who, want)}
	}
	return nil
}

// indexes compares the index files with the log.
func (in *inspector) indexes(p piece, at map[uint32]uint32, aborts map[AbortedTxn]bool) error {
	if p.active || p.seal == nil {
		return in.looseIndexes(p)
	}
	k := offsetKind()
	b, err := k.read(in.d, p.base, p.size)
	if err != nil {
		return err
	}
	wrong := false
	_, ok := k.parse(b, p.base, func(_ int, e []byte) {
		x := parseEntry(e)
		rel, there := at[x.pos]
		wrong = wrong || !there || rel != x.rel
	})
	if !ok || wrong {
		in.foundIndex(in.d.name(p.base, k.ext), "the index does not agree with the log")
	}
	return in.txns(p, aborts)
}

// looseIndexes reports a sealed segment without an index. The active segment's are completed by every start.
func (in *inspector) looseIndexes(p piece) error {
	if !p.active && p.limit > 0 && parseable(p.name) {
		in.foundIndex(in.d.name(p.base, extIndex), "the index is missing or not whole")
	}
	return nil
}

func parseable(name string) bool {
	return len(name) > len(extLog) && name[len(name)-len(extLog):] == extLog
}

func (in *inspector) txns(p piece, aborts map[AbortedTxn]bool) error {
	k := txnKind()
	name := in.d.name(p.base, k.ext)
	b, err := k.read(in.d, p.base, p.size)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrCorrupt) {
		in.foundIndex(name, "the index of aborted transactions is missing or not whole")
		return nil
	}
	if err != nil {
		return err
	}
	last := map[[2]int64]bool{}
	_, ok := k.parse(b, p.base, func(_ int, e []byte) {
		a := parseAborted(e)
		last[[2]int64{a.ProducerID, a.Last}] = true
	})
	for a := range aborts {
		ok = ok && last[[2]int64{a.ProducerID, a.Last}]
	}
	if !ok {
		in.foundIndex(name, "the index of aborted transactions does not agree with the log")
	}
	return nil
}

// Walk calls fn for every batch of one segment file, whatever log it is of, with its byte; b is valid until fn returns. Damage ends it with a
// [CorruptError]; so does an error of fn.
func Walk(fsys vfs.FS, name string, fn func(pos int64, b record.Batch) error) error {
	base, _, ext, ok := parseName(path.Base(name))
	if !ok || ext == extIndex || ext == extTxn {
		return &CorruptError{File: name, Offset: -1, Cause: "not named as a segment is"}
	}
	f, err := fsys.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return err
	}
	sc := newScanner(f, 0, size, base, math.MaxInt64)
	for {
		h, pos, ok, err := sc.header()
		if err != nil || !ok {
			return err
		}
		b, err := sc.body(pos, h.Size())
		if err != nil {
			return err
		}
		if err := fn(pos, b); err != nil {
			return err
		}
	}
}
