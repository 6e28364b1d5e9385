package mysql

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/outrelay/outrelay"
)

// replica is what a stream tells the server of itself. A server ends the older of two that are the same: MySQL knows them by UUID, MariaDB by number.
type replica struct {
	id   uint32
	uuid string
	host string // shown by SHOW REPLICAS
}

// hostMax is how much of a replica's host a server takes, candidates how many numbers are tried for one that is free.
const (
	hostMax    = 60
	candidates = 16
)

// identity names the source and the log it goes to, the same at every start.
func (s *Source) identity() string {
	name := "outrelay " + string(s.o.Name)
	if owner := s.o.Owner(); owner != "" {
		name += " " + owner
	}
	return name
}

// hostOf returns what of a name a server takes as a host: where it is too long, a digest stands for the rest.
func hostOf(name string) string {
	if len(name) <= hostMax {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	digest := " " + hex.EncodeToString(sum[:8])
	return name[:hostMax-len(digest)] + digest
}

// replica chooses the number under which the stream registers: the one that was configured, or one made of the identity that no other replica
// and no server has. A number that another has is an error where it was configured.
func (s *Source) replica(ctx context.Context, c *conn, srv server) (replica, error) {
	name := s.identity()
	r := replica{host: hostOf(name)}
	others, err := s.listReplicas(ctx, c)
	if err != nil {
		return r, err
	}
	taken := func(id uint32) string {
		if id == srv.serverID {
			return "the server itself"
		}
		if host, ok := others[id]; ok && host != r.host {
			return fmt.Sprintf("replica %q", host)
		}
		return ""
	}
	if r.id = s.o.ServerID; r.id != 0 {
		if who := taken(r.id); who != "" {
			return r, s.fail(outrelay.ErrEnvironment, "server-id-taken", fmt.Sprintf("server id %d is that of %s", r.id, who), "set another `server_id`, or none", nil)
		}
	}
	for i := 0; r.id == 0 && i < candidates; i++ {
		sum := sha256.Sum256([]byte(name + "\x00" + strconv.Itoa(i)))
		if id := binary.BigEndian.Uint32(sum[:])>>1 | 1<<30; taken(id) == "" { // far from the small numbers that people give
			r.id = id
		}
	}
	if r.id == 0 {
		return r, s.fail(outrelay.ErrEnvironment, "server-id-taken", "no server id is free", "set `server_id`", nil)
	}
	sum := sha256.Sum256([]byte(name + "\x00uuid\x00" + strconv.FormatUint(uint64(r.id), 10)))
	sum[6], sum[8] = sum[6]&0x0f|0x80, sum[8]&0x3f|0x80 // RFC 9562, version 8
	h := hex.EncodeToString(sum[:16])
	r.uuid = strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
	return r, nil
}

// listReplicas returns the replicas that are connected: their hosts, by their numbers. Where the user may not list them there are none.
func (s *Source) listReplicas(ctx context.Context, c *conn) (map[uint32]string, error) {
	rows, err := s.queryReplicas(ctx, c)
	if isServerError(err, errNeedPrivilege) {
		return nil, nil
	}
	if err != nil {
		return nil, s.classify("list of replicas", err)
	}
	out := map[uint32]string{}
	for _, r := range rows {
		if id, err := strconv.ParseUint(r["server_id"], 10, 32); err == nil {
			out[uint32(id)] = r["host"]
		}
	}
	return out, nil
}

// queryReplicas asks by the name that the server knows: MySQL has the new one since 8.0.22, and the old one until 8.4.
func (s *Source) queryReplicas(ctx context.Context, c *conn) ([]map[string]string, error) {
	if s.o.Flavor == MariaDB {
		return c.rows(ctx, "SHOW REPLICA HOSTS")
	}
	rows, err := c.rows(ctx, "SHOW REPLICAS")
	if isServerError(err, errSyntax) {
		rows, err = c.rows(ctx, "SHOW SLAVE HOSTS")
	}
	return rows, err
}

// attached reports whether a stream of this source is connected. Where the user may not list replicas, a dump of any of the user's own sessions counts.
func (s *Source) attached(ctx context.Context, c *conn) (bool, error) {
	rows, err := s.queryReplicas(ctx, c)
	if isServerError(err, errNeedPrivilege) {
		rows, err = c.rows(ctx, "SELECT 1 FROM information_schema.PROCESSLIST WHERE COMMAND LIKE 'Binlog Dump%'")
		return len(rows) > 0, s.classify("information_schema.PROCESSLIST", err)
	}
	if err != nil {
		return false, s.classify("list of replicas", err)
	}
	host := hostOf(s.identity())
	for _, r := range rows {
		if r["host"] == host && (s.o.ServerID == 0 || r["server_id"] == strconv.FormatUint(uint64(s.o.ServerID), 10)) {
			return true, nil
		}
	}
	return false, nil
}
