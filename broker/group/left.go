package group

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// A member that is gone must stay gone. The log names it until the assignment of the next generation is written: a node that starts before that
// would bring it back, and the others would wait for it in their rebalance until its session runs out, again after each start. So that it is gone
// is written at once: the generation as it was, without it, and without a leader, which says that a rebalance was under way. Whoever left by
// itself is answered when that is applied (G1).

// leaving gathers what is to be written of members that are gone.
type leaving struct {
	writing bool                    // a record is on its way; what comes meanwhile shares the next one
	waiting []func(err *kerr.Error) // who is told when that one is applied
}

// writeGone has the log know the group without the members that were removed from it, by one record for all that happens in a call. then runs
// when it is applied, or failed.
func (c *Coordinator) writeGone(g *group, then func(err *kerr.Error)) {
	g.gone.waiting = append(g.gone.waiting, then)
	c.shrunk = append(c.shrunk, g)
}

// notTold is for writeGone where nobody waits.
func notTold(*kerr.Error) {}

// flushGone asks for the records of the groups that have lost members.
func (c *Coordinator) flushGone() {
	for _, g := range c.shrunk {
		if g.gone.writing || len(g.gone.waiting) == 0 {
			continue
		}
		told := g.gone.waiting
		g.gone.waiting = nil
		tell := func(err *kerr.Error) {
			for _, then := range told {
				then(err)
			}
		}
		switch {
		case !c.loaded:
			tell(kerr.NotCoordinator)
		case c.groups[g.name] != g: // deleted, or a consumer group now: other records say what holds
			tell(nil)
		default:
			g.gone.writing = true
			c.write(remainingWrite(g), func(_ time.Time, err *kerr.Error) {
				g.gone.writing = false
				tell(err)
				c.shrunk = append(c.shrunk, g)
			})
		}
	}
	c.shrunk = c.shrunk[:0]
}

// remainingWrite is the group's metadata without members in their first join, of whom no record has spoken. Without a leader it is restored as
// rebalancing, which it is unless an assignment was written, or is on its way.
func remainingWrite(g *group) Write {
	rest := *g
	rest.members = nil
	for _, m := range g.members {
		if !m.isNew {
			rest.members = append(rest.members, m)
		}
	}
	if g.state == preparing || g.state == completing && !g.storing {
		rest.leader = ""
	}
	return groupWrite(&rest)
}
