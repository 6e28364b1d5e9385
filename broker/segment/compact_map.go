package segment

import "hash/maphash"

// offsetMap maps keys to their last offsets in bounded memory. It keeps 128 bits of a seeded hash in a key's place: two keys that
// agree in them, which would lose the older one's record, do not occur in practice, and nobody can make them without the seed.
type offsetMap struct {
	seeds    [2]maphash.Seed
	slots    []slot // a power of two of them
	slotsMax int
	count    int
}

type slot struct {
	hash [2]uint64
	next int64 // offset + 1; 0: empty
}

const (
	slotBytes = 24
	slotsMin  = 1 << 10
)

func newOffsetMap(bytesMax int) *offsetMap {
	m := &offsetMap{seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, slotsMax: slotsMin}
	for m.slotsMax*2*slotBytes <= bytesMax {
		m.slotsMax *= 2
	}
	m.slots = make([]slot, slotsMin)
	return m
}

func (m *offsetMap) hash(key []byte) [2]uint64 {
	return [2]uint64{maphash.Bytes(m.seeds[0], key), maphash.Bytes(m.seeds[1], key)}
}

// slot returns the place of h: where it is, or the empty one where it would go.
func (m *offsetMap) slot(h [2]uint64) *slot {
	for i := h[0]; ; i++ {
		s := &m.slots[i&uint64(len(m.slots)-1)]
		if s.next == 0 || s.hash == h {
			return s
		}
	}
}

// put notes key's offset; false when the map is full and the key is new.
func (m *offsetMap) put(key []byte, offset int64) bool {
	h := m.hash(key)
	s := m.slot(h)
	if s.next == 0 {
		if m.count >= len(m.slots)/4*3 {
			if len(m.slots) == m.slotsMax {
				return false
			}
			m.grow()
			s = m.slot(h)
		}
		m.count++
	}
	*s = slot{hash: h, next: offset + 1}
	return true
}

func (m *offsetMap) grow() {
	old := m.slots
	m.slots = make([]slot, 2*len(old))
	for _, s := range old {
		if s.next != 0 {
			*m.slot(s.hash) = s
		}
	}
}

func (m *offsetMap) get(key []byte) (offset int64, ok bool) {
	s := m.slot(m.hash(key))
	return s.next - 1, s.next != 0
}
