package migrate

// Table is a partition's table of offsets, for the test of its core.
type Table struct {
	part part
	runs [][]int64
}

// Add adds a chunk of [from, next) with records at these offsets of both logs.
func (t *Table) Add(from, next int64, old, then []int64) {
	c := chunk{from: from, next: next, to: t.part.end(), end: t.part.end()}
	var runs []int64
	if len(old) > 0 {
		c.to, c.end, runs = then[0], then[len(then)-1]+1, runsOf(from, old, then)
	}
	t.part.chunks, t.runs = append(t.part.chunks, c), append(t.runs, runs)
}

// Translate is progress.translate; gone tells errGone.
func (t *Table) Translate(offset int64) (then int64, gone bool) {
	i, err := t.part.find(offset)
	switch {
	case i == len(t.part.chunks):
		return t.part.end(), false
	case err != nil:
		return t.part.chunks[i].to, true
	}
	return t.part.chunks[i].place(t.runs[i], offset), false
}
