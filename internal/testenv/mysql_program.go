package testenv

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// mysqlProgram is an installed server.
type mysqlProgram struct {
	flavor  MySQLFlavor
	command string   // what is run
	before  []string // its first arguments
	root    string   // where it is unpacked, with libraries of its own; "" is the machine
}

// MySQLInstalled reports whether a MySQL (not a MariaDB) can be started here: scripts/install-deps mysql unpacks one.
func MySQLInstalled() bool {
	_, err := findMySQL(MySQLServer)
	return err == nil
}

// findMySQL returns the server of a family. MySQL is what OUTRELAY_MYSQL_ROOT names or what scripts/install-deps mysql has unpacked into the user's
// cache, run with the libraries that stand beside it; else a mysqld in PATH that is no MariaDB.
func findMySQL(flavor MySQLFlavor) (mysqlProgram, error) {
	if flavor == MariaDBServer {
		for _, name := range []string{"mariadbd", "/usr/sbin/mariadbd"} {
			if p, err := exec.LookPath(name); err == nil {
				return mysqlProgram{flavor: flavor, command: p}, nil
			}
		}
		return mysqlProgram{}, errors.New("no MariaDB server found in PATH or /usr/sbin; install one (Debian: apt-get install mariadb-server-core mariadb-client-core)")
	}
	if root := mysqlRoot(); root != "" {
		loader := filepath.Join(root, "lib/ld.so")
		return mysqlProgram{flavor: flavor, command: loader, root: root,
			before: []string{"--library-path", filepath.Join(root, "lib"), filepath.Join(root, "usr/sbin/mysqld")}}, nil
	}
	for _, name := range []string{"mysqld", "/usr/sbin/mysqld"} {
		p, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		out, err := exec.Command(p, "--no-defaults", "--version").Output()
		if err == nil && !strings.Contains(string(out), "MariaDB") {
			return mysqlProgram{flavor: flavor, command: p}, nil
		}
	}
	return mysqlProgram{}, fmt.Errorf("no MySQL server found: %w", errNoMySQL)
}

// mysqlRoot returns the directory that scripts/install-deps mysql has filled, "" where there is none.
func mysqlRoot() string {
	root := os.Getenv("OUTRELAY_MYSQL_ROOT")
	if root == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return ""
		}
		root = filepath.Join(cache, "outrelay", "mysql")
	}
	if _, err := os.Stat(filepath.Join(root, "usr/sbin/mysqld")); err != nil {
		return ""
	}
	return root
}

// arguments returns what stands before all options of the server itself.
func (p mysqlProgram) arguments() []string {
	args := append([]string{}, p.before...)
	args = append(args, "--no-defaults")
	if os.Geteuid() == 0 {
		args = append(args, "--user=root") // else it refuses to run as root
	}
	if p.root != "" {
		share := filepath.Join(p.root, "usr/share/mysql")
		args = append(args, "--lc-messages-dir="+share, "--character-sets-dir="+filepath.Join(share, "charsets"), "--plugin-dir="+filepath.Join(p.root, "usr/lib/mysql/plugin"))
	}
	return args
}

// template returns a data directory made once per server version and kept in the user's cache directory.
func (p mysqlProgram) template(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, p.command, append(append([]string{}, p.before...), "--no-defaults", "--version")...).Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", p.flavor, err)
	}
	sum := sha256.Sum256([]byte(p.command + string(out) + "template 1"))
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = filepath.Join(os.TempDir(), "outrelay-cache-"+strconv.Itoa(os.Geteuid()))
	}
	cache = filepath.Join(cache, "outrelay", "testenv")
	dir := filepath.Join(cache, string(p.flavor)+"-"+hex.EncodeToString(sum[:6]))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	staged, err := os.MkdirTemp(cache, "new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(staged)
	if err := p.makeTemplate(ctx, filepath.Join(staged, "data")); err != nil {
		return "", err
	}
	return dir, os.Rename(filepath.Join(staged, "data"), dir)
}

// makeTemplate makes an empty data directory, without what names one server.
func (p mysqlProgram) makeTemplate(ctx context.Context, dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	var cmd *exec.Cmd
	if p.flavor == MySQLServer {
		cmd = exec.CommandContext(ctx, p.command, append(p.arguments(), "--initialize-insecure", "--datadir="+dir, "--secure-file-priv=", "--mysqlx=OFF",
			"--innodb-redo-log-capacity=16M")...)
	} else {
		args := []string{"--no-defaults", "--datadir=" + dir, "--auth-root-authentication-method=normal", "--skip-test-db", "--innodb-log-file-size=8M"}
		if os.Geteuid() == 0 {
			args = append(args, "--user=root")
		}
		cmd = exec.CommandContext(ctx, "mariadb-install-db", args...)
	}
	cmd.Env = serverEnv()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("data directory of %s: %w: %s", p.flavor, err, tail(string(out), 2000))
	}
	if err := os.Remove(filepath.Join(dir, "auto.cnf")); err != nil && !os.IsNotExist(err) { // the server's UUID
		return err
	}
	return nil
}
