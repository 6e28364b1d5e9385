package testenv

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// Direction is the way bytes flow through a Proxy.
type Direction int

// The two directions.
const (
	ToServer Direction = iota
	ToClient
)

// Action is what a Proxy does when a Rule matches.
type Action int

// The actions. Both cut the connection on both sides.
const (
	// CutBefore drops the matched bytes and all after them: the other side never sees the match.
	CutBefore Action = iota
	// CutAfter delivers the matched chunk, and cuts so that the other side sees it and its answer gets lost.
	CutAfter
)

// Rule cuts a connection around a byte pattern: `Rule{ToServer, []byte("commit"), CutAfter, 1}` loses the answer to the first
// COMMIT, CutBefore the COMMIT itself; a rule for ToClient on "COMMIT\x00" cuts around the reply.
type Rule struct {
	Dir     Direction
	Pattern []byte
	Action  Action
	Nth     int // acts at the n-th match over all connections since the rule was set, from 1
}

// Proxy is a TCP proxy on loopback whose network can be made to fail. Its methods may be called concurrently.
type Proxy struct {
	target string
	ln     net.Listener
	wg     sync.WaitGroup

	mu     sync.Mutex // guards all below; cond is signalled when stalled or a connection changes
	cond   *sync.Cond
	conns  map[*proxyConn]struct{}
	closed bool
	refuse bool
	stall  [2]bool
	limit  [2]int64 // bytes still let through before the cut; -1 is no limit
	passed [2]int64
	rules  []*activeRule
	hits   chan Rule
}

type activeRule struct {
	Rule
	seen int
}

type proxyConn struct {
	client, server net.Conn
	cut            bool // guarded by Proxy.mu
	muted          bool // guarded by Proxy.mu: what the server still says does not reach the client
}

// StartProxy returns a proxy before target (host:port) that ends with the test.
func StartProxy(tb TB, target string) *Proxy {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("testenv: proxy: %v", err)
	}
	p := &Proxy{target: target, ln: ln, conns: map[*proxyConn]struct{}{}, limit: [2]int64{-1, -1}, hits: make(chan Rule, 1024)}
	p.cond = sync.NewCond(&p.mu)
	p.wg.Add(1)
	go p.accept()
	tb.Cleanup(p.Close)
	return p
}

// Addr returns the address to connect to.
func (p *Proxy) Addr() string { return p.ln.Addr().String() }

// Hits returns the channel on which every match of a rule that acted is told.
func (p *Proxy) Hits() <-chan Rule { return p.hits }

// Passed returns how many bytes have gone through in a direction.
func (p *Proxy) Passed(d Direction) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.passed[d]
}

// Connections returns how many connections are open.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// Cut breaks all connections; new ones are taken.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		p.cutLocked(c)
	}
}

// Refuse makes the proxy close new connections at once (true) or take them again (false).
func (p *Proxy) Refuse(on bool) {
	p.mu.Lock()
	p.refuse = on
	p.mu.Unlock()
}

// Stall keeps back the bytes of a direction (true), as a network that drops packets does, or lets them flow again (false).
func (p *Proxy) Stall(d Direction, on bool) {
	p.mu.Lock()
	p.stall[d] = on
	p.cond.Broadcast()
	p.mu.Unlock()
}

// CutAfterBytes lets n more bytes through in a direction, over all connections, and cuts the one that carries more. It acts once.
func (p *Proxy) CutAfterBytes(d Direction, n int64) {
	p.mu.Lock()
	p.limit[d] = n
	p.mu.Unlock()
}

// CutOn sets a rule. A rule acts once and is then gone.
func (p *Proxy) CutOn(r Rule) {
	if r.Nth == 0 {
		r.Nth = 1
	}
	p.mu.Lock()
	p.rules = append(p.rules, &activeRule{Rule: r})
	p.mu.Unlock()
}

// Clear removes all rules, limits and stalls.
func (p *Proxy) Clear() {
	p.mu.Lock()
	p.rules, p.limit, p.stall, p.refuse = nil, [2]int64{-1, -1}, [2]bool{}, false
	p.cond.Broadcast()
	p.mu.Unlock()
}

// Close cuts all connections and waits for the proxy's goroutines. A second call is harmless.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	for c := range p.conns {
		p.cutLocked(c)
	}
	p.cond.Broadcast()
	p.mu.Unlock()
	p.ln.Close()
	p.wg.Wait()
}

func (p *Proxy) accept() {
	defer p.wg.Done()
	for {
		client, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		refuse := p.refuse || p.closed
		p.mu.Unlock()
		if refuse {
			reset(client)
			continue
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			reset(client)
			continue
		}
		c := &proxyConn{client: client, server: server}
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			reset(client)
			reset(server)
			return
		}
		p.conns[c] = struct{}{}
		p.wg.Add(2)
		p.mu.Unlock()
		go p.pump(c, ToServer, client, server)
		go p.pump(c, ToClient, server, client)
	}
}

// pump copies one direction of a connection until it ends, and then ends the connection.
func (p *Proxy) pump(c *proxyConn, d Direction, from, to net.Conn) {
	defer p.wg.Done()
	buf := make([]byte, 64<<10)
	var kept []byte // the end of what was sent before, for patterns that lie across two reads
	for {
		n, err := from.Read(buf)
		if n > 0 {
			chunk, act := p.admit(c, d, buf[:n], &kept)
			if len(chunk) > 0 {
				if _, werr := to.Write(chunk); werr != nil {
					err = werr
				}
			}
			if act != nil {
				p.end(c, d, *act)
				return
			}
		}
		if err != nil {
			p.mu.Lock()
			p.cutLocked(c)
			p.mu.Unlock()
			return
		}
	}
}

// admit waits while the direction is stalled and returns what may be sent of b, and the action to take after that.
func (p *Proxy) admit(c *proxyConn, d Direction, b []byte, kept *[]byte) ([]byte, *Action) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.stall[d] && !c.cut && !p.closed {
		p.cond.Wait()
	}
	if c.muted && d == ToClient {
		return nil, nil
	}
	longest := 1
	for i, r := range p.rules {
		longest = max(longest, len(r.Pattern))
		if r.Dir != d {
			continue
		}
		joined := append(bytes.Clone(*kept), b...)
		for at := max(0, len(*kept)-len(r.Pattern)+1); ; {
			k := bytes.Index(joined[at:], r.Pattern)
			if k < 0 {
				break
			}
			at += k
			if r.seen++; r.seen < r.Nth {
				at += len(r.Pattern)
				continue
			}
			p.rules = append(p.rules[:i:i], p.rules[i+1:]...)
			select {
			case p.hits <- r.Rule:
			default:
			}
			action := r.Action
			if action == CutBefore {
				b = b[:max(0, at-len(*kept))]
			} else if d == ToServer {
				c.muted = true // from before the server can answer: its answer would race with the cut
			}
			p.passed[d] += int64(len(b))
			return b, &action
		}
	}
	*kept = append(*kept, b...)
	*kept = append([]byte(nil), (*kept)[max(0, len(*kept)-longest+1):]...)
	if p.limit[d] >= 0 {
		if int64(len(b)) > p.limit[d] {
			b = b[:p.limit[d]]
			p.limit[d] = -1
			p.passed[d] += int64(len(b))
			action := CutBefore
			return b, &action
		}
		p.limit[d] -= int64(len(b))
	}
	p.passed[d] += int64(len(b))
	return b, nil
}

// end cuts a connection on which a rule has acted. After a delivered chunk the receiving side must not see a reset, which could
// overtake the bytes: it sees an ordinary end, and what it still answers is thrown away.
func (p *Proxy) end(c *proxyConn, d Direction, a Action) {
	if a == CutAfter && d == ToServer {
		reset(c.client)
		if tcp, ok := c.server.(*net.TCPConn); ok {
			_ = tcp.CloseWrite()
		}
		p.wg.Add(1)
		go func() {
			defer p.wg.Done()
			_ = c.server.SetReadDeadline(time.Now().Add(2 * time.Second))
			_, _ = io.Copy(io.Discard, c.server)
			p.mu.Lock()
			p.cutLocked(c)
			p.mu.Unlock()
		}()
		return
	}
	if a == CutAfter {
		if tcp, ok := c.client.(*net.TCPConn); ok {
			_ = tcp.CloseWrite()
		}
	}
	p.mu.Lock()
	p.cutLocked(c)
	p.mu.Unlock()
}

func (p *Proxy) cutLocked(c *proxyConn) {
	if c.cut {
		return
	}
	c.cut = true
	delete(p.conns, c)
	c.client.Close()
	c.server.Close()
	p.cond.Broadcast()
}

func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		if err := tcp.SetLinger(0); err != nil && !errors.Is(err, net.ErrClosed) {
			return
		}
	}
	c.Close()
}
