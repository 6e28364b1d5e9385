package broker

import (
	"fmt"
	"os"

	"github.com/outrelay/outrelay/internal/vfs"
)

// warnOfDataDir says when others than this process's user can change the log, or will not be able to open it. It is no reason not to start: a volume of a
// container may come that way.
func (s *Server) warnOfDataDir() error {
	info, err := s.opts.FS.Stat(s.opts.DataDir)
	if err != nil {
		return err
	}
	for _, w := range dataDirWarnings(info, os.Geteuid()) {
		s.log.Warn("data directory: "+w.cause, "directory", s.opts.DataDir, "fix", w.fix)
	}
	return nil
}

type dataDirWarning struct{ cause, fix string }

// dataDirWarnings looks at who owns a data directory that a process of user euid opens, and who else may write to it.
func dataDirWarnings(info vfs.Info, euid int) (ws []dataDirWarning) {
	if info.Perm&0o002 != 0 {
		ws = append(ws, dataDirWarning{
			cause: fmt.Sprintf("every user of this machine may write to it (mode %04o)", info.Perm),
			fix:   "chmod o-w, or have the log in a directory of its own below it, which is made with mode 0700",
		})
	}
	if info.Owner != euid {
		ws = append(ws, dataDirWarning{
			cause: fmt.Sprintf("it belongs to user %d, and this process is user %d: files that are made now are the latter's", info.Owner, euid),
			fix:   "run as the user that owns it, or chown -R it",
		})
	}
	return ws
}
