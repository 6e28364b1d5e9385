//go:build failpoints

package failpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Enabled is true: failpoints act on OUTRELAY_FAILPOINTS.
const Enabled = true

type action struct {
	verb  string
	after int // acts at the after-th hit, from 1; 0 means at every one
	hits  int
}

var (
	mu     sync.Mutex
	points = parse(os.Getenv("OUTRELAY_FAILPOINTS"))
)

func parse(s string) map[string]*action {
	m := map[string]*action{}
	for _, f := range strings.Split(s, ",") {
		name, verb, ok := strings.Cut(strings.TrimSpace(f), "=")
		if !ok {
			continue
		}
		a := &action{verb: verb, after: 1}
		if v, n, ok := strings.Cut(verb, "@"); ok {
			a.verb = v
			a.after, _ = strconv.Atoi(n)
		}
		m[name] = a
	}
	return m
}

// Hit acts when the named point is armed and this is the hit it waits for: kill sends SIGKILL to this process,
// stop sends SIGSTOP (the test continues it), sleep waits a second.
func Hit(name string) {
	mu.Lock()
	a := points[name]
	act := false
	if a != nil {
		a.hits++
		act = a.after == 0 || a.hits == a.after
	}
	mu.Unlock()
	if !act {
		return
	}
	fmt.Fprintf(os.Stderr, "failpoint %s: %s\n", name, a.verb)
	switch a.verb {
	case "kill":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case "stop":
		stopHere()
	case "sleep":
		time.Sleep(time.Second)
	}
}

// Bug reports whether the named planted bug is switched on ("bug.NAME=on"). Tests of the checker use it to show that the
// checker would notice.
func Bug(name string) bool {
	mu.Lock()
	defer mu.Unlock()
	a := points["bug."+name]
	return a != nil && a.verb == "on"
}
