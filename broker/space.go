package broker

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/outrelay/outrelay/internal/vfs"
)

const (
	fileReserve    = "reserve" // in the data directory
	reserveDefault = 64 << 20
	reserveShare   = 8 // a reserve takes at most this share of the disk
	spaceEvery     = time.Second
)

// space keeps the log from running into a full disk, where every write fails and the process has to end. While fewer bytes than the reserve are free, what clients
// produce is refused with KAFKA_STORAGE_ERROR; reads, group offsets, markers and retention go on, and room that comes back is used at once. As much again stands
// in a file: when others take the rest of the disk too, it is given up, so that checkpoints and retention, which give room back, still have some.
//
//	free bytes   0 ────── reserve/4 ────── reserve ────── 5/4 reserve ────── 9/4 reserve
//	             file given up │ produce refused │ stays as it was │ produce accepted │ the file is made again
type space struct {
	fs       vfs.FS
	dir      string
	reserve  int64             // 0: no guard
	inFlight func() int64      // bytes proposed that may not have been written yet
	onFull   func(text string) // producers are refused from now on
	onRoom   func()            // they are accepted again

	mu    sync.Mutex
	free  int64  // at the last look
	since int64  // bytes that may have been written since
	held  int64  // of the reserve file
	full  string // why produce is refused; "": it is not
}

// open looks at the disk before anything is written to it, and gives the reserve up where a start would have no room. dir exists. A file system
// that does not say how full it is is not guarded. It is called before everything else but state.
func (sp *space) open(fs vfs.FS, dir string, reserve int64) error {
	sp.fs, sp.dir = fs, dir
	free, total, err := fs.Space(dir)
	if reserve < 0 || errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return err
	}
	if reserve == 0 {
		reserve = reserveDefault
	}
	sp.reserve = max(1, min(reserve, total/reserveShare))
	info, err := fs.Stat(sp.file())
	sp.mu.Lock()
	if err == nil {
		sp.held = info.Size
	}
	sp.free = free
	sp.judge()
	sp.mu.Unlock()
	return sp.giveUp()
}

func (sp *space) file() string { return filepath.Join(sp.dir, fileReserve) }

// admit counts bytes that are about to be proposed, and returns why they may not be, or "". It asks the file system only when what was admitted
// since the last time could have used up the room: twice the bytes, since they go into the write-ahead log and a segment.
func (sp *space) admit(bytes int) string {
	if sp.reserve == 0 {
		return ""
	}
	sp.mu.Lock()
	sp.since += 2 * int64(bytes)
	if sp.full == "" && sp.free-sp.since >= sp.reserve {
		sp.mu.Unlock()
		return ""
	}
	changed := sp.look()
	full := sp.full
	sp.mu.Unlock()
	sp.say(changed, full)
	return full
}

// look asks the file system. It reports whether full has changed. mu is held.
func (sp *space) look() (changed bool) {
	free, _, err := sp.fs.Space(sp.dir)
	if err != nil {
		return false // the next write will tell
	}
	sp.free, sp.since = free, 2*sp.inFlight()
	return sp.judge()
}

// judge decides by what is free whether produce is refused. mu is held.
func (sp *space) judge() (changed bool) {
	was, room := sp.full, sp.free-sp.since
	switch {
	case room < sp.reserve:
		sp.full = fmt.Sprintf("the disk of %s has %d MB free, and %d MB are kept in reserve: nothing is accepted until there is more", sp.dir, sp.free>>20, sp.reserve>>20)
	case room >= sp.reserve+sp.reserve/4:
		sp.full = ""
	}
	return (was == "") != (sp.full == "")
}

func (sp *space) say(changed bool, full string) {
	switch {
	case changed && full != "":
		sp.onFull(full)
	case changed:
		sp.onRoom()
	}
}

// tend is called now and then: it looks at the disk, and gives the reserve file up or makes it again. An error is the disk's, and no harm.
func (sp *space) tend() error {
	if sp.reserve == 0 {
		return nil
	}
	sp.mu.Lock()
	changed := sp.look()
	full := sp.full
	sp.mu.Unlock()
	sp.say(changed, full)
	return errors.Join(sp.giveUp(), sp.makeReserve())
}

// giveUp removes the reserve file when hardly anything is free.
func (sp *space) giveUp() error {
	sp.mu.Lock()
	due := sp.held > 0 && sp.free < sp.reserve/4
	sp.mu.Unlock()
	if !due {
		return nil
	}
	if err := sp.fs.Remove(sp.file()); err != nil {
		return err
	}
	sp.setHeld(0)
	return sp.fs.SyncDir(sp.dir)
}

// makeReserve makes the reserve file where there is room for it.
func (sp *space) makeReserve() error {
	sp.mu.Lock()
	due := sp.held < sp.reserve && sp.free-sp.since-(sp.reserve-sp.held) >= sp.reserve+sp.reserve/4
	sp.mu.Unlock()
	if !due {
		return nil
	}
	f, err := sp.fs.Create(sp.file())
	if err != nil {
		return err
	}
	if err = f.Allocate(sp.reserve); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, sp.fs.Remove(sp.file()))
	}
	sp.setHeld(sp.reserve)
	return nil
}

func (sp *space) setHeld(n int64) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.free += sp.held - n
	sp.held = n
}

// state returns what is free, and why produce is refused.
func (sp *space) state() (free int64, full string) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	return sp.free, sp.full
}

// watchSpace tends the reserve until the server closes.
func (s *Server) watchSpace() {
	for {
		if err := s.space.tend(); err != nil && s.ctx.Err() == nil {
			s.log.Warn("disk reserve", "file", s.space.file(), "err", err)
		}
		t := s.clock.NewTimer(spaceEvery)
		select {
		case <-t.C():
		case <-s.ctx.Done():
			t.Stop()
			return
		}
	}
}

// DiskFull says why nothing is accepted from producers, or "".
func (s *Server) DiskFull() string {
	_, full := s.space.state()
	return full
}
