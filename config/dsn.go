package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// PostgresConnString returns the connection string of s with its references resolved now, and with TLS verified
// (sslmode=verify-full) unless the host is the loopback, a Unix socket, or the string says otherwise. Call it for each
// connection, so that a rotated password is used. Errors never hold a secret.
func PostgresConnString(s Secret) (string, error) {
	dsn, err := s.Resolve()
	if err != nil {
		return "", err
	}
	cfg, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return "", fmt.Errorf("connection string %s cannot be read: %s", s, reasonOf(err))
	}
	mode, said := sslMode(dsn)
	if said && (mode == "prefer" || mode == "allow") {
		return "", fmt.Errorf("sslmode=%s falls back to plaintext without saying so", mode)
	}
	if said || isLocal(cfg.Host) {
		return dsn, nil
	}
	return withSSLMode(dsn, "verify-full"), nil
}

// reasonOf is a parse error's own words without the connection string that pgconn repeats in it.
func reasonOf(err error) string {
	var pe *pgconn.ParseConfigError
	if errors.As(err, &pe) {
		if u := pe.Unwrap(); u != nil {
			return Redact(u.Error())
		}
		return "it is neither a URL nor key=value pairs"
	}
	return Redact(err.Error())
}

func isLocal(host string) bool {
	if strings.HasPrefix(host, "/") || host == "localhost" || host == "" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

func sslMode(dsn string) (mode string, said bool) {
	if isURL(dsn) {
		u, err := url.Parse(dsn)
		if err != nil {
			return "", false
		}
		return u.Query().Get("sslmode"), u.Query().Has("sslmode")
	}
	for _, f := range strings.Fields(dsn) {
		if v, ok := strings.CutPrefix(f, "sslmode="); ok {
			return strings.Trim(v, "'"), true
		}
	}
	return "", false
}

func withSSLMode(dsn, mode string) string {
	if !isURL(dsn) {
		return dsn + " sslmode=" + mode
	}
	u, err := url.Parse(dsn)
	if err != nil {
		return dsn
	}
	q := u.Query()
	q.Set("sslmode", mode)
	u.RawQuery = q.Encode()
	return u.String()
}

func isURL(dsn string) bool {
	return strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://")
}

// sameDatabase reports whether two connection strings name the same database of the same server.
func sameDatabase(a, b Secret) bool {
	da, errA := a.Resolve()
	db, errB := b.Resolve()
	if errA != nil || errB != nil {
		return false
	}
	ca, errA := pgconn.ParseConfig(da)
	cb, errB := pgconn.ParseConfig(db)
	return errA == nil && errB == nil && ca.Host == cb.Host && ca.Port == cb.Port && ca.Database == cb.Database
}

func hostOf(dsn string) string {
	cfg, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return ""
	}
	return cfg.Host
}
