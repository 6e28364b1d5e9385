package segment

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/outrelay/outrelay/internal/vfs"
)

const (
	extLog     = ".log"
	extIndex   = ".idx"
	extTxn     = ".txn"
	extCleaned = ".cleaned"
	extSwap    = ".swap"
)

const offsetDigits = 20

// files names and removes the files of one log. It is not more than a directory.
type files struct {
	fs  vfs.FS
	dir string
}

func (d files) name(base int64, ext string) string {
	return path.Join(d.dir, fmt.Sprintf("%0*d%s", offsetDigits, base, ext))
}

// rangeName names a file that stands for the segments in [base, limit).
func (d files) rangeName(base, limit int64, ext string) string {
	return path.Join(d.dir, fmt.Sprintf("%0*d-%0*d%s", offsetDigits, base, offsetDigits, limit, ext))
}

// parseName splits a file's name; limit is -1 where it names one offset only.
func parseName(name string) (base, limit int64, ext string, ok bool) {
	stem, ext := strings.TrimSuffix(name, path.Ext(name)), path.Ext(name)
	first, second, ranged := strings.Cut(stem, "-")
	base, ok = parseOffset(first)
	limit = -1
	if ranged && ok {
		limit, ok = parseOffset(second)
		ok = ok && limit > base
	}
	switch ext {
	case extLog, extIndex, extTxn:
		ok = ok && !ranged
	case extCleaned, extSwap:
		ok = ok && ranged
	default:
		ok = false
	}
	return base, limit, ext, ok
}

func parseOffset(s string) (int64, bool) {
	if len(s) != offsetDigits {
		return 0, false
	}
	v, err := strconv.ParseUint(s, 10, 63)
	return int64(v), err == nil
}

// remove removes a file that may not be there.
func (d files) remove(name string) error {
	if err := d.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// removeSegment removes a segment's files, the indexes first: an index without a log is no harm.
func (d files) removeSegment(base int64) error {
	return errors.Join(d.remove(d.name(base, extIndex)), d.remove(d.name(base, extTxn)), d.remove(d.name(base, extLog)))
}
