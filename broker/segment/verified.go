package segment

import (
	"slices"
	"sort"
	"sync"
	"time"
)

const (
	// markBytes is about how far apart the places are at which a checked part of a file may be entered and left.
	markBytes = 64 << 10
	// verifiedFor is how long a check is good for. What the disk gives back later than that is checked again.
	verifiedFor = 10 * time.Minute
)

// mark is a place between two batches: offset is what a reader that has the one before asks for.
type mark struct {
	place
	records int64 // between the mark before and this one
}

// verified remembers which parts of a segment's file have been read and checked lately, so that they can be sent from the file without passing
// through memory again.
type verified struct {
	mu    sync.Mutex
	since time.Time
	runs  [][]mark // ascending; each has two marks or more, and ends before the next begins
}

// expire drops what was checked too long ago. v.mu is held.
func (v *verified) expire(now time.Time) {
	if now.Sub(v.since) > verifiedFor {
		v.runs, v.since = nil, now
	}
}

// forget drops everything: it has to be checked again.
func (v *verified) forget() {
	v.mu.Lock()
	v.runs = nil
	v.mu.Unlock()
}

// after returns the index of the first run that ends behind byte pos.
func (v *verified) after(pos int64) int {
	return sort.Search(len(v.runs), func(i int) bool { return last(v.runs[i]).pos > pos })
}

func last(run []mark) mark { return run[len(run)-1] }

// add notes that everything between the first and the last of ms has been checked. Where it overlaps what is known, another reader was quicker.
func (v *verified) add(now time.Time, ms []mark) {
	if len(ms) < 2 {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.expire(now)
	i := v.after(ms[0].pos)
	if i < len(v.runs) && v.runs[i][0].pos < last(ms).pos {
		return
	}
	if i > 0 && last(v.runs[i-1]).pos == ms[0].pos {
		i--
		v.runs[i] = append(v.runs[i], ms[1:]...)
	} else {
		v.runs = slices.Insert(v.runs, i, slices.Clone(ms))
	}
	if i+1 < len(v.runs) && v.runs[i+1][0].pos == last(v.runs[i]).pos {
		v.runs[i] = append(v.runs[i], v.runs[i+1][1:]...)
		v.runs = slices.Delete(v.runs, i+1, i+2)
	}
}

// part returns the longest checked part that begins where a reader at offset from goes on, has bytesMax bytes at most and lies below limit; ok is false where
// there is none. Then until is the byte where the next one begins, if it begins within bytesMax: who reads up to there goes on in step with it. 0: none.
func (v *verified) part(now time.Time, from, limit, bytesMax int64) (begin, end mark, ok bool, until int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.expire(now)
	i := sort.Search(len(v.runs), func(i int) bool { return last(v.runs[i]).offset > from })
	if i == len(v.runs) {
		return begin, end, false, 0
	}
	run := v.runs[i]
	j := sort.Search(len(run), func(j int) bool { return run[j].offset >= from })
	if run[j].offset != from {
		return begin, end, false, run[j].pos
	}
	begin, end = run[j], run[j]
	var records int64
	for _, m := range run[j+1:] {
		if m.pos-begin.pos > bytesMax || m.offset > limit {
			break
		}
		records += m.records
		end, ok = m, true
	}
	end.records = records
	return begin, end, ok, 0
}
