package mysql

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/go-mysql-org/go-mysql/client"
	gomysql "github.com/go-mysql-org/go-mysql/mysql"
	driver "github.com/go-sql-driver/mysql"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sources/mysql/binlog"
)

const (
	wireBufferBytes = 256 << 10
	// writeWait is how long a server waits for a stream that does not read, because the log does not take what was read; its default is a minute.
	writeWait = time.Hour
	// deadlineEvery is how often the read deadline is moved at most: it costs a system call.
	deadlineEvery = time.Second
)

// dump is a connection on which a server sends its binlog. The reader goroutine owns it, but for close.
type dump struct {
	c   *client.Conn
	raw *wire
	buf frame
}

// wire is a connection that says when all that was received is used up, and that is given up when nothing comes for too long.
type wire struct {
	net.Conn
	silence time.Duration // 0 while the connection is made: the context bounds that
	extends time.Time     // when the read deadline was moved
	drained func()        // called before the connection is asked for more
}

func (w *wire) Read(b []byte) (int, error) {
	if w.silence > 0 {
		if now := time.Now(); now.Sub(w.extends) >= deadlineEvery {
			w.extends = now
			if err := w.SetReadDeadline(now.Add(w.silence)); err != nil {
				return 0, err
			}
		}
		w.drained()
	}
	return w.Conn.Read(b)
}

// dialDump opens a connection and makes it ready for begin.
func (s *Source) dialDump(ctx context.Context, cfg *driver.Config, encrypted bool) (*dump, error) {
	d := &dump{buf: frame{max: s.o.MaxRowBytes}}
	stop := func() bool { return true }
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := s.dialer().DialContext(ctx, cfg.Net, cfg.Addr)
		if err != nil {
			return nil, err
		}
		d.raw = &wire{Conn: conn}
		stop = context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
		return d.raw, nil
	}
	c, err := client.ConnectWithDialer(ctx, cfg.Net, cfg.Addr, cfg.User, cfg.Passwd, "", dial, func(c *client.Conn) error {
		c.BufferSize = wireBufferBytes
		c.SetAttributes(map[string]string{"program_name": "outrelay"})
		if encrypted {
			c.SetTLSConfig(cfg.TLS)
		}
		return nil
	})
	if err != nil {
		stop()
		return nil, s.classify("connect for the binlog", err)
	}
	d.c = c
	if !stop() {
		d.close()
		return nil, s.classify("connect for the binlog", context.Cause(ctx))
	}
	return d, nil
}

func (d *dump) close() { _ = d.raw.Close() }

// begin registers as a replica and asks for everything behind a history. ctx bounds it.
func (d *dump) begin(ctx context.Context, s *Source, srv server, r replica, behind History) error {
	stop := context.AfterFunc(ctx, func() { _ = d.raw.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	checksum := "NONE"
	if srv.vars["binlog_checksum"] == "CRC32" {
		checksum = "CRC32"
	}
	beat := s.o.HeartbeatInterval.Nanoseconds()
	// Servers know either the old or the new name; a variable of one's own that is never read harms nobody.
	statements := []string{
		fmt.Sprintf("SET @master_binlog_checksum = '%[1]s', @source_binlog_checksum = '%[1]s'", checksum),
		fmt.Sprintf("SET @master_heartbeat_period = %[1]d, @source_heartbeat_period = %[1]d", beat),
		fmt.Sprintf("SET @slave_uuid = '%[1]s', @replica_uuid = '%[1]s'", r.uuid),
		fmt.Sprintf("SET SESSION net_write_timeout = %d", int(writeWait.Seconds())),
	}
	if srv.flavor == MariaDB {
		statements = append(statements, "SET @mariadb_slave_capability = 4", "SET @slave_gtid_strict_mode = 1",
			"SET @slave_connect_state = '"+behind.String()+"'")
	}
	for _, q := range statements {
		if _, err := d.c.Execute(q); err != nil {
			return s.classify(strings.SplitN(q, "=", 2)[0], err)
		}
	}
	if err := d.command(registerCommand(r)); err != nil {
		return s.classify("register as a replica", err)
	}
	if _, err := d.c.ReadOKPacket(); isServerError(err, errAccessDenied) { // not of the login, which is done
		_, text, _ := serverError(err)
		return s.fail(outrelay.ErrEnvironment, "missing-privilege", "register as a replica: the server says: "+text, "run as an administrator: "+s.grants(), nil)
	} else if err != nil {
		return s.classify("register as a replica", err)
	}
	cmd := dumpCommand(r.id)
	if srv.flavor == MySQL {
		cmd = dumpGTIDCommand(r.id, behind.set.Encode())
	}
	if err := d.command(cmd); err != nil {
		return s.classify("ask for the binlog", err)
	}
	if !stop() {
		return s.classify("ask for the binlog", context.Cause(ctx))
	}
	return nil
}

// watch makes the connection one that is read for long. drained is called by the reader goroutine whenever it is about to wait.
func (d *dump) watch(silence time.Duration, drained func()) {
	d.raw.silence, d.raw.drained = silence, drained
}

// command sends a command; its first four bytes are left for the packet's header.
func (d *dump) command(b []byte) error {
	d.c.ResetSequence()
	return d.c.WritePacket(b)
}

// registerCommand is COM_REGISTER_SLAVE: number, host, user, password, port, rank, and the source's number, which the server fills in.
func registerCommand(r replica) []byte {
	b := append(make([]byte, 4), gomysql.COM_REGISTER_SLAVE)
	b = binary.LittleEndian.AppendUint32(b, r.id)
	b = append(append(b, byte(len(r.host))), r.host...)
	b = append(b, 0, 0)
	b = binary.LittleEndian.AppendUint16(b, 0)
	b = binary.LittleEndian.AppendUint32(b, 0)
	return binary.LittleEndian.AppendUint32(b, 0)
}

// dumpCommand is COM_BINLOG_DUMP without file and place: @slave_connect_state says from where.
func dumpCommand(id uint32) []byte {
	b := append(make([]byte, 4), gomysql.COM_BINLOG_DUMP)
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint16(b, 0)
	return binary.LittleEndian.AppendUint32(b, id)
}

// dumpGTIDCommand is COM_BINLOG_DUMP_GTID: flags, number, an empty file with its first place, and the set.
func dumpGTIDCommand(id uint32, set []byte) []byte {
	b := append(make([]byte, 4), gomysql.COM_BINLOG_DUMP_GTID)
	b = binary.LittleEndian.AppendUint16(b, 0)
	b = binary.LittleEndian.AppendUint32(b, id)
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint64(b, 4)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(set)))
	return append(b, set...)
}

// frame takes one packet, up to a limit.
type frame struct {
	b   []byte
	max int
}

// frameKeepBytes bounds the memory that is kept from one packet to the next.
const frameKeepBytes = 1 << 20

func (f *frame) Write(p []byte) (int, error) {
	if len(f.b)+len(p) > f.max {
		return 0, fmt.Errorf("an event of the binlog exceeds %d bytes: %w", f.max, binlog.ErrTooLarge)
	}
	f.b = append(f.b, p...)
	return len(p), nil
}

// errEnded: the server has nothing more to send, which it never says to a replica that waits.
var errEnded = errors.New("the server ended the stream")

// next returns the next event, which is valid until the next call.
func (d *dump) next() ([]byte, error) {
	if d.buf.b = d.buf.b[:0]; cap(d.buf.b) > frameKeepBytes {
		d.buf.b = nil
	}
	if err := d.c.ReadPacketTo(&d.buf); err != nil {
		return nil, err
	}
	b := d.buf.b
	if len(b) == 0 {
		return nil, fmt.Errorf("empty packet: %w", binlog.ErrMalformed)
	}
	switch b[0] {
	case gomysql.OK_HEADER:
		return b[1:], nil
	case gomysql.ERR_HEADER:
		return nil, d.c.HandleErrorPacket(b)
	case gomysql.EOF_HEADER:
		return nil, errEnded
	}
	return nil, fmt.Errorf("packet begins with %#x: %w", b[0], binlog.ErrMalformed)
}
