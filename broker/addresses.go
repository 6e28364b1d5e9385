package broker

import (
	"net/netip"
	"sync"
	"time"
)

// addresses limits how many connections one address has, and how fast it makes new ones. The loopback is not limited: all clients of the
// machine share it. It may be used concurrently.
type addresses struct {
	connsMax  int     // of one address; 0: no limit
	perSecond float64 // new connections of one address; 0: no limit. As many again may come at once.

	mu   sync.Mutex
	byIP map[netip.Addr]*addressUse
	swap time.Time // when addresses that are not used any more were last forgotten
}

type addressUse struct {
	conns  int
	tokens float64
	last   time.Time
}

// addressSweep is how often addresses without connections are forgotten.
const addressSweep = 10 * time.Second

// take counts a new connection of an address, or returns why there may be none.
func (a *addresses) take(ip netip.Addr, now time.Time) (refused string) {
	if !a.limits(ip) {
		return ""
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.byIP == nil {
		a.byIP = map[netip.Addr]*addressUse{}
	}
	a.sweep(now)
	u := a.byIP[ip]
	if u == nil {
		u = &addressUse{tokens: 2 * a.perSecond, last: now}
		a.byIP[ip] = u
	}
	u.tokens = min(2*a.perSecond, u.tokens+now.Sub(u.last).Seconds()*a.perSecond)
	u.last = now
	switch {
	case a.connsMax > 0 && u.conns >= a.connsMax:
		return "connections of one address"
	case a.perSecond > 0 && u.tokens < 1:
		return "connection rate of one address"
	}
	u.tokens--
	u.conns++
	return ""
}

// give counts a connection off.
func (a *addresses) give(ip netip.Addr) {
	if !a.limits(ip) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if u := a.byIP[ip]; u != nil {
		u.conns--
	}
}

func (a *addresses) limits(ip netip.Addr) bool {
	return ip.IsValid() && !ip.IsLoopback() && (a.connsMax > 0 || a.perSecond > 0)
}

// sweep forgets addresses that have no connection and all their tokens. a.mu is held.
func (a *addresses) sweep(now time.Time) {
	if now.Sub(a.swap) < addressSweep {
		return
	}
	a.swap = now
	for ip, u := range a.byIP {
		if u.conns == 0 && now.Sub(u.last) > addressSweep {
			delete(a.byIP, ip)
		}
	}
}
