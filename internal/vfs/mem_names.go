package vfs

// dirOp is one change of names: a link when from is nil, an unlink when to is nil, else a rename, which is whole or not at all.
type dirOp struct {
	n                *node
	from, to         *node // directories
	fromName, toName string
}

func (d *node) link(name string, n *node) {
	d.entries[name] = n
	d.ops = append(d.ops, &dirOp{n: n, to: d, toName: name})
}

func (d *node) unlink(name string) {
	d.ops = append(d.ops, &dirOp{n: d.entries[name], from: d, fromName: name})
	delete(d.entries, name)
}

func (d *node) rename(name string, to *node, toName string) {
	op := &dirOp{n: d.entries[name], from: d, fromName: name, to: to, toName: toName}
	delete(d.entries, name)
	to.entries[toName] = op.n
	d.ops = append(d.ops, op)
	if to != d {
		to.ops = append(to.ops, op)
	}
}

// syncNames makes the directory's names durable. A rename from or to another directory becomes durable on both sides.
func (d *node) syncNames() {
	for _, op := range d.ops {
		op.apply(durableNames)
		for _, other := range []*node{op.from, op.to} {
			if other != nil && other != d {
				other.forget(op)
			}
		}
	}
	d.ops = nil
}

func (d *node) forget(op *dirOp) {
	for i, o := range d.ops {
		if o == op {
			d.ops = append(d.ops[:i:i], d.ops[i+1:]...)
			return
		}
	}
}

func durableNames(d *node) map[string]*node { return d.durable }

// apply does the change to the names that namesOf gives for a directory. It need not follow what came before it: a crash may have lost
// that, so a name is only taken from the node that had it.
func (op *dirOp) apply(namesOf func(*node) map[string]*node) {
	if op.from != nil {
		names := namesOf(op.from)
		if op.to == nil {
			if names[op.fromName] == op.n {
				delete(names, op.fromName)
			}
		} else {
			// One node never has two names, also when an earlier rename of it was lost.
			for name, n := range names {
				if n == op.n {
					delete(names, name)
				}
			}
		}
	}
	if op.to != nil {
		namesOf(op.to)[op.toName] = op.n
	}
}
