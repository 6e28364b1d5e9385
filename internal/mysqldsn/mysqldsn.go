// Package mysqldsn reads the connection strings of MySQL and MariaDB. It connects to nothing, and its errors never hold a password.
//
// A string is a URL with the option names of the servers' own clients,
//
//	mysql://user:password@host:3306/database?ssl-mode=VERIFY_IDENTITY&ssl-ca=/etc/ca.pem
//	mariadb://user@/database?socket=/run/mysqld/mysqld.sock
//
// or what go-sql-driver/mysql takes: user:password@tcp(host:3306)/database?tls=true.
package mysqldsn

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"

	"github.com/go-sql-driver/mysql"
)

const defaultPort = "3306"

// The values of ssl-mode. PREFERRED is only for the machine's own servers: it goes on in plaintext without saying so.
const (
	disabled       = "DISABLED"
	preferred      = "PREFERRED"
	required       = "REQUIRED"
	verifyCA       = "VERIFY_CA"
	verifyIdentity = "VERIFY_IDENTITY"
)

// errUnreadable is all that is said of a string that cannot be split: its parts may be a password's.
var errUnreadable = errors.New("the connection string cannot be read: write mysql://user:password@host:3306/database?ssl-mode=VERIFY_IDENTITY, with %-escapes in user and password")

// Parse returns what a connection string says, for go-sql-driver. Where the string says nothing of TLS, a server on the loopback or a Unix socket is reached by
// TLS where it has it, and every other by TLS with its name verified.
func Parse(dsn string) (*mysql.Config, error) {
	if !strings.Contains(dsn, "://") {
		return parseDriver(dsn)
	}
	u, err := url.Parse(dsn)
	if err != nil || (u.Scheme != "mysql" && u.Scheme != "mariadb") || u.Opaque != "" || u.Fragment != "" {
		return nil, errUnreadable
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, errUnreadable
	}
	cfg := mysql.NewConfig()
	cfg.User = u.User.Username()
	cfg.Passwd, _ = u.User.Password()
	if cfg.DBName = strings.TrimPrefix(u.Path, "/"); strings.Contains(cfg.DBName, "/") {
		return nil, errUnreadable
	}
	port := u.Port()
	if port == "" {
		port = defaultPort
	}
	cfg.Net, cfg.Addr = "tcp", net.JoinHostPort(u.Hostname(), port)
	if socket := q.Get("socket"); socket != "" {
		cfg.Net, cfg.Addr = "unix", socket
	} else if u.Hostname() == "" {
		return nil, errors.New("the connection string names no host, and no socket")
	}
	return cfg, setTLS(cfg, u.Hostname(), q)
}

// parseDriver reads a string in go-sql-driver's own form.
func parseDriver(dsn string) (*mysql.Config, error) {
	cfg, err := mysql.ParseDSN(dsn)
	if err != nil {
		return nil, errUnreadable // the driver's words may repeat the string
	}
	if cfg.TLSConfig == "preferred" && !IsLocal(cfg) {
		return nil, errPreferred
	}
	if cfg.TLSConfig == "" && cfg.TLS == nil {
		return cfg, setTLS(cfg, Host(cfg), url.Values{})
	}
	return cfg, nil
}

// errPreferred refuses what falls back.
var errPreferred = errors.New("ssl-mode=PREFERRED falls back to plaintext without saying so: write VERIFY_IDENTITY, VERIFY_CA, REQUIRED or DISABLED")

// Host returns the name of the host that cfg connects to, "" for a Unix socket.
func Host(cfg *mysql.Config) string {
	if cfg.Net == "unix" {
		return ""
	}
	host, _, err := net.SplitHostPort(cfg.Addr)
	if err != nil {
		return cfg.Addr
	}
	return host
}

// IsLocal reports whether cfg connects to this machine by the loopback or a Unix socket.
func IsLocal(cfg *mysql.Config) bool {
	host := Host(cfg)
	if host == "" || host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// setTLS sets what the options q say of TLS, and refuses options that it does not know.
func setTLS(cfg *mysql.Config, host string, q url.Values) error {
	for k := range q {
		switch k {
		case "socket", "ssl-mode", "ssl-ca", "ssl-cert", "ssl-key":
		default:
			return fmt.Errorf("the connection string has the option %q; known are ssl-mode, ssl-ca, ssl-cert, ssl-key and socket", k)
		}
	}
	mode := strings.ToUpper(q.Get("ssl-mode"))
	if mode == "" {
		mode = verifyIdentity
		if IsLocal(cfg) {
			mode = preferred
		}
	} else if mode == preferred && !IsLocal(cfg) {
		return errPreferred
	}
	switch mode {
	case disabled:
		return nil
	case preferred:
		cfg.AllowFallbackToPlaintext = true
	case required, verifyCA, verifyIdentity:
	default:
		return fmt.Errorf("ssl-mode=%s: known are DISABLED, REQUIRED, VERIFY_CA and VERIFY_IDENTITY", mode)
	}
	t, err := tlsConfig(mode, host, q)
	cfg.TLS = t
	return err
}

func tlsConfig(mode, host string, q url.Values) (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if file := q.Get("ssl-ca"); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("ssl-ca: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ssl-ca: %s holds no certificate in PEM form", file)
		}
	}
	cert, key := q.Get("ssl-cert"), q.Get("ssl-key")
	if (cert == "") != (key == "") {
		return nil, errors.New("ssl-cert and ssl-key go together")
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("ssl-cert and ssl-key: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	switch mode {
	case verifyIdentity:
	case verifyCA:
		t.InsecureSkipVerify = true
		t.VerifyConnection = func(cs tls.ConnectionState) error { return verifyChain(cs, t.RootCAs) }
	default:
		t.InsecureSkipVerify = true // the mode's meaning: encrypted, whoever it is
	}
	return t, nil
}

// verifyChain checks that an authority of roots has signed the server's certificate, whatever name it bears.
func verifyChain(cs tls.ConnectionState, roots *x509.CertPool) error {
	if len(cs.PeerCertificates) == 0 {
		return errors.New("the server sent no certificate")
	}
	between := x509.NewCertPool()
	for _, c := range cs.PeerCertificates[1:] {
		between.AddCert(c)
	}
	_, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between})
	return err
}
