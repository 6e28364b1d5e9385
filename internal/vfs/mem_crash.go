package vfs

import (
	"maps"
	"math/rand/v2"
)

const sectorBytes = 512

// CrashClone returns the file system as a power cut might leave it now: all that was synced, and any share of what was not.
// Of unsynced writes, sizes and names, each survives or not by itself; a write may be torn, at any byte or sector. rnd decides, and the same
// rnd on the same history decides the same. m stays as it is. The clone has no locks, faults, limit or hook, and everything in it is
// durable. It may be called from the hook of OnSync.
func (m *Mem) CrashClone(rnd *rand.Rand) *Mem {
	m.mu.RLock()
	defer m.mu.RUnlock()
	c := crash{rnd: rnd, kept: map[*dirOp]bool{}, names: map[*node]map[string]*node{}, made: map[*node]*node{}}
	c.decide(m.root, map[*node]bool{})
	clone := NewMem()
	clone.root = c.clone(m.root)
	clone.ticks = m.ticks
	return clone
}

type crash struct {
	rnd   *rand.Rand
	kept  map[*dirOp]bool            // decided once, for a rename stands in two directories
	names map[*node]map[string]*node // what each directory holds after the crash
	made  map[*node]*node
}

func (c *crash) namesOf(d *node) map[string]*node {
	names := c.names[d]
	if names == nil {
		names = maps.Clone(d.durable)
		c.names[d] = names
	}
	return names
}

// decide applies the surviving changes of names to d and all directories that can be reached from it, in an order
// that depends on nothing but their names.
func (c *crash) decide(d *node, seen map[*node]bool) {
	if seen[d] {
		return
	}
	seen[d] = true
	mode := c.rnd.IntN(4)
	prefix := c.rnd.IntN(len(d.ops) + 1)
	for i, op := range d.ops {
		if _, done := c.kept[op]; done {
			continue // the other directory of a rename has decided, and applied it to both
		}
		keep := false
		switch mode {
		case 1:
			keep = true
		case 2: // as a journal would: in order, up to some point
			keep = i < prefix
		case 3:
			keep = c.rnd.IntN(2) == 0
		}
		c.kept[op] = keep
		if keep {
			op.apply(c.namesOf)
		}
	}
	for _, entries := range []map[string]*node{d.durable, d.entries} {
		for _, name := range sortedNames(entries) {
			if n := entries[name]; n.dir {
				c.decide(n, seen)
			}
		}
	}
}

func (c *crash) clone(n *node) *node {
	if made := c.made[n]; made != nil {
		return made
	}
	if !n.dir {
		image := c.image(n)
		made := &node{mod: n.mod, data: image, disk: append([]byte(nil), image...)}
		c.made[n] = made
		return made
	}
	made := newDir()
	made.mod = n.mod
	c.made[n] = made
	names := c.namesOf(n)
	for _, name := range sortedNames(names) {
		made.entries[name] = c.clone(names[name])
	}
	made.durable = maps.Clone(made.entries)
	return made
}

// image returns a file's bytes after the crash.
func (c *crash) image(n *node) []byte {
	b := append([]byte(nil), n.disk...)
	mode := c.rnd.IntN(4) // 0 keeps nothing, 1 all
	if mode == 0 || len(n.lost)+len(n.writes) == 0 {
		return b
	}
	for _, ws := range [2][]write{n.lost, n.writes} {
		for _, w := range ws {
			switch {
			case mode == 1:
				b = w.apply(b)
			case w.truncate:
				if c.rnd.IntN(2) == 0 {
					b = w.apply(b)
				}
			default:
				b = c.tear(b, w)
			}
		}
	}
	return b
}

// tear applies what survives of one write to b.
func (c *crash) tear(b []byte, w write) []byte {
	size := int64(len(b))
	end := w.off + int64(len(w.data))
	cut := c.rnd.IntN(len(w.data) + 1)
	switch c.rnd.IntN(6) {
	case 0: // all of it
		return w.apply(b)
	case 1: // none of it
	case 2: // the beginning
		return write{off: w.off, data: w.data[:cut]}.apply(b)
	case 3: // the end
		return write{off: w.off + int64(cut), data: w.data[cut:]}.apply(b)
	default: // some sectors of the disk
		b = resize(b, max(size, end))
		for at := w.off; at < end; {
			next := min(at-at%sectorBytes+sectorBytes, end)
			if c.rnd.IntN(2) == 0 {
				copy(b[at:next], w.data[at-w.off:next-w.off])
			}
			at = next
		}
	}
	if end > size {
		// The size is metadata: it survives, or not, apart from the bytes.
		switch c.rnd.IntN(3) {
		case 0:
			return resize(b, size)
		case 1:
			return resize(b, size+c.rnd.Int64N(end-size+1))
		}
		return resize(b, max(int64(len(b)), end))
	}
	return b
}
