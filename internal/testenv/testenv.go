// Package testenv starts real servers for tests, benchmarks and the demo, and puts a faulty network before them. It never leaves a server or
// a data directory behind, also when the process that started them is killed.
package testenv

import (
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sort"
	"strconv"
	"syscall"
)

// TB is the part of testing.TB that this package uses, so that benchmarks and tools can stand in for a test.
type TB interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
}

// guardScript waits until its standard input ends, which happens when the process that holds the other end dies in whatever way, or
// closes it; then it sends signal $2 to the server whose process id is the first line of file $1, kills it if it is there after 10 s, and removes
// the directory $3.
const guardScript = `cat >/dev/null
if [ -f "$1" ]; then
  pid=$(head -n 1 "$1")
  kill -"$2" "$pid" 2>/dev/null
  i=0
  while kill -0 "$pid" 2>/dev/null && [ $i -lt 100 ]; do sleep 0.1; i=$((i+1)); done
  kill -KILL "$pid" 2>/dev/null
fi
rm -rf "$3"
`

// guard is the process that cleans up when this one is gone.
type guard struct {
	stdin *os.File
	cmd   *exec.Cmd
}

// startGuard starts the process that removes dir when this process ends, after it has ended the server whose process id is in pidFile by the
// signal of that name.
func startGuard(pidFile, signal, dir string) (*guard, error) {
	r, w, err := os.Pipe() // both ends are close-on-exec: no other child keeps the guard waiting
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := exec.Command("/bin/sh", "-c", guardScript, "outrelay-testenv-guard", pidFile, signal, dir)
	cmd.Stdin = r
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // an interrupt at the terminal must not end the guard first
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, err
	}
	return &guard{stdin: w, cmd: cmd}, nil
}

// close lets the guard clean up and waits for it.
func (g *guard) close() {
	g.stdin.Close()
	_ = g.cmd.Wait()
}

// credential returns the identity a server is started under: nil for the caller's own, another user's when the caller is root, as
// database servers refuse to run as root.
func credential() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	var last error
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			last = err
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return nil, err
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid), NoSetGroups: false}, nil
	}
	return nil, last
}

// chownTree gives everything under dir to c; nothing when c is nil.
func chownTree(dir string, c *syscall.Credential) error {
	if c == nil {
		return nil
	}
	return filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(c.Uid), int(c.Gid))
	})
}

// PostgresBinDirs returns the directories that hold a PostgreSQL server, the newest version first, the one in PATH before all. The
// environment variable OUTRELAY_PG_BIN names one to be taken before those, so that the tests run on another version.
func PostgresBinDirs() []string {
	var dirs []string
	seen := map[string]bool{}
	add := func(dir string) {
		if seen[dir] {
			return
		}
		for _, b := range []string{"postgres", "initdb"} {
			if _, err := os.Stat(filepath.Join(dir, b)); err != nil {
				return
			}
		}
		seen[dir] = true
		dirs = append(dirs, dir)
	}
	if dir := os.Getenv("OUTRELAY_PG_BIN"); dir != "" {
		add(dir)
	}
	if p, err := exec.LookPath("postgres"); err == nil {
		// The server finds its share directory beside its real place, not beside a link to it.
		if real, err := filepath.EvalSymlinks(p); err == nil {
			add(filepath.Dir(real))
		}
	}
	more, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	sort.Slice(more, func(i, j int) bool { return versionOf(more[i]) > versionOf(more[j]) })
	for _, d := range more {
		add(d)
	}
	return dirs
}

func versionOf(binDir string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(binDir)))
	return n
}
