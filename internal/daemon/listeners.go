package daemon

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/broker/auth"
	"github.com/outrelay/outrelay/config"
)

// listeners returns the broker's listeners; the main one is called kafka.
func (d *Daemon) listeners() ([]broker.Listener, error) {
	b := &d.c.Broker
	all := map[string]config.Listener{"kafka": b.Main()}
	names := []string{"kafka"}
	for name, l := range b.Listeners {
		all[name] = *l
		names = append(names, name)
	}
	slices.Sort(names[1:])
	var list []broker.Listener
	for _, name := range names {
		l := all[name]
		bl := broker.Listener{Name: name, Addr: l.Listen, Advertised: l.Advertise}
		for _, m := range l.SASL {
			bl.SASL = append(bl.SASL, auth.Mechanism(m))
		}
		if l.TLS.On() {
			var err error
			if bl.TLS, err = serverTLS(l.TLS, d.log.With("part", "broker", "listener", name)); err != nil {
				return nil, err
			}
		}
		list = append(list, bl)
	}
	return list, nil
}

// access returns what the file says of users. Passwords are resolved now: they become keys at once.
func (d *Daemon) access() (broker.Access, error) {
	a := broker.Access{Users: map[string]string{}, SessionLifetime: time.Duration(d.c.Broker.SessionLifetime)}
	for name, u := range d.c.Broker.Users {
		if !u.Password.IsZero() {
			p, err := u.Password.Resolve()
			if err != nil {
				return a, &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "user-password", Place: d.c.Place("broker.users." + name + ".password"), Cause: err.Error()}
			}
			a.Users[name] = p
		}
		if u.Super {
			a.SuperUsers = append(a.SuperUsers, auth.User(name))
		}
		for _, text := range u.Allow {
			acls, err := ACLsOf(name, text)
			if err != nil {
				return a, fmt.Errorf("user %s: %w: %w", name, outrelay.ErrConfig, err)
			}
			a.ACLs = append(a.ACLs, acls...)
		}
	}
	return a, nil
}

// ACLsOf returns the entries of a rule, one for each operation.
func ACLsOf(user, text string) ([]auth.ACL, error) {
	r, err := config.ParseRule(text)
	if err != nil {
		return nil, err
	}
	a := auth.ACL{Principal: auth.User(user), Host: auth.Wildcard, Name: r.Name, Pattern: kmsg.ACLResourcePatternTypeLiteral, Permission: kmsg.ACLPermissionTypeAllow}
	if r.Prefix {
		a.Pattern = kmsg.ACLResourcePatternTypePrefixed
	}
	if a.Type, err = kmsg.ParseACLResourceType(r.Type); err != nil {
		return nil, err
	}
	if a.Type == auth.Cluster {
		a.Name = auth.ClusterName
	}
	var list []auth.ACL
	for _, op := range r.Operations {
		if a.Operation, err = kmsg.ParseACLOperation(op); err != nil {
			return nil, err
		}
		if err := a.Check(); err != nil {
			return nil, err
		}
		list = append(list, a)
	}
	return list, nil
}

// serverTLS returns a configuration whose files are looked at before each handshake, and read again when they have changed.
func serverTLS(t config.ServerTLS, log *slog.Logger) (*tls.Config, error) {
	f := &tlsFiles{t: t, log: log}
	c, err := f.current()
	if err != nil {
		return nil, &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "tls-file", Place: t.Cert, Cause: "TLS of a listener", Err: err}
	}
	first := c.Clone()
	first.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return f.current() }
	return first, nil
}

// tlsFiles is the files of one listener's TLS. It may be used concurrently.
type tlsFiles struct {
	t   config.ServerTLS
	log *slog.Logger

	mu    sync.Mutex // guards the rest
	read  string     // what the files looked like when they were read
	tried string     // what they looked like when reading them last failed
	conf  *tls.Config
}

// current returns the configuration as the files have it. Where they cannot be read, what was in force stays: a certificate that is being replaced is two
// files, and for a moment they do not fit.
func (f *tlsFiles) current() (*tls.Config, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	look := f.look()
	if f.conf != nil && look == f.read {
		return f.conf, nil
	}
	c, err := f.load()
	switch {
	case err == nil:
		if f.conf != nil {
			f.log.Info("TLS files have changed and are in force", "cert", f.t.Cert)
		}
		f.conf, f.read, f.tried = c, look, ""
	case f.conf == nil:
		return nil, err
	case look != f.tried:
		f.tried = look
		f.log.Error("TLS files have changed and cannot be used; the ones before stay in force", "code", "tls-reload", "cert", f.t.Cert, "error", err)
	}
	return f.conf, nil
}

// look returns what tells one state of the files from another.
func (f *tlsFiles) look() string {
	var b strings.Builder
	for _, name := range []string{f.t.Cert, f.t.Key, f.t.ClientCA} {
		if name == "" {
			continue
		}
		if st, err := os.Stat(name); err == nil {
			fmt.Fprintf(&b, "%d %d\n", st.ModTime().UnixNano(), st.Size())
		} else {
			fmt.Fprintln(&b, err)
		}
	}
	return b.String()
}

func (f *tlsFiles) load() (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(f.t.Cert, f.t.Key)
	if err != nil {
		return nil, err
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}}
	if f.t.ClientCA == "" {
		return c, nil
	}
	pem, err := os.ReadFile(f.t.ClientCA)
	if err != nil {
		return nil, err
	}
	c.ClientCAs, c.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
	if !c.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", f.t.ClientCA)
	}
	if f.t.ClientAuth == "optional" {
		c.ClientAuth = tls.VerifyClientCertIfGiven
	}
	return c, nil
}
