package broker

import (
	"errors"
	"syscall"
	"time"
)

// Files and connections share the process's file descriptors. Go raises the soft limit to the hard one as the process starts. Of what there is,
// clients get at most three quarters: the rest is for the log, which needs one a partition and must always find one for its next file.

// acceptPause is how long a listener rests when the system hands over no connection: closing others may help, spinning does not.
const acceptPause = 100 * time.Millisecond

// acceptLogEvery is how often a listener says so.
const acceptLogEvery = 10 * time.Second

// connectionsAllowed is the number of TCP connections that may be open: as many as are configured, and three quarters of files at most. files 0 means
// that the number of files has no limit that is known.
func connectionsAllowed(configured int, files uint64) int {
	if most := files/4*3 + files%4*3/4; files > 0 && most < uint64(configured) {
		return int(most)
	}
	return configured
}

// filesMax returns how many files this process may have open; 0 where that cannot be found out.
func filesMax() uint64 {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0
	}
	return uint64(l.Cur)
}

// limitConnections decides how many connections are taken, and says so where it is less than what is configured.
func (s *Server) limitConnections() {
	files := s.opts.FilesMax
	if files == 0 {
		files = filesMax()
	}
	s.connectionsMax = connectionsAllowed(s.opts.MaxConnections, files)
	if s.connectionsMax < s.opts.MaxConnections {
		s.log.Warn("fewer connections than configured: the process may open too few files", "files", files, "connections", s.connectionsMax,
			"configured", s.opts.MaxConnections, "fix", "raise the hard limit of open files (ulimit -Hn, LimitNOFILE= of systemd, nofile of a container) to one and a half times the connections")
	}
}

// acceptFailed notes that the system handed over no connection, and logs it now and then.
func (l *listener) acceptFailed(s *Server, err error) {
	s.metrics.acceptErrors.Inc()
	now := s.clock.Now()
	if !l.saidAt.IsZero() && now.Sub(l.saidAt) < acceptLogEvery {
		return
	}
	l.saidAt = now
	fix := "the error says what the system lacks"
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		fix = "raise the limit of open files (ulimit -Hn, LimitNOFILE= of systemd, nofile of a container), or have fewer partitions or clients"
	}
	s.log.Error("no connection can be accepted; those that are open go on, and it is tried again", "listener", l.name, "error", err, "fix", fix)
}
