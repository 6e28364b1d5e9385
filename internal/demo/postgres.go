package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	embedded "github.com/fergusstrange/embedded-postgres"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/testenv"
)

// embeddedVersion is the PostgreSQL that is fetched when the machine's own is not asked for.
const embeddedVersion = embedded.V18

// startPostgres starts a throwaway server that is ready for logical replication and notes commit times, so that latency is
// measured from commit to commit.
func startPostgres(ctx context.Context, kind string, say func(string, ...any)) (*testenv.Postgres, error) {
	o := testenv.PostgresOptions{Config: map[string]string{"track_commit_timestamp": "on", "max_connections": "100"}}
	if kind == "embedded" {
		bin, err := fetchPostgres(say)
		if err != nil {
			return nil, err
		}
		o.BinDir = bin
	}
	return testenv.OpenPostgres(ctx, o)
}

// fetchPostgres returns the directory of the server's programs. The library fetches and unpacks them once, into the user's cache; then it
// would make a database of its own and start it, which it cannot as root: a server refuses that. What it unpacked is all that is needed.
func fetchPostgres(say func(string, ...any)) (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	home := filepath.Join(cache, "postgres-"+string(embeddedVersion))
	bin := filepath.Join(home, "bin")
	if complete(bin) {
		return bin, nil
	}
	say("fetching PostgreSQL %s, once, into %s", embeddedVersion, cache)
	scratch, err := os.MkdirTemp("", "outrelay-demo-fetch-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(scratch)
	var log bytes.Buffer
	db := embedded.NewDatabase(embedded.DefaultConfig().Version(embeddedVersion).Logger(&log).
		CachePath(cache).BinariesPath(home).RuntimePath(filepath.Join(scratch, "run")).DataPath(filepath.Join(scratch, "data")))
	err = db.Start()
	if err == nil {
		err = db.Stop()
	}
	if complete(bin) {
		return bin, nil
	}
	return "", &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "demo-postgres", Cause: "PostgreSQL could not be fetched: is this machine offline?",
		Err: errors.Join(err), Fix: "install PostgreSQL and run `outrelay demo --postgres system`"}
}

func complete(bin string) bool {
	for _, p := range []string{"postgres", "initdb"} {
		if _, err := os.Stat(filepath.Join(bin, p)); err != nil {
			return false
		}
	}
	return true
}

// cacheDir is the user's cache; for root a directory that the server's own user can enter.
func cacheDir() (string, error) {
	if os.Geteuid() == 0 {
		dir := "/var/cache/outrelay"
		return dir, os.MkdirAll(dir, 0o755)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache directory: %w", err)
	}
	dir = filepath.Join(dir, "outrelay")
	return dir, os.MkdirAll(dir, 0o755)
}
